"""Looking often without being fooled: the error of all looks together, and what they find."""

from __future__ import annotations

import math
import random

import pytest

from harness.stats.sequential import (
    ERROR,
    Look,
    critical_values,
    detectable_ratio,
    ends_at,
    last_look,
    look_at,
    looks,
    signed_rank_interval,
)


def decided(draw: random.Random, ratio: float, most: int = 200) -> tuple[str, int]:
    """What one run of paired noise comes to, as `compare` decides without a margin."""
    planned, ratios = looks(most), []
    while len(ratios) < most:
        ratios.append(ratio * math.exp(draw.gauss(0, 0.1) - draw.gauss(0, 0.1)))
        look = look_at(ratios, planned)
        if look is not None and look.low > 1:
            return "worse", len(ratios)
        if look is not None and look.high < 1:
            return "better", len(ratios)
    return "cannot tell", most


def test_looks_grow_and_end_at_the_last_block() -> None:
    planned = looks(200)
    assert planned[0] == 12
    assert planned[-1] == 200
    assert list(planned) == sorted(set(planned))
    assert looks(12) == (12,)
    assert looks(5) == (5,)


def test_critical_values_fall_and_a_single_look_is_the_plain_test() -> None:
    values = critical_values(looks(300))
    # But for the first look, all of whose share is its own.
    assert list(values[1:]) == sorted(values[1:], reverse=True)
    assert 2.3 < values[-1] < values[0] < 4.5
    # One look spends all of the error at once: the normal quantile of 1 - 0.01.
    assert critical_values((50,), 0.01)[0] == pytest.approx(2.326, abs=0.01)
    assert critical_values((50,), 0.025)[0] == pytest.approx(1.960, abs=0.01)


def test_critical_values_hold_for_a_simulated_walk() -> None:
    """Independent of how they were computed: simulate the walk that they are for."""
    import numpy as np

    planned, error = looks(100), 0.05
    steps = np.diff([0, *planned])
    walk = np.random.RandomState(7).normal(0, np.sqrt(steps), (40_000, len(steps))).cumsum(axis=1)
    crossed = walk / np.sqrt(planned) > critical_values(planned, error)
    # Either direction may be crossed first: a walk that crosses both counts in one at most.
    share = float(crossed.any(axis=1).mean())
    assert 0.045 < share < 0.055


def test_equal_arms_are_rarely_called_different() -> None:
    draw = random.Random(1)
    verdicts = [decided(draw, 1.0)[0] for _ in range(400)]
    assert verdicts.count("worse") <= 400 * ERROR * 3
    assert verdicts.count("better") <= 400 * ERROR * 3


def test_a_tenth_more_is_found_soon() -> None:
    draw = random.Random(2)
    found = [decided(draw, 1.1) for _ in range(100)]
    assert sum(verdict == "worse" for verdict, _ in found) >= 95
    assert sum(blocks for _, blocks in found) / 100 < 100
    assert all(decided(draw, 1 / 1.1)[0] == "better" for _ in range(20))


def test_the_interval_is_that_of_the_inverted_test() -> None:
    """Shifted by either end, the signed-rank statistic is just at its critical value."""
    draw = random.Random(3)
    sample = [draw.gauss(0.3, 1) for _ in range(25)]
    critical = 1.96
    low, middle, high = signed_rank_interval(sample, critical)

    def statistic(shift: float) -> float:
        rest = sorted((abs(x - shift), x > shift) for x in sample)
        positive = sum(rank for rank, (_, above) in enumerate(rest, 1) if above)
        count = len(sample)
        deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        return (positive - count * (count + 1) / 4) / deviation

    assert low < middle < high
    for end, sign in ((low, 1), (high, -1)):
        assert sign * statistic(end - sign * 1e-9) > critical - 0.1
        assert sign * statistic(end + sign * 1e-9) < critical + 0.1


def test_too_few_pairs_exclude_nothing() -> None:
    low, middle, high = signed_rank_interval([0.1, 0.2, 0.3], 3.0)
    assert (low, high) == (-math.inf, math.inf)
    assert middle == pytest.approx(0.2)


def test_failures_are_bounds_and_never_dropped() -> None:
    planned = (20,)
    ratios = [1.0 + 0.01 * (number % 5 - 2) for number in range(10)] + [math.inf] * 10
    look = look_at(ratios, planned)
    assert look is not None
    assert look.high == math.inf
    assert look.low >= 0.9
    only_reference_failed = look_at([0.0] * 20, planned)
    assert only_reference_failed is not None
    assert only_reference_failed.high == 0


def test_between_looks_there_is_none() -> None:
    assert look_at([1.0] * 13, looks(200)) is None


def test_the_detectable_ratio_shrinks_with_pairs_and_is_found_in_four_of_five_cases() -> None:
    draw = random.Random(4)

    def pairs(count: int, ratio: float = 1.0) -> list[float]:
        return [ratio * math.exp(draw.gauss(0, 0.1)) for _ in range(count)]

    critical = critical_values((60,), ERROR)[0]
    few, many = detectable_ratio(pairs(60), critical), detectable_ratio(pairs(600), critical)
    assert 1 < many < few < 1.2
    assert detectable_ratio([1.1] * 3, critical) == math.inf
    found = 0
    for _ in range(200):
        look = look_at(pairs(60, 1.0 + 0.1 * 0.43), (60,))
        found += look is not None and look.low > 1
    # exp(3.17 × 0.1 / sqrt(60 × 0.955)) = 1.043
    assert 0.7 < found / 200 < 0.9


def test_the_last_look_may_come_early_and_uses_all_of_the_error_that_is_left() -> None:
    planned = looks(300)
    taken = [pairs for pairs in planned if pairs < 40]
    assert ends_at(planned, 40) == (*taken, 40)
    values = critical_values(ends_at(planned, 40), ERROR, 300)
    # The looks before it were taken by the plan for 300 pairs.
    assert list(values[:-1]) == pytest.approx(critical_values(planned)[: len(taken)], abs=0.02)
    assert values[-1] == pytest.approx(critical_values((40,))[0], abs=0.02)
    ratios = [1.05 + 0.01 * (number % 7 - 3) for number in range(40)]
    assert last_look(ratios, planned).low > 1
    assert last_look([1.5], planned) == Look(1, pytest.approx(1.5), 0.0, math.inf, 1 - 2 * ERROR)


def test_an_end_that_the_time_decides_costs_no_error() -> None:
    """Equal arms, ended after so many pairs as fit a time that their own duration uses up."""
    draw, worse = random.Random(6), 0
    planned = looks(200)
    for _ in range(400):
        left, ratios = 60.0, []
        found = False
        while left > 0 and not found:
            a, b = (math.exp(draw.gauss(0, 0.4)) for _ in range(2))
            left -= a + b
            ratios.append(b / a)
            look = look_at(ratios, planned)
            found = look is not None and look.low > 1
        worse += found or last_look(ratios, planned).low > 1
    assert worse <= 400 * ERROR * 3
