"""Finds what a median hides: samples far out, two groups, a trend. Shown, never removed.

False alarms, from 1,000 simulated runs each, and how often a real one is found, are in the tables
of `tests/bench/test_statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness.stats.arrays import Array, np

FALSE_ALARMS = 0.01
"""How often a flag may be raised where there is nothing."""
_FEWEST = 10
"""With fewer samples neither groups nor trends differ from chance."""
_MOST = 1_000
"""Beyond these, trends are judged on the medians of consecutive groups, and groups on a part."""
_FENCE = 3.0
_MATERIAL = 0.02
"""Share of the median: groups, or ends of a trend, that are no further apart do not matter."""
_DIP_LIMITS = (
    (10, 0.504), (12, 0.516), (15, 0.526), (20, 0.539), (25, 0.552), (30, 0.555),
    (40, 0.565), (60, 0.579), (100, 0.592), (200, 0.601), (500, 0.612), (1000, 0.620),
)  # fmt: skip
"""(Samples, square root of them × the dip that uniform ones exceed in 1 % of cases): from 60,000
simulated sets each, 20,000 of 500 and more."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Outliers, groups and trend of an arm's samples, in the order in which they were taken.

    Attributes:
        outliers: Places of samples beyond Tukey's outer fences, three quartile distances outside
            the quartiles (*Exploratory Data Analysis*, 1977, 2D). They stay in every estimate.
            Failed trials are no outliers: they are failures.
        is_bimodal: Whether the samples fall into two groups (Hartigan & Hartigan, "The dip test of
            unimodality", Annals of Statistics 13, 1985, at a false alarm rate of 1 % and less),
            and the middle 80 % of them span more than 2 % of the median.
        drift: Relative change from the first to the last sample along the Theil-Sen line, where
            Mann and Kendall's test finds a trend (false alarms: 1 %) and it is more than 2 %;
            None where there is none to speak of.
        drift_p: How likely such a trend or a stronger one is by chance; None with under 10 samples.
        autocorrelation: Rank correlation of each sample with the next; None with under 10 samples.
        is_dependent: Whether that is more than chance, so that an interval of the median, which
            takes blocks as independent, promises too much. Ratios within blocks suffer less.
    """

    outliers: tuple[int, ...]
    is_bimodal: bool
    drift: float | None
    drift_p: float | None = None
    autocorrelation: float | None = None
    is_dependent: bool = False


def shape(samples: Sequence[float]) -> Shape:
    """Look at samples of one arm.

    Args:
        samples: In the order taken, at most one a block; infinity stands for a failed trial and
            takes part in trends, NaN is no sample. Places of outliers count all of them.
    """
    values = np.asarray(samples, float)
    present = values[~np.isnan(values)]
    finite = present[np.isfinite(present)]
    outliers = _outliers(values, finite)
    if len(finite) < _FEWEST:
        return Shape(outliers, is_bimodal=False, drift=None)
    correlation = _autocorrelation(present)
    limit = NormalDist().inv_cdf(1 - FALSE_ALARMS / 2) / math.sqrt(len(present))
    is_dependent = correlation is not None and correlation > limit
    return Shape(
        outliers, _is_bimodal(finite), *_drift(present), correlation, is_dependent=is_dependent
    )


def _outliers(values: Array, finite: Array) -> tuple[int, ...]:
    if len(finite) < 4:
        return ()
    lower, upper = np.quantile(finite, (0.25, 0.75))
    margin = _FENCE * (upper - lower)
    beyond = np.isfinite(values) & ((values < lower - margin) | (values > upper + margin))
    return tuple(np.flatnonzero(beyond).tolist())


def _drift(samples: Array) -> tuple[float | None, float | None]:
    """Mann-Kendall's test, and the Theil-Sen line if it finds something."""
    if len(samples) > _MOST:
        samples = np.array([np.median(group) for group in np.array_split(samples, _MOST)])
    number = len(samples)
    later, earlier = np.tril_indices(number, -1)
    rises = (samples[later] > samples[earlier]).sum() - (samples[later] < samples[earlier]).sum()
    _, ties = np.unique(samples, return_counts=True)
    variance = _kendall(number) - float(_kendall(ties.astype(float)).sum())
    if variance <= 0:
        return None, 1.0
    normal = max(abs(float(rises)) - 1, 0.0) / math.sqrt(variance)
    chance = 2 * (1 - NormalDist().cdf(normal))
    if chance >= FALSE_ALARMS:
        return None, chance
    with np.errstate(invalid="ignore"):
        slopes = (samples[later] - samples[earlier]) / (later - earlier)
    slopes = slopes[~np.isnan(slopes)]
    middle = float(np.quantile(samples, 0.5, method="inverted_cdf"))
    slope = float(np.quantile(slopes, 0.5, method="inverted_cdf"))
    change = slope * (number - 1) / middle if math.isfinite(middle) and middle else math.nan
    return (change if abs(change) > _MATERIAL else None), chance


def _kendall(number: Any) -> Any:
    return number * (number - 1) * (2 * number + 5) / 18


def _autocorrelation(samples: Array) -> float | None:
    """Correlation of the ranks of neighbours; ties get their mean rank."""
    _, places, counts = np.unique(samples, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ranks = ranks - ranks.mean()
    total = float((ranks**2).sum())
    return float((ranks[1:] * ranks[:-1]).sum()) / total if total > 0 else None


def _is_bimodal(finite: Array) -> bool:
    # Every so-manieth in the order taken: a thinned order by size would be smoother than chance.
    ordered = np.sort(finite[:: math.ceil(len(finite) / _MOST)])
    count = len(ordered)
    lower, middle, upper = np.quantile(ordered, (0.1, 0.5, 0.9))
    if upper - lower <= _MATERIAL * abs(middle):
        return False
    counts, limits = zip(*_DIP_LIMITS, strict=True)
    limit = float(np.interp(math.log(count), np.log(counts), limits))
    return dip(ordered.tolist()) * math.sqrt(count) > limit


def dip(ordered: Sequence[float]) -> float:
    """Hartigan's dip: the distance of an empirical distribution from the nearest unimodal one.

    Hartigan, "Computation of the dip statistic to test for unimodality" (Applied Statistics 34,
    1985, AS 217), with Maechler's corrections: the greatest convex minorant and the least concave
    majorant of the distribution are drawn in a modal interval that shrinks until the distance
    outside of it outgrows the one inside.

    Args:
        ordered: Shape (n,), finite, rising.

    Returns:
        Between 1/(2n) and 1/4.
    """
    x = np.asarray(ordered, float)
    count = len(x)
    if count < 2 or x[0] == x[-1]:
        return 1 / (2 * max(count, 1))
    # Equal samples are drawn apart by next to nothing, so that no slope is infinite.
    x = x + np.arange(count) * (x[-1] - x[0]) * 1e-12
    low, high, found = 0, count - 1, 1.0
    while True:
        minorant, majorant = (_hull(x, low, high, side) for side in (1, -1))
        above = majorant - np.interp(x[majorant], x[minorant], minorant) + 1
        below = np.interp(x[minorant], x[majorant], majorant) - minorant + 1
        most_above, most_below = above[1:-1].max(initial=0), below[1:-1].max(initial=0)
        if len(minorant) == len(majorant) == 2 or max(most_above, most_below) < found:
            return found / (2 * count)
        if most_above > most_below:
            end = int(majorant[1 + above[1:-1].argmax()])
            start = int(minorant[np.searchsorted(minorant, end, "right") - 1])
        else:
            start = int(minorant[1 + below[1:-1].argmax()])
            end = int(majorant[np.searchsorted(majorant, start, "left")])
        found = max(
            found,
            _farthest(x, minorant[minorant <= start], 1),
            _farthest(x, majorant[majorant >= end], -1),
        )
        if (start, end) == (low, high):
            return found / (2 * count)
        low, high = start, end


def _hull(x: Array, low: int, high: int, side: int) -> Any:
    """Places of the corners of the convex minorant (side 1) or concave majorant (side -1)."""
    corners: list[int] = []
    for place in range(low, high + 1):
        while len(corners) > 1:
            before, last = corners[-2], corners[-1]
            rise, run = x[place] - x[before], place - before
            if side * ((x[last] - x[before]) * run - rise * (last - before)) > 0:
                break
            corners.pop()
        corners.append(place)
    return np.array(corners)


def _farthest(x: Array, corners: Any, side: int) -> float:
    """The greatest distance of the samples' steps from a hull with these corners, in samples."""
    if len(corners) < 2:
        return 0.0
    places = np.arange(corners[0], corners[-1] + 1)
    return float((side * (places - np.interp(x[places], x[corners], corners)) + 1).max())
