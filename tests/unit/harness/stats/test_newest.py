"""The newest points of a series: what chance does, what it does not, and the factors between."""

from __future__ import annotations

import math
import random

import pytest

from harness.stats.newest import (
    FEWEST_EARLIER,
    FEWEST_FOR_MOVED,
    Newest,
    Standing,
    moved_factor,
    newest,
    one_run_factor,
)

FAMILY = 24


def noise(seed: int, count: int, level: float = 100.0, deviation: float = 0.04) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, deviation)) for _ in range(count)]


def judged(values: list[float], begins: tuple[int, ...] = ()) -> Newest:
    found = newest(values, begins, family=FAMILY)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("earlier", "one", "two", "three"),
    [(15, 7.703, 5.649, 2.837), (30, 6.114, 4.573, 2.297), (60, 4.853, 4.237, 2.128)],
)
def test_factors_for_24_series(earlier: int, one: float, two: float, three: float) -> None:
    assert one_run_factor(earlier, FAMILY) == pytest.approx(one, abs=5e-4)
    assert moved_factor(2, earlier, FAMILY) == pytest.approx(two, abs=5e-4)
    assert moved_factor(3, earlier, FAMILY) == pytest.approx(three, abs=5e-4)
    assert moved_factor(8, earlier, FAMILY) == moved_factor(3, earlier, FAMILY)


def test_one_point_twice_as_high_is_apart_and_two_have_moved() -> None:
    values = noise(1, 30)
    found = judged([*values, 200.0])
    assert (found.standing, found.runs, found.is_upward) == (Standing.APART, 1, True)
    assert found.ratio == pytest.approx(2, rel=0.03)
    found = judged([*values, 200.0, 198.0])
    assert (found.standing, found.runs, found.value) == (Standing.MOVED, 2, 199.0)
    found = judged([*values, 50.0])
    assert (found.standing, found.is_upward) == (Standing.APART, False)


def test_a_smaller_step_takes_a_third_point() -> None:
    values = noise(1, 30)
    standings = [judged([*values, *[116.0, 117.0, 118.0][:runs]]).standing for runs in (1, 2, 3)]
    assert standings == [Standing.EXTREME, Standing.EXTREME, Standing.MOVED]
    assert judged([*values, *[120.0] * 8]).runs == 8


def test_too_few_points_before_are_no_level() -> None:
    assert newest([*noise(1, FEWEST_EARLIER - 1), 900.0]) is None
    assert judged([*noise(1, FEWEST_EARLIER), 900.0]).standing is Standing.APART
    # Two high points among few: the level has too few points for more than a question.
    assert judged([*noise(1, FEWEST_FOR_MOVED - 2), 900.0, 900.0]).standing is not Standing.MOVED
    assert judged([*noise(1, FEWEST_FOR_MOVED), 900.0, 900.0]).standing is Standing.MOVED


def test_one_earlier_accident_does_not_hide_the_next() -> None:
    values = noise(2, 30)
    values[7] = 800.0
    assert judged([*values, 300.0]).standing is Standing.APART
    values[19] = 800.0
    assert judged([*values, 300.0]).standing is Standing.WITHIN, "two have been higher"


def test_a_young_level_borrows_the_noise_of_the_one_before() -> None:
    values = noise(3, 30) + noise(4, 5, 150.0)
    assert judged([*values, 152.0], (30,)).standing is not Standing.APART
    found = judged([*values, 300.0], (30,))
    assert (found.standing, found.seen) == (Standing.APART, 6)
    assert found.level == pytest.approx(150, rel=0.05)
    found = judged([*values, 300.0, 300.0], (30,))
    assert (found.standing, found.runs) == (Standing.MOVED, 2)


def test_a_still_series_needs_a_percent_or_two() -> None:
    assert judged([100.0] * 31).standing is Standing.WITHIN
    assert judged([100.0] * 30 + [101.0]).standing is Standing.EXTREME
    assert judged([100.0] * 30 + [102.0]).standing is Standing.APART


def test_points_that_were_not_reached_and_values_of_zero() -> None:
    assert judged([*noise(5, 30), math.inf]).standing is Standing.APART
    assert judged([*noise(5, 30), math.inf, math.inf]).value == math.inf
    assert judged([math.inf] * 31).standing is Standing.WITHIN
    assert judged([math.inf] * 30 + [5.0]).ratio == 0
    assert judged([0.0] * 30 + [5.0]).ratio == math.inf
    swinging = [math.sin(number) for number in range(30)]
    assert judged([*swinging, 0.5]).standing is Standing.WITHIN
    assert judged([*swinging, 50.0]).standing is Standing.APART


def test_noise_alone_seldom_alarms() -> None:
    alarms = sum(
        any(
            judged(noise(1000 * look + number, 31)).standing in (Standing.APART, Standing.MOVED)
            for number in range(FAMILY)
        )
        for look in range(20)
    )
    # At most 1 % a look and direction; 4 of 20 have a chance of 0.06 % then.
    assert alarms <= 3
