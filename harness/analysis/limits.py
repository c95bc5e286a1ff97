"""Where a measured value lies against what it may at most be: the arithmetic of `check`. Pure.

all of the interval within       fine
all of it beyond                 regressed
the limit inside the interval    cannot tell: about how many blocks would tell is said
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness import stats
from harness.analysis.judgement import Verdict
from harness.model.metrics import Metric


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured: a value and between which ends it lies.

    Attributes:
        middle: The estimate.
        interval: None if it is exact.
        blocks: What it rests on.
    """

    middle: float
    interval: stats.Interval | None
    blocks: int

    @property
    def low(self) -> float:
        """Lower end; the value itself where it is exact."""
        return self.middle if self.interval is None else self.interval.low

    @property
    def high(self) -> float:
        """Upper end; the value itself where it is exact."""
        return self.middle if self.interval is None else self.interval.high


def measured_by(found: stats.Estimate) -> Measured:
    """A median with its interval; without one it could be anything."""
    return Measured(found.median, found.interval or _unknown(), found.count)


def _unknown() -> stats.Interval:
    """Of a single sample: it could be anything."""
    return stats.Interval(-math.inf, math.inf, 0.0, stats.Method.RANGE)


def measured_of(samples: Mapping[int, float], metric: Metric) -> Measured:
    """The median of an arm's samples, by block; exact where equal inputs give equal values."""
    values = list(samples.values())
    if metric.is_exact or (len(values) > 1 and len(set(values)) == 1):
        return Measured(max(values), None, len(values))
    found = stats.estimate(values)
    assert found is not None
    return measured_by(found)


def unpaired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Measured:
    """Ratio of two medians of separate runs.

    The interval combines those of the medians on the logarithmic scale (MOVER: Zou & Donner,
    *Statistics in Medicine* 27, 2008). It covers what varies within the runs and not what changed
    on the host between them; the sentence says so.
    """
    if len(set(ours.values())) == 1 and len(set(theirs.values())) == 1:
        first_value, second_value = next(iter(ours.values())), next(iter(theirs.values()))
        equal = 1.0 if first_value == second_value else math.inf
        return Measured(first_value / second_value if second_value else equal, None, len(ours))
    a, b = stats.estimate(list(ours.values())), stats.estimate(list(theirs.values()))
    assert a is not None
    assert b is not None
    return ratio_of_medians(a, b)


def ratio_of_medians(a: stats.Estimate, b: stats.Estimate) -> Measured:
    """Ratio of two medians that were estimated apart from each other; see `unpaired_ratio`."""
    blocks = min(a.count, b.count)
    if not (a.median > 0 and b.median > 0 and a.is_reached and b.is_reached):
        above = math.inf if a.median > b.median else 0.0
        ratio = 1.0 if a.median == b.median else above
        return Measured(ratio, _unknown(), blocks)
    first, second = a.interval or _unknown(), b.interval or _unknown()
    down = math.hypot(_log(a.median, first.low), _log(second.high, b.median))
    up = math.hypot(_log(first.high, a.median), _log(b.median, second.low))
    ratio = a.median / b.median
    coverage = min(first.coverage, second.coverage)
    low, high = ratio * math.exp(-down), ratio * math.exp(up) if up < 700 else math.inf
    return Measured(ratio, stats.Interval(low, high, coverage, first.method), blocks)


def _log(above: float, below: float) -> float:
    if below <= 0 or not math.isfinite(above):
        return math.inf
    return math.log(above / below)


def verdict_on(measured: Measured, most: float, *, may_be_better: bool) -> Verdict:
    """Judge by the whole interval: see the module."""
    if measured.interval is not None and not measured.interval.is_certain:
        return Verdict.CANNOT_TELL
    return verdict_between(measured.low, measured.high, most, may_be_better=may_be_better)


def verdict_between(low: float, high: float, most: float, *, may_be_better: bool) -> Verdict:
    """Judge by both ends of an interval: see the module."""
    if low > most:
        return Verdict.WORSE
    if high <= most:
        return Verdict.BETTER if may_be_better and high < 1 else Verdict.SAME
    return Verdict.CANNOT_TELL


def between(measured: Measured, told: Callable[[float], str]) -> str:
    """Spell the interval behind a value: ` [4.1 ms to 4.6 ms]`."""
    if measured.interval is None:
        return " exactly" if math.isfinite(measured.middle) else " by any trial"
    ends = (told(end) if math.isfinite(end) else "?" for end in (measured.low, measured.high))
    return f" [{' to '.join(ends)}]"


def what_is_missing(measured: Measured, most: float, verdict: Verdict) -> str:
    """What would be needed, where it cannot be told."""
    if verdict is not Verdict.CANNOT_TELL:
        return ""
    if measured.blocks < stats.FEWEST_FOR_LEVEL:
        return f"; {measured.blocks} blocks cannot tell, take {stats.FEWEST_FOR_LEVEL} or more"
    distance = abs(most - measured.middle)
    half = max(measured.high - measured.middle, measured.middle - measured.low)
    if not math.isfinite(half) or distance <= 0 or half / distance > 30:
        return "; that cannot be told from this: the budget is as good as the value itself"
    # An interval shrinks with the square root of the number of blocks.
    needed = math.ceil(measured.blocks * (half / distance) ** 2 * 1.2)
    return f"; that cannot be told yet: take about {max(needed, measured.blocks + 1)} blocks"


def percent(ratio: float) -> str:
    """Spell a ratio as a change: `+10.2 %`."""
    return f"{(ratio - 1) * 100:+.1f} %"
