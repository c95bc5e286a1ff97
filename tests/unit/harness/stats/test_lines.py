"""Cliff's delta, lines through growth, and the shape of samples, against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.stats import Method
from harness.stats.shapes import dip
from tests.support.measured import measured

INF = math.inf
VALUES = st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, INF]), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_delta_counts_every_pair(a: list[float], b: list[float]) -> None:
    found, back = stats.cliffs_delta(a, b), stats.cliffs_delta(b, a)
    assert found is not None
    assert back is not None
    by_hand = sum((x > y) - (x < y) for x in a for y in b) / len(a) / len(b)
    assert found.delta == pytest.approx(by_hand)
    assert back.delta == pytest.approx(-by_hand)
    if found.interval is not None:
        assert -1 <= found.interval.low <= found.delta + 1e-12
        assert found.delta - 1e-12 <= found.interval.high <= 1


def test_delta_without_samples() -> None:
    assert stats.cliffs_delta([], [1.0]) is None
    assert stats.cliffs_delta([math.nan], [1.0]) is None
    assert stats.cliffs_delta([2.0], [1.0]) == stats.Effect(1.0, None)


def test_no_overlap_is_not_certainty() -> None:
    """Six against six: delta is 1, and 0.3 is still possible."""
    found = stats.cliffs_delta([7.0, 8, 9, 10, 11, 12], [1.0, 2, 3, 4, 5, 6])
    assert found is not None
    assert found.interval is not None
    z = 2.570582  # Student's t of 5 degrees of freedom
    assert found.delta == found.interval.high == 1.0
    assert found.interval.low == pytest.approx((6 - z**2) / (6 + z**2), rel=1e-5)
    turned = stats.cliffs_delta([1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12])
    assert turned is not None
    assert turned.interval is not None
    assert (turned.interval.low, turned.interval.high) == (-1.0, -found.interval.low)


def test_pairing_by_block_makes_delta_surer() -> None:
    """What disturbs a block hits both arms: measured blocks, one arm 10 % longer."""
    first, second = (measured()[f"hello/{name}"] for name in ("container", "container-again"))
    arm = dict(enumerate((first[:100] * 1.1).tolist()))
    reference = dict(enumerate(second[:100].tolist()))
    paired = stats.cliffs_delta(arm, reference)
    alone = stats.cliffs_delta(list(arm.values()), list(reference.values()))
    assert paired is not None
    assert alone is not None
    assert paired.delta == alone.delta
    assert paired.interval is not None
    assert alone.interval is not None
    width, loose = (i.high - i.low for i in (paired.interval, alone.interval))
    assert width < 0.9 * loose


def test_a_line_through_whole_numbers_is_exact() -> None:
    """Slope and intercept of a disk that grows by 69,632 bytes an instance, to the byte."""
    points = [(0, float(n), 4_423_680.0 + 69_632.0 * n) for n in (1, 2, 4, 8, 300)]
    found = stats.line(points)
    assert found is not None
    for part, truth in ((found.slope, 69_632.0), (found.intercept, 4_423_680.0)):
        assert part.median == truth
        assert part.interval == stats.Interval(truth, truth, 0.95, Method.EXACT)


def test_a_flat_line_at_zero_is_exact_too() -> None:
    found = stats.line([(0, 1.0, 0.0), (0, 2.0, 0.0), (1, 1.0, 0.0), (1, 2.0, 0.0)])
    assert found is not None
    assert (found.slope.median, found.slope.interval) == (
        0.0,
        stats.Interval(0.0, 0.0, 0.95, Method.EXACT),
    )


def test_balanced_blocks_give_the_interval_of_their_own_slopes() -> None:
    """Bell and McCaffrey's variance comes down to the t interval of five slopes: by hand."""
    slopes = [2.0, 2.5, 3.0, 3.1, 2.9]
    points = [(b, x, 10 + slope * x) for b, slope in enumerate(slopes) for x in (1.0, 2.0, 4.0)]
    found = stats.line(points)
    assert found is not None
    assert found.blocks == 5
    assert found.slope.median == pytest.approx(np.mean(slopes))
    assert found.slope.interval is not None
    assert found.slope.interval.method is Method.REGRESSION
    half = 2.776445 * float(np.std(slopes, ddof=1)) / math.sqrt(5)
    assert found.slope.interval.high - found.slope.median == pytest.approx(half, rel=1e-5)


def test_two_points_make_no_line() -> None:
    two = [(0, 1.0, 5.0), (0, 2.0, 7.0)]
    assert stats.line(two) is None
    assert stats.line([*two, (0, 3.0, math.nan), (0, 4.0, INF)]) is None
    assert stats.line([*two, (1, 1.0, 5.5)]) is not None


def test_what_is_never_negative_is_not_so_at_no_instances() -> None:
    """Least squares gives -3 and 5 here; a footprint of -3 there is not."""
    points = [(0, 1.0, 2.0), (0, 2.0, 7.0), (0, 3.0, 12.0), (0, 4.0, 17.5), (0, 5.0, 21.5)]
    found = stats.line(points)
    assert found is not None
    assert found.slope.median == pytest.approx(4.95)
    assert found.intercept.median == 0
    assert found.intercept.interval is not None
    assert 0 == found.intercept.interval.low <= found.intercept.interval.high
    falling = stats.line([(block, x, y - 10) for block, x, y in points])
    assert falling is not None
    assert falling.intercept.median == pytest.approx(12 - 10 - 4.95 * 3)


def test_no_line_through_one_number_of_instances() -> None:
    assert stats.line([]) is None
    assert stats.line([(0, 4.0, 5.0), (1, 4.0, 6.0)]) is None
    assert stats.line([(0, 1.0, 5.0), (0, 2.0, math.nan), (0, 3.0, INF)]) is None


def test_failed_starts_are_counted_beside_the_line() -> None:
    found = stats.line([(0, 1.0, 1.0), (0, 2.0, 2.0), (0, 3.0, 3.0), (0, 4.0, INF)])
    assert found is not None
    assert (found.slope.median, found.slope.count, found.slope.censored) == (1.0, 4, 1)


@pytest.mark.parametrize("blocks", [1, 3, 8])
@pytest.mark.parametrize("adding", [False, True], ids=["independent", "adding up"])
def test_intervals_of_slope_and_intercept_cover(blocks: int, adding: bool) -> None:
    """Errors of single readings, and errors of instances, which add up along a ramp."""
    random_ = np.random.RandomState(blocks)
    numbers = np.array([1.0, 2, 4, 8, 16, 32])
    gaps = np.sqrt(np.diff(numbers, prepend=0.0))
    rounds, held = 300, {"slope": 0, "intercept": 0}
    for _ in range(rounds):
        points = []
        for block in range(blocks):
            errors = random_.normal(0, 1, len(numbers))
            errors = np.cumsum(errors * gaps) if adding else errors
            points += [(block, n, 50 + 3 * n + e) for n, e in zip(numbers, errors, strict=True)]
        found = stats.line(points)
        assert found is not None
        for name, part, truth in (
            ("slope", found.slope, 3),
            ("intercept", found.intercept, 50),
        ):
            assert part.interval is not None
            held[name] += part.interval.low <= truth <= part.interval.high
    assert all(
        count / rounds > 0.95 - 3 * math.sqrt(0.05 * 0.95 / rounds) for count in held.values()
    )


def test_blocks_of_unequal_length() -> None:
    """A ramp that ended early: blocks no longer weigh the same, and nothing breaks."""
    random_ = np.random.RandomState(4)
    points = [
        (block, float(n), 100 + 7.0 * n + random_.normal(0, 3))
        for block, last in enumerate((300, 300, 40, 2, 1))
        for n in range(1, last + 1)
    ]
    found = stats.line(points)
    assert found is not None
    assert found.slope.interval is not None
    assert found.slope.interval.low <= 7.0 <= found.slope.interval.high
    assert found.slope.interval.high - found.slope.interval.low < 0.1


def test_outliers_are_places_and_failures_are_none() -> None:
    samples = [10.0, 11, 12, 11, 10, 95.0, 11, 12, INF, 10, 11, 12]
    found = stats.shape(samples)
    assert found.outliers == (5,)
    assert not found.is_bimodal
    assert stats.shape([3.0] * 20).outliers == ()
    assert stats.shape([3.0] * 20 + [4.0]).outliers == (20,)


def test_few_samples_have_no_shape() -> None:
    assert stats.shape([1.0, 2.0, 9.0]) == stats.Shape((), is_bimodal=False, drift=None)
    assert stats.shape([]) == stats.Shape((), is_bimodal=False, drift=None)
    assert stats.shape([INF] * 30).drift_p is None


def test_two_groups_are_seen_and_skew_is_none() -> None:
    random_ = np.random.RandomState(2)
    skewed = random_.lognormal(0, 1, 60)
    groups = np.where(random_.rand(60) < 0.6, random_.normal(10, 1, 60), random_.normal(20, 1, 60))
    assert not stats.shape(skewed.tolist()).is_bimodal
    assert stats.shape(groups.tolist()).is_bimodal
    # As far apart in spreads, but 1 % of the figure: nobody's concern.
    assert not stats.shape((groups + 2000).tolist()).is_bimodal


@pytest.mark.parametrize(
    ("samples", "expected"),
    # Against the C implementation of the R package diptest.
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.1),
        ([1.0, 1.1, 1.2, 1.3, 9.0, 9.1, 9.2, 9.3], 0.240625),
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 0.25),
        ([1.0, 2.0, 2.0, 3.0, 7.0, 7.5, 8.0, 20.0], 0.15),
    ],
)
def test_the_dip(samples: list[float], expected: float) -> None:
    assert dip(samples) == pytest.approx(expected, abs=1e-6)


def test_drift_is_a_share_of_the_median() -> None:
    random_ = np.random.RandomState(3)
    level = random_.normal(100, 2, 60)
    assert stats.shape(level.tolist()).drift is None
    rising = stats.shape((level + np.linspace(-10, 10, 60)).tolist())
    assert rising.drift == pytest.approx(0.20, abs=0.03)
    assert rising.drift_p is not None
    assert rising.drift_p < 1e-6
    falling = stats.shape((level - np.linspace(-10, 10, 60)).tolist())
    assert falling.drift == pytest.approx(-0.20, abs=0.03)
    small = stats.shape((level / 100 + np.linspace(10, 10.15, 60) * 100).tolist())
    assert (small.drift, small.drift_p is not None and small.drift_p < 0.01) == (None, True)


def test_failures_take_part_in_trends() -> None:
    """A run in which everything fails from the middle on has a trend, not a pause."""
    found = stats.shape([float(100 + n % 3) for n in range(20)] + [INF] * 20)
    assert found.drift_p is not None
    assert found.drift_p < 1e-6


def test_neighbours_that_are_alike_are_seen() -> None:
    """Start times measured on a shared host hang together, their ratios do not."""
    first, second = (measured()[f"hello/{name}"] for name in ("container", "container-again"))
    times, ratios = stats.shape(first.tolist()), stats.shape((first / second).tolist())
    assert times.is_dependent
    assert times.autocorrelation == pytest.approx(0.51, abs=0.02)
    assert not ratios.is_dependent


def test_a_long_run_is_looked_at_in_parts() -> None:
    random_ = np.random.RandomState(6)
    samples = random_.lognormal(0, 0.3, 50_000) * np.linspace(1, 1.1, 50_000)
    samples[1234] = 1e6
    found = stats.shape(samples.tolist())
    assert 1234 in found.outliers
    assert found.drift == pytest.approx(0.1, abs=0.02)
    assert not found.is_bimodal
