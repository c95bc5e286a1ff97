"""Change points: found, placed, and rarely where there are none."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from harness.stats import changes
from harness.stats.changes import (
    ALPHA,
    SHORTEST,
    change_points,
    changes_of_many,
    corrected,
    fewest_points,
    strongest_change,
    wandering_of,
)


def noise(draw: random.Random, count: int, level: float = 100.0) -> list[float]:
    """Skewed, with an outlier now and then: like medians of start times."""
    return [
        level * math.exp(draw.gauss(0, 0.01) + (0.2 if draw.random() < 0.03 else 0))
        for _ in range(count)
    ]


def test_a_step_is_found_where_it_is() -> None:
    hits = 0
    for number in range(60):
        draw = random.Random(number)
        series = noise(draw, 30) + noise(draw, 30, 105.0)
        found = change_points(series)
        if len(found) == 1:
            hits += abs(found[0].index - 30) <= 1
            assert found[0].relative == pytest.approx(0.05, abs=0.02)
            assert found[0].p <= 0.01
    assert hits >= 55


def test_noise_alone_has_no_changes() -> None:
    false = sum(bool(change_points(noise(random.Random(seed), 60))) for seed in range(300))
    # At most 1 % on average; 9 of 300 has a chance of 0.4 % then.
    assert false <= 8


def test_several_steps() -> None:
    draw = random.Random(5)
    series = noise(draw, 25) + noise(draw, 25, 110) + noise(draw, 25, 100)
    found = change_points(series)
    assert [abs(change.index - at) <= 1 for change, at in zip(found, (25, 50), strict=True)]
    assert found[0].after == found[1].before
    assert found[0].relative > 0 > found[1].relative


def test_a_constant_series_and_exact_steps() -> None:
    assert change_points([7.0] * 40) == ()
    (change,) = change_points([7.0] * 12 + [8.0] * 12)
    assert (change.index, change.before, change.after) == (12, 7.0, 8.0)


def test_too_short_a_series_has_none() -> None:
    assert change_points([1.0] * (2 * SHORTEST - 1)) == ()
    assert strongest_change([1.0, 2.0]) is None


def test_points_that_were_not_reached_are_the_largest() -> None:
    draw = random.Random(6)
    (change,) = change_points(noise(draw, 20) + [math.inf] * 8)
    assert abs(change.index - 20) <= 1
    assert change.after == math.inf


def test_the_same_series_gives_the_same_answer() -> None:
    series = [round(value) * 1.0 for value in noise(random.Random(8), 50)] + [103.0] * 10
    assert change_points(series, seed=3) == change_points(series, seed=3)


def test_many_series_are_corrected_together() -> None:
    p_values = {"a": 0.0005, "b": 0.004, "c": 0.02, "d": 0.5}
    assert corrected(p_values) == {"a"}
    assert corrected(p_values, 0.05) == {"a", "b", "c"}
    assert corrected({}) == frozenset()
    draw = random.Random(9)
    named = 0
    for _ in range(20):
        series = {str(number): noise(draw, 40) for number in range(10)}
        strongest = {name: strongest_change(values) for name, values in series.items()}
        named += bool(corrected({name: c.p for name, c in strongest.items() if c is not None}))
    assert named <= 2


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 2, 2, 2, 3, 4, 9]])
def test_rare_differences_are_counted_exactly(values: list[float]) -> None:
    """Of eight points there is one place to cut at: the bound is the chance itself."""
    scores = changes._scores(np.array(values, float))
    orders = np.array(list(itertools.permutations(scores)))
    reached = changes._scan(orders).max(axis=1)
    for extreme in set(np.round(reached, 9).tolist()):
        exact = float(np.mean(reached >= extreme - 1e-9))
        assert changes._counted(scores, extreme) == pytest.approx(exact)


@pytest.mark.parametrize("count", [20, 64, 65, 120])
def test_the_bound_is_never_below_the_chance(count: int) -> None:
    null = changes._untied_null(count)
    scores = changes._scores(np.arange(count, dtype=float))
    for share in (0.9, 0.99, 0.999):
        extreme = float(np.quantile(null, share, method="higher"))
        assert changes._counted(scores, extreme) >= 0.8 * float(np.mean(null >= extreme - 1e-9))


def test_a_step_is_found_among_hundreds_of_series() -> None:
    """Which a p-value of 4,000 permutations alone would never allow."""
    draw = random.Random(12)
    series = {str(number): noise(draw, 30) for number in range(200)}
    series["changed"] = noise(draw, 15) + noise(draw, 15, 120)
    found = changes_of_many(series)
    assert [name for name, those in found.items() if those] == ["changed"]
    assert [change.index for change in found["changed"]] == [15]
    assert set(found) == set(series)


def test_a_second_step_is_found_among_many_series_too() -> None:
    draw = random.Random(13)
    series = {str(number): noise(draw, 40) for number in range(30)}
    series["twice"] = noise(draw, 20) + noise(draw, 20, 120) + noise(draw, 20, 140)
    # An outlier lies as high as the next level does.
    places = [change.index for change in changes_of_many(series)["twice"]]
    assert places == [pytest.approx(20, abs=1), pytest.approx(40, abs=1)]


def test_a_level_that_has_returned_does_not_hide_what_is_new() -> None:
    draw = random.Random(14)
    series = {str(number): noise(draw, 40) for number in range(30)}
    series["back"] = noise(draw, 20) + noise(draw, 20, 80) + noise(draw, 20, 100)
    assert [change.index for change in changes_of_many(series)["back"]] == [20, 40]
    series["short"] = [1.0] * 12 + [2.0] * 5 + [1.0] * 12
    assert changes_of_many(series)["short"] == ()


def test_a_cut_between_equal_levels_is_none() -> None:
    """Three levels of which the outer are equal: no place is left where nothing differs."""
    for middle in range(4, 20):
        values = [1.0] * 20 + [2.0] * middle + [1.0] * 20
        for change in change_points(values, alpha=0.2):
            assert change.before != change.after


def test_how_many_points_a_change_needs() -> None:
    for many in (1, 10, 300):  # noisy series, of which none changes
        count = fewest_points(many)
        step = [float(n) for n in range(count)]  # all of the second half above all of the first
        quiet = {str(number): [1.0] * count for number in range(many - 1)}
        assert changes_of_many({"rising": step, **quiet}, alpha=ALPHA)["rising"]
        assert not changes_of_many({"rising": step[1:], **quiet}, alpha=ALPHA)["rising"]


def wandering_noise(draw: random.Random, count: int, alike: float) -> list[float]:
    """Each point like the one before it, by so much."""
    values = [draw.gauss(0, 1)]
    while len(values) < count:
        values.append(alike * values[-1] + math.sqrt(1 - alike**2) * draw.gauss(0, 1))
    return [100 * math.exp(0.04 * value) for value in values]


def test_a_wandering_host_is_no_change() -> None:
    draw, seen, seen_without = random.Random(15), 0, 0
    for _ in range(8):
        family = {str(number): wandering_noise(draw, 31, 0.6) for number in range(24)}
        seen += any(changes_of_many(family).values())
        seen_without += any(change_points(values, alpha=0.01 / 24) for values in family.values())
    assert seen == 0
    assert seen_without >= 3, "the same without looking at the whole family"


@pytest.mark.parametrize(("alike", "wandering"), [(0.3, 1.36), (0.6, 2.0), (0.8, 3.0)])
def test_how_much_a_host_wanders(alike: float, wandering: float) -> None:
    draw = random.Random(16)
    family = [wandering_noise(draw, 40, alike) for _ in range(60)]
    assert wandering_of(family) == pytest.approx(wandering, rel=0.25)


def test_independent_points_steps_and_few_series_do_not_wander() -> None:
    draw = random.Random(17)
    assert wandering_of([noise(draw, 40) for _ in range(24)]) == 1
    stepped = [noise(draw, 20) + noise(draw, 20, 130) for _ in range(24)]
    assert wandering_of(stepped) == 1
    assert wandering_of([wandering_noise(draw, 40, 0.8)] * 7) == 1
    assert wandering_of([[5.0] * 40] * 24) == 1
