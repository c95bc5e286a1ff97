"""The tables of a scenario as text, the same for terminal, Markdown and HTML. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from harness.model import Sharing, Trial
from harness.report import wording
from harness.report.tables import MARKS, ScenarioTable


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text: the first column names things, the others are figures.

    Attributes:
        head: Column heads.
        rows: Cells, as many in each row as there are heads.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def start_grid(table: ScenarioTable, *, with_marks: bool = True) -> Grid:
    """Lay out medians since the request, `ready` with its interval, and the ratio to the reference.

    Args:
        table: The scenario.
        with_marks: Also the milestones between request and ready that any arm has.
    """
    marks = [mark for mark in MARKS if with_marks and any(mark in r.milestones for r in table.rows)]
    compared = any(row.ratio is not None for row in table.rows)
    rows = []
    for row in table.rows:
        cells = [
            row.arm,
            f"{row.ok}/{row.trials}",
            *(wording.median_duration(row.milestones.get(mark)) for mark in marks),
            wording.duration_estimate(row.ready),
        ]
        if compared:
            ratio = "1" if row.is_reference else wording.ratio(row.ratio)
            cells.append(ratio.replace(" ×", ""))  # the sign stands in the head
        rows.append(tuple(cells))
    head = ["arm", "ok", *map(str, marks), "ready"]
    if compared:
        head.append(f"× {table.reference}")
    return Grid(tuple(head), tuple(rows))


def cost_grid(table: ScenarioTable) -> Grid:
    """Lay out what an arm costs beside its start."""
    head = ("arm", "ready p90", "stop", "remove", "disk shared", "disk each", "prepare")
    rows = tuple(
        (
            row.arm,
            wording.quantile(row.ready_p90_ns),
            wording.median_duration(row.stop),
            wording.median_duration(row.remove),
            wording.NONE if row.shared_bytes is None else wording.size(row.shared_bytes),
            wording.NONE if row.exclusive is None else wording.size(row.exclusive.median),
            wording.NONE if row.prepare_ns is None else wording.duration(row.prepare_ns),
        )
        for row in table.rows
    )
    return Grid(head, rows)


def disk_grid(table: ScenarioTable) -> Grid:
    """Lay out every named thing on disk."""
    rows = tuple(
        (
            row.arm,
            part.name,
            "all, once" if part.sharing is Sharing.SHARED else "each instance",
            wording.size(part.allocated_bytes),
            wording.size(part.apparent_bytes),
        )
        for row in table.rows
        for part in row.parts
    )
    return Grid(("arm", "part", "belongs to", "allocated", "apparent"), rows)


def quantile_grid(table: ScenarioTable) -> Grid:
    """Lay out the distribution of `ready`."""
    rows = tuple(
        (
            row.arm,
            wording.median_duration(row.ready),
            wording.quantile(row.ready_p90_ns),
            wording.quantile(row.ready_p99_ns),
            str(row.ok),
            str(row.failed),
            str(row.timeouts),
        )
        for row in table.rows
    )
    return Grid(("arm", "p50", "p90", "p99", "ok", "failed", "too late"), rows)


def trial_grid(table: ScenarioTable, trials: tuple[Trial, ...]) -> Grid:
    """Lay out every trial of a scenario as it was taken, warm-up included."""
    marks = ("isolated", "kernel", "userspace", "started", "ready", "stopped", "removed")
    rows = []
    for trial in trials:
        if trial.scenario != table.scenario.name:
            continue
        at = {str(milestone): stamp for milestone, stamp in trial.milestones_ns.items()}
        outcome = f"{trial.outcome}{', warm-up' if trial.block < 0 else ''}"
        times = (wording.duration(at[mark]) if mark in at else wording.NONE for mark in marks)
        rows.append((f"{trial.block}.{trial.position}", trial.arm, outcome, *times))
    return Grid(("block.place", "arm", "outcome", *marks), tuple(rows))
