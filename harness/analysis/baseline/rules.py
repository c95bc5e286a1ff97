"""The two rules for a run against earlier runs, as numbers on the logarithmic scale. Pure.

**Anchor.** Both runs hold the judged arm beside one that is pinned (same image digest, kind,
options and command). r is the median over blocks of log(arm / anchor), s its standard error, and

    d = r_new - r_base, half = z √(s_new² + s_base² + 2·0.02² + 0.2²·(r_new² + r_base²))

The two constants are what such ratios differ by from run to run beyond their own errors: about 2 %
for equal images, and a fifth of the ratio's logarithm for unequal ones. Where the pin is what the
baseline itself ran, arm and anchor of the baseline are one thing: r_base is 0 without error, and
the new run compares both within its own blocks.

**History.** m_i are the log medians of K ≥ 2 other runs of the same thing, S their standard
deviation, at least √(se_new² + mean se²/K), and

    d = m_new - mean m_i, half = t(K - 1) √(S²·(1 + 1/K) + max(0, se_new² - mean se²))

Measured on a two-core host whose ext4 has no journal: the same image is called worse by the anchor
rule in 5 of 520 (ready) and 0 of 520 (CPU time), by the history rule in 1.6 to 2.9 %; the intervals
of two runs alone call it worse in 23 to 31 %. Where several findings are judged in one check, each
has its share of the error.

There, with 60 blocks and three findings a check, the anchor rule calls the same image fine as often
as this (ready, CPU time). Within 10 %: in 85 and 97 % where the baseline is what the pin is, in 65
and 61 % where both runs hold the anchor. Within 5 %: in 35 and 26 %, and in 2 and 5 %. An image
30 % slower is called fine in none of 586, within either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from harness import stats
from harness.analysis.judgement import Verdict
from harness.stats.distributions import student_quantile

ERROR = 0.025
"""How often all findings of one check together may call something worse that is not, one-sided."""
FEWEST_RUNS = 2
"""Earlier runs from which the history rule takes a spread."""
_BETWEEN_RUNS = 0.02
_OF_RATIO = 0.2
_EASY = 1.05
_FOUND = 1.3
"""FINE needs an interval in which a start of 1.3 × would have stood out: see `Change.verdict`."""
_NORMAL = NormalDist()
_WIDTH = 2 * _NORMAL.inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Level:
    """A median on the logarithmic scale, with its 95 % interval and the blocks it rests on."""

    middle: float
    low: float
    high: float
    blocks: int

    @property
    def error(self) -> float:
        """Its standard error; infinite where the interval is open or too few blocks made it."""
        return (self.high - self.low) / _WIDTH if self.low < math.inf else math.inf

    @property
    def is_short(self) -> bool:
        """Whether the blocks that made it are too few for an interval."""
        return 0 < self.blocks < stats.FEWEST_FOR_LEVEL


SAME_THING = Level(0.0, 0.0, 0.0, 0)
"""The ratio of a thing to itself."""


def level_of(found: stats.Estimate) -> Level:
    """Take the logarithm of a median; an interval that is not certain is no interval."""
    if found.interval is None or not found.interval.is_certain:
        return Level(_log(found.median), -math.inf, math.inf, found.count)
    low, high = _log(found.interval.low), _log(found.interval.high)
    return Level(_log(found.median), low, high, found.count)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class Change:
    """By how much the new level lies above the earlier one, on the logarithmic scale.

    Attributes:
        middle: Its estimate.
        half: Half of its interval; infinite where nothing can be said.
        may_be_fine: Whether an interval below the limit is an answer.
    """

    middle: float
    half: float
    may_be_fine: bool = True

    @property
    def low(self) -> float:
        """Lower end."""
        return self.middle - self.half if math.isfinite(self.half) else -math.inf

    @property
    def high(self) -> float:
        """Upper end."""
        return self.middle + self.half if math.isfinite(self.half) else math.inf

    def verdict(self, limit: float) -> Verdict:
        """Judge against a limit of the ratio: 1.05 allows 5 % more.

        Below the limit is an answer only where the interval is so narrow that a start made 30 %
        longer would be twice as far away: half ≤ log 1.3 - log limit. Limits above 1.05 ask for no
        narrower interval than that one.
        """
        if self.middle == math.inf and self.half == 0:
            return Verdict.WORSE
        edge = math.log(limit) if limit > 0 else -math.inf
        if self.low > edge:
            return Verdict.WORSE
        if self.high <= edge and self.half <= widest_half(limit) and self.may_be_fine:
            return Verdict.BETTER if self.high < 0 else Verdict.SAME
        return Verdict.CANNOT_TELL


_UNKNOWN = math.inf


def widest_half(limit: float) -> float:
    """Half of the widest interval that may be called fine: see `Change.verdict`."""
    return math.log(_FOUND / min(max(limit, 1.0), _EASY))


def anchored(new: Level, base: Level, findings: int = 1) -> Change:
    """Apply the anchor rule to the ratios of both runs.

    Args:
        new: Of the judged run.
        base: Of the baseline; `SAME_THING` where it ran what the anchor is pinned to.
        findings: Of one check, among which the error is shared.
    """
    if new.low == math.inf and math.isfinite(base.middle):
        return Change(math.inf, 0.0)  # more than half of the starts fail, beside the anchor's
    if not (math.isfinite(new.middle) and math.isfinite(base.middle)):
        return Change(new.middle, _UNKNOWN)
    runs = 1 if base is SAME_THING else 2
    error = math.sqrt(
        new.error**2
        + base.error**2
        + runs * _BETWEEN_RUNS**2
        + _OF_RATIO**2 * (new.middle**2 + base.middle**2)
    )
    return Change(new.middle - base.middle, _NORMAL.inv_cdf(1 - ERROR / findings) * error)


def anchored_blocks(new: Level, base: Level, findings: int, distance: float) -> int | None:
    """How many blocks of the new run bring half the interval down to `distance`; None: none do."""
    if not math.isfinite(new.error) or not math.isfinite(base.error) or distance <= 0:
        return None
    quantile = _NORMAL.inv_cdf(1 - ERROR / findings)
    half = anchored(new, base, findings).half
    fixed = (half / quantile) ** 2 - new.error**2
    left = (distance / quantile) ** 2 - fixed
    return math.ceil(new.blocks * new.error**2 / left * 1.2) if left > 0 else None


def among(new: Level, earlier: Sequence[Level], findings: int = 1) -> Change:
    """Apply the history rule to the level of a run and those of `FEWEST_RUNS` others or more."""
    middles = [level.middle for level in earlier]
    if new.low == math.inf and all(map(math.isfinite, middles)):
        return Change(math.inf, 0.0)
    if not all(map(math.isfinite, (new.middle, *middles))):
        return Change(new.middle, _UNKNOWN)
    count, mean = len(earlier), fmean(middles)
    of_each = fmean(level.error**2 for level in earlier)
    if not (math.isfinite(of_each) and math.isfinite(new.error)):
        return Change(new.middle - mean, _UNKNOWN)
    spread = max(stdev(middles), math.sqrt(new.error**2 + of_each / count))
    variance = spread**2 * (1 + 1 / count) + max(0.0, new.error**2 - of_each)
    quantile = student_quantile(1 - ERROR / findings, count - 1)
    # Faster than all that was seen is drift, and no answer.
    return Change(new.middle - mean, quantile * math.sqrt(variance), new.middle >= min(middles))
