"""Statistics against hand calculation, against exhaustive truth, and against simulated truth."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.stats import Method

FINITE = st.floats(0.001, 1e12)
SAMPLES = st.lists(FINITE | st.just(math.inf), min_size=1, max_size=60)
INF = math.inf


def test_no_samples_give_no_estimate() -> None:
    assert stats.estimate([], 1) is None


def test_a_single_sample_has_no_interval() -> None:
    found = stats.estimate([7.0], 1)
    assert found == stats.Estimate(7.0, None, 1, 0)


@given(st.lists(FINITE, min_size=1, max_size=60))
def test_the_median_is_the_median(samples: list[float]) -> None:
    found = stats.estimate(samples, 1)
    assert found is not None
    assert found.median == pytest.approx(statistics.median(samples))
    assert found.is_reached


@given(SAMPLES, st.integers())
def test_an_interval_holds_its_median_and_observed_samples(samples: list[float], seed: int) -> None:
    found = stats.estimate(samples, seed)
    assert found is not None
    assert found.count == len(samples)
    assert found.censored == samples.count(INF)
    if found.interval is not None:
        assert found.interval.low <= found.median <= found.interval.high
        assert {found.interval.low, found.interval.high} <= set(samples)


@given(SAMPLES, st.integers())
def test_order_of_samples_does_not_matter_and_seed_decides(samples: list[float], seed: int) -> None:
    shuffled = random.Random(1).sample(samples, len(samples))
    assert stats.estimate(samples, seed) == stats.estimate(shuffled, seed)


@pytest.mark.parametrize(("count", "coverage"), [(2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)])
def test_few_blocks_give_a_range_that_says_what_it_is_worth(count: int, coverage: float) -> None:
    found = stats.estimate([float(value) for value in range(count)], 1)
    assert found is not None
    assert found.interval == stats.Interval(0.0, count - 1.0, coverage, Method.RANGE)
    assert not found.interval.is_certain


@pytest.mark.parametrize(
    ("count", "rank"),
    # Conover's table A3 / any table of sign-test intervals for the median at 95 %.
    [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (30, 10), (39, 13)],
)
def test_order_statistic_intervals_are_those_of_the_tables(count: int, rank: int) -> None:
    samples = [float(value) for value in range(1, count + 1)]
    found = stats.estimate(samples, 1)
    assert found is not None
    assert found.interval is not None
    assert found.interval.method is Method.ORDER_STATISTICS
    assert (found.interval.low, found.interval.high) == (rank, count + 1 - rank)
    assert found.interval.is_certain


@pytest.mark.parametrize("count", [2, 5, 6, 9, 12])
def test_coverage_is_exact_by_counting_every_case(count: int) -> None:
    """Each sample lies below or above the median with even chance: try all 2^n ways."""
    rank = max(stats.order_statistic_rank(count), 1)
    held = sum(
        rank <= sum(below) <= count - rank for below in itertools.product((0, 1), repeat=count)
    )
    assert stats.order_statistic_coverage(count, rank) == pytest.approx(held / 2**count)


@pytest.mark.parametrize("count", [6, 13, 20, 39, 40, 60])
def test_intervals_cover_a_skewed_truth_as_often_as_they_say(count: int) -> None:
    dice = random.Random(count)
    rounds, held = 400, 0
    for seed in range(rounds):
        found = stats.estimate([dice.lognormvariate(0, 0.4) for _ in range(count)], seed)
        assert found is not None
        assert found.interval is not None
        held += found.interval.low <= 1.0 <= found.interval.high
    # Three standard errors below 95 %: a sound method fails this once in a thousand seeds.
    assert held / rounds > 0.95 - 3 * math.sqrt(0.95 * 0.05 / rounds)


def test_many_blocks_are_bootstrapped_and_narrow() -> None:
    dice = random.Random(3)
    samples = [dice.gauss(100, 10) for _ in range(200)]
    found = stats.estimate(samples, 5)
    assert found is not None
    assert found.interval is not None
    assert found.interval.method is Method.BOOTSTRAP
    # The median's standard error is 1.2533 sigma / sqrt(n).
    assert found.interval.high - found.interval.low == pytest.approx(
        2 * 1.96 * 1.2533 * 10 / math.sqrt(200), rel=0.4
    )


def test_a_bootstrap_is_fixed_for_good() -> None:
    """The stream of the generator is frozen: reports of old records must not change."""
    dice = random.Random(7)
    found = stats.estimate([round(dice.gauss(100, 10), 3) for _ in range(41)], 9)
    assert found is not None
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (96.56, 103.942)


def test_failures_are_slower_than_anything_and_never_dropped() -> None:
    found = stats.estimate([3.0, INF, 1.0, 2.0, INF, 4.0, 5.0], 1)
    assert found is not None
    assert (found.median, found.count, found.censored) == (4.0, 7, 2)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (1.0, INF)


@pytest.mark.parametrize("samples", [[1.0, INF], [INF], [1.0, 2.0, INF, INF, INF]])
def test_half_failed_is_not_reached(samples: list[float]) -> None:
    found = stats.estimate(samples, 1)
    assert found is not None
    assert found.median == INF
    assert not found.is_reached


def test_ratios_are_taken_within_blocks() -> None:
    """A block in which everything took ten times as long does not change the ratio."""
    container = dict.fromkeys(range(10), 2.0) | {3: 20.0}
    vm = dict.fromkeys(range(10), 80.0) | {3: 800.0}
    found = stats.paired_ratio(vm, container, 1)
    assert found is not None
    assert found.estimate.median == 40.0
    assert found.estimate.interval is not None
    assert (found.estimate.interval.low, found.estimate.interval.high) == (40.0, 40.0)
    far = stats.paired_difference(vm, container, 1)
    assert far is not None
    assert far.estimate.median == 78.0


def test_a_ratio_uses_only_blocks_that_both_have() -> None:
    found = stats.paired_ratio({1: 4.0, 2: 6.0, 9: 1.0}, {1: 2.0, 2: 2.0, 5: 1.0}, 1)
    assert found is not None
    assert (found.estimate.median, found.estimate.count) == (2.5, 2)
    assert stats.paired_ratio({1: 1.0}, {2: 1.0}, 1) is None


def test_failures_in_a_pair_are_bounds_on_the_right_side() -> None:
    arm = {0: INF, 1: 4.0, 2: 6.0, 3: INF, 4: 8.0}
    reference = {0: 2.0, 1: 2.0, 2: INF, 3: INF, 4: 2.0}
    found = stats.paired_ratio(arm, reference, 1)
    assert found is not None
    assert found.undetermined == 1  # block 3
    assert (found.estimate.count, found.estimate.censored) == (4, 2)
    assert found.estimate.median == 3.0  # of -inf, 2, 4, inf
    assert found.estimate.interval is not None
    assert (found.estimate.interval.low, found.estimate.interval.high) == (-INF, INF)


def test_opposite_failures_alone_are_unknown_not_a_number() -> None:
    found = stats.paired_ratio({0: INF, 1: 4.0}, {0: 2.0, 1: INF}, 1)
    assert found is not None
    assert not found.estimate.is_reached


def test_a_reference_of_zero_is_infinitely_faster() -> None:
    found = stats.paired_ratio({0: 4.0}, {0: 0.0}, 1)
    assert found is not None
    assert found.estimate.median == INF


@given(st.lists(st.sampled_from([1.0, 2.0, 5.0, INF]), min_size=40, max_size=60), st.integers())
def test_a_bootstrap_survives_any_share_of_failures(samples: list[float], seed: int) -> None:
    found = stats.estimate(samples, seed)
    assert found is not None
    assert found.interval is not None
    assert not math.isnan(found.interval.low)
    assert not math.isnan(found.interval.high)


def test_quantiles_are_observed_samples() -> None:
    samples = [float(value) for value in range(1, 101)]
    assert stats.quantile(samples, 0.5) == 50.0
    assert stats.quantile(samples, 0.9) == 90.0
    assert stats.quantile(samples, 0.99) == 99.0
    assert stats.quantile([*samples[:98], INF, INF], 0.99) == INF


@pytest.mark.parametrize(("count", "probability"), [(9, 0.9), (99, 0.99), (0, 0.5), (1, 0.5)])
def test_too_few_samples_have_no_such_quantile(count: int, probability: float) -> None:
    assert stats.quantile([1.0] * count, probability) is None
    assert stats.quantile([1.0] * (count + 1), probability) == (None if count == 0 else 1.0)
