"""A run boiled down to what the report shows: terminal, Markdown and HTML are made from this alone.

Pure: records in, frozen values out. The figures of a scenario are medians over its counted blocks;
failed trials are censored (see `harness.stats`), and comparisons are paired within blocks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.diagnostics import Diagnostic, DiagnosticCode
from harness.model import (
    Arm,
    ArmRecord,
    DiskPart,
    Milestone,
    Outcome,
    Run,
    Scenario,
    Sharing,
    Trial,
)
from harness.report.frame import durations, trials_frame

if TYPE_CHECKING:
    import pandas as pd

MARKS = (Milestone.ISOLATED, Milestone.KERNEL, Milestone.USERSPACE, Milestone.STARTED)
"""The milestones between t0 and ready, in order."""


@dataclass(frozen=True, slots=True)
class Part:
    """One named thing on disk, for a table.

    Attributes:
        name: As in the record.
        sharing: Whether all instances share it.
        allocated_bytes: Of the static part, or the median over instances.
        apparent_bytes: The same.
    """

    name: str
    sharing: Sharing
    allocated_bytes: int
    apparent_bytes: int


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
        milestones: Median since t0 in ns, of those that exist for this arm; `ready` always, if
            there was a trial.
        ready_p90_ns: 90th percentile of `ready`; None with fewer than 10 trials.
        ready_p99_ns: 99th; None with fewer than 100.
        stop: From `ready` to `stopped`, ns.
        remove: From `stopped` to `removed`, ns.
        ratio: `ready` as a multiple of the reference's.
        difference: `ready` minus the reference's, ns.
        shared_bytes: Allocated once for all instances; None if nothing was prepared.
        exclusive: Allocated by each instance, bytes.
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
    milestones: Mapping[Milestone, stats.Estimate]
    ready_p90_ns: float | None
    ready_p99_ns: float | None
    stop: stats.Estimate | None
    remove: stats.Estimate | None
    ratio: stats.Comparison | None
    difference: stats.Comparison | None
    shared_bytes: int | None
    exclusive: stats.Estimate | None
    parts: tuple[Part, ...]
    prepare_ns: int | None
    facts: Mapping[str, str]
    errors: tuple[tuple[str, int], ...]
    console: str

    @property
    def ready(self) -> stats.Estimate | None:
        """Median of `ready`, ns; None without a trial."""
        return self.milestones.get(Milestone.READY)

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
    """

    scenario: Scenario
    rows: tuple[ArmRow, ...]
    reference: str | None
    blocks: int
    complete_blocks: int
    between_vms: Mapping[str, stats.Comparison]
    same_response: bool | None

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
        run: The records it was made from.
        tables: One a scenario, in order.
        doubts: All diagnostics, in the order of their enumeration.
    """

    run: Run
    tables: tuple[ScenarioTable, ...]
    doubts: tuple[Doubt, ...]


def summarise(run: Run) -> Summary:
    """Boil a run down. Works for every run, also one without a single trial."""
    frame = trials_frame(run)
    tables = tuple(_scenario_table(run, scenario, frame) for scenario in run.info.scenarios)
    return Summary(run=run, tables=tables, doubts=_doubts(run))


def _scenario_table(run: Run, scenario: Scenario, frame: pd.DataFrame) -> ScenarioTable:
    seed = run.info.seed
    counted = frame[(frame["scenario"] == scenario.name) & frame["counted"].astype(bool)]
    trials = [t for t in run.trials if t.scenario == scenario.name and t.block >= 0]
    records = {r.arm.name: r for r in run.info.arms if r.scenario == scenario.name}
    arms = _arms(scenario, records, trials)
    ready = {a.name: durations(counted[counted["arm"] == a.name], "ready_ns") for a in arms}
    reference = _reference(arms, ready)
    rows = []
    for arm in arms:
        compared = reference is not None and arm.name != reference
        against = ready[reference] if compared and reference else {}
        rows.append(
            _row(
                arm,
                records.get(arm.name),
                [t for t in trials if t.arm == arm.name],
                counted[counted["arm"] == arm.name],
                is_reference=arm.name == reference,
                ratio=stats.paired_ratio(ready[arm.name], against, seed),
                difference=stats.paired_difference(ready[arm.name], against, seed),
                seed=seed,
            )
        )
    ran = [row.arm for row in rows if row.trials]
    virtual = [row.arm for row in rows if row.is_vm and row.trials]
    between = {n: stats.paired_ratio(ready[n], ready[virtual[0]], seed) for n in virtual[1:]}
    blocks = {t.block for t in trials}
    bodies = {t.response_sha256 for t in trials if t.response_sha256}
    return ScenarioTable(
        scenario=scenario,
        rows=tuple(rows),
        reference=reference,
        blocks=len(blocks),
        complete_blocks=sum(1 for b in blocks if all(b in ready[name] for name in ran)),
        between_vms={name: found for name, found in between.items() if found is not None},
        same_response=len(bodies) == 1 if bodies else None,
    )


def _arms(scenario: Scenario, records: Mapping[str, ArmRecord], trials: list[Trial]) -> list[Arm]:
    """List the scenario's arms, and whatever else was prepared or ran under its name."""
    arms = {arm.name: arm for arm in scenario.arms}
    for record in records.values():
        arms.setdefault(record.arm.name, record.arm)
    for trial in trials:
        arms.setdefault(trial.arm, Arm(trial.arm, "unknown"))
    return list(arms.values())


def _reference(arms: list[Arm], ready: Mapping[str, Mapping[int, float]]) -> str | None:
    ran = [arm for arm in arms if ready[arm.name]]
    for backend in ("container", "process"):
        for arm in ran:
            if arm.backend == backend:
                return arm.name
    return ran[0].name if ran else None


def _row(
    arm: Arm,
    record: ArmRecord | None,
    trials: list[Trial],
    rows: pd.DataFrame,
    *,
    is_reference: bool,
    ratio: stats.Comparison | None,
    difference: stats.Comparison | None,
    seed: int,
) -> ArmRow:
    ready = list(durations(rows, "ready_ns").values())
    errors: dict[str, int] = defaultdict(int)
    for trial in trials:
        if trial.outcome is not Outcome.OK:
            errors[trial.error or "no reason was recorded"] += 1
    static = record.disk if record is not None else ()
    exclusive = [float(value) for value in rows["exclusive_bytes"] if not math.isnan(value)]
    # A static part that is not shared costs every instance as much as its own parts do.
    each = sum(part.exclusive_bytes for part in static)
    return ArmRow(
        arm=arm.name,
        backend=arm.backend,
        is_reference=is_reference,
        trials=len(trials),
        ok=sum(1 for t in trials if t.outcome is Outcome.OK),
        failed=sum(1 for t in trials if t.outcome is Outcome.FAILED),
        timeouts=sum(1 for t in trials if t.outcome is Outcome.TIMEOUT),
        milestones=_milestones(rows, seed),
        ready_p90_ns=stats.quantile(ready, 0.90),
        ready_p99_ns=stats.quantile(ready, 0.99),
        stop=_present(rows, "stop_ns", seed),
        remove=_present(rows, "remove_ns", seed),
        ratio=ratio,
        difference=difference,
        shared_bytes=None if record is None else sum(part.shared_bytes for part in static),
        exclusive=stats.estimate([value + each for value in exclusive], seed),
        parts=_parts(static, [trial.disk for trial in trials if trial.disk]),
        prepare_ns=None if record is None else record.prepare_ns,
        facts={} if record is None else record.facts,
        errors=tuple(sorted(errors.items(), key=lambda item: -item[1])),
        console=next((t.console for t in trials if t.console and t.outcome is not Outcome.OK), ""),
    )


def _milestones(rows: pd.DataFrame, seed: int) -> dict[Milestone, stats.Estimate]:
    """Estimate every milestone that this arm has: one that no trial reached does not exist for it.

    `ready` exists for every arm, so if no trial reached it, its median is infinite.
    """
    found = {}
    for milestone in (*MARKS, Milestone.READY):
        column = f"{milestone}_ns"
        if milestone is Milestone.READY or rows[column].notna().any():
            value = stats.estimate(list(durations(rows, column).values()), seed)
            if value is not None:
                found[milestone] = value
    return found


def _present(rows: pd.DataFrame, column: str, seed: int) -> stats.Estimate | None:
    """Estimate what only a trial that was ready can have: no censoring, failures have no value."""
    return stats.estimate([float(value) for value in rows[column] if not math.isnan(value)], seed)


def _parts(static: tuple[DiskPart, ...], instances: list[tuple[DiskPart, ...]]) -> tuple[Part, ...]:
    parts = [Part(p.name, p.sharing, p.allocated_bytes, p.apparent_bytes) for p in static]
    own: dict[str, list[DiskPart]] = defaultdict(list)
    for disk in instances:
        for part in disk:
            own[part.name].append(part)
    for name, found in own.items():
        allocated = stats.estimate([float(part.allocated_bytes) for part in found], 0)
        apparent = stats.estimate([float(part.apparent_bytes) for part in found], 0)
        assert allocated is not None
        assert apparent is not None
        parts.append(Part(name, found[0].sharing, round(allocated.median), round(apparent.median)))
    return tuple(parts)


def _doubts(run: Run) -> tuple[Doubt, ...]:
    """Gather the diagnostics of the run, its arms and its trials, each occurrence once."""
    found: dict[Diagnostic, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for diagnostic in run.info.diagnostics:
        found[diagnostic][""] = 0
    for record in run.info.arms:
        for diagnostic in record.diagnostics:
            found[diagnostic][f"{record.scenario}, {record.arm.name}"] = 0
    for trial in run.trials:
        for diagnostic in trial.diagnostics:
            found[diagnostic][f"{trial.scenario}, {trial.arm}"] += 1
    by_code: dict[DiagnosticCode, list[str]] = defaultdict(list)
    remedies = {}
    for diagnostic, places in found.items():
        remedies[diagnostic.code] = diagnostic.remedy
        by_code[diagnostic.code].append(_occurrence(diagnostic.detail, places))
    return tuple(
        Doubt(code, remedies[code], tuple(filter(None, by_code[code])))
        for code in DiagnosticCode
        if code in by_code
    )


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
