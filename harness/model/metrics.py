"""The quantities that can be judged: their names, units, titles, and what each is made of.

One table for all who ask by name: `--until`, budgets, comparisons, histories, tables, charts. What
a metric is made of is said once and computed of one trial here, and of the columns of many in
`harness.records.dataset`. Smaller is better for every one of them. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.run import ArmRecord
from harness.model.trial import DiskPart, Meter, Milestone, Outcome, Trial

_V_co = TypeVar("_V_co", covariant=True)


class Unit(StrEnum):
    """What a metric's numbers count; the value is the suffix of its column."""

    NANOSECONDS = "ns"
    BYTES = "bytes"
    COUNT = "count"
    RATIO = "ratio"
    """Multiples of an anchor's value; no trial has them alone."""


class MetricSource(Protocol[_V_co]):
    """What metrics are made of: numbers of one trial, or columns of many. NaN is "not known"."""

    def at(self, milestone: Milestone) -> _V_co:
        """Nanoseconds since t0."""

    def read(self, meter: Meter) -> _V_co:
        """The first value that the meter said."""

    def stop_asked_ns(self) -> _V_co:
        """Nanoseconds from t0 until the stop; schema 1 does not say: right after ready."""

    def written_bytes(self) -> _V_co:
        """What the instance alone has on disk; not known where it has no files of its own."""

    def owned_bytes(self) -> _V_co:
        """The same, and 0 where an instance that went well has none."""

    def static_bytes(self) -> _V_co:
        """Of the arm's static parts, what each instance owns."""

    def initial_bytes(self) -> _V_co:
        """What the instance had before it ran; schema 1 does not say."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity.

    Attributes:
        name: As users spell it: `ready`, `pss`.
        unit: Of its values.
        title: For tables and axes.
        made_of: A milestone, a meter, or a function of a `MetricSource`; of a static one: of an
            `ArmRecord`.
        is_static: It belongs to the arm (`ArmRecord`) and not to a trial: one value a run.
        is_exact: Equal inputs give equal values, so that any difference is real: disk, mostly.
    """

    name: str
    unit: Unit
    title: str
    made_of: Milestone | Meter | Callable[[Any], Any]
    is_static: bool = False
    is_exact: bool = False

    @property
    def column(self) -> str:
        """Its column in the table of trials: `ready_ns`, `pss_bytes`."""
        return f"{self.name.replace('-', '_')}_{self.unit}"

    @property
    def meter(self) -> Meter | None:
        """The meter that it is read from, if it is."""
        return self.made_of if isinstance(self.made_of, Meter) else None

    @property
    def is_milestone(self) -> bool:
        """Whether a trial that failed before it is longer than all that reached it."""
        return isinstance(self.made_of, Milestone)

    def of(self, source: MetricSource[_V_co]) -> _V_co:
        """Its value, or its column, nothing censored."""
        if isinstance(self.made_of, Milestone):
            return source.at(self.made_of)
        if isinstance(self.made_of, Meter):
            return source.read(self.made_of)
        value: _V_co = self.made_of(source)
        return value


def _shared_bytes(record: ArmRecord) -> float:
    return float(sum(part.shared_bytes for part in record.disk))


def _exclusive_bytes(parts: tuple[DiskPart, ...]) -> float:
    return float(sum(part.exclusive_bytes for part in parts))


_NS, _BYTES, _COUNT = Unit.NANOSECONDS, Unit.BYTES, Unit.COUNT
_ALL = (
    Metric("isolated", _NS, "time until isolated", Milestone.ISOLATED),
    Metric("kernel", _NS, "time until the guest kernel", Milestone.KERNEL),
    Metric("userspace", _NS, "time until the guest's init", Milestone.USERSPACE),
    Metric("started", _NS, "time until started", Milestone.STARTED),
    Metric("ready", _NS, "time until ready", Milestone.READY),
    Metric("file-system", _NS, "of ready: file system", Meter.FILE_SYSTEM_NS),
    Metric("stop", _NS, "time to stop", lambda s: s.at(Milestone.STOPPED) - s.stop_asked_ns()),
    Metric(
        "remove",
        _NS,
        "time to remove",
        lambda s: s.at(Milestone.REMOVED) - s.at(Milestone.STOPPED),
    ),
    Metric("cpu", _NS, "CPU time until ready", Meter.CPU_NS),
    Metric("cpu-user", _NS, "CPU time in user mode until ready", Meter.CPU_USER_NS),
    Metric("cpu-system", _NS, "CPU time in the kernel until ready", Meter.CPU_SYSTEM_NS),
    Metric("pss", _BYTES, "memory, proportional (PSS)", Meter.PSS_BYTES),
    Metric("uss", _BYTES, "memory, unique (USS)", Meter.USS_BYTES),
    Metric("cgroup-current", _BYTES, "memory charged to the cgroup", Meter.CGROUP_CURRENT_BYTES),
    Metric("cgroup-peak", _BYTES, "most memory charged to the cgroup", Meter.CGROUP_PEAK_BYTES),
    Metric(
        "available-delta",
        _BYTES,
        "fall of the host's available memory",
        Meter.AVAILABLE_DELTA_BYTES,
    ),
    Metric("image-read", _BYTES, "read of the image until ready", Meter.IMAGE_READ_BYTES),
    Metric("image-total", _BYTES, "image that could be read", Meter.IMAGE_TOTAL_BYTES),
    Metric("disk", _BYTES, "disk of each instance", lambda s: s.owned_bytes() + s.static_bytes()),
    Metric(
        "disk-growth",
        _BYTES,
        "disk written until ready",
        lambda s: s.written_bytes() - s.initial_bytes(),
    ),
    Metric(
        "disk-shared",
        _BYTES,
        "disk shared by all instances",
        _shared_bytes,
        is_static=True,
        is_exact=True,
    ),
    Metric("left-behind", _COUNT, "things left behind", Meter.LEFT_BEHIND, is_exact=True),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""By name, in the order in which tables show them."""


def trial_value(metric: str, trial: Trial, record: ArmRecord | None = None) -> float:
    """A metric of one trial.

    Args:
        metric: A key of `METRICS` that is not static.
        trial: From which.
        record: Of its arm: static parts that every instance owns, and what `disk-growth` grew from.

    Returns:
        In the metric's unit. NaN where the trial does not have it. Infinity where a trial failed
        before it had it, and for `ready` in every failed trial: a bound, not a result.
    """
    known = METRICS[metric]
    if known.is_static:
        raise ValueError(f"{metric} is no metric of a trial")
    value = known.of(_OfTrial(trial, record))
    if known.is_milestone and trial.outcome is not Outcome.OK:
        return math.inf if metric == "ready" or math.isnan(value) else value
    return value


def block_value(values: Iterable[float]) -> float:
    """The value of an arm in one block, from those of its counted trials there: their median.

    Of an even number (one trial has no value) it is the upper of the two in the middle: a value
    that was seen, and never better than one that a failure, which is infinite, stands beside.

    Returns:
        NaN where no trial has a value; NaN is left out otherwise.
    """
    there = sorted(value for value in values if not math.isnan(value))
    return there[len(there) // 2] if there else math.nan


def static_value(metric: str, record: ArmRecord) -> float:
    """A static metric of an arm, in its unit."""
    made_of = METRICS[metric].made_of
    if not METRICS[metric].is_static or not callable(made_of):
        raise ValueError(f"{metric} is no metric of an arm")
    return float(made_of(record))


def static_bytes(record: ArmRecord | None) -> float:
    """What each instance owns of the static parts of its arm."""
    return 0.0 if record is None else _exclusive_bytes(record.disk)


def initial_bytes(record: ArmRecord | None) -> float:
    """What each instance of an arm has before it runs; NaN where that is not known."""
    if record is None or record.initial_disk is None:
        return math.nan
    return _exclusive_bytes(record.initial_disk)


def is_flushed(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether what a trial's instance had written was on disk when that was measured."""
    return all(one.code is not DiagnosticCode.NOT_FLUSHED for one in diagnostics)


class _OfTrial:
    """One trial as a `MetricSource`."""

    __slots__ = ("_record", "_trial")

    def __init__(self, trial: Trial, record: ArmRecord | None) -> None:
        self._trial = trial
        self._record = record

    def at(self, milestone: Milestone) -> float:
        return float(self._trial.milestones_ns.get(milestone, math.nan))

    def read(self, meter: Meter) -> float:
        for reading in self._trial.readings:
            if reading.meter is meter and reading.value is not None:
                return float(reading.value)
        return math.nan

    def stop_asked_ns(self) -> float:
        does_say = Milestone.STOPPING in self._trial.milestones_ns
        return self.at(Milestone.STOPPING if does_say else Milestone.READY)

    def written_bytes(self) -> float:
        known = self._trial.disk and is_flushed(self._trial.diagnostics)
        return _exclusive_bytes(self._trial.disk) if known else math.nan

    def owned_bytes(self) -> float:
        went_well = self._trial.outcome is Outcome.OK
        return 0.0 if went_well and not self._trial.disk else self.written_bytes()

    def static_bytes(self) -> float:
        return static_bytes(self._record)

    def initial_bytes(self) -> float:
        return initial_bytes(self._record)
