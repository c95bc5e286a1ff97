"""Runs in the order of time: one series for each scenario, arm, metric and setting. Pure.

A point of a series is the median of one run. Absolute times compare only where the circumstances
are the same, so the setting (class of host, accelerator, launcher, state of the page cache) is part
of what a series is: another host begins another series, and never looks like a change.

Arms that repeat another one (A/A) are left out: they are the same thing under another name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from harness import stats
from harness.model import ArmRecord, CacheState, RunInfo
from harness.model.comparability import ARM_CLASS_FACTS, host_class
from harness.model.errors import RecordError
from harness.model.metrics import METRICS, Metric, static_value
from harness.stats.changes import SHORTEST

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.dataset import RunData

METRICS_OF_INTEREST = ("ready", "cpu", "pss", "disk", "disk-shared")
"""What is followed if nothing else is asked for: each more dulls the eye for the others."""
REVISION = "steelyard_revision"
"""The fact that says which commit a run is of, if no other is named."""

_DISK = ("disk", "disk-growth")


@dataclass(frozen=True, slots=True, order=True)
class SeriesId:
    """What makes two points comparable.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        setting: Class of host (`host_class` of `harness.model.comparability`), accelerator,
            launcher, `cold`: joined by hyphens, as far as the arm has them.
    """

    scenario: str
    arm: str
    metric: str
    setting: str

    def __str__(self) -> str:
        return f"{self.scenario}/{self.arm}/{self.metric}@{self.setting}"

    @property
    def quantity(self) -> Metric:
        """Its metric with unit and title."""
        return METRICS[self.metric]


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run that is in the history.

    Attributes:
        run_id: Its identifier.
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
    """What one run says of one series.

    Attributes:
        run: Which.
        commit: What it is a run of; None where the run does not say.
        value: Median in the metric's unit; infinity where most trials did not get there.
        interval: Of the median; None for a single trial or an exact value.
        count: Trials.
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
    """A series with its points, oldest first.

    Attributes:
        id: What it is of.
        host: What the setting's class of host is, in words.
        points: At least one.
    """

    id: SeriesId
    host: str
    points: tuple[Point, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Of its points."""
        return tuple(point.value for point in self.points)

    @property
    def is_exact(self) -> bool:
        """Whether any difference in it is real: all its points are exact, and it does not flap.

        What a filesystem allocates can be the same throughout a run and still differ between runs
        without a cause. Where that happens more often than levels can be told apart by ranks, the
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
    """What is kept of a run once it has been read: a few numbers.

    Attributes:
        ref: Which.
        points: By series, with the host in words.
    """

    ref: RunRef
    points: Mapping[SeriesId, tuple[str, Point]]


@dataclass(frozen=True, slots=True)
class History:
    """All series of some runs.

    Attributes:
        runs: Oldest first.
        series: In the order of their names.
        problems: What could not be used, and why, a sentence each.
    """

    runs: tuple[RunRef, ...]
    series: tuple[Series, ...]
    problems: tuple[str, ...] = ()


def take(
    data: RunData,
    folder: Path | None,
    metrics: Iterable[str] = METRICS_OF_INTEREST,
    commit_of: str = REVISION,
) -> TakenRun:
    """Reduce a run to its points.

    Args:
        data: The run, its trials as columns.
        folder: Where its records are, or None.
        metrics: Keys of `harness.model.metrics.METRICS`.
        commit_of: The fact that says which commit it is a run of: of the run's environment, or
            else of the arm (`image` tells versions of an image apart).

    Raises:
        RecordError: The run does not say when it was.
    """
    info = data.info
    at = _time_of(info, folder)
    ref = RunRef(info.run_id, at, folder, len(data.frame), info.ended_at is not None)
    counted = data.frame[data.frame["counted"]]
    wanted = [METRICS[name] for name in metrics]
    points: dict[SeriesId, tuple[str, Point]] = {}
    for record in info.arms:
        if record.arm.repeats is not None:
            continue
        rows = _rows_of(counted, record)
        if rows.empty:
            continue
        host, words = _setting(info, record), _host_in_words(info)
        commit = _commit(info, record, commit_of)
        for metric in wanted:
            found = _figure(record, rows, metric)
            if found is None:
                continue
            value, interval, count, is_exact = found
            point = Point(ref, commit, value, interval, count, is_exact)
            points[SeriesId(record.scenario, record.arm.name, metric.name, host)] = (words, point)
    return TakenRun(ref, points)


def history_of(runs: Iterable[TakenRun], problems: Iterable[str] = ()) -> History:
    """Lay runs out in series.

    A run that is there more than once (copied, merged, taken from an artifact) counts once: its
    most complete copy.

    Args:
        runs: In any order.
        problems: What could not be read, told along.
    """
    told = list(problems)
    best: dict[str, TakenRun] = {}
    for run in runs:
        known = best.get(run.ref.run_id)
        if known is None:
            best[run.ref.run_id] = run
            continue
        kept, other = sorted((known, run), key=_completeness, reverse=True)
        best[run.ref.run_id] = kept
        if _completeness(kept)[:2] != _completeness(other)[:2]:
            told.append(
                f"run {run.ref.run_id} is there twice; {_place(kept)} is more complete than "
                f"{_place(other)} and is used"
            )
    ordered = sorted(best.values(), key=lambda run: (run.ref.at, run.ref.run_id))
    points: dict[SeriesId, list[tuple[str, Point]]] = {}
    for run in ordered:
        for name, entry in run.points.items():
            points.setdefault(name, []).append(entry)
    series = tuple(
        Series(name, points[name][-1][0], tuple(point for _, point in points[name]))
        for name in sorted(points)
    )
    return History(tuple(run.ref for run in ordered), series, tuple(dict.fromkeys(told)))


def _completeness(run: TakenRun) -> tuple[int, bool, bool]:
    """Trials first; of equals the one that ended, then one whose records are at hand."""
    return run.ref.trials, run.ref.ended, run.ref.folder is not None


def _place(run: TakenRun) -> str:
    return str(run.ref.folder) if run.ref.folder else "the one in a table"


def _time_of(info: RunInfo, folder: Path | None) -> datetime:
    try:
        at = datetime.fromisoformat(info.started_at)
    except ValueError:
        where = folder or f"run {info.run_id}"
        text = f"{where}: started_at: {info.started_at!r} is no time; the run has no place in order"
        raise RecordError(text) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _rows_of(counted: pd.DataFrame, record: ArmRecord) -> pd.DataFrame:
    """The counted trials of an arm that started alone, the last version of each block."""
    mine = (counted["scenario"] == record.scenario) & (counted["arm"] == record.arm.name)
    rows = counted[mine & (counted["alive"] == 0) & (counted["together"] == 1)]
    return rows[~rows["block"].duplicated(keep="last")]


def _setting(info: RunInfo, record: ArmRecord) -> str:
    facts = (record.facts.get(name) for name in ARM_CLASS_FACTS)
    cold = "cold" if record.arm.cache is CacheState.COLD else None
    return "-".join(filter(None, (host_class(info.environment), *facts, cold)))


def _host_in_words(info: RunInfo) -> str:
    facts = info.environment
    return f"{facts.get('cpu_model')}, {facts.get('cpus')} CPUs, kernel {facts.get('kernel')}"


def _commit(info: RunInfo, record: ArmRecord, fact: str) -> str | None:
    value = info.environment.get(fact)
    if value is None:
        value = record.facts.get(fact)
    return None if value is None or value == "" else str(value)


def _figure(
    record: ArmRecord, rows: pd.DataFrame, metric: Metric
) -> tuple[float, stats.Interval | None, int, bool] | None:
    """Median, interval, trials, and whether it is exact; None where the arm has no such thing."""
    if metric.is_static:
        return static_value(metric.name, record), None, len(rows), True
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
