"""One budget held against earlier runs: its levels, the verdict on them, and the words. Pure."""

from __future__ import annotations

import math
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
            ours, theirs = _exp(self.new.middle), _exp(self.base.middle)
            return f"{value}; {ours:.4g} × its anchor's, in the baseline {theirs:.4g} ×"
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
        wider = f"allow {math.ceil(math.expm1(change.high) * 100 + 1e-9)} %"
        if self.base is None:
            return (
                f"no verdict yet: {wider}, name more earlier runs, or {pairs_them(self.scenario)}"
            )
        distance = abs(math.log(self.budget.most) - change.middle)
        needed = rules.anchored_blocks(self.new, self.base, findings, distance)
        if needed is not None and self.blocks < needed <= _HOPELESS * self.blocks:
            return f"no verdict yet: take about {needed} blocks, or {wider}"
        return f"no verdict yet: {wider}, or {pairs_them(self.scenario)}"


def pairs_them(scenario: str) -> str:
    """Word the way out that always works."""
    return f"pair both in one run: `steelyard check --run {scenario} --against IMAGE`"


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
