"""One budget held against earlier runs: its levels, the verdict on them, and the words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness import stats
from harness.analysis.baseline import rules
from harness.analysis.baseline.rules import Change, Level
from harness.analysis.judgement import Finding, Verdict
from harness.analysis.limits import percent
from harness.model import Budget
from harness.model.metrics import METRICS, Metric
from harness.model.units import spell

_HOPELESS = 30
"""More than so many times the blocks taken is no advice."""


@dataclass(frozen=True, slots=True)
class Case:
    """One budget of a metric that has noise, ready to be judged once all of a check are known.

    Attributes:
        scenario, budget, source: What is asked.
        value: Median of the judged arm.
        reference: What the history rule holds it against; None otherwise.
        new, base: Levels of the anchor rule: ratios of both runs.
        earlier: Levels of the history rule.
        reason: Why no rule can answer; empty where one can.
        note: Further information for the sentence, each part begun by a semicolon.
        blocks: Of the judged run.
    """

    scenario: str
    budget: Budget
    source: str
    value: float
    new: Level
    base: Level | None = None
    earlier: tuple[Level, ...] = ()
    reference: float | None = None
    reason: str = ""
    note: str = ""
    blocks: int = 0

    @property
    def is_judged(self) -> bool:
        """Whether a rule may call it worse, and so has a share of the error."""
        return not self.reason

    def change(self, findings: int) -> Change:
        """Apply the rule."""
        if self.base is not None:
            return rules.anchored(self.new, self.base, findings)
        return rules.among(self.new, self.earlier, findings)

    def finding(self, findings: int) -> Finding:
        """Judge it as one of so many."""
        metric, limit = METRICS[self.budget.metric], self.budget.most
        ratio = interval = None
        verdict = Verdict.CANNOT_TELL
        if self.is_judged:
            change = self.change(findings)
            verdict, ratio = change.verdict(limit), _exp(change.middle)
            method = stats.Method.ANCHORED if self.base else stats.Method.BETWEEN_RUNS
            coverage = 1 - 2 * rules.ERROR / findings
            interval = stats.Interval(_exp(change.low), _exp(change.high), coverage, method)
            told = f"{self._compared(metric)}, {_spelled(ratio, interval)}"
            advice = self._advice(change, findings) if verdict is Verdict.CANNOT_TELL else ""
        else:
            told, advice = self._compared(metric), self.reason
        sentence = (
            f"{metric.title}: {told}; at most {percent(limit)} is allowed{self.note}"
            f"{'; ' * bool(advice)}{advice}"
        )
        return Finding(
            self.scenario, self.budget.arm, self.budget.metric, verdict, sentence,
            value=self.value, reference=self.reference, ratio=ratio, interval=interval,
            limit=limit, blocks=self.blocks, source=self.source,
        )  # fmt: skip

    def _compared(self, metric: Metric) -> str:
        value = spell(metric.unit, self.value)
        if self.base is rules.SAME_THING:
            return f"{value}; within blocks, against the baseline's own image taken along"
        if self.base is not None:
            ours, theirs = _multiple(self.new, "× its anchor's"), _multiple(self.base, "×")
            return f"{value}; {ours}, in the baseline {theirs}"
        if self.earlier:
            known = [_exp(level.middle) for level in self.earlier]
            ends = " to ".join(spell(metric.unit, end) for end in (min(known), max(known)))
            middle = spell(metric.unit, self.reference or 0.0)
            return f"{value} against {middle} of {len(known)} earlier runs ({ends})"
        return f"{value} against the baseline's {spell(metric.unit, self.reference or 0.0)}"

    def _advice(self, change: Change, findings: int) -> str:
        if self.blocks < stats.FEWEST_FOR_LEVEL:
            return f"{self.blocks} blocks cannot tell, take {stats.FEWEST_FOR_LEVEL} or more"
        if not math.isfinite(change.half):
            return "no verdict is possible: trials failed, here or before; read their errors"
        if not change.may_be_fine and change.high <= math.log(self.budget.most):
            return "faster than every earlier run is how a host drifts: " + pairs_them(
                self.scenario
            )
        ways = [*self._wider(change), pairs_them(self.scenario)]
        if self.base is None:
            ways.insert(-1, "name more earlier runs")
        elif blocks := self._more_blocks(change, self.base, findings):
            ways.insert(0, f"take about {blocks} blocks")
        return f"no verdict yet: {any_of(ways)}"

    def _wider(self, change: Change) -> list[str]:
        """Offer the least limit that is kept, where the interval is narrow enough for a verdict."""
        if change.half > rules.widest_half(math.inf):
            return []
        per_cent = math.ceil(math.expm1(change.high) * 100 + 1e-9)
        limit = 1 + per_cent / 100
        is_kept = change.verdict(limit) in (Verdict.SAME, Verdict.BETTER)
        return [f"allow {per_cent} %"] * (limit > self.budget.most and is_kept)

    def _more_blocks(self, change: Change, base: Level, findings: int) -> int | None:
        """Estimate how many blocks would do; None: hardly any number."""
        limit = self.budget.most
        half = abs(math.log(limit) - change.middle)
        if change.middle < math.log(limit):
            half = min(half, rules.widest_half(limit))
        needed = rules.anchored_blocks(self.new, base, findings, half)
        is_advice = needed is not None and self.blocks < needed <= _HOPELESS * self.blocks
        return needed if is_advice else None


def any_of(ways: Sequence[str]) -> str:
    """Word a choice: `this, that, or the other`."""
    return ", or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))


def pairs_them(scenario: str) -> str:
    """Word the way out that always works."""
    return f"pair both in one run: `steelyard check --run {scenario} --against IMAGE`"


def _multiple(ratio: Level, times: str) -> str:
    """Word the ratio to an anchor; infinite where the arm fails, zero where the anchor does."""
    if math.isfinite(ratio.middle):
        return f"{_exp(ratio.middle):.4g} {times}"
    return "not reached beside its anchor" if ratio.middle > 0 else "not reached by its anchor"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _spelled(ratio: float, interval: stats.Interval) -> str:
    if not math.isfinite(ratio):
        return "not reached in most blocks"
    ends = (percent(end) if 0 < end < math.inf else "?" for end in (interval.low, interval.high))
    return f"{percent(ratio)} [{' to '.join(ends)}]"


def disturbance(shares: tuple[float, float], without: float | None) -> str:
    """Word how many trials were disturbed now and before, and the change without them.

    Args:
        shares: Of the judged run and of the earlier ones.
        without: Logarithm of the ratio; None where too few trials are left.
    """
    if not any(shares):
        return ""
    now, before = (f"{share * 100:.0f} %" for share in shares)
    figure = "too few are left without them" if without is None else percent(_exp(without))
    said = figure if without is None else f"{figure} without them"
    return f"; disturbed trials: {now}, before {before} ({said})"
