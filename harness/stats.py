"""Judging samples: medians and paired comparisons, with intervals that keep their promise. Pure.

**Censoring.** A trial that failed or ran into its timeout has a duration too: longer than any that
would have been waited for. It enters as infinity, never as 0 and never not at all. Order statistics
need nothing else: the median of nine samples of which two are infinite is a plain number, and when
most trials failed the median is infinite itself, which the report prints as "not reached".

**Intervals** are for the median over blocks and aim at 95 %:

- Fewer than 6 blocks: no method reaches 95 %. The interval is the range of the samples and carries
  its true coverage, 1 - 2^(1-n): 93.75 % for 5 blocks, 50 % for 2.
- 6 to 39 blocks: the exact interval between two order statistics (the sign test turned around:
  Conover, *Practical Nonparametric Statistics*, 3rd ed., 3.2). It assumes independent blocks and
  nothing about their distribution, and covers at least 95 %. With skewed samples the percentile
  bootstrap was simulated to cover only 89 to 94 % here.
- 40 blocks and more: the percentile bootstrap over blocks (Efron & Tibshirani, *An Introduction to
  the Bootstrap*, 1993, chapter 13), seeded, so that the same records give the same report.

numpy is imported when a function first needs it, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

LEVEL = 0.95
"""The coverage that every interval aims at."""

FEWEST_FOR_LEVEL = 6
"""With fewer samples even their whole range covers the median less often than `LEVEL`."""

FEWEST_FOR_BOOTSTRAP = 40
"""Below this the percentile bootstrap of a median under-covers noticeably."""

RESAMPLES = 4000


class Method(StrEnum):
    """How an interval was made."""

    RANGE = "range of the samples"
    ORDER_STATISTICS = "exact, order statistics"
    BOOTSTRAP = "bootstrap over blocks"


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the median lies, with a stated confidence.

    Attributes:
        low: Lower end, in the unit of the samples.
        high: Upper end; infinite when failed trials leave it open.
        coverage: How often such an interval contains the true median: 0.95 nominal for the
            bootstrap, exact and at least that for order statistics, below it for a mere range.
        method: How it was made.
    """

    low: float
    high: float
    coverage: float
    method: Method

    @property
    def is_certain(self) -> bool:
        """Whether it keeps the promise of 95 %."""
        return self.coverage >= LEVEL


@dataclass(frozen=True, slots=True)
class Estimate:
    """The median of samples, and how sure it is.

    Attributes:
        median: In the unit of the samples; not finite when half of them or more are censored.
        interval: None for a single sample, which says nothing of its own spread.
        count: Samples, the censored ones among them.
        censored: How many of them are only bounds: failed and timed-out trials.
    """

    median: float
    interval: Interval | None
    count: int
    censored: int = 0

    @property
    def is_reached(self) -> bool:
        """Whether the median is a number at all: most trials got there."""
        return math.isfinite(self.median)


def estimate(samples: Sequence[float], seed: int) -> Estimate | None:
    """Estimate the median of one sample a block.

    Args:
        samples: Shape (blocks,), any unit; infinity stands for a failed trial.
        seed: Of the bootstrap; the same samples and seed give the same interval.

    Returns:
        None when there are no samples.
    """
    if not samples:
        return None
    ordered = sorted(samples)
    return Estimate(
        median=_median(ordered),
        interval=_interval(ordered, seed),
        count=len(ordered),
        censored=sum(1 for sample in ordered if math.isinf(sample)),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against another, compared within blocks, so that what disturbs a block hits both.

    A block in which only the arm failed counts as plus infinity, one in which only the reference
    failed as minus infinity: both are bounds, and counted as censored. Where both failed nothing
    can be said: such blocks are left out of the median and counted apart.

    Attributes:
        estimate: Of the blocks' ratios or differences. The median of ratios need not be the ratio
            of the medians.
        undetermined: Blocks in which both failed.
    """

    estimate: Estimate
    undetermined: int = 0


def paired_ratio(
    arm: Mapping[int, float], reference: Mapping[int, float], seed: int
) -> Comparison | None:
    """Say how many times the reference's duration the arm's is, block by block.

    Args:
        arm: Block number to duration, infinity for a failed trial.
        reference: The same of the arm that is the measure.
        seed: Of the bootstrap.

    Returns:
        None when no block tells the two apart.
    """
    return _paired(arm, reference, lambda a, b: a / b if b > 0 else math.inf, seed)


def paired_difference(
    arm: Mapping[int, float], reference: Mapping[int, float], seed: int
) -> Comparison | None:
    """Say how much longer than the reference the arm takes, block by block; see `paired_ratio`."""
    return _paired(arm, reference, lambda a, b: a - b, seed)


def _paired(
    arm: Mapping[int, float],
    reference: Mapping[int, float],
    compare: Callable[[float, float], float],
    seed: int,
) -> Comparison | None:
    pairs = [(arm[block], reference[block]) for block in sorted(arm.keys() & reference.keys())]
    told = [pair for pair in pairs if any(map(math.isfinite, pair))]
    found = estimate([compare(*p) if math.isfinite(p[1]) else -math.inf for p in told], seed)
    return Comparison(found, len(pairs) - len(told)) if found is not None else None


def quantile(samples: Sequence[float], probability: float) -> float | None:
    """Take a quantile as an observed sample (the inverse of the empirical distribution function).

    Args:
        samples: Shape (n,); infinity stands for a failed trial.
        probability: Between 0 and 1.

    Returns:
        None when there are too few samples to have one beyond the quantile: a 99th percentile of 20
        trials would only be their maximum by another name.
    """
    import numpy as np

    beyond = 1 - max(probability, 1 - probability)
    if not samples or len(samples) * beyond < 1 - 1e-9:
        return None
    return float(np.quantile(np.asarray(samples, float), probability, method="inverted_cdf"))


def order_statistic_rank(count: int) -> int:
    """Find the narrowest exact interval: from the `rank`-th smallest to the `rank`-th largest.

    Returns:
        The largest rank whose interval covers the median with at least `LEVEL`; 0 when none does.
    """
    rank, outside = 0, 0.0
    while True:
        outside += 2 * math.comb(count, rank) / 2.0**count
        if 1 - outside < LEVEL:
            return rank
        rank += 1


def order_statistic_coverage(count: int, rank: int) -> float:
    """Probability that the median lies between the `rank`-th smallest and the `rank`-th largest."""
    return 1.0 - 2 * sum(math.comb(count, below) for below in range(rank)) / 2.0**count


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    low, high = ordered[middle - 1], ordered[middle]
    return (low + high) / 2 if low != high else float(low)  # the sum of ±infinity is NaN: unknown


def _interval(ordered: Sequence[float], seed: int) -> Interval | None:
    count = len(ordered)
    if count < 2:
        return None
    if count >= FEWEST_FOR_BOOTSTRAP:
        return _bootstrap(ordered, seed)
    rank = order_statistic_rank(count)
    method = Method.ORDER_STATISTICS if rank else Method.RANGE
    rank = max(rank, 1)
    return Interval(
        float(ordered[rank - 1]),
        float(ordered[-rank]),
        order_statistic_coverage(count, rank),
        method,
    )


def _bootstrap(ordered: Sequence[float], seed: int) -> Interval:
    import numpy as np

    # RandomState's stream is frozen for good (NEP 19), default_rng's is not: old records must give
    # the same report under a newer numpy.
    random = np.random.RandomState(seed % 2**32)
    samples = np.asarray(ordered, float)  # sorted, so that sorting places sorts samples
    places = np.sort(random.randint(0, len(samples), (RESAMPLES, len(samples))), axis=1)
    lower = samples[places[:, (len(samples) - 1) // 2]]
    upper = samples[places[:, len(samples) // 2]]
    # The lower and the upper of an even number's two middle samples, and observed ones instead of
    # interpolated: infinities stay infinite, and the interval errs on the wide side.
    tail = (1 - LEVEL) / 2
    return Interval(
        float(np.quantile(lower, tail, method="inverted_cdf")),
        float(np.quantile(upper, 1 - tail, method="inverted_cdf")),
        LEVEL,
        Method.BOOTSTRAP,
    )
