"""Quantities as the report spells them: three significant digits, a unit, an interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from harness.model import Milestone
from harness.model.metrics import Unit
from harness.model.units import SCALES, SIZES, TIMES, digits, quantity, spell, unit_of
from harness.stats import Comparison, Estimate, Interval

NOT_REACHED = "not reached"
NONE = "–"
"""A value that does not exist, such as a container's guest kernel."""

MEANING: Mapping[Milestone, str] = MappingProxyType(
    {
        Milestone.REQUESTED: "t0: just before the first system call that creates the instance. "
        "Everything else is counted from here, on the host's monotonic clock.",
        Milestone.ISOLATED: "The box is made: a container's namespaces, mounts and limits are in "
        "place; a VM's QEMU is up and its processors are about to run.",
        Milestone.KERNEL: "VM only: the guest's kernel was entered; firmware and loading are over.",
        Milestone.USERSPACE: "VM only: the guest's kernel has booted and its init begins.",
        Milestone.STARTED: "The workload itself begins: its exec is done, or in a VM about to be.",
        Milestone.READY: "The workload is usable: the scenario's condition first held, seen from "
        "the host in the same way for every arm. This is the figure that is compared.",
        Milestone.STOPPING: "The stop is asked for. Between ready and this the meters are read.",
        Milestone.STOPPED: "The last process of the instance is gone, after it was asked to stop.",
        Milestone.REMOVED: "Nothing is left on the host: no mount, cgroup, network, file, socket.",
    }
)

PHASES: Mapping[Milestone, str] = MappingProxyType(
    {
        Milestone.ISOLATED: "making the box",
        Milestone.KERNEL: "firmware, loading the kernel",
        Milestone.USERSPACE: "guest kernel boots",
        Milestone.STARTED: "up to the workload's exec",
        Milestone.READY: "workload, until ready",
    }
)
"""The activity before each milestone, since the one before it."""

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "process": "the program alone in the image's files (chroot), no isolation: the floor",
        "container": "six namespaces, overlay, cgroup, capabilities, on the host's kernel",
        "vm-micro": "QEMU microvm: uncompressed kernel, minimal firmware, overlay on a shared disk",
        "vm-classic": "QEMU q35: a whole PC with firmware, bzImage and a disk of its own",
        "runc": "the reference OCI runtime, on the same layers, with the container arm's hardening",
        "crun": "an OCI runtime in C, on the same layers, with the container arm's hardening",
        "bwrap": "Bubblewrap: five namespaces on an overlay of the same layers, no limits",
        "podman": "an engine without a daemon: its own storage and defaults, an OCI runtime below",
        "docker": "an engine with a daemon: its own storage and defaults",
        "null": "no box at all: the path of measuring with nothing in it",
        "fake": "no box at all: made-up milestones, to test the harness",
    }
)


def duration(ns: float) -> str:
    """Spell a duration: `2.41 s`, `3.05 ms`, `840 µs`."""
    return quantity(ns, TIMES)


def size(count_bytes: float) -> str:
    """Spell a size in decimal units, as disks are sold: `52.6 MB`."""
    return quantity(count_bytes, SIZES)


def times(factor: float) -> str:
    """Spell a ratio: `43.1 ×`."""
    return f"{digits(factor, factor)} ×"


def duration_estimate(value: Estimate | None) -> str:
    """Spell a median duration with its interval: `2.41 s [2.36–2.47]`."""
    return _estimate(value, TIMES)


def size_estimate(value: Estimate | None) -> str:
    """Spell a median size with its interval: `52.6 MB [51.9–53.0]`."""
    return _estimate(value, SIZES)


def quantile(ns: float | None) -> str:
    """Spell a quantile of durations; a dash where there are too few trials for it."""
    return NONE if ns is None else amount(ns, Unit.NANOSECONDS)


def ratio(value: Comparison | None) -> str:
    """Spell a paired ratio with its interval: `43.1 × [39.2–47.0]`."""
    if value is None:
        return NONE
    if not value.estimate.is_reached:  # -infinity: it is the reference that failed
        return NOT_REACHED if value.estimate.median == math.inf else "cannot tell"
    middle = value.estimate.median
    return f"{times(middle)}{_bracket(value.estimate.interval, middle, 1.0)}"


def difference(value: Comparison) -> str:
    """Spell the size of a paired difference: `2.40 s [2.36–2.45]`; its sentence says the sign."""
    return duration_estimate(positive(value.estimate))


def positive(value: Estimate) -> Estimate:
    """Turn the sign of an estimate that is below zero; the sentence around it says so."""
    if value.median >= 0 or not value.is_reached:
        return value
    interval = value.interval and Interval(
        -value.interval.high, -value.interval.low, value.interval.coverage, value.interval.method
    )
    return Estimate(-value.median, interval, value.count, value.censored)


def amount(value: float, unit: Unit) -> str:
    """Spell a value of a metric in its unit: `2.41 s`, `52.6 MB`, `3`, `1.04 ×`."""
    return spell(unit, value)


def amount_estimate(value: Estimate | None, unit: Unit) -> str:
    """Spell a median of a metric with its interval, in its unit."""
    if value is None:
        return NONE
    if unit is Unit.RATIO and value.is_reached:
        return f"{times(value.median)}{_bracket(value.interval, value.median, 1.0)}"
    return _estimate(value, SCALES[unit]) if unit in SCALES else amount(value.median, unit)


def median_amount(value: Estimate | None, unit: Unit) -> str:
    """Spell a median of a metric alone."""
    return NONE if value is None else amount(value.median, unit)


def share(part: float) -> str:
    """Spell a share: `16 %`, `0.4 %`, `0 %`."""
    percent = part * 100 + 0.0  # and no minus before a zero
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.2g} %"


def ordinal(number: int) -> str:
    """Spell a place: `1st`, `2nd`, `11th`."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def every(number: int, noun: str) -> str:
    """Spell all of so many: `the only trial`, `both trials`, `all 12 trials`."""
    return {1: f"the only {noun}", 2: f"both {noun}s"}.get(number, f"all {number} {noun}s")


def listed(words: list[str]) -> str:
    """Join words for a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def bound(sentence: str) -> str:
    """Bind numbers to their units and brackets, so that no line breaks between them."""
    gap = r"(?<=[\d×]) (?=(?:[nµm]?s|[kMG]?B|%|×|\[)(?!\w))"
    return re.sub(gap, "\N{NO-BREAK SPACE}", sentence)


def duration_unit(ns: float) -> tuple[float, str]:
    """Choose the unit of an axis: its length in ns and its name, `(1e9, "s")`."""
    return unit_of(ns, TIMES)


def size_unit(count_bytes: float) -> tuple[float, str]:
    """Choose the unit of an axis: its size in bytes and its name, `(1e6, "MB")`."""
    return unit_of(count_bytes, SIZES)


def _estimate(value: Estimate | None, units: tuple[tuple[float, str], ...]) -> str:
    if value is None:
        return NONE
    if not value.is_reached:
        return NOT_REACHED
    scale, _ = unit_of(value.median, units) if value.median else (1.0, "")
    return f"{quantity(value.median, units)}{_bracket(value.interval, value.median, scale)}"


def _bracket(interval: Interval | None, middle: float, scale: float) -> str:
    """Spell an interval in the unit and with the decimals of its median."""
    if interval is None:
        return ""
    whole = scale == 1.0 and abs(middle) >= 100
    low, high = (
        digits(end / scale, middle / scale, whole=whole) if math.isfinite(end) else "?"
        for end in (interval.low, interval.high)
    )
    return f" [{low}–{high}]"
