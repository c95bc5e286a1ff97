"""Summarises a run for the report: terminal, Markdown and HTML are made from this alone.

Pure: records in, frozen values out. A scenario is shown by medians over its counted blocks, where
the value of a block is the median of an arm's trials in it; failed trials are censored (see
`harness.stats`), and comparisons are paired within blocks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.analysis import estimates
from harness.analysis.compare import judge_records
from harness.analysis.curves import GrowthCurve, growth_curves, start_curves
from harness.analysis.estimates import ArmData
from harness.analysis.judgement import Judgement
from harness.model import (
    Arm,
    ArmRecord,
    CacheState,
    DiskPart,
    Milestone,
    NoiseFloor,
    Outcome,
    Scenario,
)
from harness.model.diagnostics import REMEDIES, Diagnostic, DiagnosticCode
from harness.model.units import count
from harness.records.dataset import Run, RunData, run_data, samples, trial_samples

if TYPE_CHECKING:
    import pandas as pd

MARKS = (Milestone.ISOLATED, Milestone.KERNEL, Milestone.USERSPACE, Milestone.STARTED)
"""The milestones between t0 and ready, in order."""

_NUMBER = re.compile(r"(?<![\w.:/+-])\d+(?:\.\d+)?(?![\w.:/-])")
"""A number that stands alone: no part of a name, a path or a version."""

MOST_OCCURRENCES = 12
"""No more occurrences of a diagnostic than these are listed one by one."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """The results of one arm of one scenario.

    Attributes:
        is_reference: Whether it is what the other arms are compared with.
        trials: Counted trials: `ok`, `failed` and `timeouts` (not ready in time) add up to it.
        metrics: Median of every metric that the arm has, by its name in
            `harness.model.metrics.METRICS`, in its unit; milestones, stop and remove among them.
        ratios: Each of them as a multiple of the reference's; none where the reference has zero.
        differences: Each of them minus the reference's.
        quantiles: Of `ready`, ns, by probability: 0.5 (of the blocks), 0.9 and 0.99 (of all
            trials); those that there are enough for.
        delta: Cliff's delta of `ready` against the reference.
        shape: What the blocks' values of `ready` look like in the order taken.
        missing: Metric name -> why it has no value.
        scopes: Metric name -> whose use it is.
        cache: State of the page cache before each trial.
        repeats: Name of the arm of which this is the same once more (A/A), or None.
        anchors: Name of the arm whose pinned anchor this is, or None.
        is_emulated: A VM whose processor was emulated (TCG): its times are an upper bound.
        ready_p90_ns: 90th percentile of `ready`; None with fewer than 10 trials.
        ready_p99_ns: 99th; None with fewer than 100.
        shared_bytes: Allocated once for all instances; None if nothing was prepared.
        parts: Those of the shared bytes, then of an instance's own, at their medians.
        prepare_ns: How long making the image, disk and kernel took in this run.
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
    parts: tuple[DiskPart, ...]
    prepare_ns: int | None
    facts: Mapping[str, str]
    errors: tuple[tuple[str, int], ...]
    console: str
    metrics: Mapping[str, stats.Estimate]
    ratios: Mapping[str, stats.Comparison]
    differences: Mapping[str, stats.Comparison]
    quantiles: Mapping[float, stats.Estimate]
    delta: stats.Effect | None
    shape: stats.Shape | None
    missing: Mapping[str, str]
    scopes: Mapping[str, str]
    cache: CacheState
    repeats: str | None
    anchors: str | None
    is_emulated: bool

    @property
    def ready(self) -> stats.Estimate | None:
        """Median of `ready`, ns; None without a trial."""
        return self.metrics.get("ready")

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
        marks = (*MARKS, Milestone.READY)
        return {mark: self.metrics[mark] for mark in marks if mark in self.metrics}

    @property
    def is_vm(self) -> bool:
        """Whether the arm runs a kernel of its own."""
        return self.backend.startswith("vm")


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """The results of one scenario.

    Attributes:
        rows: One an arm, in the scenario's order.
        reference: Name of the arm that the others are compared with: the first `container`, else
            the first `process`, else the first that has a trial; None without any.
        blocks: Counted blocks of which at least one trial was taken.
        complete_blocks: Those in which every arm that ran has its trial.
        between_vms: `ready` of each further VM arm as a multiple of the first VM arm's, by name.
        same_response: Whether all answers to the prober were the same bytes; None if none was kept.
        growth: Of a scale scenario: footprints against the number of instances.
        start_curves: Of a scale scenario: start time against the instances that lived already.
        burst_curves: Of a scale scenario: start time against those requested at the same time.
        noise: What A/A comparisons of this scenario showed on this host.
        failed_beside: Trials that failed and are in no figure: of the warm-up, discarded ones, and
            blocks that were taken again.
    """

    scenario: Scenario
    rows: tuple[ArmRow, ...]
    reference: str | None
    blocks: int
    complete_blocks: int
    between_vms: Mapping[str, stats.Comparison]
    same_response: bool | None
    growth: tuple[GrowthCurve, ...]
    start_curves: tuple[GrowthCurve, ...]
    burst_curves: tuple[GrowthCurve, ...]
    noise: tuple[NoiseFloor, ...]
    failed_beside: int = 0

    @property
    def shown(self) -> tuple[ArmRow, ...]:
        """The rows that answer the question: no A/A arm and no anchor, which serve the judging."""
        rows = tuple(row for row in self.rows if row.repeats is None and row.anchors is None)
        return rows or self.rows

    def is_upper_bound(self, row: ArmRow) -> bool:
        """Whether this arm's times are an emulated CPU's, and the reference's are not."""
        reference = next((other for other in self.rows if other.is_reference), None)
        return row.is_emulated and reference is not None and not reference.is_emulated

    @property
    def trials(self) -> int:
        """Counted trials of all arms."""
        return sum(row.trials for row in self.rows)


@dataclass(frozen=True, slots=True)
class GatheredDiagnostic:
    """A diagnostic, gathered from everywhere it came up.

    Attributes:
        remedy: What it means and what to do about it.
        occurrences: Where and with what detail, each once, with how often when it was in trials.
    """

    code: DiagnosticCode
    remedy: str
    occurrences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run with one table a scenario, and all diagnostics in the order of their enumeration.

    Attributes:
        judgement: Of a paired run that ended with one; None where the run was given as columns.
    """

    run: RunData
    tables: tuple[ScenarioTable, ...]
    diagnostics: tuple[GatheredDiagnostic, ...]
    judgement: Judgement | None = None


def summarise(run: Run | RunData) -> Summary:
    """Summarise a run, also one without a single trial."""
    data = run_data(run)
    tables = tuple(_scenario_table(data, scenario) for scenario in data.info.scenarios)
    judgement = judge_records(run) if isinstance(run, Run) else None
    return Summary(data, tables, _diagnostics(data), judgement)


def _scenario_table(data: RunData, scenario: Scenario) -> ScenarioTable:
    taken = data.frame[data.frame["scenario"] == scenario.name]
    counted = taken[taken["counted"]]
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
    answering = {arm.name for arm in arms if arm.repeats is None and arm.anchors is None}
    virtual = [row.arm for row in rows if row.is_vm and row.trials and row.arm in answering]
    ready = {name: samples(found[name].rows, "ready_ns") for name in virtual}
    between = {name: stats.paired_ratio(ready[name], ready[virtual[0]]) for name in virtual[1:]}
    forms = [data.forms[number] for number in counted["form"].unique().tolist()]
    # An anchor may well answer otherwise: its image is an older one.
    bodies = {f.response_sha256 for f in forms if f.response_sha256 and f.arm in answering}
    failed_beside = int(((taken["outcome"] != Outcome.OK.value) & ~taken["counted"]).sum())
    return ScenarioTable(
        scenario=scenario,
        rows=rows,
        reference=reference,
        blocks=int(counted["block"].nunique()),
        complete_blocks=_complete_blocks(counted),
        between_vms={name: value for name, value in between.items() if value is not None},
        same_response=len(bodies) == 1 if bodies else None,
        growth=growth_curves(data, scenario.name) if is_scale else (),
        start_curves=start_curves(data, scenario.name) if is_scale else (),
        burst_curves=start_curves(data, scenario.name, burst=True) if is_scale else (),
        noise=tuple(floor for floor in data.info.noise if floor.scenario == scenario.name),
        failed_beside=failed_beside,
    )


def _arms(scenario: Scenario, records: Mapping[str, ArmRecord], counted: pd.DataFrame) -> list[Arm]:
    """List the scenario's arms, and all else that was prepared or ran under its name."""
    arms = {arm.name: arm for arm in scenario.arms}
    # What ran, should the two differ.
    arms.update((name, record.arm) for name, record in records.items())
    for name in counted["arm"].unique().tolist():
        arms.setdefault(name, Arm(name, "unknown"))
    return list(arms.values())


def _reference(arms: list[Arm], found: Mapping[str, ArmData]) -> str | None:
    ran = [arm for arm in arms if len(found[arm.name].taken) and arm.anchors is None]
    preferred = [arm for kind in ("container", "process") for arm in ran if arm.backend == kind]
    return next((arm.name for arm in (*preferred, *ran)), None)


def _row(data: RunData, arm: Arm, found: ArmData, reference: ArmData | None) -> ArmRow:
    record = found.record
    is_reference = reference is not None and reference.name == arm.name
    medians = estimates.estimates(found)
    ratios: Mapping[str, stats.Comparison] = {}
    differences: Mapping[str, stats.Comparison] = {}
    delta = None
    if reference is not None and not is_reference:
        ratios, differences = estimates.comparisons(found, reference)
        delta = stats.cliffs_delta(
            *(estimates.by_block(each, "ready_ns") for each in (found, reference))
        )
    ready = estimates.values(found, "ready_ns")
    _, each = trial_samples(found.rows, "ready_ns")
    outcomes = found.taken["outcome"].value_counts()
    facts = {} if record is None else record.facts
    unsuccessful = (form for form in found.forms if form.outcome is not Outcome.OK)
    return ArmRow(
        arm=arm.name,
        backend=arm.backend,
        is_reference=is_reference,
        trials=len(found.taken),
        ok=int(outcomes.get(Outcome.OK.value, 0)),
        failed=int(outcomes.get(Outcome.FAILED.value, 0)),
        timeouts=int(outcomes.get(Outcome.TIMEOUT.value, 0)),
        ready_p90_ns=stats.quantile(each, 0.90),
        ready_p99_ns=stats.quantile(each, 0.99),
        shared_bytes=None if record is None else sum(part.shared_bytes for part in record.disk),
        parts=estimates.parts(data, found),
        prepare_ns=None if record is None else record.prepare_ns,
        facts=facts,
        errors=estimates.errors(found),
        console=next((f.console for f in unsuccessful if f.console), ""),
        metrics=medians,
        ratios=ratios,
        differences=differences,
        quantiles=estimates.quantiles(found),
        delta=delta,
        shape=stats.shape(ready.tolist()) if len(ready) else None,
        missing=estimates.missing(found, medians),
        scopes=estimates.scopes(found),
        cache=arm.cache,
        repeats=arm.repeats,
        anchors=arm.anchors,
        is_emulated=arm.backend.startswith("vm") and facts.get("accelerator") == "tcg",
    )


def _diagnostics(data: RunData) -> tuple[GatheredDiagnostic, ...]:
    """Gather the diagnostics of the run, its arms and its trials, each occurrence once."""
    found: dict[Diagnostic, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for diagnostic in (*data.info.diagnostics, *_record_problems(data)):
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
    for code, detail, places in _alike(found):
        by_code[code].append(_occurrence(detail, places))
    return tuple(
        GatheredDiagnostic(code, REMEDIES[code], _bounded(by_code[code]))
        for code in DiagnosticCode
        if code in by_code
    )


def _alike(
    found: Mapping[Diagnostic, Mapping[str, int]],
) -> Iterator[tuple[DiagnosticCode, str, Mapping[str, int]]]:
    """Join details that differ in their numbers alone: `about 6 to 20 % of one CPU`."""
    groups: dict[tuple[DiagnosticCode, str], list[Diagnostic]] = defaultdict(list)
    for diagnostic in found:
        groups[diagnostic.code, _NUMBER.sub("0", diagnostic.detail)].append(diagnostic)
    for (code, _), group in groups.items():
        places: dict[str, int] = defaultdict(int)
        for diagnostic in group:
            for place, number in found[diagnostic].items():
                places[place] += number
        yield code, _ranged([diagnostic.detail for diagnostic in group]), places


def _ranged(details: Sequence[str]) -> str:
    """Write each number of the first detail as the range that it has in all of them."""
    columns = zip(*map(_NUMBER.findall, details), strict=True)
    ranges = (sorted(set(column), key=float) for column in columns)
    spelled = (ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}" for ends in ranges)
    return _NUMBER.sub(lambda _: next(spelled), details[0])


def _bounded(occurrences: list[str]) -> tuple[str, ...]:
    occurrences = list(filter(None, occurrences))
    rest = len(occurrences) - MOST_OCCURRENCES
    more = [f"and {rest} more like these, in the records"] if rest > 0 else []
    return (*occurrences[:MOST_OCCURRENCES], *more)


def _occurrence(detail: str, places: Mapping[str, int]) -> str:
    """Say what was seen and where: `SIGKILL after 5 s (hello, vm-micro: 2 trials)`."""
    where = "; ".join(
        f"{place}: {count(number, 'trial')}" if number else place
        for place, number in places.items()
        if place
    )
    return f"{detail} ({where})" if detail and where else detail or where


def _record_problems(data: RunData) -> tuple[Diagnostic, ...]:
    """Check that the records are whole: no trial is missing, or there twice."""
    sentences = [*data.problems, *_repeated(data), *_lost(data)]
    return tuple(Diagnostic(DiagnosticCode.RECORDS, sentence) for sentence in sentences)


def _repeated(data: RunData) -> Iterator[str]:
    frame = data.frame[~data.frame["block"].isin(data.info.retaken)]
    # Instances that start in one burst share everything but their times.
    key = ["scenario", "arm", "block", "repetition"]
    if (frame["together"] > 1).any() or (frame["alive"] > 0).any():
        key += ["position", "alive", "together", "ready_ns", "removed_ns"]
    number = int(frame.duplicated(key).sum())
    if number:
        yield (
            f"{number} of {len(data.frame)} trials are there more than once; the last version of "
            "each counts"
        )


def _lost(data: RunData) -> Iterator[str]:
    """Look for blocks without a trial of an arm that has some, where nothing interrupted them."""
    info, frame = data.info, data.frame
    if info.ended_at is None or info.interrupted:
        return
    for scenario in info.scenarios:
        counted = frame[(frame["scenario"] == scenario.name) & frame["counted"]]
        if not len(counted):
            if info.blocks and any(r.scenario == scenario.name for r in info.arms):
                yield f"{scenario.name}: the run ended properly, and none of its trials is there"
            continue
        expected = max(info.blocks, int(counted["block"].max()) + 1)
        whole = _complete_blocks(counted)
        if whole < expected:
            yield (
                f"{scenario.name}: the run ended properly with "
                f"{count(expected, 'complete block')}, and {whole} of them can be found"
            )


def _complete_blocks(counted: pd.DataFrame) -> int:
    """Count the blocks in which every arm that ran has a trial."""
    arms = counted.groupby("block")["arm"].nunique()
    return int((arms == counted["arm"].nunique()).sum())
