"""Holds a run against budgets and against an earlier run: records in, a judgement out. Pure.

An interval decides, never a median alone (`harness.analysis.limits`). What equal inputs give
equally (disk) is compared exactly. A relative budget tighter than what an A/A comparison has shown
to be noise is refused. Ratios between arms of one run may be held against those of another host;
times and memory may not (`comparability`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from harness import stats
from harness.analysis import limits
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.limits import Measured, estimate_of, percent
from harness.analysis.pairs import TrialValues
from harness.model import BASELINE, ArmRecord, Budget, Scenario
from harness.model.comparability import ARM_CLASS_FACTS, host_class
from harness.model.metrics import METRICS, Unit
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
            # A run of some arms only (`--arm`) asks nothing about the others.
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
        {"run": _named(run), **({"baseline": _named(baseline)} if baseline else {})},
    )


def _named(run: Run) -> str:
    info = run.info
    part = f" (interrupted: {info.blocks} of {info.asked_blocks} blocks)"
    return info.run_id + part * info.interrupted


def comparability(run: Run, baseline: Run, scenario: str, arm: str) -> str | None:
    """Say why an arm's times and memory in two runs cannot be compared; None if they can."""
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
    before, now = (
        TrialValues(records=each.info.arms).record(scenario, arm) for each in (baseline, run)
    )
    if before is None or now is None:
        which = "baseline" if before is None else "run"
        return f"the {which} has no arm {arm} in scenario {scenario}; measure that arm in both"
    conditions = [
        *((fact, before.facts.get(fact), now.facts.get(fact)) for fact in ARM_CLASS_FACTS),
        ("page cache", before.arm.cache, now.arm.cache),
    ]
    for condition, old, new in conditions:
        if old != new:
            return (
                f"{scenario}, {arm}: the {condition} was {old} in the baseline and is {new} now; "
                "take a baseline with the same"
            )
    return None


class _Judge:
    """Gathers findings and refusals."""

    def __init__(self, run: Run, baseline: Run | None) -> None:
        self.run = run
        self.baseline = baseline
        self.ours = TrialValues(run.trials, run.info.arms)
        self.theirs = (
            TrialValues(baseline.trials, baseline.info.arms) if baseline else TrialValues()
        )
        self.findings: list[Finding] = []
        self.refusals: list[str] = []

    def budget(self, scenario: Scenario, budget: Budget) -> None:
        """Judge one budget of a scenario."""
        source = budget.place_in(scenario.path)
        samples = self.ours.values(scenario.name, budget.arm, METRICS[budget.metric])
        if not samples:
            where = f"{source}: {budget.arm}, {budget.metric}"
            self.refusals.append(f"{where}: the run has no such value; run that arm, metered")
        elif budget.of is None:
            self.findings.append(_absolute(scenario, budget, samples, source))
        elif budget.of == BASELINE:
            self.relative_to_baseline(scenario.name, budget, source)
        else:
            others = self.ours.values(scenario.name, budget.of, METRICS[budget.metric])
            found = stats.paired_ratio(samples, others)
            if found is None:
                both = f"{source}: {budget.arm} and {budget.of}"
                self.refusals.append(f"{both} have no {budget.metric} in one block; run both arms")
                return
            measured, whose = limits.measured_by(found.estimate), f"{budget.of}'s"
            self._relative(scenario.name, budget, measured, source, samples, others, whose)

    def relative_to_baseline(self, scenario: str, budget: Budget, source: str) -> None:
        """Judge a budget that is a multiple of the baseline's value."""
        where = f"{source}: " if source else ""
        if self.baseline is None:
            self.refusals.append(
                f"{where}a budget of the baseline needs a baseline; name one by --baseline"
            )
            return
        metric = METRICS[budget.metric]
        ours, theirs = (
            side.values(scenario, budget.arm, metric) for side in (self.ours, self.theirs)
        )
        reason = None
        if not metric.is_exact:
            reason = comparability(self.run, self.baseline, scenario, budget.arm)
            if reason is None and (tight := self._too_tight(scenario, budget, len(ours))):
                reason = f"{where}{tight}"
        if reason is None and not (ours and theirs):
            which = "baseline" if ours else "run"
            text = f"{where}the {which} has no {budget.metric} of {scenario}, {budget.arm}"
            reason = f"{text}; measure it in both"
        if reason is not None:
            self.refusals.append(reason)
            return
        measured = limits.unpaired_ratio(ours, theirs)
        self._relative(scenario, budget, measured, source, ours, theirs, "the baseline's")

    def _relative(
        self,
        scenario: str,
        budget: Budget,
        measured: Measured,
        source: str,
        ours: Mapping[int, float],
        theirs: Mapping[int, float],
        whose: str,
    ) -> None:
        is_baseline = budget.of == BASELINE
        unit, title = METRICS[budget.metric].unit, METRICS[budget.metric].title
        value, reference = estimate_of(ours).median, estimate_of(theirs).median
        verdict = limits.verdict_on(measured, budget.most, may_be_better=is_baseline)
        size = measured.spelled(percent if is_baseline else _times)
        limit = percent(budget.most) if is_baseline else f"{budget.most:g} ×"
        caution = ""
        if is_baseline and measured.interval is not None and verdict is Verdict.WORSE:
            caution = (
                "; two runs differ also by what changed on the host: `steelyard compare` pairs them"
            )
        sentence = (
            f"{title}: {spell(unit, value)} against {whose} {spell(unit, reference)}, {size}; at "
            f"most {limit} is allowed{measured.advice(budget.most, verdict)}{caution}"
        )
        self.findings.append(
            Finding(
                scenario, budget.arm, budget.metric, verdict, sentence,
                value=value, reference=reference, ratio=measured.middle,
                interval=measured.interval, limit=budget.most, blocks=measured.blocks,
                source=source, same=Verdict.SAME.value if is_baseline else _WITHIN,
            )
        )  # fmt: skip

    def _too_tight(self, scenario: str, budget: Budget, blocks: int) -> str | None:
        floors = [
            floor
            for floor in self.run.info.noise
            if (floor.scenario, floor.metric) == (scenario, budget.metric)
        ]
        own = [floor for floor in floors if floor.arm == budget.arm] or floors
        if not own or not blocks:
            return None
        detectable = own[0].detectable_with(blocks)
        if abs(budget.most - 1) >= detectable:
            return None
        return (
            f"a gate of {percent(budget.most)} on {budget.metric} is below what this host can "
            f"see: by its noise ({own[0].blocks} pairs of A/A), {blocks} blocks find nothing "
            f"under {detectable * 100:.1f} %; widen the budget, take more blocks, or take "
            "both in one run: `steelyard check --against`"
        )

    def against_baseline(self, scenario: Scenario, within: float) -> None:
        """Judge every metric that both runs have, with the same allowance."""
        assert self.baseline is not None
        if host_class(self.run.info.environment) != host_class(self.baseline.info.environment):
            self._across_hosts(scenario, within)
            return
        for record in self.run.info.arms:
            if record.scenario != scenario.name or record.arm.repeats is not None:
                continue
            for name in BASELINE_METRICS:
                arm = (scenario.name, record.arm.name)
                if all(side.values(*arm, METRICS[name]) for side in (self.ours, self.theirs)):
                    budget = Budget(record.arm.name, name, 1 + within, BASELINE)
                    self.relative_to_baseline(scenario.name, budget, "")

    def _across_hosts(self, scenario: Scenario, within: float) -> None:
        """From another host only ratios to an arm of the same run can be held against ours."""
        assert self.baseline is not None
        records = (r for r in self.run.info.arms if r.scenario == scenario.name)
        arms = [record.arm for record in records if record.arm.repeats is None]
        reference = next((a.name for a in arms if a.backend == "container"), "")
        judged = False
        for arm in arms:
            if arm.name == reference:
                continue
            here, there = (
                stats.paired_ratio(
                    side.values(scenario.name, arm.name, METRICS["ready"]),
                    side.values(scenario.name, reference, METRICS["ready"]),
                )
                for side in (self.ours, self.theirs)
            )
            if here is None or there is None:
                continue
            judged = True
            ours, theirs = here.estimate, there.estimate
            measured = limits.ratio_of_medians(ours, theirs)
            verdict = limits.verdict_on(measured, 1 + within, may_be_better=True)
            sentence = (
                f"time until ready: {ours.median:.3g} × {reference}'s against {theirs.median:.3g} "
                f"× on the baseline's host, {measured.spelled(percent)}; at most "
                f"{percent(1 + within)} is allowed{measured.advice(1 + within, verdict)}"
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
        """Report layers that the baseline's image had and this one does not: shared no longer."""
        for record in self.run.info.arms:
            before = self.theirs.record(scenario.name, record.arm.name)
            if record.scenario != scenario.name or before is None:
                continue
            old, new = layers_of(before), layers_of(record)
            gone = [layer for layer in old.items() if layer[0] not in new]
            if not gone or not new:
                continue
            come = [layer for layer in new.items() if layer[0] not in old]
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


def _absolute(
    scenario: Scenario, budget: Budget, samples: Mapping[int, float], source: str
) -> Finding:
    metric = METRICS[budget.metric]
    measured = limits.measured_of(samples, metric)
    verdict = limits.verdict_on(measured, budget.most, may_be_better=False)
    sentence = (
        f"{metric.title}: {measured.spelled(partial(spell, metric.unit))}; the budget is "
        f"{spell(metric.unit, budget.most)}{measured.advice(budget.most, verdict)}"
    )
    return Finding(
        scenario.name, budget.arm, budget.metric, verdict, sentence,
        value=measured.middle, interval=measured.interval, limit=budget.most,
        blocks=measured.blocks, source=source, same=_WITHIN,
    )  # fmt: skip


def _times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 100 else f"{ratio:#.4g} ×"
