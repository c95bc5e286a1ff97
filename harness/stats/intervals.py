"""Intervals between order statistics: exact, interpolated, and cautious ones for stopping."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

from harness.stats.arrays import Samples
from harness.stats.distributions import binomial, binomial_cdf

LEVEL = 0.95
"""The coverage that every interval aims at."""

FEWEST_FOR_LEVEL = 6
"""With fewer samples even their whole range covers the median less often than `LEVEL`."""

_STEADY_LEVEL = 1 - 1e-6
"""Of the interval that stopping is judged by besides that of 95 %: it rests on the outer samples,
and wavers less. With few samples it is their range."""


class Method(StrEnum):
    """How an interval was made."""

    RANGE = "range of the samples"
    """From the least to the greatest, or as far as there are samples."""
    ORDER_STATISTICS = "exact, order statistics"
    """From one sample to another."""
    INTERPOLATED = "order statistics, interpolated"
    """Between two samples at either end."""
    BY_BLOCK = "order statistics, blocks as clusters"
    """From one sample to another, where several samples share a block."""
    SEQUENTIAL = "order statistics, for all looks together"
    """Of paired ratios that were looked at repeatedly."""
    ANCHORED = "ratios to the anchor, within runs and between them"
    """Normal, of one run against another."""
    BETWEEN_RUNS = "medians of runs"
    """Student's t, of one run against others."""
    DOMINANCE = "dominance by block"
    """Of Cliff's delta."""
    REGRESSION = "regression, blocks as clusters"
    ONE_BLOCK = "regression within one block"
    EXACT = "all points on one line"


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval that contains the truth with a stated confidence.

    Attributes:
        low: Lower end, in the unit of the samples.
        high: Upper end; infinite when failed trials leave it open.
        coverage: How often such an interval contains the truth: exact for a range and for order
            statistics, 0.95 nominal for the rest.
        method: How it was made.
    """

    low: float
    high: float
    coverage: float
    method: Method

    @property
    def is_certain(self) -> bool:
        """Whether it covers the truth in 95 % of cases."""
        return self.coverage >= LEVEL


def order_statistic_rank(count: int) -> int:
    """Find the narrowest exact interval: from the `rank`-th smallest to the `rank`-th largest.

    Returns:
        The largest rank whose interval covers the median with at least `LEVEL`; 0 when none does.
    """
    return _rank(count, 0.5, (1 - LEVEL) / 2)


def order_statistic_coverage(count: int, rank: int) -> float:
    """Probability that the median lies between the `rank`-th smallest and the `rank`-th largest."""
    return 1.0 - 2 * binomial_cdf(rank - 1, count, 0.5)


def _rank(count: int, probability: float, tail: float) -> int:
    """The largest r such that the r-th smallest is above the quantile with at most `tail`."""
    first, cumulative = binomial(count, probability)
    return first + bisect_right(cumulative, tail)


def interpolated_rank(
    count: int, probability: float = 0.5, tail: float = (1 - LEVEL) / 2
) -> tuple[int, float]:
    """Find the lower end of an interval for a quantile among samples in rising order.

    Nyblom, "Note on interpolated order statistics" (Statistics & Probability Letters 14, 1992);
    for the median the same as Hettmansperger & Sheather, "Confidence intervals based on
    interpolated order statistics" (Statistics & Probability Letters 4, 1986).

    Args:
        count: Samples.
        probability: Of the quantile.
        tail: How often the quantile may lie below the end.

    Returns:
        (rank, weight): the end is that much of the way from the `rank`-th smallest sample to the
        next. Rank 0: even the least sample is above the quantile more often than `tail`.
    """
    rank = _rank(count, probability, tail)
    if rank in (0, count):
        return rank, 0.0
    outer, inner = (binomial_cdf(r, count, probability) for r in (rank - 1, rank))
    share = (tail - outer) / (inner - outer)
    weight = (count - rank) * probability * share
    return rank, weight / (weight + rank * (1 - probability) * (1 - share))


def _end(ordered: Samples, probability: float, tail: float, *, inward: bool) -> tuple[float, float]:
    """The lower end of an interval for a quantile, and how often the quantile lies beyond it.

    For the upper end `ordered` falls, with 1 - probability. With `inward` the end is interpolated.
    """
    count = len(ordered)
    rank, weight = interpolated_rank(count, probability, tail)
    here = float(ordered[max(rank, 1) - 1])
    if rank == 0 or weight == 0 or not inward:
        return here, binomial_cdf(max(rank, 1) - 1, count, probability)
    distance = float(ordered[rank]) - here
    # An infinite neighbour is a bound and nothing to interpolate to: the outer sample it is.
    return (here + weight * distance if math.isfinite(distance) else here), tail


def _ends(
    ordered: Samples, probability: float, level: float, *, inward: bool = True
) -> tuple[float, float, float]:
    """Lower end, upper end, and how often the quantile lies between them."""
    tail = (1 - level) / 2
    low, below = _end(ordered, probability, tail, inward=inward)
    high, above = _end(ordered[::-1], 1 - probability, tail, inward=inward)
    return low, high, 1 - below - above


def interval_of(ordered: Samples, probability: float, middle: float) -> Interval | None:
    """The 95 % interval of a quantile, or what comes nearest to one.

    Args:
        ordered: Shape (n,), rising.
        probability: Of the quantile.
        middle: The quantile itself, which the interval holds.

    Returns:
        None for a single sample.
    """
    if len(ordered) < 2:
        return None
    low, high, coverage = _ends(ordered, probability, LEVEL)
    method = Method.INTERPOLATED
    if coverage < LEVEL - 1e-9:
        method = Method.RANGE
    elif not (math.isfinite(low) and math.isfinite(high)):
        low, high, coverage = _ends(ordered, probability, LEVEL, inward=False)
        method = Method.ORDER_STATISTICS
    else:
        coverage = LEVEL
    return Interval(min(low, middle), max(high, middle), coverage, method)


def cautious_half(ordered: Samples) -> float:
    """Half-width of the median's interval, or of a far wider one, scaled down, if larger."""
    if len(ordered) < FEWEST_FOR_LEVEL:
        return math.inf
    low, high, _ = _ends(ordered, 0.5, LEVEL)
    outer_low, outer_high, coverage = _ends(ordered, 0.5, _STEADY_LEVEL)
    if not math.isfinite(outer_high - outer_low):
        return math.inf
    normal = NormalDist().inv_cdf
    scale = normal((1 + LEVEL) / 2) / normal((1 + coverage) / 2)
    return max(high - low, (outer_high - outer_low) * scale) / 2
