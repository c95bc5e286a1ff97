"""The tables of a scenario as text, the same for terminal, Markdown and HTML. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis.summary import MARKS, ArmRow, ScenarioTable
from harness.model import Milestone, Sharing
from harness.model.metrics import METRICS, Unit
from harness.records import Run
from harness.records.dataset import RunData, run_data
from harness.report.text import sentences, wording

MOST_TRIALS = 2_000
"""No more trials than these are listed one by one."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text: the first column names things, the others are figures.

    Attributes:
        head: Column heads.
        rows: Cells, as many in each row as there are heads.
        estimates: Heads of columns whose cells begin with a value and may go on with its interval:
            these stand to the left where a table can align.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    estimates: frozenset[str] = frozenset()


def start_grid(table: ScenarioTable, *, with_marks: bool = True) -> Grid:
    """Lay out medians since the request, `ready` with its interval, and the ratio to the reference.

    `with_marks` adds the milestones between request and ready that any arm has.
    """
    marks = [
        mark for mark in MARKS if with_marks and any(mark in r.milestones for r in table.shown)
    ]
    compared = any(row.ratio is not None for row in table.shown)
    rows = []
    for row in table.shown:
        cells = [
            row.arm,
            f"{row.ok}/{row.trials}",
            *(wording.median_amount(row.milestones.get(mark), Unit.NANOSECONDS) for mark in marks),
            wording.duration_estimate(row.ready),
        ]
        if compared:
            ratio = "1" if row.is_reference else _ratio(table, row)
            cells.append(ratio.replace(" ×", ""))  # the sign stands in the head
        rows.append(tuple(cells))
    head = ["arm", "ok", *map(str, marks), "ready"]
    if compared:
        head.append(f"× {table.reference}")
    return Grid(tuple(head), tuple(rows))


def cost_grid(table: ScenarioTable) -> Grid:
    """Lay out the costs of an arm beside its start: work, teardown, disk, and preparation."""
    heads = {"cpu": "CPU", "stop": "stop", "remove": "remove", "left-behind": "left"}
    shown = [name for name in heads if name in ("stop", "remove") or _is_known(table, name)]
    rows = tuple(
        (
            row.arm,
            wording.quantile(row.ready_p90_ns),
            *(_cell(row, name) for name in shown),
            _shared(row),
            _cell(row, "disk"),
            wording.NONE if row.prepare_ns is None else wording.duration(row.prepare_ns),
        )
        for row in table.shown
    )
    named = (heads[name] for name in shown)
    return Grid(("arm", "ready p90", *named, "disk shared", "disk each", "prepare"), rows)


def footprint_grid(table: ScenarioTable) -> Grid:
    """Lay out an arm's bytes on disk: once for all, for each, until ready; and read of the image.

    The last has its share of the image, ` (12 %)`, if both are known.
    """
    heads = {"disk": "each", "disk-growth": "until ready", "image-read": "read of image"}
    shown = [name for name in heads if _is_known(table, name)]
    rows = []
    for row in table.shown:
        cells = [_cell(row, name) for name in shown]
        read, total = row.metrics.get("image-read"), row.metrics.get("image-total")
        if read and total and total.median and math.isfinite(read.median):
            cells[-1] += f" ({wording.share(read.median / total.median)})"
        rows.append((row.arm, _shared(row), *cells))
    return Grid(("on disk", "shared, once", *(heads[name] for name in shown)), tuple(rows))


def memory_grid(table: ScenarioTable) -> Grid:
    """Lay out memory just after ready by every measure, side by side, with its scope."""
    heads = {
        "pss": "PSS",
        "uss": "USS",
        "cgroup-current": "cgroup",
        "cgroup-peak": "most",
        "available-delta": "MemAvailable",
    }
    return _metric_grid(table, "memory", heads, scoped=("pss", "uss"))


def effort_grid(table: ScenarioTable) -> Grid:
    """Lay out what of ready is the file system's, CPU time, teardown, and what was left behind."""
    heads = {
        "file-system": "of ready: file system",
        "cpu": "CPU",
        "cpu-user": "user",
        "cpu-system": "system",
        "stop": "stop",
        "remove": "remove",
        "left-behind": "left",
    }
    return _metric_grid(table, "work, end", heads, scoped=("cpu", "cpu-user"))


def growth_grid(table: ScenarioTable) -> Grid:
    """Lay out slope and intercept of every footprint of a scale scenario."""
    rows = tuple(
        (
            curve.arm,
            sentences.SHORT[curve.metric],
            wording.amount_estimate(curve.line.slope, METRICS[curve.metric].unit),
            wording.amount_estimate(curve.line.intercept, METRICS[curve.metric].unit),
            str(max(instances for instances, _ in curve.points)),
        )
        for curve in table.growth
        if curve.line is not None
    )
    return Grid(("arm", "of", "each further", "shared", "up to"), rows)


def noise_grid(table: ScenarioTable) -> Grid:
    """Lay out the differences of an arm from itself, metric by metric."""
    rows = tuple(
        (found.metric, found.arm, str(found.blocks), *map(wording.share, shares))
        for found in table.noise
        for shares in [(found.floor, found.detectable)]
    )
    return Grid(("metric", "arm", "blocks", "noise floor", "smallest told apart"), rows)


def comparison_grid(table: ScenarioTable) -> Grid:
    """Lay out every metric of every arm with its interval, and as a multiple of the reference's."""
    rows = []
    for name, metric in METRICS.items():
        for row in table.shown:
            if name in row.metrics:
                ratio = "1 ×" if row.is_reference else _ratio(table, row, name)
                median = wording.amount_estimate(row.metrics[name], metric.unit)
                rows.append((metric.title, row.arm, median, ratio, row.scopes.get(name, "")))
    against = f"to {table.reference}" if table.reference else "ratio"
    return Grid(("metric", "arm", "median", against, "scope"), tuple(rows))


def _ratio(table: ScenarioTable, row: ArmRow, metric: str = "ready") -> str:
    """Spell a ratio with its interval; one of an emulated CPU to the real one is a bound: `≤`."""
    ratio = row.ratios.get(metric)
    is_bound = ratio is not None and ratio.estimate.is_reached and table.is_upper_bound(row)
    sign = "≤ " if is_bound and METRICS[metric].unit is Unit.NANOSECONDS else ""
    return f"{sign}{wording.ratio(ratio)}"


def _shared(row: ArmRow) -> str:
    return wording.NONE if row.shared_bytes is None else wording.size(row.shared_bytes)


def _is_known(table: ScenarioTable, metric: str) -> bool:
    return any(metric in row.metrics for row in table.shown)


def _cell(row: ArmRow, metric: str) -> str:
    return wording.median_amount(row.metrics.get(metric), METRICS[metric].unit)


def _metric_grid(
    table: ScenarioTable, name: str, heads: Mapping[str, str], scoped: tuple[str, ...]
) -> Grid:
    """Lay out the metrics that any arm has, and the arms that have one of them."""
    shown = [metric for metric in heads if _is_known(table, metric)]
    whose = [
        next((row.scopes[metric] for metric in scoped if metric in row.scopes), "")
        for row in table.shown
    ]
    of = ("of",) if any(whose) else ()
    rows = tuple(
        (
            row.arm,
            *(_cell(row, metric) for metric in shown),
            *((scope or wording.NONE,) if of else ()),
        )
        for row, scope in zip(table.shown, whose, strict=True)
        if any(metric in row.metrics for metric in shown)
    )
    return Grid((name, *(heads[metric] for metric in shown), *of), rows if shown else ())


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
        for row in table.shown
        for part in row.parts
    )
    return Grid(("arm", "part", "belongs to", "allocated", "apparent"), rows)


def quantile_grid(table: ScenarioTable) -> Grid:
    """Lay out the distribution of `ready`, and how trials ended."""
    rows = tuple(
        (
            row.arm,
            *(wording.duration_estimate(row.quantiles.get(p)) for p in (0.5, 0.9, 0.99)),
            wording.NONE if row.delta is None else f"{row.delta.delta:+.2f}",
            str(row.ok),
            str(row.failed),
            str(row.timeouts),
        )
        for row in table.shown
    )
    return Grid(("arm", "p50", "p90", "p99", "Cliff's δ", "ok", "failed", "too late"), rows)


def trial_grid(table: ScenarioTable, run: Run | RunData) -> Grid:
    """Lay out the trials of a scenario as they were taken, warm-up included.

    Of more than `MOST_TRIALS` only the first are shown: a page holds no million rows.
    """
    frame = run_data(run).frame
    rows = frame[frame["scenario"] == table.scenario.name].head(MOST_TRIALS)
    marks = [mark for mark in Milestone if mark is not Milestone.REQUESTED]
    trials = []
    for row in rows.to_dict("records"):
        outcome = f"{row['outcome']}{'' if row['counted'] else ', warm-up'}"
        stamps = [float(row[f"{mark}_ns"]) for mark in marks]
        times = (wording.NONE if math.isnan(at) else wording.duration(at) for at in stamps)
        trials.append((f"{row['block']}.{row['position']}", str(row["arm"]), outcome, *times))
    return Grid(("block.place", "arm", "outcome", *map(str, marks)), tuple(trials))
