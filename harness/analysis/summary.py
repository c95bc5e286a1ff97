"""A run boiled down to what the report shows: terminal, Markdown and HTML are made from this alone.

Pure: records in, frozen values out. The figures of a scenario are medians over its counted blocks;
failed trials are censored (see `harness.stats`), and comparisons are paired within blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness import stats
from harness.analysis import estimates
from harness.analysis.curves import GrowthCurve, growth_curves, start_curves
from harness.analysis.estimates import ArmData, Part
from harness.analysis.integrity import complete_blocks, flaws
from harness.model import (
    Arm,
    ArmRecord,
    CacheState,
    Milestone,
    NoiseFloor,
    Outcome,
    Scenario,
)
from harness.model.diagnostics import REMEDIES, Diagnostic, DiagnosticCode
from harness.records.dataset import Run, RunData, run_data

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ArmRow", "Doubt", "GrowthCurve", "Part", "ScenarioTable", "Summary", "summarise"]

MARKS = (Milestone.ISOLATED, Milestone.KERNEL, Milestone.USERSPACE, Milestone.STARTED)
"""The milestones between t0 and ready, in order."""

MOST_OCCURRENCES = 12
"""No more occurrences of a doubt than these are told one by one."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """What is known of one arm of one scenario.

    Attributes:
        arm: Its name.
        backend: Its backend's name.
        is_reference: Whether it is what the other arms are compared with.
        trials: Counted trials: those that follow add up to it.
        ok: That went well.
        failed: That failed.
        timeouts: That were not ready in time.
        metrics: Median of every metric that the arm has, by its name in
            `harness.model.metrics.METRICS`, in its unit; milestones, stop and remove among them.
        ratios: Each of them as a multiple of the reference's; none where the reference has zero.
        differences: Each of them minus the reference's.
        quantiles: Of `ready`, ns, by probability: 0.5, 0.9, 0.99; those that there are enough
            trials for.
        delta: Cliff's delta of `ready` against the reference.
        shape: What the samples of `ready` look like in the order taken.
        missing: Metric name -> why it has no value.
        scopes: Metric name -> whose use it is.
        cache: State of the page cache before each trial.
        repeats: Name of the arm of which this is the same once more (A/A), or None.
        is_emulated: A VM whose processor was emulated (TCG): its times are an upper bound.
        ready_p90_ns: 90th percentile of `ready`; None with fewer than 10 trials.
        ready_p99_ns: 99th; None with fewer than 100.
        shared_bytes: Allocated once for all instances; None if nothing was prepared.
        parts: What both consist of.
        prepare_ns: What making the image, disk and kernel took in this run.
        facts: What ran.
        errors: Distinct sentences of failed trials with their number, most frequent first.
        console: The last lines of the first failed trial that left any.
    """

    arm: str
    backend: str
    is_reference: bool
    trials: int
    ok: int
    failed: int
    timeouts: int
    ready_p90_ns: float | None
    ready_p99_ns: float | None
    shared_bytes: int | None
    parts: tuple[Part, ...]
    prepare_ns: int | None
    facts: Mapping[str, str]
    errors: tuple[tuple[str, int], ...]
    console: str
    metrics: Mapping[str, stats.Estimate] = field(default_factory=lambda: MappingProxyType({}))
    ratios: Mapping[str, stats.Comparison] = field(default_factory=lambda: MappingProxyType({}))
    differences: Mapping[str, stats.Comparison] = field(
        default_factory=lambda: MappingProxyType({})
    )
    quantiles: Mapping[float, stats.Estimate] = field(default_factory=lambda: MappingProxyType({}))
    delta: stats.Effect | None = None
    shape: stats.Shape | None = None
    missing: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    scopes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cache: CacheState = CacheState.WARM
    repeats: str | None = None
    is_emulated: bool = False

    @property
    def ready(self) -> stats.Estimate | None:
        """Median of `ready`, ns; None without a trial."""
        return self.metrics.get("ready")

    @property
    def stop(self) -> stats.Estimate | None:
        """Median from `ready` to `stopped`, ns."""
        return self.metrics.get("stop")

    @property
    def remove(self) -> stats.Estimate | None:
        """Median from `stopped` to `removed`, ns."""
        return self.metrics.get("remove")

    @property
    def exclusive(self) -> stats.Estimate | None:
        """Median of what each instance allocates on disk, bytes."""
        return self.metrics.get("disk")

    @property
    def ratio(self) -> stats.Comparison | None:
        """`ready` as a multiple of the reference's."""
        return self.ratios.get("ready")

    @property
    def difference(self) -> stats.Comparison | None:
        """`ready` minus the reference's, ns."""
        return self.differences.get("ready")

    @property
    def milestones(self) -> Mapping[Milestone, stats.Estimate]:
        """Medians since t0, ns, of those up to `ready` that exist for this arm."""
        return {
            mark: self.metrics[mark] for mark in (*MARKS, Milestone.READY) if mark in self.metrics
        }

    @property
    def is_vm(self) -> bool:
        """Whether the arm runs a kernel of its own."""
        return self.backend.startswith("vm")


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """The answer to one scenario's question.

    Attributes:
        scenario: The question.
        rows: One an arm, in the scenario's order.
        reference: Name of the arm that the others are compared with: the first `container`, else
            the first `process`, else the first that has a trial; None without any.
        blocks: Counted blocks of which at least one trial was taken.
        complete_blocks: Those in which every arm that ran has its trial.
        between_vms: `ready` of each further VM arm as a multiple of the first VM arm's, by name.
        same_response: Whether all answers to the prober were the same bytes; None if none was kept.
        growth: Of a scale scenario: footprints against the number of instances.
        start_curves: Of a scale scenario: start time against the instances that lived already.
        together_curves: Of a scale scenario: start time against those requested at the same time.
        noise: What A/A comparisons of this scenario showed on this host.
    """

    scenario: Scenario
    rows: tuple[ArmRow, ...]
    reference: str | None
    blocks: int
    complete_blocks: int
    between_vms: Mapping[str, stats.Comparison]
    same_response: bool | None
    growth: tuple[GrowthCurve, ...] = ()
    start_curves: tuple[GrowthCurve, ...] = ()
    together_curves: tuple[GrowthCurve, ...] = ()
    noise: tuple[NoiseFloor, ...] = ()

    def is_upper_bound(self, row: ArmRow) -> bool:
        """Whether this arm's times are an emulated CPU's, and the reference's are not."""
        reference = next((other for other in self.rows if other.is_reference), None)
        return row.is_emulated and reference is not None and not reference.is_emulated

    @property
    def trials(self) -> int:
        """Counted trials of all arms."""
        return sum(row.trials for row in self.rows)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A diagnostic, gathered from everywhere it came up.

    Attributes:
        code: Which.
        remedy: What it means and what to do about it.
        occurrences: Where and with what detail, each once, with how often when it was in trials.
    """

    code: DiagnosticCode
    remedy: str
    occurrences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """All that a report says.

    Attributes:
        run: The records it was made from, as columns.
        tables: One a scenario, in order.
        doubts: All diagnostics, in the order of their enumeration.
    """

    run: RunData
    tables: tuple[ScenarioTable, ...]
    doubts: tuple[Doubt, ...]


def summarise(run: Run | RunData) -> Summary:
    """Boil a run down. Works for every run, also one without a single trial."""
    data = run_data(run)
    tables = tuple(_scenario_table(data, scenario) for scenario in data.info.scenarios)
    return Summary(run=data, tables=tables, doubts=_doubts(data))


def _scenario_table(data: RunData, scenario: Scenario) -> ScenarioTable:
    seed, frame = data.info.seed, data.frame
    counted = frame[(frame["scenario"] == scenario.name) & frame["counted"]]
    records = {r.arm.name: r for r in data.info.arms if r.scenario == scenario.name}
    arms = _arms(scenario, records, counted)
    is_scale = scenario.scale is not None
    found = {
        arm.name: estimates.arm_data(
            data, counted, arm.name, records.get(arm.name), is_scale=is_scale
        )
        for arm in arms
    }
    reference = _reference(arms, found)
    against = found[reference] if reference is not None else None
    rows = tuple(_row(data, arm, found[arm.name], against) for arm in arms)
    virtual = [row.arm for row in rows if row.is_vm and row.trials]
    between = {
        name: estimates.ratio(found[name], found[virtual[0]], "ready_ns", seed)
        for name in virtual[1:]
    }
    forms = [data.forms[number] for number in counted["form"].unique().tolist()]
    bodies = {form.response_sha256 for form in forms if form.response_sha256}
    return ScenarioTable(
        scenario=scenario,
        rows=rows,
        reference=reference,
        blocks=int(counted["block"].nunique()),
        complete_blocks=complete_blocks(counted),
        between_vms={name: value for name, value in between.items() if value is not None},
        same_response=len(bodies) == 1 if bodies else None,
        growth=growth_curves(data, scenario.name) if is_scale else (),
        start_curves=start_curves(data, scenario.name) if is_scale else (),
        together_curves=start_curves(data, scenario.name, together=True) if is_scale else (),
        noise=tuple(floor for floor in data.info.noise if floor.scenario == scenario.name),
    )


def _arms(scenario: Scenario, records: Mapping[str, ArmRecord], counted: pd.DataFrame) -> list[Arm]:
    """List the scenario's arms, and whatever else was prepared or ran under its name."""
    arms = {arm.name: arm for arm in scenario.arms}
    for record in records.values():
        arms[record.arm.name] = record.arm  # what ran, should the two differ
    for name in counted["arm"].unique().tolist():
        arms.setdefault(name, Arm(name, "unknown"))
    return list(arms.values())


def _reference(arms: list[Arm], found: Mapping[str, ArmData]) -> str | None:
    ran = [arm for arm in arms if len(found[arm.name].taken)]
    for backend in ("container", "process"):
        for arm in ran:
            if arm.backend == backend:
                return arm.name
    return ran[0].name if ran else None


def _row(data: RunData, arm: Arm, found: ArmData, reference: ArmData | None) -> ArmRow:
    seed, record = data.info.seed, found.record
    is_reference = reference is not None and reference.name == arm.name
    medians = estimates.estimates(found, seed)
    ratios: Mapping[str, stats.Comparison] = {}
    differences: Mapping[str, stats.Comparison] = {}
    delta = None
    if reference is not None and not is_reference:
        ratios, differences = estimates.comparisons(found, reference, seed)
        delta = estimates.delta(found, reference, seed)
    ready = estimates.values(found, "ready_ns")
    outcomes = found.taken["outcome"].value_counts()
    facts = {} if record is None else record.facts
    return ArmRow(
        arm=arm.name,
        backend=arm.backend,
        is_reference=is_reference,
        trials=len(found.taken),
        ok=int(outcomes.get(Outcome.OK.value, 0)),
        failed=int(outcomes.get(Outcome.FAILED.value, 0)),
        timeouts=int(outcomes.get(Outcome.TIMEOUT.value, 0)),
        ready_p90_ns=stats.quantile(ready, 0.90),
        ready_p99_ns=stats.quantile(ready, 0.99),
        shared_bytes=None if record is None else sum(part.shared_bytes for part in record.disk),
        parts=estimates.parts(data, found),
        prepare_ns=None if record is None else record.prepare_ns,
        facts=facts,
        errors=estimates.errors(found),
        console=estimates.console(found),
        metrics=medians,
        ratios=ratios,
        differences=differences,
        quantiles=estimates.quantiles(found, seed),
        delta=delta,
        shape=estimates.shape(found),
        missing=estimates.missing(found, medians),
        scopes=estimates.scopes(found),
        cache=arm.cache,
        repeats=arm.repeats,
        is_emulated=arm.backend.startswith("vm") and facts.get("accelerator") == "tcg",
    )


def _doubts(data: RunData) -> tuple[Doubt, ...]:
    """Gather the diagnostics of the run, its arms and its trials, each occurrence once."""
    found: dict[Diagnostic, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for diagnostic in (*data.info.diagnostics, *flaws(data)):
        found[diagnostic][""] = 0
    for record in data.info.arms:
        for diagnostic in record.diagnostics:
            found[diagnostic][f"{record.scenario}, {record.arm.name}"] = 0
    numbers = data.frame["form"].value_counts(sort=False)
    for place in data.frame["form"].unique().tolist():
        form = data.forms[place]
        for diagnostic in form.diagnostics:
            found[diagnostic][f"{form.scenario}, {form.arm}"] += int(numbers[place])
    by_code: dict[DiagnosticCode, list[str]] = defaultdict(list)
    for diagnostic, places in found.items():
        by_code[diagnostic.code].append(_occurrence(diagnostic.detail, places))
    return tuple(
        Doubt(code, REMEDIES[code], _bounded(list(filter(None, by_code[code]))))
        for code in DiagnosticCode
        if code in by_code
    )


def _bounded(occurrences: list[str]) -> tuple[str, ...]:
    """Leave out what would make a wall: details that hold a number differ in every trial."""
    if len(occurrences) <= MOST_OCCURRENCES:
        return tuple(occurrences)
    rest = len(occurrences) - MOST_OCCURRENCES
    return (*occurrences[:MOST_OCCURRENCES], f"and {rest} more like these, in the records")


def _occurrence(detail: str, places: Mapping[str, int]) -> str:
    """Say what was seen and where: `SIGKILL after 5 s (hello, vm-micro: 2 trials)`."""
    told = [
        place if not number else f"{place}: {number} trial{'s' if number != 1 else ''}"
        for place, number in places.items()
        if place
    ]
    where = "; ".join(told)
    if not where:
        return detail
    return f"{detail} ({where})" if detail else where
