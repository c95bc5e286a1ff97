"""Change points: found, placed, and rarely where there are none."""

from __future__ import annotations

import math
import random

import pytest

from harness.changes import SHORTEST, change_points, corrected, strongest_change


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
