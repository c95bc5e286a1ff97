"""Adds up what all living instances of an arm take at one moment.

Disk: the exclusive parts of each added up by name, and the static parts that all of them share. A
guest puts on its disk what it holds in memory when its own trial is metered, and at no point again:
its part has that, and what it has written out by itself since. One that did not do so then is in
the sum with what was on its disk, and its trial has the diagnostic NOT_FLUSHED.
Memory: PSS and USS of all processes, the charge of all control groups, and the fall of the host's
MemAvailable since before the first. Peaks of control groups are left out: each had its own at
another time, and their sum is no peak.

PSS counts memory that the instances share once, USS not at all. On a line through several numbers
of instances, shared memory is the intercept, and the cost of one more is the slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.meters import memory
from harness.model import DiskPart, GrowthPoint, Meter, Reading, Sharing, Slot
from harness.model.backend import Accounting, Instance, PreparedArm


def read_footprint(
    slot: Slot,
    prepared: PreparedArm,
    living: Sequence[Instance],
    available_before: int | None,
) -> GrowthPoint:
    """Read it now, in about 0.5 ms for a container and some milliseconds for a guest.

    Args:
        slot: Scenario, arm and block of the point.
        prepared: The arm, for its static parts.
        living: All its instances.
        available_before: MemAvailable in bytes before the first was requested.

    Raises:
        OSError: The files of an instance cannot be read.
        HarnessError: An instance cannot say where its use is accounted.
    """
    accountings = [instance.accounting() for instance in living]
    readings = [
        reading
        for reading in memory.read(accountings, available_before)
        if reading.meter is not Meter.CGROUP_PEAK_BYTES
    ]
    owned = sum_parts(part for instance in living for part in instance.disk_parts())
    return GrowthPoint(
        scenario=slot.scenario,
        arm=slot.arm,
        block=slot.block,
        instances=len(living),
        disk=(*prepared.disk_parts(), *owned),
        readings=tuple(_own_readings(reading, accountings) for reading in readings),
    )


def sum_parts(parts: Iterable[DiskPart]) -> tuple[DiskPart, ...]:
    """Add up parts of the same name and sharing, in the order in which the names first came.

    Where one part does not know what is reflinked, the sum does not know it either.
    """
    groups: dict[tuple[str, Sharing], list[DiskPart]] = {}
    for part in parts:
        groups.setdefault((part.name, part.sharing), []).append(part)
    sums = []
    for (name, sharing), group in groups.items():
        apparent = sum(part.apparent_bytes for part in group)
        allocated = sum(part.allocated_bytes for part in group)
        known = [part.reflinked_bytes for part in group if part.reflinked_bytes is not None]
        reflinked = sum(known) if len(known) == len(group) else None
        sums.append(DiskPart(name, sharing, apparent, allocated, reflinked))
    return tuple(sums)


def _own_readings(reading: Reading, accountings: Sequence[Accounting]) -> Reading:
    """Add up the instances' own readings of the meter, if all have one; else keep the meter's."""
    every = [one for accounting in accountings for one in accounting.readings]
    own = [one for one in every if one.meter is reading.meter]
    values = [one.value for one in own if one.value is not None]
    if not own or len(values) < len(accountings):
        return next((one for one in own if one.value is None), reading)
    return Reading(reading.meter, sum(values), own[0].scope)
