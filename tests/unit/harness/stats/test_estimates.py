"""Statistics against hand calculation, against exhaustive truth, and against simulated truth."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.stats import Method, intervals
from harness.stats.distributions import binomial_cdf, student_cdf, student_quantile
from tests.support.measured import measured

FINITE = st.floats(0.001, 1e12)
SAMPLES = st.lists(FINITE | st.just(math.inf), min_size=1, max_size=60)
INF = math.inf


def test_no_samples_give_no_estimate() -> None:
    assert stats.estimate([]) is None
    assert stats.estimate([math.nan]) is None


def test_a_single_sample_has_no_interval() -> None:
    found = stats.estimate([7.0])
    assert found == stats.Estimate(7.0, None, 1, 0)


@given(st.lists(FINITE, min_size=1, max_size=60))
def test_the_median_is_the_median(samples: list[float]) -> None:
    found = stats.estimate(samples)
    assert found is not None
    assert found.median == pytest.approx(statistics.median(samples))
    assert found.is_reached


@given(SAMPLES)
def test_an_interval_holds_its_median_and_stays_among_the_samples(samples: list[float]) -> None:
    found = stats.estimate(samples)
    assert found is not None
    assert found.count == len(samples)
    assert found.censored == samples.count(INF)
    if found.interval is not None:
        assert min(samples) <= found.interval.low <= found.median <= found.interval.high
        assert found.interval.high <= max(samples)


@given(SAMPLES)
def test_order_does_not_matter(samples: list[float]) -> None:
    shuffled = random.Random(1).sample(samples, len(samples))
    assert stats.estimate(samples) == stats.estimate(shuffled)


@given(st.lists(st.integers(1, 10**6), min_size=6, max_size=60))
def test_a_change_of_unit_changes_nothing_else(samples: list[int]) -> None:
    small, large = (stats.estimate([s * unit for s in samples]) for unit in (1.0, 1024.0))
    assert small is not None
    assert large is not None
    assert small.interval is not None
    assert large.interval is not None
    assert large.interval.low == pytest.approx(small.interval.low * 1024)
    assert large.interval.high == pytest.approx(small.interval.high * 1024)
    assert stats.relative_width(large) == pytest.approx(stats.relative_width(small))


def test_arrays_and_lists_say_the_same_and_missing_values_are_left_out() -> None:
    samples = np.random.RandomState(1).lognormal(0, 1, 5000)
    samples[7], samples[9] = INF, math.nan
    by_array, by_list = stats.estimate(samples), stats.estimate(samples.tolist())
    assert by_array == by_list
    assert by_array is not None
    assert (by_array.count, by_array.censored) == (4999, 1)


@pytest.mark.parametrize(("count", "coverage"), [(2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)])
def test_few_blocks_give_a_range_that_says_what_it_is_worth(count: int, coverage: float) -> None:
    found = stats.estimate([float(value) for value in range(count)])
    assert found is not None
    assert found.interval == stats.Interval(0.0, count - 1.0, coverage, Method.RANGE)
    assert not found.interval.is_certain
    assert stats.relative_width(found) == INF


@pytest.mark.parametrize(
    ("count", "rank"),
    # Conover's table A3 / any table of sign-test intervals for the median at 95 %.
    [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (30, 10), (39, 13)],
)
def test_interpolated_intervals_lie_just_within_those_of_the_tables(count: int, rank: int) -> None:
    samples = [float(value) for value in range(1, count + 1)]
    found = stats.estimate(samples)
    assert found is not None
    assert found.interval is not None
    assert found.interval.method is Method.INTERPOLATED
    assert found.interval.is_certain
    assert intervals.order_statistic_rank(count) == rank
    assert rank <= found.interval.low < rank + 1
    assert found.interval.high == pytest.approx(count + 1 - found.interval.low)


def test_interpolation_by_hand() -> None:
    """Hettmansperger & Sheather's formula for ten samples: ranks 2 (97.85 %) and 3 (89.06 %)."""
    share = (0.978515625 - 0.95) / (0.978515625 - 0.890625)
    weight = (10 - 2) * share / (2 + (10 - 2 * 2) * share)
    assert intervals.interpolated_rank(10) == (2, pytest.approx(weight))


@pytest.mark.parametrize("count", [2, 5, 6, 9, 12])
def test_coverage_is_exact_by_counting_every_case(count: int) -> None:
    """Each sample lies below or above the median with even chance: try all 2^n ways."""
    rank = max(intervals.order_statistic_rank(count), 1)
    held = sum(
        rank <= sum(below) <= count - rank for below in itertools.product((0, 1), repeat=count)
    )
    assert intervals.order_statistic_coverage(count, rank) == pytest.approx(held / 2**count)


@pytest.mark.parametrize("count", [6, 7, 9, 13, 20, 40, 60])
def test_intervals_cover_a_skewed_truth_as_often_as_they_say(count: int) -> None:
    dice = random.Random(count)
    rounds, held = 2000, 0
    for _ in range(rounds):
        found = stats.estimate([dice.lognormvariate(0, 0.4) for _ in range(count)])
        assert found is not None
        assert found.interval is not None
        held += found.interval.low <= 1.0 <= found.interval.high
    # Three standard errors around 95 %: seeded, so it fails for a changed method and not by chance.
    assert held / rounds == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("count", [6, 7, 8, 9, 12, 20, 33, 60])
def test_ratios_of_an_arm_to_itself_cover_one(count: int) -> None:
    """Runs resampled from measured blocks, in which the two arms were disturbed together."""
    first, second = (measured()[f"hello/{name}"] for name in ("container", "container-again"))
    random_ = np.random.RandomState(count)
    rounds, held = 1000, 0
    for _ in range(rounds):
        chosen = random_.randint(0, len(first), count)
        swapped = random_.rand(count) < 0.5  # which is the twin is no matter: the truth is 1
        pairs = np.where(swapped, [first[chosen], second[chosen]], [second[chosen], first[chosen]])
        arm, reference = (dict(enumerate(side.tolist())) for side in pairs)
        found = stats.paired_ratio(arm, reference)
        assert found is not None
        assert found.estimate.interval is not None
        held += found.estimate.interval.low <= 1.0 <= found.estimate.interval.high
    assert 0.93 <= held / rounds <= 0.97


def test_many_blocks_give_the_width_of_the_theory() -> None:
    dice = random.Random(3)
    found = stats.estimate([dice.gauss(100, 10) for _ in range(10_001)])
    assert found is not None
    assert found.interval is not None
    # The median's standard error is 1.2533 sigma / sqrt(n).
    assert found.interval.high - found.interval.low == pytest.approx(
        2 * 1.96 * 1.2533 * 10 / math.sqrt(10_001), rel=0.1
    )


def test_reports_of_old_records_do_not_change() -> None:
    dice = random.Random(7)
    found = stats.estimate([round(dice.gauss(100, 10), 3) for _ in range(41)])
    assert found is not None
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((96.37271564, 103.94308676))


def test_failures_are_slower_than_anything_and_never_dropped() -> None:
    found = stats.estimate([3.0, INF, 1.0, 2.0, INF, 4.0, 5.0])
    assert found is not None
    assert (found.median, found.count, found.censored) == (4.0, 7, 2)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (1.0, INF)
    assert found.interval.method is Method.ORDER_STATISTICS  # nothing to interpolate to
    assert found.interval.coverage == 1 - 2 / 2**7
    assert stats.relative_width(found) == INF


@pytest.mark.parametrize("samples", [[1.0, INF], [INF], [1.0, 2.0, INF, INF, INF]])
def test_half_failed_is_not_reached(samples: list[float]) -> None:
    found = stats.estimate(samples)
    assert found is not None
    assert found.median == INF
    assert not found.is_reached
    assert stats.relative_width(found) == INF


@given(st.lists(st.sampled_from([-INF, 1.0, 2.0, 5.0, INF]), min_size=2, max_size=60))
def test_any_share_of_failures_leaves_numbers(samples: list[float]) -> None:
    found = stats.estimate(samples)
    assert found is not None
    assert found.interval is not None
    assert not math.isnan(found.interval.low)
    assert not math.isnan(found.interval.high)
    assert not math.isnan(stats.relative_width(found))


def test_ratios_are_taken_within_blocks() -> None:
    """A block in which everything took ten times as long does not change the ratio."""
    container = dict.fromkeys(range(10), 2.0) | {3: 20.0}
    vm = dict.fromkeys(range(10), 80.0) | {3: 800.0}
    found = stats.paired_ratio(vm, container)
    assert found is not None
    assert found.estimate.median == 40.0
    assert found.estimate.interval is not None
    assert (found.estimate.interval.low, found.estimate.interval.high) == (40.0, 40.0)
    far = stats.paired_difference(vm, container)
    assert far is not None
    assert far.estimate.median == 78.0


def test_a_ratio_uses_only_blocks_that_both_have() -> None:
    found = stats.paired_ratio({1: 4.0, 2: 6.0, 9: 1.0}, {1: 2.0, 2: 2.0, 5: 1.0})
    assert found is not None
    assert (found.estimate.median, found.estimate.count) == (2.5, 2)
    assert stats.paired_ratio({1: 1.0}, {2: 1.0}) is None
    assert stats.paired_ratio({1: math.nan}, {1: 1.0}) is None


def test_failures_in_a_pair_are_bounds_on_the_right_side() -> None:
    arm = {0: INF, 1: 4.0, 2: 6.0, 3: INF, 4: 8.0}
    reference = {0: 2.0, 1: 2.0, 2: INF, 3: INF, 4: 2.0}
    found = stats.paired_ratio(arm, reference)
    assert found is not None
    assert found.undetermined == 1  # block 3
    assert (found.estimate.count, found.estimate.censored) == (4, 2)
    assert found.estimate.median == 3.0  # of -inf, 2, 4, inf
    assert found.estimate.interval is not None
    assert (found.estimate.interval.low, found.estimate.interval.high) == (-INF, INF)


def test_opposite_failures_alone_are_unknown_not_a_number() -> None:
    found = stats.paired_ratio({0: INF, 1: 4.0}, {0: 2.0, 1: INF})
    assert found is not None
    assert not found.estimate.is_reached


def test_amounts_of_zero_and_below() -> None:
    """Nothing against nothing is the same; a fall of available memory may be negative."""
    found = stats.paired_ratio({0: 4.0, 1: 0.0, 2: -5.0, 3: 6.0}, {0: 0.0, 1: 0.0, 2: 1.0, 3: 6.0})
    assert found is not None
    assert (found.estimate.count, found.undetermined) == (3, 1)
    assert found.estimate.median == 1.0
    assert found.estimate.interval is not None
    assert found.estimate.interval.high == INF


def test_quantiles_are_observed_samples() -> None:
    samples = [float(value) for value in range(1, 101)]
    assert stats.quantile(samples, 0.5) == 50.0
    assert stats.quantile(samples, 0.9) == 90.0
    assert stats.quantile(samples, 0.99) == 99.0
    assert stats.quantile([*samples[:98], INF, INF], 0.99) == INF


@pytest.mark.parametrize(("count", "probability"), [(9, 0.9), (99, 0.99), (0, 0.5), (1, 0.5)])
def test_too_few_samples_have_no_such_quantile(count: int, probability: float) -> None:
    assert stats.quantile([1.0] * count, probability) is None
    assert stats.quantile_estimate([1.0] * count, probability) is None
    assert stats.quantile([1.0] * (count + 1), probability) == (None if count == 0 else 1.0)


def test_a_quantile_with_too_few_samples_for_95_percent_says_so() -> None:
    samples = [float(value) for value in range(1, 101)]
    found = stats.quantile_estimate(samples, 0.99)
    assert found is not None
    assert found.median == 99.0
    assert found.interval is not None
    assert found.interval.high == 100.0
    assert not found.interval.is_certain
    # The 99th percentile lies beyond the greatest of 100 samples with 0.99^100.
    assert found.interval.coverage == pytest.approx(1 - 0.99**100 - 0.025)


@pytest.mark.parametrize(("count", "probability"), [(12, 0.5), (60, 0.9), (150, 0.9), (600, 0.99)])
def test_intervals_of_quantiles_cover(count: int, probability: float) -> None:
    random_ = np.random.RandomState(count)
    truth = -math.log(1 - probability)
    rounds, held = 1000, 0
    for _ in range(rounds):
        found = stats.quantile_estimate(random_.exponential(1, count), probability)
        assert found is not None
        assert found.interval is not None
        assert found.interval.is_certain
        held += found.interval.low <= truth <= found.interval.high
    assert held / rounds == pytest.approx(0.95, abs=0.021)


def test_samples_of_one_block_count_as_one_observation() -> None:
    """Eight starts at a time that share their block's disturbance, and a truth of 0."""
    random_ = np.random.RandomState(1)
    blocks = np.repeat(np.arange(15), 8)
    held = {"blocks": 0, "alone": 0}
    rounds = 400
    for _ in range(rounds):
        samples = random_.normal(0, 1, 15)[blocks] + random_.normal(0, 1, len(blocks))
        for name, owners in (("blocks", blocks.tolist()), ("alone", None)):
            found = stats.quantile_estimate(samples.tolist(), 0.5, blocks=owners)
            assert found is not None
            assert found.interval is not None
            held[name] += found.interval.low <= 0 <= found.interval.high
    assert held["blocks"] / rounds > 0.93
    assert held["alone"] / rounds < 0.75  # what would be claimed otherwise


def test_blocks_must_be_those_of_the_samples() -> None:
    with pytest.raises(ValueError, match="2 blocks of 4 samples"):
        stats.quantile_estimate([1.0, 2.0, 3.0, 4.0], 0.5, blocks=[1, 1])


def test_widths_are_relative_and_never_below_what_is_shown() -> None:
    samples = [100.0 + value for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    found = stats.estimate(samples)
    assert found is not None
    assert found.interval is not None
    shown = (found.interval.high - found.interval.low) / 2 / found.median
    assert shown <= stats.relative_width(found) < 3 * shown
    same = stats.estimate([5.0] * 12)
    assert same is not None
    assert stats.relative_width(same) == 0.0


def test_who_may_stop_had_narrow_intervals_before() -> None:
    wide_first = [1.0, 5.0, 2.0, 9.0, 1.0, 7.0, *[5.0] * 40]
    found = stats.estimate(wide_first[:8])
    assert found is not None
    assert stats.relative_width(found) > 0.5
    assert stats.estimate([5.0] * 7) is not None
    six = stats.estimate([5.0] * 6)
    assert six is not None
    assert stats.relative_width(six) == INF  # nothing was known three quarters ago


def test_tails_of_the_binomial() -> None:
    for count, probability in ((6, 0.5), (40, 0.9), (100, 0.01)):
        total = 0.0
        for k in range(count + 1):
            total += math.comb(count, k) * probability**k * (1 - probability) ** (count - k)
            assert binomial_cdf(k, count, probability) == pytest.approx(total, abs=1e-13)
    # A million: the normal approximation with continuity correction is good to six digits.
    normal = statistics.NormalDist(500_000, 500).cdf(499_020.5)
    assert binomial_cdf(499_020, 10**6, 0.5) == pytest.approx(normal, rel=1e-4)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Any table of Student's t, two-sided 5 %.
    [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227), (1000, 1.96234)],
)
def test_quantiles_of_student(freedom: float, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-5)
    assert student_cdf(quantile, freedom) == pytest.approx(0.975, abs=1e-6)
