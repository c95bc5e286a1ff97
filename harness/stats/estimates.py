"""Medians and quantiles with their intervals; see `harness.stats`."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.stats.arrays import Samples, np
from harness.stats.distributions import student_cdf, student_quantile
from harness.stats.intervals import LEVEL, Interval, Method, cautious_half, interval_of

_STEADY_MOST = 10_000
"""With more samples a lucky early stop is long past."""
_MANY = 1_000
"""From so many samples on, sorting by numpy is worth importing it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The median of samples (or another quantity of them), and how sure it is.

    Attributes:
        median: In the unit of the samples; not finite when half of them or more are censored.
        interval: None for a single sample, which says nothing of its own spread.
        count: Samples, the censored ones among them.
        censored: How many of them are only bounds: failed and timed-out trials.
        steady: Half-width of the interval, judged cautiously: see `relative_width`. None where a
            run may not stop because of it.
    """

    median: float
    interval: Interval | None
    count: int
    censored: int = 0
    steady: float | None = field(default=None, compare=False, repr=False)

    @property
    def is_reached(self) -> bool:
        """Whether the median is a number at all: most trials got there."""
        return math.isfinite(self.median)


def estimate(samples: Samples) -> Estimate | None:
    """Estimate the median of one sample a block.

    Args:
        samples: Shape (blocks,), any unit, in the order taken; infinity stands for a failed trial,
            NaN for a value that could not be had: such samples are left out.

    Returns:
        None when there are no samples.
    """
    kept = _present(samples)
    if not len(kept):
        return None
    ordered = _sorted(kept)
    middle = _median(ordered)
    return Estimate(
        middle,
        interval_of(ordered, 0.5, middle),
        len(ordered),
        _censored(ordered),
        steady=_steady(kept, ordered) if len(kept) <= _STEADY_MOST else None,
    )


def quantile(samples: Samples, probability: float) -> float | None:
    """Take a quantile as an observed sample (the inverse of the empirical distribution function).

    Args:
        samples: Shape (n,); infinity stands for a failed trial, NaN is left out.
        probability: Above 0 and below 1.

    Returns:
        None when there are too few samples to have one beyond the quantile: a 99th percentile of 20
        trials would only be their maximum by another name.
    """
    kept = _present(samples)
    return _quantile(_sorted(kept), probability) if _has(len(kept), probability) else None


def quantile_estimate(
    samples: Samples, probability: float, blocks: Sequence[int] | None = None
) -> Estimate | None:
    """Estimate a quantile: `median` of the result is `quantile`.

    A high quantile needs many samples for an interval of 95 %: about 36 for the 90th percentile
    and 368 for the 99th. With fewer the interval reaches to the greatest sample, and its
    `coverage` says how often that is enough.

    Args:
        samples: As for `quantile`.
        probability: Above 0 and below 1.
        blocks: The block of each sample, where several samples share one and are alike for it.

    Returns:
        None when there are too few samples to have such a quantile.
    """
    kept = _present(samples)
    if not _has(len(kept), probability):
        return None
    if blocks is not None and len(set(blocks)) < len(samples):
        return _clustered(samples, probability, blocks)
    ordered = _sorted(kept)
    value = _quantile(ordered, probability)
    return Estimate(
        value, interval_of(ordered, probability, value), len(ordered), _censored(ordered)
    )


def relative_width(found: Estimate) -> float:
    """Half the width of an interval as a share of its median, judged cautiously: for stopping.

    A run that stops once an interval is narrow stops too early now and then, because the samples
    happened to lie close together: intervals of 95 % were simulated to cover 90 % then. So the
    width is the widest of three: the interval's own; that of an interval of 99.9999 %, scaled down,
    which rests on more than the few samples in the middle; and both of these of the first three
    quarters of the samples. With that, coverage was 93 % and more (the tables of
    `tests/bench/test_statistics.py`; 92 % for two groups of nearly equal size, where the median
    lies at the edge of a gap). It is never below what the interval in the report shows.

    Returns:
        0.02 for ± 2 %; infinite without a closed interval of 95 %.
    """
    interval = found.interval
    if interval is None or not found.is_reached or not interval.is_certain:
        return math.inf
    half = max((interval.high - interval.low) / 2, found.steady or 0.0)
    if half == 0:
        return 0.0
    return half / abs(found.median) if found.median else math.inf


def _steady(samples: Samples, ordered: Samples) -> float:
    earlier = _sorted(samples[: len(samples) * 3 // 4])
    return max((cautious_half(part) for part in (ordered, earlier)), default=math.inf)


def _clustered(samples: Samples, probability: float, blocks: Sequence[int]) -> Estimate | None:
    """A quantile of samples of which several share a block.

    Woodruff, "Confidence intervals for medians and other position measures" (JASA 47, 1952): the
    interval of the share of samples at or below the quantile, from the blocks' totals, turned back
    into samples.
    """
    if len(blocks) != len(samples):
        raise ValueError(f"{len(blocks)} blocks of {len(samples)} samples")
    values = np.asarray(samples, float)
    present = ~np.isnan(values)
    values = values[present]
    ordered = np.sort(values)
    value = _quantile(ordered, probability)
    _, places = np.unique(np.asarray(blocks)[present], return_inverse=True)
    totals = np.bincount(places, (values <= value) - probability)
    count, number = len(ordered), len(totals)
    interval = None
    if number > 1:
        error = math.sqrt(number / (number - 1) * float(((totals - totals.mean()) ** 2).sum()))
        margin = student_quantile((1 + LEVEL) / 2, number - 1) * error / count
        low, high = probability - margin, probability + margin
        # Beyond the samples there is nothing to reach to: report how often that is enough.
        sides = (
            student_cdf(reach * count / error, number - 1) - 0.5 if reach < margin else LEVEL / 2
            for reach in (probability, 1 - probability)
        )
        interval = Interval(
            float(ordered[max(math.ceil(low * count) - 1, 0)]),
            float(ordered[min(math.ceil(high * count) - 1, count - 1)]),
            sum(sides),
            Method.BY_BLOCK,
        )
    return Estimate(value, interval, count, _censored(ordered))


def _has(count: int, probability: float) -> bool:
    return count > 0 and count * min(probability, 1 - probability) >= 1 - 1e-9


def _quantile(ordered: Samples, probability: float) -> float:
    return float(ordered[max(math.ceil(len(ordered) * probability - 1e-9) - 1, 0)])


def _present(samples: Samples) -> Samples:
    if len(samples) < _MANY:
        return [float(sample) for sample in samples if not math.isnan(sample)]
    values = np.asarray(samples, float)
    kept: Samples = values[~np.isnan(values)]
    return kept


def _sorted(samples: Samples) -> Samples:
    if isinstance(samples, list):
        return sorted(samples)
    values: Samples = np.sort(np.asarray(samples, float))
    return values


def _censored(ordered: Samples) -> int:
    """Count the infinite ones of both ends, without looking at those between."""
    return bisect_right(ordered, -math.inf) + len(ordered) - bisect_left(ordered, math.inf)


def _median(ordered: Samples) -> float:
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    low, high = float(ordered[middle - 1]), float(ordered[middle])
    return (low + high) / 2 if low != high else low  # the sum of ±infinity is NaN: unknown
