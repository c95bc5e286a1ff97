"""Holding a run against budgets and against an earlier run: records in, a judgement out. Pure.

An interval decides, never a median alone:

    all of it within the budget     fine
    all of it beyond the budget     regressed
    the budget inside the interval  cannot tell: more blocks are needed, and about how many is said

What equal inputs give equally (disk) is compared exactly. A relative budget tighter than what an
A/A comparison has shown to be noise is refused. Ratios between arms of one run may be held against
those of another host; times and memory may not (`comparability`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from harness import stats
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.limits import (
    Measured,
    between,
    measured_by,
    measured_of,
    percent,
    ratio_of_medians,
    unpaired_ratio,
    verdict_on,
    what_is_missing,
)
from harness.model import BASELINE, ArmRecord, Budget, Scenario
from harness.model.comparability import ARM_CLASS_FACTS, host_class
from harness.model.metrics import METRICS, Metric, Unit, static_value, trial_value
from harness.model.units import spell
from harness.records import Run

DEFAULT_WITHIN = 0.05
"""Without a budget: how much more than the baseline's a metric may be."""
_WITHIN = "within"
BASELINE_METRICS = ("ready", "cpu", "pss", "disk", "disk-shared")
"""Without budgets: what is held against a baseline, as far as both runs have it."""


def check(run: Run, baseline: Run | None = None, *, within: float = DEFAULT_WITHIN) -> Judgement:
    """Hold a run against the budgets of its scenarios, and against a baseline.

    Args:
        run: What is judged.
        baseline: What `of = "baseline"` means. Where a scenario has no budget of that kind, every
            metric of `BASELINE_METRICS` may be at most `within` more than the baseline's.
        within: See `baseline`.

    Returns:
        A finding for each budget; refusals for those that cannot be judged at all.
    """
    judge = _Judge(run, baseline)
    for scenario in run.info.scenarios:
        asked = {arm.name for arm in scenario.arms}
        for budget in scenario.budgets:
            # Who runs some arms only (`--arm`) asks nothing about the others.
            if {budget.arm, *({budget.of} - {None, BASELINE})} <= asked:
                judge.budget(scenario, budget)
        relative = any(budget.of == BASELINE for budget in scenario.budgets)
        if baseline is not None and not relative:
            judge.against_baseline(scenario, within)
        if baseline is not None:
            judge.layers(scenario)
    if not judge.findings and not judge.refusals:
        judge.refusals.append(
            "there is nothing to judge by: no scenario of the run has a [budget] table, and no "
            "baseline was given; add budgets to the scenario, or name one by --baseline"
        )
    against = f" and {baseline.info.run_id}" if baseline is not None else ""
    return Judgement(
        f"run {run.info.run_id} against its budgets{against}",
        tuple(judge.findings),
        tuple(dict.fromkeys(judge.refusals)),
        {"run": _told(run), **({"baseline": _told(baseline)} if baseline else {})},
    )


def _told(run: Run) -> str:
    info = run.info
    if not info.interrupted:
        return info.run_id
    return f"{info.run_id} (interrupted: {info.blocks} of {info.asked_blocks} blocks)"


def comparability(run: Run, baseline: Run, scenario: str, arm: str) -> str | None:
    """Why an arm's times and memory in two runs cannot be compared; None if they can."""
    ours, theirs = host_class(run.info.environment), host_class(baseline.info.environment)
    if ours != theirs:
        named = " and ".join(
            f"{info.environment.get('cpu_model')} with kernel {info.environment.get('kernel')}"
            for info in (baseline.info, run.info)
        )
        return (
            f"the baseline {baseline.info.run_id} is from another host ({named}): times and memory "
            "do not travel between hosts; take a baseline here, pair the two by `steelyard "
            "compare`, or set a budget relative to another arm"
        )
    records = [_record(each, scenario, arm) for each in (baseline, run)]
    if records[0] is None or records[1] is None:
        which = "baseline" if records[0] is None else "run"
        return f"the {which} has no arm {arm} in scenario {scenario}; measure that arm in both"
    for fact in ARM_CLASS_FACTS:
        values = [record.facts.get(fact) for record in records if record is not None]
        if values[0] != values[1]:
            return (
                f"{scenario}, {arm}: the {fact} was {values[0]} in the baseline and is "
                f"{values[1]} now; take a baseline with the same"
            )
    states = [record.arm.cache for record in records if record is not None]
    if states[0] != states[1]:
        return (
            f"{scenario}, {arm}: the page cache was {states[0]} in the baseline and is "
            f"{states[1]} now; take a baseline with the same"
        )
    return None


class _Judge:
    """Gathers findings and refusals."""

    def __init__(self, run: Run, baseline: Run | None) -> None:
        self.run = run
        self.baseline = baseline
        self.findings: list[Finding] = []
        self.refusals: list[str] = []

    def budget(self, scenario: Scenario, budget: Budget) -> None:
        """One budget of a scenario."""
        source = f"{scenario.path}:{budget.line}"
        where = f"{source}: {budget.arm}, {budget.metric}"
        samples = _samples(self.run, scenario.name, budget.arm, METRICS[budget.metric])
        if not samples:
            self.refusals.append(f"{where}: the run has no such value; run that arm, metered")
            return
        if budget.of is None:
            self.findings.append(_absolute(scenario, budget, samples, source))
        elif budget.of == BASELINE:
            self.relative_to_baseline(scenario.name, budget, source)
        else:
            self._relative_to_arm(scenario, budget, samples, source)

    def _relative_to_arm(
        self, scenario: Scenario, budget: Budget, samples: Mapping[int, float], source: str
    ) -> None:
        assert budget.of is not None
        metric = METRICS[budget.metric]
        others = _samples(self.run, scenario.name, budget.of, metric)
        found = stats.paired_ratio(samples, others, self.run.info.seed)
        if found is None:
            text = f"{source}: {budget.arm} and {budget.of} have no {budget.metric} in one block"
            self.refusals.append(f"{text}; run both arms")
            return
        measured = measured_by(found.estimate)
        self.findings.append(
            _relative(
                scenario.name, budget, metric, measured, source,
                _median(samples), _median(others), f"{budget.of}'s",
            )
        )  # fmt: skip

    def relative_to_baseline(self, scenario: str, budget: Budget, source: str) -> None:
        """A budget that is a multiple of the baseline's value."""
        where = f"{source}: " if source else ""
        if self.baseline is None:
            self.refusals.append(
                f"{where}a budget of the baseline needs a baseline; name one by --baseline"
            )
            return
        metric = METRICS[budget.metric]
        if not metric.is_exact:
            reason = comparability(self.run, self.baseline, scenario, budget.arm)
            if reason is not None:
                self.refusals.append(reason)
                return
            if (reason := self._too_tight(scenario, budget, metric)) is not None:
                self.refusals.append(f"{where}{reason}")
                return
        ours = _samples(self.run, scenario, budget.arm, metric)
        theirs = _samples(self.baseline, scenario, budget.arm, metric)
        if not ours or not theirs:
            which = "run" if not ours else "baseline"
            text = f"{where}the {which} has no {budget.metric} of {scenario}, {budget.arm}"
            self.refusals.append(f"{text}; measure it in both")
            return
        self.findings.append(
            _relative(
                scenario, budget, metric, unpaired_ratio(ours, theirs), source,
                _median(ours), _median(theirs), "the baseline's",
            )
        )  # fmt: skip

    def _too_tight(self, scenario: str, budget: Budget, metric: Metric) -> str | None:
        floors = [
            floor
            for floor in self.run.info.noise
            if (floor.scenario, floor.metric) == (scenario, budget.metric)
        ]
        own = [floor for floor in floors if floor.arm == budget.arm] or floors
        blocks = len(_samples(self.run, scenario, budget.arm, metric))
        if not own or not blocks:
            return None
        detectable = own[0].detectable_with(blocks)
        if abs(budget.most - 1) < detectable:
            return (
                f"a gate of {percent(budget.most)} on {budget.metric} is below what this host can "
                f"see: by its noise ({own[0].blocks} pairs of A/A), {blocks} blocks find nothing "
                f"under {detectable * 100:.1f} %; widen the budget, take more blocks, or take "
                "both in one run: `steelyard check --against`"
            )
        return None

    def against_baseline(self, scenario: Scenario, within: float) -> None:
        """Every metric that both runs have, with the same allowance."""
        assert self.baseline is not None
        hosts = [host_class(each.info.environment) for each in (self.run, self.baseline)]
        if hosts[0] != hosts[1]:
            self._across_hosts(scenario, within)
            return
        for record in self.run.info.arms:
            if record.scenario != scenario.name or record.arm.repeats is not None:
                continue
            for name in BASELINE_METRICS:
                metric = METRICS[name]
                if all(
                    _samples(each, scenario.name, record.arm.name, metric)
                    for each in (self.run, self.baseline)
                ):
                    budget = Budget(record.arm.name, name, 1 + within, BASELINE)
                    self.relative_to_baseline(scenario.name, budget, "")

    def _across_hosts(self, scenario: Scenario, within: float) -> None:
        """From another host only ratios to an arm of the same run can be held against ours."""
        assert self.baseline is not None
        arms = [r.arm for r in self.run.info.arms if r.scenario == scenario.name]
        arms = [arm for arm in arms if arm.repeats is None]
        reference = next((a.name for a in arms if a.backend == "container"), "")
        judged = False
        for arm in arms:
            if arm.name == reference:
                continue
            ratios = [
                stats.paired_ratio(
                    _samples(each, scenario.name, arm.name, METRICS["ready"]),
                    _samples(each, scenario.name, reference, METRICS["ready"]),
                    0,
                )
                for each in (self.run, self.baseline)
            ]
            if ratios[0] is None or ratios[1] is None:
                continue
            judged = True
            ours, theirs = ratios[0].estimate, ratios[1].estimate
            measured = ratio_of_medians(ours, theirs)
            verdict = verdict_on(measured, 1 + within, may_be_better=True)
            sentence = (
                f"time until ready: {ours.median:.3g} × {reference}'s against {theirs.median:.3g} "
                f"× on the baseline's host, {percent(measured.middle)}"
                f"{between(measured, percent)}; at most {percent(1 + within)} is allowed"
                f"{what_is_missing(measured, 1 + within, verdict)}"
            )
            self.findings.append(
                Finding(
                    scenario.name, arm.name, "ready", verdict, sentence,
                    ratio=measured.middle, interval=measured.interval, limit=1 + within,
                    blocks=measured.blocks,
                )
            )  # fmt: skip
        if not judged:
            reason = comparability(self.run, self.baseline, scenario.name, reference)
            self.refusals.append(reason or "no arm is in both runs")

    def layers(self, scenario: Scenario) -> None:
        """Layers that the baseline's image had and this one does not: shared no longer."""
        assert self.baseline is not None
        for record in self.run.info.arms:
            before = _record(self.baseline, scenario.name, record.arm.name)
            if record.scenario != scenario.name or before is None:
                continue
            old, new = layers_of(before), layers_of(record)
            gone = [(diff_id, size) for diff_id, size in old.items() if diff_id not in new]
            if not gone or not new:
                continue
            come = [(diff_id, size) for diff_id, size in new.items() if diff_id not in old]
            self.findings.append(
                Finding(
                    scenario.name, record.arm.name, "disk-shared",
                    Verdict.WORSE if come else Verdict.BETTER,
                    f"{_layers(gone)} of the baseline is in the image no longer"
                    + (f"; in its place: {_layers(come)}, shared with nothing before" * bool(come)),
                    value=float(sum(size for _, size in come)),
                    reference=float(sum(size for _, size in gone)),
                )
            )  # fmt: skip


def layers_of(record: ArmRecord) -> dict[str, int]:
    """Diff ID -> allocated bytes of the layers that an arm's image consists of, bottom first."""
    found = {}
    for word in record.facts.get("layers", "").split():
        diff_id, _, size = word.rpartition("=")
        if diff_id and size.isdecimal():
            found[diff_id] = int(size)
    return found


def _layers(layers: list[tuple[str, int]]) -> str:
    return ", ".join(
        f"layer {diff_id.removeprefix('sha256:')[:12]} ({spell(Unit.BYTES, size)})"
        for diff_id, size in layers
    )


def _record(run: Run, scenario: str, arm: str) -> ArmRecord | None:
    found = (r for r in run.info.arms if r.scenario == scenario and r.arm.name == arm)
    return next(found, None)


def _samples(run: Run, scenario: str, arm: str, metric: Metric) -> dict[int, float]:
    """Block -> value of the counted trials that have one; a static metric has block 0 alone."""
    record = _record(run, scenario, arm)
    if metric.is_static:
        return {} if record is None else {0: static_value(metric.name, record)}
    return {
        trial.block: value
        for trial in run.trials
        if trial.scenario == scenario and trial.arm == arm and trial.block >= 0
        # Where instances grow in number: the first, as elsewhere.
        if trial.alive == 0 and trial.together == 1
        if not math.isnan(value := trial_value(metric.name, trial, record))
    }


def _median(samples: Mapping[int, float]) -> float:
    found = stats.estimate(list(samples.values()))
    assert found is not None
    return found.median


def _absolute(
    scenario: Scenario, budget: Budget, samples: Mapping[int, float], source: str
) -> Finding:
    metric = METRICS[budget.metric]
    measured = measured_of(samples, metric)
    verdict = verdict_on(measured, budget.most, may_be_better=False)

    def told(value: float) -> str:
        return spell(metric.unit, value)

    sentence = (
        f"{metric.title}: {told(measured.middle)}{between(measured, told)}; the budget is "
        f"{told(budget.most)}{what_is_missing(measured, budget.most, verdict)}"
    )
    return Finding(
        scenario.name, budget.arm, budget.metric, verdict, sentence,
        value=measured.middle, interval=measured.interval, limit=budget.most,
        blocks=measured.blocks, source=source, same=_WITHIN,
    )  # fmt: skip


def _relative(
    scenario: str,
    budget: Budget,
    metric: Metric,
    measured: Measured,
    source: str,
    value: float,
    reference: float,
    whose: str,
) -> Finding:
    is_baseline = budget.of == BASELINE
    verdict = verdict_on(measured, budget.most, may_be_better=is_baseline)
    told: Callable[[float], str] = percent if is_baseline else _times
    amounts = f"{spell(metric.unit, value)} against {whose} {spell(metric.unit, reference)}"
    limit = percent(budget.most) if is_baseline else f"{budget.most:g} ×"
    caution = ""
    if is_baseline and measured.interval is not None and verdict is Verdict.WORSE:
        caution = (
            "; two runs differ also by what changed on the host: `steelyard compare` pairs them"
        )
    sentence = (
        f"{metric.title}: {amounts}, {told(measured.middle)}{between(measured, told)}; at most "
        f"{limit} is allowed{what_is_missing(measured, budget.most, verdict)}{caution}"
    )
    return Finding(
        scenario, budget.arm, budget.metric, verdict, sentence,
        value=value, reference=reference, ratio=measured.middle, interval=measured.interval,
        limit=budget.most, blocks=measured.blocks, source=source,
        same=Verdict.SAME.value if is_baseline else _WITHIN,
    )  # fmt: skip


def _times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 100 else f"{ratio:#.4g} ×"
