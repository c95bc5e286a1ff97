"""Orders runs by time: one series for each scenario, arm, metric and setting. Pure.

A point of a series is the median of one run. Absolute times compare only where the circumstances
are the same, so the setting (class of host, accelerator, launcher, page cache, company) is part
of what a series is: another host begins another series, and never looks like a change.

An arm with an anchor (an arm of the same kind on a pinned image, `Arm.anchors`) has a second series
for each sampled metric: the median of the ratios to the anchor within blocks. Most of what differs
from run to run is the host's and in both arms, so that it is not in that series.

Arms that repeat another one (A/A) are left out: they are the same arm under another name. So are
anchors: what changes in them is the host.

A run that did not end, an arm of fewer than `FEWEST_BLOCKS` blocks and an arm whose trials all
failed give no points, and a sentence says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from harness import stats
from harness.model import ArmRecord, CacheState, Outcome, RunInfo
from harness.model.comparability import ARM_CLASS_FACTS, company, host_class
from harness.model.errors import RecordError
from harness.model.metrics import METRICS, Metric, Unit, static_value
from harness.model.units import count as counted_noun
from harness.stats.changes import SHORTEST

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.dataset import RunData

METRICS_OF_INTEREST = ("ready", "cpu", "pss", "disk", "disk-shared")
"""Metrics followed by default: each further one costs sensitivity for the others."""
REVISION = "steelyard_revision"
"""The fact that says which commit a run is of, if no other is named."""
FEWEST_BLOCKS = 3
"""The median of fewer is one trial, or lies between two: no point of a history."""
_MOST_NAMED = 5
"""No more runs than these are named in one sentence."""
_DISK = ("disk", "disk-growth")
"""Sampled, and the same in every trial unless something changed: no host makes it drift."""

_IN_TABLE = "the one in a table"


@dataclass(frozen=True, slots=True, order=True)
class SeriesId:
    """Names a series: what two points must share to be comparable.

    Attributes:
        metric: A key of `harness.model.metrics.METRICS`.
        setting: Class of host (`host_class` of `harness.model.comparability`), accelerator,
            launcher, `cold`, `beside-vm` (`company`): joined by hyphens, as far as the arm has
            them.
        anchor: First digits of the digest of the anchor's image, if values are ratios to an anchor;
            another image begins another series. Empty: values are the arm's own.
    """

    scenario: str
    arm: str
    metric: str
    setting: str
    anchor: str = ""

    def __str__(self) -> str:
        ending = f"-anchor-{self.anchor}" if self.anchor else ""
        return f"{self.scenario}/{self.arm}/{self.what}@{self.setting}{ending}"

    @property
    def what(self) -> str:
        """Its metric in a word: `ready`, `ready / anchor`."""
        return f"{self.metric} / anchor" if self.anchor else self.metric

    @property
    def own(self) -> SeriesId:
        """The series of the arm's own values."""
        return replace(self, anchor="")

    @property
    def quantity(self) -> Metric:
        """Its metric with unit and title."""
        metric = METRICS[self.metric]
        if not self.anchor:
            return metric
        return replace(metric, unit=Unit.RATIO, title=f"{metric.title}, × the anchor's")


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run that is in the history.

    Attributes:
        at: When it was started.
        folder: Where its records are; None if it came out of a table.
        trials: How many are on record.
        ended: Whether it ran to its end.
    """

    run_id: str
    at: datetime
    folder: Path | None
    trials: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Point:
    """The median of one run in one series.

    Attributes:
        commit: Of what it is a run; None where the run does not say.
        value: Median in the series' unit; infinity where most trials did not get there.
        interval: Of the median; None for an exact value.
        count: Blocks.
        is_exact: It was the same in every trial, and must be by nature: any difference is real.
    """

    run: RunRef
    commit: str | None
    value: float
    interval: stats.Interval | None
    count: int
    is_exact: bool

    @property
    def label(self) -> str:
        """Its commit, or the run where there is none."""
        return self.commit or self.run.run_id


@dataclass(frozen=True, slots=True)
class Series:
    """A series with its points, at least one, oldest first, and its class of host in words."""

    id: SeriesId
    host: str
    points: tuple[Point, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Those of its points."""
        return tuple(point.value for point in self.points)

    @property
    def is_exact(self) -> bool:
        """Whether any difference in it is real: all its points are exact, and it does not flap.

        What a filesystem allocates can be the same throughout a run and still differ between runs
        without a cause. Where that happens more often than ranks can separate levels, the
        series is judged like any other.
        """
        if METRICS[self.id.metric].is_exact:
            return True
        flaps = sum(before != after for before, after in pairwise(self.values))
        return all(point.is_exact for point in self.points) and flaps <= max(
            1, len(self.points) // SHORTEST
        )


@dataclass(frozen=True, slots=True)
class TakenRun:
    """A run reduced to its points, by series, with the host in words.

    Attributes:
        left_out: Why it gives no points, or some arms of it: `that did not end`.
    """

    ref: RunRef
    points: Mapping[SeriesId, tuple[str, Point]]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """All series of some runs.

    Attributes:
        runs: Oldest first, those without points among them.
        series: In the order of their names.
        problems: Why a run could not be used, a sentence each.
    """

    runs: tuple[RunRef, ...]
    series: tuple[Series, ...]
    problems: tuple[str, ...] = ()

    @property
    def runs_with_points(self) -> tuple[RunRef, ...]:
        """The runs that give at least one point, oldest first."""
        used = {point.run for series in self.series for point in series.points}
        return tuple(run for run in self.runs if run in used)


def take(
    data: RunData,
    folder: Path | None,
    metrics: Iterable[str] = METRICS_OF_INTEREST,
    commit_of: str = REVISION,
) -> TakenRun:
    """Reduce a run to its points.

    Args:
        data: The run, its trials as columns.
        folder: Of its records, or None.
        metrics: Keys of `harness.model.metrics.METRICS`.
        commit_of: The fact that says which commit it is a run of: of the run's environment, or
            else of the arm (`image` separates versions of an image).

    Raises:
        RecordError: The run does not say when it was.
    """
    info = data.info
    at = _time_of(info, folder)
    ref = RunRef(info.run_id, at, folder, len(data.frame), info.ended_at is not None)
    if info.ended_at is None or info.interrupted:
        return TakenRun(ref, {}, ("that did not end",))
    facts = info.environment
    host = f"{facts.get('cpu_model')}, {facts.get('cpus')} CPUs, kernel {facts.get('kernel')}"
    counted = data.frame[data.frame["counted"]]
    wanted = [METRICS[name] for name in metrics]
    points: dict[SeriesId, tuple[str, Point]] = {}
    rows_of, left_out = _usable(counted, info.arms)
    anchors = {(r.scenario, r.arm.anchors): r for r in info.arms if r.arm.anchors is not None}
    for record in info.arms:
        key = record.scenario, record.arm.name
        if record.arm.repeats is not None or record.arm.anchors is not None or key not in rows_of:
            continue
        setting = _setting(info, record)
        commit = _commit(info, record, commit_of)
        anchor = anchors.get(key)
        for metric in wanted:
            name = SeriesId(*key, metric.name, setting)
            estimate = _estimate(record, rows_of[key], metric)
            if estimate is not None:
                points[name] = (host, Point(ref, commit, *estimate))
            if anchor is None or (anchor.scenario, anchor.arm.name) not in rows_of:
                continue
            ratio = _ratio(rows_of[key], rows_of[anchor.scenario, anchor.arm.name], metric)
            if ratio is not None:
                name = replace(name, anchor=_image_of(anchor))
                points[name] = (host, Point(ref, commit, *ratio))
    return TakenRun(ref, points, left_out)


def history_of(runs: Iterable[TakenRun], problems: Iterable[str] = ()) -> History:
    """Lay runs out in series.

    A run that is there more than once (copied, merged, taken from an artifact) counts once: its
    most complete copy. The problems of runs that could not be read are passed on.
    """
    sentences = list(problems)
    best: dict[str, TakenRun] = {}
    for run in runs:
        known = best.setdefault(run.ref.run_id, run)
        if known is run:
            continue
        kept, other = sorted((known, run), key=_completeness, reverse=True)
        best[run.ref.run_id] = kept
        if _completeness(kept)[:2] != _completeness(other)[:2]:
            sentences.append(
                f"run {run.ref.run_id} is there twice; {kept.ref.folder or _IN_TABLE} is more "
                f"complete than {other.ref.folder or _IN_TABLE} and is used"
            )
    ordered = sorted(best.values(), key=lambda run: (run.ref.at, run.ref.run_id))
    points: dict[SeriesId, list[tuple[str, Point]]] = {}
    left_out: dict[str, list[str]] = {}
    for run in ordered:
        for reason in run.left_out:
            left_out.setdefault(reason, []).append(run.ref.run_id)
        for name, entry in run.points.items():
            points.setdefault(name, []).append(entry)
    series = tuple(
        Series(name, points[name][-1][0], tuple(point for _, point in points[name]))
        for name in sorted(points)
    )
    sentences += (_without_points(reason, runs) for reason, runs in left_out.items())
    return History(tuple(run.ref for run in ordered), series, tuple(dict.fromkeys(sentences)))


def _without_points(reason: str, runs: list[str]) -> str:
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return f"no points from {counted_noun(len(runs), 'run')} {reason}: " + (
        ", ".join(runs[:_MOST_NAMED]) + more
    )


def _completeness(run: TakenRun) -> tuple[int, bool, bool]:
    """Trials first; of equals the one that ended, then one whose records are at hand."""
    return run.ref.trials, run.ref.ended, run.ref.folder is not None


def _time_of(info: RunInfo, folder: Path | None) -> datetime:
    try:
        at = datetime.fromisoformat(info.started_at)
    except ValueError:
        where = folder or f"run {info.run_id}"
        raise RecordError(
            f"{where}: started_at: {info.started_at!r} is no time; the run has no place in order"
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _rows_of(counted: pd.DataFrame, record: ArmRecord) -> pd.DataFrame:
    """The counted trials of an arm that started alone, each in its last version."""
    mine = (counted["scenario"] == record.scenario) & (counted["arm"] == record.arm.name)
    rows = counted[mine & (counted["alive"] == 0) & (counted["together"] == 1)]
    return rows[~rows.duplicated(["block", "repetition"], keep="last")]


def _usable(
    counted: pd.DataFrame, records: Iterable[ArmRecord]
) -> tuple[dict[tuple[str, str], pd.DataFrame], tuple[str, ...]]:
    """The trials of each arm that can be a point, and why the other arms cannot."""
    usable: dict[tuple[str, str], pd.DataFrame] = {}
    lacking: dict[str, list[str]] = {}
    there = 0
    for record in records:
        rows = _rows_of(counted, record)
        if rows.empty:
            continue
        there += 1
        label = f"{record.scenario}/{record.arm.name}"
        if rows["block"].nunique() < FEWEST_BLOCKS:
            lacking.setdefault(f"with fewer than {FEWEST_BLOCKS} blocks", []).append(label)
        elif not (rows["outcome"] == Outcome.OK.value).any():
            lacking.setdefault("in which every trial failed", []).append(label)
        else:
            usable[record.scenario, record.arm.name] = rows
    reasons = (
        reason if len(labels) == there else f"{reason} of {', '.join(labels)}"
        for reason, labels in lacking.items()
    )
    return usable, tuple(reasons)


def _setting(info: RunInfo, record: ArmRecord) -> str:
    facts = (record.facts.get(name) for name in ARM_CLASS_FACTS)
    cold = "cold" if record.arm.cache is CacheState.COLD else None
    beside = company(info.arms_in(record.scenario), record.arm)
    return "-".join(filter(None, (host_class(info.environment), *facts, cold, beside)))


def _commit(info: RunInfo, record: ArmRecord, fact: str) -> str | None:
    value = info.environment.get(fact)
    value = record.facts.get(fact) if value is None else value
    return None if value in (None, "") else str(value)


def _estimate(
    record: ArmRecord, rows: pd.DataFrame, metric: Metric
) -> tuple[float, stats.Interval | None, int, bool] | None:
    """Median, interval, blocks, and whether it is exact; None where the arm has no such metric."""
    if metric.is_static:
        return static_value(metric.name, record), None, rows["block"].nunique(), True
    from harness.records.dataset import samples

    if metric.name != "ready" and not rows[metric.column].notna().any():
        return None
    _, values = samples(rows, metric.column)
    found = stats.estimate(values)
    if found is None:
        return None
    # Of one trial as well: a series is exact where the trials of every run agree.
    is_same = bool((values == values[0]).all())
    is_exact = metric.is_exact or (metric.name in _DISK and is_same)
    return found.median, None if is_exact else found.interval, found.count, is_exact


def _ratio(
    rows: pd.DataFrame, anchor: pd.DataFrame, metric: Metric
) -> tuple[float, stats.Interval | None, int, bool] | None:
    """The same of the ratios of an arm to its anchor; None for what does not vary with the host."""
    if metric.is_static or metric.is_exact or metric.name in _DISK:
        return None
    from harness.records.dataset import durations

    if not (rows[metric.column].notna().any() and anchor[metric.column].notna().any()):
        return None
    found = stats.paired_ratio(durations(rows, metric.column), durations(anchor, metric.column))
    if found is None or not found.estimate.median > 0:
        return None  # it is the anchor that did not get there
    return found.estimate.median, found.estimate.interval, found.estimate.count, False


def _image_of(anchor: ArmRecord) -> str:
    name = str(anchor.facts.get("image") or anchor.arm.image or anchor.arm.name)
    return name.rpartition("sha256:")[2][:12]
