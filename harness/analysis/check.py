"""Holds a run against budgets and against earlier runs: records in, a judgement out. Pure.

An interval decides, never a median alone (`harness.analysis.limits`). What equal inputs give
equally (disk) is compared exactly. What has noise is held against earlier runs by the rules of
`harness.analysis.baseline`, which know that runs differ among themselves; times and memory of
another host are held against nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from harness import stats
from harness.analysis import limits
from harness.analysis.baseline.case import Case
from harness.analysis.baseline.judge import Earlier
from harness.analysis.baseline.values import RunValues, Values, constant
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.limits import Measured, estimate_of, percent
from harness.model import BASELINE, ArmRecord, Budget, RunInfo, Scenario
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.units import spell
from harness.records import Run
from harness.records.dataset import RunData, run_data
from harness.stats.arrays import Array

DEFAULT_WITHIN = 0.1
"""Without a budget: how much more than the baseline's a metric may be. An interval of 60 blocks is
seldom below 5 %, even of the same image: see `harness.analysis.baseline.rules`."""
DEFAULT_WITHIN_ON_DISK = 0.05
"""The same of what is on disk, which has no such interval."""
_WITHIN = "within"
BASELINE_METRICS = ("ready", "cpu", "pss", "disk", "disk-shared")
"""Without budgets: what is held against a baseline, as far as both runs have it."""
_ON_DISK = frozenset({"disk", "disk-growth"})
"""Not the same in all instances perhaps, and yet nothing that changes with the state of a host."""

AnyRun = Run | RunData


def check(
    run: AnyRun,
    baseline: AnyRun | Sequence[AnyRun] | None = None,
    *,
    within: float | None = None,
) -> Judgement:
    """Hold a run against the budgets of its scenarios, and against earlier runs.

    Args:
        run: What is judged.
        baseline: An earlier run, or several of the same thing: what `of = "baseline"` means. Where
            a scenario has no budget of that kind, every metric of `BASELINE_METRICS` may be at most
            `within` more than the baseline's. What is compared exactly is held against the newest.
        within: See `baseline`. None: `DEFAULT_WITHIN`, on disk `DEFAULT_WITHIN_ON_DISK`.

    Returns:
        A finding for each budget; refusals for those that cannot be judged at all.
    """
    earlier = [] if baseline is None else [baseline] if isinstance(baseline, AnyRun) else baseline
    judge = _Judge(run_data(run), [run_data(one) for one in earlier])
    for scenario in run.info.scenarios:
        asked = {arm.name for arm in scenario.arms}
        for budget in scenario.budgets:
            # A run of some arms only (`--arm`) asks nothing about the others.
            if {budget.arm, *({budget.of} - {None, BASELINE})} <= asked:
                judge.budget(scenario, budget)
        relative = any(budget.of == BASELINE for budget in scenario.budgets)
        if earlier and not relative:
            judge.against_baseline(scenario, within)
        if earlier:
            judge.layers(scenario)
    if not judge.found and not judge.refusals:
        judge.refusals.append(_nothing_to_judge_by(run.info, bool(earlier)))
    names = [_named(one.info) for one in judge.earlier.runs]
    against = f" and {names[0] if len(names) == 1 else f'{len(names)} earlier runs'}" * bool(names)
    return Judgement(
        f"run {run.info.run_id} against its budgets{against}",
        judge.findings(),
        tuple(dict.fromkeys(judge.refusals)),
        {"run": _named(run.info), **({"baseline": ", ".join(names)} if names else {})},
    )


def _nothing_to_judge_by(info: RunInfo, has_baseline: bool) -> str:
    lacks, name = "no baseline was given", "name one by --baseline"
    if has_baseline:
        scenarios = ", ".join(scenario.name for scenario in info.scenarios)
        lacks, name = f"no baseline has an arm of {scenarios}", "name a run with the same arms"
    return (
        f"there is nothing to judge by: no scenario of the run has a [budget] table, and {lacks}; "
        f"add budgets to the scenario, or {name}"
    )


def _named(info: RunInfo) -> str:
    part = f" (interrupted: {info.blocks} of {info.asked_blocks} blocks)"
    return info.run_id + part * info.interrupted


class _Judge:
    """Gathers findings and refusals."""

    def __init__(self, run: RunData, earlier: Sequence[RunData]) -> None:
        self.ours = RunValues(run)
        self.earlier = Earlier(self.ours, [RunValues(one) for one in earlier])
        self.found: list[Finding | Case] = []
        self.refusals: list[str] = []

    def findings(self) -> tuple[Finding, ...]:
        """Judge what was gathered; the error of the whole check is shared among the cases."""
        number = sum(isinstance(each, Case) and each.is_judged for each in self.found)
        return tuple(
            each.finding(number) if isinstance(each, Case) else each for each in self.found
        )

    def budget(self, scenario: Scenario, budget: Budget) -> None:
        """Judge one budget of a scenario."""
        source, metric = budget.place_in(scenario.path), METRICS[budget.metric]
        samples = self.ours.values(scenario.name, budget.arm, metric)
        if not len(samples[1]):
            where = f"{source}: {budget.arm}, {budget.metric}"
            self.refusals.append(f"{where}: the run has no such value; run that arm, metered")
        elif budget.of is None:
            self.found.append(_absolute(scenario, budget, samples[1], source))
        elif budget.of == BASELINE:
            self.relative_to_baseline(scenario.name, budget, source)
        else:
            others = self.ours.values(scenario.name, budget.of, metric)
            ratio = stats.paired_ratio(samples, others)
            if ratio is None:
                both = f"{source}: {budget.arm} and {budget.of}"
                self.refusals.append(f"{both} have no {budget.metric} in one block; run both arms")
                return
            measured, whose = limits.measured_by(ratio.estimate), f"{budget.of}'s"
            self._relative(scenario.name, budget, measured, source, samples[1], others[1], whose)

    def relative_to_baseline(self, scenario: str, budget: Budget, source: str) -> None:
        """Judge a budget that is a multiple of the baseline's value."""
        where = f"{source}: " if source else ""
        if not self.earlier.runs:
            self.refusals.append(
                f"{where}a budget of the baseline needs a baseline; name one by --baseline"
            )
            return
        metric = METRICS[budget.metric]
        newest = self.earlier.newest_with(scenario, budget.arm, metric)
        ours = self.ours.values(scenario, budget.arm, metric)
        theirs = ours if newest is None else newest.values(scenario, budget.arm, metric)
        measured = None if newest is None else _without_noise(metric, ours, theirs)
        if measured is None:
            case = self.earlier.case(scenario, budget, source)
            if isinstance(case, Case):
                self.found.append(case)
            else:
                self.refusals.append(case)
            return
        whose = "the baseline's"
        self._relative(scenario, budget, measured, source, ours[1], theirs[1], whose)

    def _relative(
        self,
        scenario: str,
        budget: Budget,
        measured: Measured,
        source: str,
        ours: Array,
        theirs: Array,
        whose: str,
    ) -> None:
        is_baseline = budget.of == BASELINE
        unit, title = METRICS[budget.metric].unit, METRICS[budget.metric].title
        value, reference = estimate_of(ours).median, estimate_of(theirs).median
        verdict = limits.verdict_on(measured, budget.most, may_be_better=is_baseline)
        size = measured.spelled(percent if is_baseline else _times)
        limit = percent(budget.most) if is_baseline else f"{budget.most:g} ×"
        sentence = (
            f"{title}: {spell(unit, value)} against {whose} {spell(unit, reference)}, {size}; at "
            f"most {limit} is allowed{measured.advice(budget.most, verdict)}"
        )
        self.found.append(
            Finding(
                scenario, budget.arm, budget.metric, verdict, sentence,
                value=value, reference=reference, ratio=measured.middle,
                interval=measured.interval, limit=budget.most, blocks=measured.blocks,
                source=source, same=Verdict.SAME.value if is_baseline else _WITHIN,
            )
        )  # fmt: skip

    def against_baseline(self, scenario: Scenario, within: float | None) -> None:
        """Judge every metric that both runs have."""
        for record in self.ours.judged(scenario.name):
            for name in BASELINE_METRICS:
                arm, metric = record.arm.name, METRICS[name]
                both = self.earlier.newest_with(scenario.name, arm, metric)
                if both is not None and len(self.ours.values(scenario.name, arm, metric)[1]):
                    usual = DEFAULT_WITHIN_ON_DISK if "disk" in name else DEFAULT_WITHIN
                    allowed = usual if within is None else within
                    budget = Budget(arm, name, 1 + allowed, BASELINE)
                    self.relative_to_baseline(scenario.name, budget, "")

    def layers(self, scenario: Scenario) -> None:
        """Report layers that the baseline's image had and this one does not: shared no longer."""
        for record in self.ours.judged(scenario.name):
            records = (run.record(scenario.name, record.arm.name) for run in self.earlier.runs)
            before = next((one for one in reversed(list(records)) if one is not None), None)
            if before is None:
                continue
            old, new = layers_of(before), layers_of(record)
            gone = [layer for layer in old.items() if layer[0] not in new]
            if not gone or not new:
                continue
            come = [layer for layer in new.items() if layer[0] not in old]
            self.found.append(
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


def _without_noise(metric: Metric, ours: Values, theirs: Values) -> Measured | None:
    """Compare what does not change with the state of the host; None where it does."""
    count = len(ours[1])
    if not count:
        return None
    a, b = constant(ours), constant(theirs)
    enough = min(count, len(theirs[1])) >= stats.FEWEST_FOR_LEVEL
    if metric.is_exact or (enough and metric.unit is Unit.BYTES):
        if metric.is_exact:
            a, b = float(max(ours[1])), float(max(theirs[1]))
        if not (math.isnan(a) or math.isnan(b)):
            return limits.exact_ratio(a, b, count)
    return limits.unpaired_ratio(ours[1], theirs[1]) if metric.name in _ON_DISK else None


def _absolute(scenario: Scenario, budget: Budget, samples: Array, source: str) -> Finding:
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
