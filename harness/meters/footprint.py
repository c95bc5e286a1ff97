"""What all living instances of an arm take together, at one moment.

Disk: the exclusive parts of each added up by name, and the static parts that all of them share, as
they are. Memory: PSS and USS of all their processes, what their control groups are charged, and how
far the host's MemAvailable has fallen since before the first of them. The peaks of control groups
are not among it: each had its own at another time, and their sum is no peak.

PSS divides a page among all who map it, so what the instances share among themselves is in the sum
once; USS does not count it at all. On a line through several numbers of instances, what is shared
is the intercept, and what one more costs is the slope.
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
    """Read it now; takes about 0.5 ms for a container and some milliseconds for a guest.

    Args:
        slot: Whose point it is.
        prepared: The arm, for its static parts.
        living: All its instances.
        available_before: MemAvailable before the first was requested.

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
        readings=tuple(_said_by_instances(reading, accountings) for reading in readings),
    )


def sum_parts(parts: Iterable[DiskPart]) -> tuple[DiskPart, ...]:
    """Parts of the same name and sharing as one, in the order in which the names first came.

    Where one part does not know what is reflinked, the sum does not know it either.
    """
    sums: dict[tuple[str, Sharing], DiskPart] = {}
    for part in parts:
        key = part.name, part.sharing
        so_far = sums.get(key)
        sums[key] = part if so_far is None else _added(so_far, part)
    return tuple(sums.values())


def _added(first: DiskPart, second: DiskPart) -> DiskPart:
    reflinked: int | None = None
    if first.reflinked_bytes is not None and second.reflinked_bytes is not None:
        reflinked = first.reflinked_bytes + second.reflinked_bytes
    return DiskPart(
        name=first.name,
        sharing=first.sharing,
        apparent_bytes=first.apparent_bytes + second.apparent_bytes,
        allocated_bytes=first.allocated_bytes + second.allocated_bytes,
        reflinked_bytes=reflinked,
    )


def _said_by_instances(reading: Reading, accountings: Sequence[Accounting]) -> Reading:
    """The sum of what the instances count by themselves, where all do; else what the meter said."""
    own = [
        said
        for accounting in accountings
        for said in accounting.readings
        if said.meter is reading.meter
    ]
    values = [said.value for said in own if said.value is not None]
    if not own or len(values) < len(accountings):
        return next((said for said in own if said.value is None), reading)
    return Reading(reading.meter, sum(values), own[0].scope)
