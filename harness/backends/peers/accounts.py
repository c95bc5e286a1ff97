"""Whose use of the host counts as a peer's instance, and what cannot be had."""

from __future__ import annotations

from collections.abc import Mapping

from harness.backends.peers.command import Command
from harness.backends.peers.table import Peer
from harness.meters import cpu
from harness.model import Meter, Reading
from harness.model.backend import Accounting

_CPU = ("cpu", "cpuacct")
_CHARGED = (Meter.CGROUP_CURRENT_BYTES, Meter.CGROUP_PEAK_BYTES)


def accounting_of(
    peer: Peer,
    *,
    pids: tuple[int, ...],
    scope: str,
    cgroups: Mapping[str, str],
    command: Command,
    owned: str,
) -> Accounting:
    """Put together where an instance's use can be read.

    CPU time: that of the workload and of the peer together, or arms would differ in what they
    leave out. The command waits for its workload, so the processes say it all; their groups hold
    the workload alone. An engine is the other way round: the workload is not below its command, but
    the group that we name holds everything but the command, and stays until we remove it.
    """
    readings: list[Reading] = []
    if peer.is_engine and "cpuacct" in cgroups:
        readings += _sum(
            scope,
            Accounting((), scope, {"cpuacct": cgroups["cpuacct"]}),
            Accounting(_own(command), scope, {}, command.cpu_ns),
        )
    if not peer.is_seen and command.status is not None:
        # What ran was the daemon's child; the client's own time is not the box's.
        reason = f"the workload was waited for by {peer.name}'s daemon, which tells nobody"
        readings += [
            Reading(meter, None, scope, reason)
            for meter in (Meter.CPU_NS, Meter.CPU_USER_NS, Meter.CPU_SYSTEM_NS)
        ]
    if "memory" not in cgroups:
        reason = f"{peer.name} makes no control group"
        if peer.has_limits and peer.is_seen:
            reason = f"{peer.name} removes the control group as soon as the workload has ended"
        elif peer.has_limits:
            reason = f"where {peer.name} keeps the control group is not known"
        readings += [Reading(meter, None, scope, reason) for meter in _CHARGED]
    return Accounting(
        pids=pids,
        scope=scope,
        cgroups={name: path for name, path in cgroups.items() if name not in _CPU},
        ended_cpu_ns=command.cpu_ns,
        readings=tuple(readings),
        owned=(owned,),
    )


def _own(command: Command) -> tuple[int, ...]:
    return (command.pid,) if command.status is None else ()


def _sum(scope: str, *parts: Accounting) -> list[Reading]:
    """CPU readings of several sources added up; what one lacks, the sum lacks."""
    found = [cpu.read((part,)) for part in parts]
    sums = []
    for readings in zip(*found, strict=True):
        lacking = next((reading.missing for reading in readings if reading.value is None), None)
        value = None if lacking else sum(reading.value or 0 for reading in readings)
        sums.append(Reading(readings[0].meter, value, scope, lacking))
    return sums
