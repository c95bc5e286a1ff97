"""What a paired comparison allows, and in which words: by margin, or up to a limit. Pure.

Where the interval of the ratio B / A lies decides, never an estimate alone:

    Margin, of `compare`            whole within 1/(1 + p) and 1 + p    same
                                    whole above 1                       worse
                                    whole below 1                       better
    Allowance, of `check --against` whole above the limit               worse
                                    whole below 1                       better
                                    whole within the limit              same
    neither                         cannot tell, and what would be needed is said

What is exact (disk) is held against the limit exactly; for a margin any difference is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from harness.analysis.judgement import Verdict
from harness.analysis.limits import percent, verdict_between
from harness.stats.sequential import FIRST_LOOK, Look

_HOPELESS = 30
"""More than so many times the blocks taken is no advice."""


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
