"""The quantities that can be judged: their names, units, titles, and how each comes from a trial.

One registry for all who ask by name: `--until`, budgets, comparisons, histories, tables, charts.
Smaller is better for every one of them. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from harness.model.values import ArmRecord, Meter, Milestone, Outcome, Trial


class Unit(StrEnum):
    """What a metric's numbers count; the value is the suffix of its column."""

    NANOSECONDS = "ns"
    BYTES = "bytes"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity.

    Attributes:
        name: As users spell it: `ready`, `pss`.
        unit: Of its values.
        title: For tables and axes.
        is_static: It belongs to the arm (`ArmRecord`) and not to a trial: one value a run.
        is_exact: Equal inputs give equal values, so that any difference is real: disk, mostly.
    """

    name: str
    unit: Unit
    title: str
    is_static: bool = False
    is_exact: bool = False

    @property
    def column(self) -> str:
        """Its column in the table of trials: `ready_ns`, `pss_bytes`."""
        return f"{self.name.replace('-', '_')}_{self.unit}"


_MILESTONES = {
    "isolated": Milestone.ISOLATED,
    "kernel": Milestone.KERNEL,
    "userspace": Milestone.USERSPACE,
    "started": Milestone.STARTED,
    "ready": Milestone.READY,
}
_METERS = {
    "cpu": Meter.CPU_NS,
    "cpu-user": Meter.CPU_USER_NS,
    "cpu-system": Meter.CPU_SYSTEM_NS,
    "pss": Meter.PSS_BYTES,
    "uss": Meter.USS_BYTES,
    "cgroup-current": Meter.CGROUP_CURRENT_BYTES,
    "cgroup-peak": Meter.CGROUP_PEAK_BYTES,
    "available-delta": Meter.AVAILABLE_DELTA_BYTES,
    "image-read": Meter.IMAGE_READ_BYTES,
    "image-total": Meter.IMAGE_TOTAL_BYTES,
    "left-behind": Meter.LEFT_BEHIND,
}
_ALL = (
    Metric("isolated", Unit.NANOSECONDS, "time until isolated"),
    Metric("kernel", Unit.NANOSECONDS, "time until the guest kernel"),
    Metric("userspace", Unit.NANOSECONDS, "time until the guest's init"),
    Metric("started", Unit.NANOSECONDS, "time until started"),
    Metric("ready", Unit.NANOSECONDS, "time until ready"),
    Metric("stop", Unit.NANOSECONDS, "time to stop"),
    Metric("remove", Unit.NANOSECONDS, "time to remove"),
    Metric("cpu", Unit.NANOSECONDS, "CPU time until ready"),
    Metric("cpu-user", Unit.NANOSECONDS, "CPU time in user mode until ready"),
    Metric("cpu-system", Unit.NANOSECONDS, "CPU time in the kernel until ready"),
    Metric("pss", Unit.BYTES, "memory, proportional (PSS)"),
    Metric("uss", Unit.BYTES, "memory, unique (USS)"),
    Metric("cgroup-current", Unit.BYTES, "memory charged to the cgroup"),
    Metric("cgroup-peak", Unit.BYTES, "most memory charged to the cgroup"),
    Metric("available-delta", Unit.BYTES, "fall of the host's available memory"),
    Metric("image-read", Unit.BYTES, "read of the image until ready"),
    Metric("image-total", Unit.BYTES, "image that could be read"),
    Metric("disk", Unit.BYTES, "disk of each instance"),
    Metric("disk-growth", Unit.BYTES, "disk written until ready"),
    Metric(
        "disk-shared", Unit.BYTES, "disk shared by all instances", is_static=True, is_exact=True
    ),
    Metric("left-behind", Unit.COUNT, "things left behind", is_exact=True),
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
        before it had it, and for `ready` wherever a trial failed: a bound, not a result.
    """
    value = _value(metric, trial, record)
    if metric in _MILESTONES and trial.outcome is not Outcome.OK:
        return math.inf if metric == "ready" or math.isnan(value) else value
    return value


def _value(metric: str, trial: Trial, record: ArmRecord | None) -> float:
    at = trial.milestones_ns
    if metric in _MILESTONES:
        return float(at.get(_MILESTONES[metric], math.nan))
    if metric == "stop":
        # Records of schema 1 do not say when the stop was asked for: right after ready.
        asked = Milestone.STOPPING if Milestone.STOPPING in at else Milestone.READY
        return _between(trial, asked, Milestone.STOPPED)
    if metric == "remove":
        return _between(trial, Milestone.STOPPED, Milestone.REMOVED)
    if metric in _METERS:
        return _reading(trial, _METERS[metric])
    if not trial.disk and trial.outcome is not Outcome.OK:
        return math.nan
    owned = float(sum(part.exclusive_bytes for part in trial.disk))
    if metric == "disk":
        static = record.disk if record is not None else ()
        return owned + sum(part.exclusive_bytes for part in static)
    if metric == "disk-growth":
        if not trial.disk:
            return math.nan  # it has no files of its own: what it writes goes where others write
        # An arm that has nothing before it runs has an empty tuple: then all of it grew.
        return (
            owned - sum(part.exclusive_bytes for part in record.initial_disk) if record else owned
        )
    message = f"{metric} is no metric of a trial"
    raise ValueError(message)


def static_value(metric: str, record: ArmRecord) -> float:
    """A static metric of an arm, in its unit."""
    if metric == "disk-shared":
        return float(sum(part.shared_bytes for part in record.disk))
    message = f"{metric} is no metric of an arm"
    raise ValueError(message)


def _between(trial: Trial, first: Milestone, second: Milestone) -> float:
    at = trial.milestones_ns
    return float(at.get(second, math.nan)) - float(at.get(first, math.nan))


def _reading(trial: Trial, meter: Meter) -> float:
    for reading in trial.readings:
        if reading.meter is meter and reading.value is not None:
            return float(reading.value)
    return math.nan
