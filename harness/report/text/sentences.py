"""Sentences beside the answer: growth, noise, outliers, missing values. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from harness import stats
from harness.analysis.curves import GrowthCurve
from harness.analysis.summary import ArmRow, ScenarioTable
from harness.model import units
from harness.model.metrics import METRICS, Unit
from harness.report.text import wording

MEMORY = ("pss", "uss", "cgroup-current", "available-delta")
"""Measures of memory, the preferred first."""

SHORT = {
    "disk": "disk",
    "disk-growth": "disk written",
    "pss": "memory (PSS)",
    "uss": "memory (USS)",
    "cgroup-current": "memory (cgroup)",
    "cgroup-peak": "memory (cgroup, most)",
    "available-delta": "memory (MemAvailable)",
    "image-read": "read of the image",
    "image-total": "image that could be read",
    "cpu": "CPU time",
    "cpu-user": "CPU time, user",
    "cpu-system": "CPU time, system",
    "left-behind": "things left behind",
}


@dataclass(frozen=True, slots=True)
class Slope:
    """What each further instance of an arm costs.

    Attributes:
        disk: In bytes; None where it was not read or has no line.
        memory: In bytes, by the first measure of `MEMORY` that has a line.
        most: So many instances lived at once.
    """

    arm: str
    disk: stats.Estimate | None
    memory: stats.Estimate | None
    most: int


def slopes(table: ScenarioTable) -> tuple[Slope, ...]:
    """List what each further instance costs, arm by arm; none for a scenario that does not grow."""
    found = []
    for arm in dict.fromkeys(curve.arm for curve in table.growth):
        curves = [curve for curve in table.growth if curve.arm == arm]
        lines = {curve.metric: curve.line.slope for curve in curves if curve.line is not None}
        most = max(instances for curve in curves for instances, _ in curve.points)
        memory = next((lines[name] for name in MEMORY[:3] if name in lines), None)
        found.append(Slope(arm, lines.get("disk"), memory, most))
    return tuple(found)


def growth(table: ScenarioTable) -> Iterator[str]:
    """Say of a scale scenario what each further instance costs and what all share."""
    curves: dict[str, dict[str, GrowthCurve]] = defaultdict(dict)
    for curve in table.growth:
        curves[curve.arm][curve.metric] = curve
    for arm, by_metric in curves.items():
        most = max(instances for curve in by_metric.values() for instances, _ in curve.points)
        each, once = [], []
        for metric, curve in by_metric.items():
            if metric in ("disk", "pss", "cgroup-current") and curve.line is not None:
                slope, intercept = curve.line.slope, curve.line.intercept.median
                each.append(f"{wording.amount_estimate(slope, Unit.BYTES)} {SHORT[metric]}")
                once.append(f"{wording.amount(intercept, Unit.BYTES)} {SHORT[metric]}")
        if each:
            yield (
                f"{arm}, up to {units.count(most, 'instance')}: each further one takes "
                f"{wording.listed(each)}; shared by all: {wording.listed(once)}."
            )
        failed_at = next(iter(by_metric.values())).failed_at
        if failed_at is not None:
            yield f"{arm}: the {wording.ordinal(failed_at)} instance could not be started."


def starts(table: ScenarioTable) -> Iterator[str]:
    """Say how start time changes with the instances that live already, or of one burst."""
    for curves, beside in (
        (table.start_curves, "with each instance that lives already"),
        (table.burst_curves, "with each instance that is requested at the same time"),
    ):
        for curve in curves:
            if curve.line is None:
                continue
            slope = curve.line.slope
            word = "grows" if slope.median >= 0 else "shrinks"
            unclear = "" if stays_apart(slope, 0.0) else ": no trend is shown"
            yield (
                f"{curve.arm}: the time to ready {word} by "
                f"{wording.amount_estimate(wording.positive(slope), Unit.NANOSECONDS)} "
                f"{beside}{unclear}."
            )


def stays_apart(found: stats.Estimate, value: float) -> bool:
    """Return whether an interval leaves out a value; without an interval nothing is known."""
    interval = found.interval
    return interval is not None and not interval.low <= value <= interval.high


def noise(table: ScenarioTable, run_id: str) -> Iterator[str]:
    """Say how far an arm was from itself, and which differences this host can detect."""
    for arm in dict.fromkeys(floor.arm for floor in table.noise):
        floors = {floor.metric: floor for floor in table.noise if floor.arm == arm}
        shown = [
            floors[m] for m in ("ready", "disk", "pss", "cgroup-current", "cpu") if m in floors
        ]
        if not shown:
            continue
        blocks = table.blocks or shown[0].blocks
        pairs, found = [], []
        for floor in shown:
            name = _short(floor.metric)
            pairs.append(f"{wording.share(floor.floor)} ({name})")
            found.append(f"{wording.share(floor.detectable_with(blocks))} ({name})")
        earlier = "" if shown[0].run_id == run_id else f" of the earlier run {shown[0].run_id}"
        yield (
            f"Noise of this host, {arm} against itself: 95 % of single pairs differ by less than "
            f"{wording.listed(pairs)}, by {units.count(shown[0].blocks, 'pair')}{earlier}; "
            f"{units.count(blocks, 'block')} find a difference of medians of "
            f"{wording.listed(found)} in 4 of 5 cases, and smaller ones less often."
        )


def undetectable(table: ScenarioTable) -> Iterator[str]:
    """Name arms whose distance to the reference is too small to be detected, and was not."""
    limits = [
        floor.detectable_with(table.blocks) for floor in table.noise if floor.metric == "ready"
    ]
    if not limits:
        return
    small = [
        row.arm
        for row in table.shown
        if row.ratio is not None
        and row.ratio.estimate.is_reached
        and not stays_apart(row.ratio.estimate, 1)
        and abs(row.ratio.estimate.median - 1) < min(limits)
    ]
    if small:
        yield (
            f"Differences of {wording.listed(small)} to {table.reference} are below the smallest "
            f"that {units.count(table.blocks, 'block')} tell apart on this host, "
            f"{wording.share(min(limits))}."
        )


def missing(table: ScenarioTable) -> Iterator[str]:
    """Say what has no value, in which arms and why: the same reason once."""
    grouped: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in table.shown:
        by_reason: dict[str, list[str]] = defaultdict(list)
        for metric, reason in row.missing.items():
            by_reason[reason].append(metric)
        for reason, lacking in by_reason.items():
            grouped[reason][tuple(lacking)].append(row.arm)
    for reason, groups in grouped.items():
        for metrics, arms in groups.items():
            where = "any arm" if len(arms) == len(table.shown) > 1 else wording.listed(arms)
            if reason == "not measured":
                yield f"Not measured in {where}: {_names(metrics)}."
            else:
                yield f"No value for {_names(metrics)} in {where}: {reason.rstrip('.')}."


def outliers(table: ScenarioTable) -> Iterator[str]:
    """Say how many samples lie far out, and that they count."""
    counts = [
        f"{len(row.shape.outliers)} in {row.arm}"
        for row in table.shown
        if row.shape is not None and row.shape.outliers
    ]
    if counts:
        yield (
            f"Times to ready far from the others of their arm: {wording.listed(counts)}. They are "
            "shown, and none was removed."
        )


def memory(row: ArmRow) -> str:
    """Choose the metric of an arm's memory in a sentence, or an empty string."""
    return next((metric for metric in MEMORY[:3] if metric in row.metrics), "")


def _names(metrics: tuple[str, ...]) -> str:
    names, cpu = list(metrics), []
    if set(MEMORY) <= set(names):
        names = ["memory", *(name for name in names if name not in (*MEMORY, "cgroup-peak"))]
    if {"cpu-user", "cpu-system"} <= set(names):
        cpu = ["CPU time" if "cpu" in names else "how CPU time divides into user and system"]
        names = [name for name in names if not name.startswith("cpu")]
    return wording.listed([*cpu, *map(_short, names)])


def _short(metric: str) -> str:
    if metric in SHORT or metric not in METRICS or metric == "ready":
        return SHORT.get(metric, metric)
    return METRICS[metric].title
