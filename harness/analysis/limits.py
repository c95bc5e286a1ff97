"""Judges where a measured value lies against its limit, and words it. Pure.

Of one run (`check`):

    all of the interval within       fine
    all of it beyond                 regressed
    the limit inside the interval    cannot tell: with about how many blocks are needed

Of a paired comparison, by where the interval of the ratio B / A lies, never by an estimate alone:

    Margin, of `compare`             whole within 1/(1 + p) and 1 + p    same
                                     whole above 1                       worse
                                     whole below 1                       better
    Allowance, of `check --against`  whole above the limit               worse
                                     whole below 1                       better
                                     whole within the limit              same
    neither                          cannot tell, with what would be needed

What is exact (disk) is held against the limit exactly; for a margin any difference is one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from harness import stats
from harness.analysis.judgement import Verdict
from harness.model.metrics import Metric
from harness.stats.arrays import Samples
from harness.stats.sequential import FIRST_LOOK, Look

_HOPELESS = 30
"""More than so many times the blocks taken is no advice in a comparison,"""
_HOPELESS_UNPAIRED = 30**2 * 1.2
"""nor more than so many in a check: its interval would have to become 30 times narrower."""
_UNKNOWN = stats.Interval(-math.inf, math.inf, 0.0, stats.Method.RANGE)
"""Of a single sample: it could be anything."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured value, its interval (None if it is exact) and the blocks that it rests on."""

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

    def spelled(self, spell: Callable[[float], str]) -> str:
        """Spell the value and its interval: `4.3 ms [4.1 ms to 4.6 ms]`."""
        middle = spell(self.middle)
        if self.interval is None:
            return f"{middle} exactly" if math.isfinite(self.middle) else f"{middle} by any trial"
        ends = (spell(end) if math.isfinite(end) else "?" for end in (self.low, self.high))
        return f"{middle} [{' to '.join(ends)}]"

    def advice(self, limit: float, verdict: Verdict) -> str:
        """Word what would be needed for a verdict, where there is none."""
        if verdict is not Verdict.CANNOT_TELL:
            return ""
        if self.blocks < stats.FEWEST_FOR_LEVEL:
            return f"; {self.blocks} blocks cannot tell, take {stats.FEWEST_FOR_LEVEL} or more"
        half = max(self.high - self.middle, self.middle - self.low)
        distance = abs(limit - self.middle)
        needed = _blocks_needed(self.blocks, half, distance, _HOPELESS_UNPAIRED)
        if needed is None:
            return "; no verdict is possible: the budget is as good as the value itself"
        return f"; no verdict yet: take about {needed} blocks"


def measured_by(found: stats.Estimate) -> Measured:
    """A median with its interval; without one it could be anything."""
    return Measured(found.median, found.interval or _UNKNOWN, found.count)


def measured_of(samples: Samples, metric: Metric) -> Measured:
    """The median of an arm's samples; exact where equal inputs give equal values."""
    least, most = float(min(samples)), float(max(samples))
    if metric.is_exact or (len(samples) > 1 and least == most):
        return Measured(most, None, len(samples))
    return measured_by(estimate_of(samples))


def estimate_of(samples: Samples) -> stats.Estimate:
    """Estimate the median of an arm's samples; there is at least one."""
    found = stats.estimate(samples)
    assert found is not None
    return found


def exact_ratio(ours: float, theirs: float, blocks: int) -> Measured:
    """Divide two values that have no noise; two of zero have the ratio 1."""
    ratio = ours / theirs if theirs else (1.0 if ours == theirs else math.inf)
    return Measured(ratio, None, blocks)


def unpaired_ratio(ours: Samples, theirs: Samples) -> Measured:
    """Divide two medians of separate runs, of what does not change with the state of the host.

    The interval combines those of the medians on the logarithmic scale (MOVER: Zou & Donner,
    *Statistics in Medicine* 27, 2008). It covers what varies within the runs: what differs between
    runs as well has the rules of `harness.analysis.baseline`.
    """
    a, b = estimate_of(ours), estimate_of(theirs)
    blocks = min(a.count, b.count)
    if not (0 < a.median < math.inf and 0 < b.median < math.inf):
        above = math.inf if a.median > b.median else 0.0
        return Measured(1.0 if a.median == b.median else above, _UNKNOWN, blocks)
    first, second = a.interval or _UNKNOWN, b.interval or _UNKNOWN
    down = math.hypot(_log(a.median, first.low), _log(second.high, b.median))
    up = math.hypot(_log(first.high, a.median), _log(b.median, second.low))
    ratio = a.median / b.median
    coverage = min(first.coverage, second.coverage)
    low, high = ratio * math.exp(-down), ratio * math.exp(up) if up < 700 else math.inf
    return Measured(ratio, stats.Interval(low, high, coverage, first.method), blocks)


def _log(above: float, below: float) -> float:
    return math.log(above / below) if below > 0 and math.isfinite(above) else math.inf


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


def percent(ratio: float) -> str:
    """Spell a ratio as a change: `+10.2 %`."""
    return f"{(ratio - 1) * 100:+.1f} %"


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """Decides on B against A by the interval of B / A, and words the decision.

    Attributes:
        limit: What the ratio may at most be.
        source: `scenarios/hello.toml:12` of the budget that says so; empty if none does.
        sides: Names of A and B in a sentence.
    """

    limit: float
    source: str = ""

    sides: ClassVar[tuple[str, str]]
    _options: ClassVar[str]
    """Those that allow more blocks."""

    @property
    def exact_limit(self) -> float:
        """The limit of what has no noise."""
        return self.limit

    @property
    def found_above(self) -> float:
        """The interval of what is worse lies above this."""
        return self.limit

    @abstractmethod
    def verdict(self, low: float, high: float) -> Verdict:
        """Judge by both ends of an interval of the ratio: see the module."""

    def exact(self, ours: float, theirs: float) -> Verdict:
        """Judge two values that have no noise."""
        # The limit as it was typed, not the binary number next to it: 1.15 times 100 is 115.
        if Fraction(ours) > Fraction(theirs) * Fraction(f"{self.exact_limit:.12g}"):
            return Verdict.WORSE
        return Verdict.BETTER if ours < theirs else Verdict.SAME

    @abstractmethod
    def more_than(self, ratio: float) -> str:
        """Word what follows `1,048,576 bytes more`: `than A's`."""

    @abstractmethod
    def conclusion(self, verdict: Verdict) -> str:
        """Word what follows the estimates, before the advice."""

    def advice(self, look: Look) -> str:
        """Word what would be needed for a verdict, where there is none."""
        if not (look.low > 0 and look.high < math.inf and 0 < look.ratio < math.inf):
            return f"take more blocks ({self._options}): {2 * max(look.pairs, FIRST_LOOK)} or so"
        half = max(math.log(look.high / look.ratio), math.log(look.ratio / look.low))
        distance, alternative, hopeless = self._outlook(look)
        needed = _blocks_needed(look.pairs, half, distance, _HOPELESS)
        return (
            hopeless
            if needed is None
            else (f"take about {needed} blocks ({self._options}){alternative}")
        )

    @abstractmethod
    def _outlook(self, look: Look) -> tuple[float, str, str]:
        """How far the ratio's logarithm is from a verdict, and what to do besides, or instead."""


class Margin(Rule):
    """Is B worse than A? Differences within a margin are none: 1.05 is from 1/1.05 to 1.05."""

    __slots__ = ()
    sides = ("A", "B")
    _options = "--blocks, --time-limit"

    @property
    def exact_limit(self) -> float:
        """Where there is no noise, any difference is one."""
        return 1.0

    @property
    def found_above(self) -> float:
        """Whatever the margin, worse is what lies above 1."""
        return 1.0

    def verdict(self, low: float, high: float) -> Verdict:
        """Judge: the same within the margin."""
        if 1 / self.limit <= low and high <= self.limit:
            return Verdict.SAME
        if low > 1:
            return Verdict.WORSE
        return Verdict.BETTER if high < 1 else Verdict.CANNOT_TELL

    def more_than(self, ratio: float) -> str:  # noqa: ARG002 - the difference is said already
        """Name A."""
        return "than A's"

    def conclusion(self, verdict: Verdict) -> str:
        """Name the margin."""
        return f": the same within {(self.limit - 1) * 100:g} %" if verdict is Verdict.SAME else ""

    def _outlook(self, look: Look) -> tuple[float, str, str]:
        middle = abs(math.log(look.ratio))
        edge = max(look.high, 1 / look.low) - 1
        return (
            # Either the interval leaves 1, or it fits into the margin: whichever is nearer.
            max(middle, math.log(self.limit) - middle),
            f", or be content with --within {_up(edge * 100, 10):g}%",
            "the margin is finer than this host can tell: widen --within, or quieten the host",
        )


class Allowance(Rule):
    """Is B more than so many times A?"""

    __slots__ = ()
    sides = ("the image before", "the image now")
    _options = "--blocks"

    def verdict(self, low: float, high: float) -> Verdict:
        """Judge: the same up to the limit."""
        return verdict_between(low, high, self.limit, may_be_better=True)

    def more_than(self, ratio: float) -> str:
        """Name the image before, the change and the limit."""
        change = f": {percent(ratio)}" if math.isfinite(ratio) else ""
        return f"than with the image before{change}{self.conclusion(Verdict.WORSE)}"

    def conclusion(self, verdict: Verdict) -> str:  # noqa: ARG002 - the limit is said with each
        """Name the limit."""
        return f"; {'no more' if self.limit == 1 else f'at most {percent(self.limit)}'} is allowed"

    def _outlook(self, look: Look) -> tuple[float, str, str]:
        if self.source:
            what, wider = "the budget", f", or allow times = {_up(look.high, 1000):g}"
        else:
            edge = _up((look.high - 1) * 100, 10)
            what, wider = "--within", f", or be content with --within {edge:g}%"
        return (
            abs(math.log(self.limit / look.ratio)),
            "" if look.ratio > self.limit else wider,  # what is probably beyond it stays beyond it
            f"the limit is as good as the value itself: widen {what}, or quieten the host",
        )


def _blocks_needed(blocks: int, half: float, distance: float, hopeless: float) -> int | None:
    """How many until half the interval is `distance`; None beyond `hopeless` times the blocks."""
    if distance <= 0 or not math.isfinite(half):
        return None
    # An interval shrinks with the square root of the number of blocks.
    needed = math.ceil(blocks * (half / distance) ** 2 * 1.2)
    return max(needed, blocks + 1) if needed <= hopeless * blocks else None


def _up(value: float, parts: int) -> float:
    """Rounded up to whole parts, and one more: what is advised is enough."""
    return math.ceil(value * parts + 1) / parts
