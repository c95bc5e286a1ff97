"""Where a measured value lies against what it may at most be, and in which words. Pure.

Of one run (`check`):

    all of the interval within       fine
    all of it beyond                 regressed
    the limit inside the interval    cannot tell: about how many blocks would tell is said

Of a paired comparison, by where the interval of the ratio B / A lies, never by an estimate alone:

    Margin, of `compare`             whole within 1/(1 + p) and 1 + p    same
                                     whole above 1                       worse
                                     whole below 1                       better
    Allowance, of `check --against`  whole above the limit               worse
                                     whole below 1                       better
                                     whole within the limit              same
    neither                          cannot tell, and what would be needed is said

What is exact (disk) is held against the limit exactly; for a margin any difference is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from harness import stats
from harness.analysis.judgement import Verdict
from harness.model.metrics import Metric
from harness.stats.sequential import FIRST_LOOK, Look

_HOPELESS = 30
"""More than so many times the blocks taken is no advice."""


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


class Rule(Protocol):
    """How a comparison becomes a verdict, and the words that differ with it."""

    @property
    def limit(self) -> float:
        """What the ratio may at most be."""

    @property
    def exact_limit(self) -> float:
        """The same, for what has no noise."""

    @property
    def source(self) -> str:
        """`scenarios/hello.toml:12` of the budget; empty if none."""

    @property
    def sides(self) -> tuple[str, str]:
        """What A and B are called in a sentence."""

    def verdict(self, low: float, high: float) -> Verdict:
        """What an interval of the ratio allows one to say."""

    def exact(self, ours: float, theirs: float) -> Verdict:
        """The verdict on two values that have no noise."""

    def against(self, theirs: str) -> str:
        """A value of A, in a sentence: `A's 4.01 ms`."""

    def more_than(self, ratio: float) -> str:
        """What follows `1,048,576 bytes more`: `than A's`."""

    def told(self, verdict: Verdict) -> str:
        """What follows the figures, before the advice."""

    def advice(self, look: Look) -> str:
        """What would be needed for a verdict, where there is none."""


@dataclass(frozen=True, slots=True)
class Margin:
    """Is B worse than A? Differences within a margin are none.

    Attributes:
        within: 0.05 is from 1/1.05 to 1.05.
    """

    within: float

    @property
    def limit(self) -> float:
        """See `Rule`."""
        return 1 + self.within

    @property
    def exact_limit(self) -> float:
        """Where there is no noise, any difference is one."""
        return 1.0

    @property
    def source(self) -> str:
        """No budget."""
        return ""

    @property
    def sides(self) -> tuple[str, str]:
        """See `Rule`."""
        return "A", "B"

    def verdict(self, low: float, high: float) -> Verdict:
        """See the module."""
        if 1 / (1 + self.within) <= low and high <= 1 + self.within:
            return Verdict.SAME
        if low > 1:
            return Verdict.WORSE
        if high < 1:
            return Verdict.BETTER
        return Verdict.CANNOT_TELL

    def exact(self, ours: float, theirs: float) -> Verdict:
        """See the module."""
        return _exact(ours, theirs, self.exact_limit)

    def against(self, theirs: str) -> str:
        """See `Rule`."""
        return f"A's {theirs}"

    def more_than(self, ratio: float) -> str:  # noqa: ARG002 - the difference is said already
        """See `Rule`."""
        return "than A's"

    def told(self, verdict: Verdict) -> str:
        """See `Rule`."""
        return f": the same within {self.within * 100:g} %" if verdict is Verdict.SAME else ""

    def advice(self, look: Look) -> str:
        """See `Rule`."""
        if not _is_closed(look):
            return _more_blocks(look, "--blocks, --time-limit")
        middle = abs(math.log(look.ratio))
        # Either the interval leaves 1, or it fits into the margin: whichever is nearer.
        needed = _blocks_needed(look, max(middle, math.log1p(self.within) - middle))
        if needed is None:
            return (
                "the margin is finer than this host can tell: widen --within, or quieten the host"
            )
        edge = max(look.high, 1 / look.low) - 1
        return (
            f"take about {needed} blocks (--blocks, --time-limit), or be content with --within "
            f"{_up(edge * 100, 10):g}%"
        )


@dataclass(frozen=True, slots=True)
class Allowance:
    """Is B more than so many times A?

    Attributes:
        most: What the ratio may at most be.
        source: Of the budget that says so; empty if none does.
    """

    most: float
    source: str = ""

    @property
    def limit(self) -> float:
        """See `Rule`."""
        return self.most

    @property
    def exact_limit(self) -> float:
        """See `Rule`."""
        return self.most

    @property
    def sides(self) -> tuple[str, str]:
        """See `Rule`."""
        return "the image before", "the image now"

    def verdict(self, low: float, high: float) -> Verdict:
        """See the module."""
        return verdict_between(low, high, self.most, may_be_better=True)

    def exact(self, ours: float, theirs: float) -> Verdict:
        """See the module."""
        return _exact(ours, theirs, self.most)

    def against(self, theirs: str) -> str:
        """See `Rule`."""
        return f"{theirs} of the image before"

    def more_than(self, ratio: float) -> str:
        """See `Rule`."""
        change = f": {percent(ratio)}" if math.isfinite(ratio) else ""
        return f"than with the image before{change}{self.told(Verdict.WORSE)}"

    def told(self, verdict: Verdict) -> str:  # noqa: ARG002 - the limit is said with each
        """See `Rule`."""
        return f"; {'no more' if self.most == 1 else f'at most {percent(self.most)}'} is allowed"

    def advice(self, look: Look) -> str:
        """See `Rule`."""
        if not _is_closed(look):
            return _more_blocks(look, "--blocks")
        needed = _blocks_needed(look, abs(math.log(self.most / look.ratio)))
        if needed is None:
            what = "the budget" if self.source else "--within"
            return f"the limit is as good as the value itself: widen {what}, or quieten the host"
        advice = f"take about {needed} blocks (--blocks)"
        if look.ratio > self.most:
            return advice  # who is probably beyond a limit is not told to move it
        if self.source:
            return f"{advice}, or allow times = {_up(look.high, 1000):g}"
        return f"{advice}, or be content with --within {_up((look.high - 1) * 100, 10):g}%"


def _exact(ours: float, theirs: float, most: float) -> Verdict:
    # The limit as it was typed, not the binary number next to it: 1.15 times 100 is 115.
    if Fraction(ours) > Fraction(theirs) * Fraction(f"{most:.12g}"):
        return Verdict.WORSE
    return Verdict.BETTER if ours < theirs else Verdict.SAME


def _is_closed(look: Look) -> bool:
    return look.low > 0 and look.high < math.inf and 0 < look.ratio < math.inf


def _more_blocks(look: Look, options: str) -> str:
    return f"take more blocks ({options}): {2 * max(look.pairs, FIRST_LOOK)} or so"


def _blocks_needed(look: Look, reach: float) -> int | None:
    """How many until half the interval is `reach` (of the log); None if that is no advice.

    An interval shrinks with the root of the blocks.
    """
    half = max(math.log(look.high / look.ratio), math.log(look.ratio / look.low))
    if reach <= 0:
        return None
    needed = math.ceil(look.pairs * (half / reach) ** 2 * 1.2)
    return max(needed, look.pairs + 1) if needed <= _HOPELESS * look.pairs else None


def _up(value: float, parts: int) -> float:
    """Rounded up to whole parts, and one more: what is advised is enough."""
    return math.ceil(value * parts + 1) / parts
