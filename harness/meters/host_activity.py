"""Reports what happens on the host during a trial, from two cheap readings around it.

    watch = Watch.begin()        before t0
    …                            the trial, until its instance is removed
    warnings = watch.end()       what came between

A reading takes 0.1 ms, starts nothing and is not timed. Whose CPU time it was:

    used by all     cgroup counters where they count exactly, else the ticks of /proc/stat
    - our own       this process and its ended children (getrusage(2)), or, if that is more, all
                    that Steelyard's own cgroup ever ran: orphans of a container's init count there
    - apart         of a container engine, which leaves its monitor to init: its control group,
                    added up by `Gauges.add_apart` when an instance is removed
    = by others     kernel threads that work for us are among them: the threshold allows for that

Not by psutil: it has neither PSI nor cgroups, counts CPU time in ticks, and opens each file anew;
the part of this that it has takes three times as long as a whole reading here.

Pressure stall information (PSI, Documentation/accounting/psi.rst) does not say who waits for whom,
and a trial of ours waits for itself. So for CPUs and disks it gives a warning only together with a
use of them that was not ours. Nothing should wait for memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Self

from harness.environment.registry import place
from harness.environment.settings import cgroup_mountpoint, limited_cgroups
from harness.meters.pauses import Heartbeat
from harness.model.diagnostics import Diagnostic, DiagnosticCode

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Unit of /proc/stat: 10 ms nearly everywhere."""
_PARENT = "steelyard"
"""The cgroup below which the runtime makes those of its containers."""
_FIRST_CGROUP_NAMESPACE = "cgroup:[4026531835]"
"""PROC_CGROUP_INIT_INO, include/linux/proc_ns.h: who is in it sees the host's own roots."""
_MOST_CPUS = 8
"""Of how many CPUs the thermal counters are read: heat is a matter of the whole package."""

# The limits were set on a host with two CPUs, by trials of `hello` that were held against the use
# of every process and kernel thread there. In quiet moments: 300 each of `container` (5.3 ms) and
# `process` (1.8 ms), 35 each of `vm-micro` and `vm-classic` (1.5 and 2.7 s). By others, kernel
# threads among them, were used 0.6 ms (99 %: 1.2), 0.05 ms (99 %: 0.2), 18 and 27 ms; one of these
# 670 trials got a warning, for a kernel thread that worked for 1.3 ms. Beside one busy process, 100
# of 100 of `container` do, and 39 of 100 of `process`: a running process is charged at each tick, 4
# ms apart, and such a trial often ends before one.
OTHERS_SHARE = 0.1
"""A part of one CPU that others may use in a long trial,"""
OTHERS_SHORT_SHARE = 0.4
"""in a short one,"""
OTHERS_NS = 5_000_000
"""and where the one ends and the other begins: 12 to 50 ms."""
TICKS = 2
"""With one tick of /proc/stat more it may be next to nothing, with two it is one at least."""
WAIT_SHARE = 0.1
"""A part of the trial in which tasks may wait for disks: 99 % of 685 trials on the same host when
others kept it busy were under 9 %, with under 2.1 ms in the short ones."""
WAIT_NS = 5_000_000
"""The same in short trials."""
DISK_BYTES = 1 << 20
"""What may move on the disks without us: journals and logs do all the time."""
STOLEN_SHARE = 0.05
"""A part of one CPU: the host kept busy lost 1 to 2 %, without anything amiss."""
MEMORY_WAIT_NS = 1_000_000
"""No quiet trial waited for memory, and one of the busy host's 685: for 9.5 ms, beside VMs."""
SUSPENDED_NS = 100_000_000
"""Far above what two readings of clocks one after the other can be apart."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What has happened on the host since it booted; None where it does not say.

    Attributes:
        at_ns: CLOCK_MONOTONIC.
        suspended_ns: Time that the host was suspended.
        busy_ns: CPU time that all processes used.
        self_ns: CPU time of this process.
        children_ns: CPU time of its children that have ended.
        group_ns: CPU time of everything in the cgroups of our containers.
        apart_ns: CPU time of trials' own that its children do not have; the cgroups may. It is
            known once a trial has ended.
        stolen_ns: CPU time that a hypervisor gave to others.
        cpu_wait_ns: Time in which some task waited for a CPU (PSI).
        disk_wait_ns: The same for disks.
        memory_wait_ns: The same for memory.
        swapped_pages: Pages that went to or came from swap.
        disk_bytes: Bytes that all disks read and wrote.
        own_disk_bytes: Those that this process and its children that have ended asked for.
        throttled_ns: Time that cgroups around this process were held back by a CPU quota.
        hot_events: How often CPUs slowed down because of heat.
        busy_step_ns: In what steps `busy_ns` grows.
    """

    at_ns: int
    suspended_ns: int = 0
    busy_ns: int | None = None
    self_ns: int = 0
    children_ns: int = 0
    group_ns: int = 0
    apart_ns: int = 0
    stolen_ns: int | None = None
    cpu_wait_ns: int | None = None
    disk_wait_ns: int | None = None
    memory_wait_ns: int | None = None
    swapped_pages: int | None = None
    disk_bytes: int | None = None
    own_disk_bytes: int | None = None
    throttled_ns: int | None = None
    hot_events: int | None = None
    busy_step_ns: int = 0


class Gauges:
    """Files of the kernel, held open: reading one again takes a fifth of opening it."""

    def __init__(self) -> None:
        self._cpu_pressure = _opened("/proc/pressure/cpu")
        self._disk_pressure = _opened("/proc/pressure/io")
        self._memory_pressure = _opened("/proc/pressure/memory")
        self._stat = _opened("/proc/stat")
        self._vmstat = _opened("/proc/vmstat")
        self._own_disk = _opened("/proc/self/io")
        self._throttled = _opened(*(f"{folder}/cpu.stat" for folder in limited_cgroups()))
        self._heat = _opened(
            *(
                f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{level}_throttle_count"
                for cpu in sorted(os.sched_getaffinity(0))[:_MOST_CPUS]
                for level in ("core", "package")
            )
        )
        self._lock = threading.Lock()
        self._apart_ns = 0
        self._is_whole = True
        self._usage: list[int] = []
        self._groups: tuple[str, ...] = ()
        self._find_usage()

    def _find_usage(self) -> None:
        """Look for what counts everybody's CPU time exactly, and that of our containers."""
        with contextlib.suppress(OSError):
            if os.readlink(place("/proc/self/ns/cgroup")) != _FIRST_CGROUP_NAMESPACE:
                return  # the roots that this process sees are not those of the host
        unified = cgroup_mountpoint("cgroup2")
        legacy = cgroup_mountpoint("cgroup", "cpuacct")
        if unified:
            self._groups = (f"{unified}/{_PARENT}/cpu.stat",)
        if legacy:
            self._groups += (f"{legacy}/{_PARENT}/cpuacct.usage",)
            self._usage = _opened(f"{legacy}/cpuacct.usage")
        elif unified:
            # The root's own cpu.stat is made of ticks, its children's is exact. Our own group comes
            # and goes, so it is read apart.
            self._is_whole = False
            names = (stat.parent.name for stat in sorted(place(unified).glob("*/cpu.stat")))
            self._usage = _opened(*(f"{unified}/{n}/cpu.stat" for n in names if n != _PARENT))

    def add_apart(self, apart_ns: int) -> None:
        """Count CPU time as ours that neither this process nor a child of it used."""
        with self._lock:
            self._apart_ns += apart_ns

    def read(self) -> Snapshot:
        """Read everything now."""
        stat = [int(word) for word in _text(self._stat).partition("\n")[0].split()[1:]]
        vmstat, own_disk = _text(self._vmstat), _text(self._own_disk)
        group_ns = max(map(_group_usage_ns, self._groups), default=0)
        # Before the cgroups: asking a process for its time charges what it has run since the last
        # tick (task_sched_runtime, kernel/sched/core.c). The cgroups would lack that, 4 ms at most.
        self_ns = _rusage_ns(resource.RUSAGE_SELF)
        if self._usage:
            busy_ns = _sum(_usage_ns(_text([fd])) for fd in self._usage)
            if busy_ns is not None and not self._is_whole:
                busy_ns += group_ns
        else:
            # user, nice, system, irq, softirq; guest time is in user already (proc_stat(5)).
            busy_ns = (sum(stat[:3]) + sum(stat[5:7])) * _TICK_NS if len(stat) > 6 else None
        return Snapshot(
            at_ns=time.monotonic_ns(),
            # CLOCK_BOOTTIME counts on while the host sleeps, CLOCK_MONOTONIC does not.
            suspended_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns(),
            busy_ns=busy_ns,
            self_ns=self_ns,
            children_ns=_rusage_ns(resource.RUSAGE_CHILDREN),
            group_ns=group_ns,
            apart_ns=self._apart_ns,
            stolen_ns=stat[7] * _TICK_NS if len(stat) > 7 else None,
            cpu_wait_ns=_pressure_ns(self._cpu_pressure),
            disk_wait_ns=_pressure_ns(self._disk_pressure),
            memory_wait_ns=_pressure_ns(self._memory_pressure),
            swapped_pages=_total(vmstat, "pswpin ", "pswpout "),
            disk_bytes=_total(vmstat, "pgpgin ", "pgpgout ", scale=1024),
            own_disk_bytes=_total(own_disk, "read_bytes: ", "write_bytes: "),
            throttled_ns=_sum(_throttled_ns(_text([fd])) for fd in self._throttled),
            hot_events=_sum(int(_text([fd])) for fd in self._heat),
            busy_step_ns=0 if self._usage else _TICK_NS,
        )


@cache
def gauges() -> Gauges:
    """Open the gauges of this process, at its first trial."""
    return Gauges()


@dataclass(frozen=True, slots=True)
class Watch:
    """Watches a trial: `Watch.begin()` before it, `end()` after it."""

    before: Snapshot
    heartbeat: Heartbeat

    @classmethod
    def begin(cls) -> Self:
        """Read for the first time."""
        before = gauges().read()  # it may raise: no thread must stay
        return cls(before, Heartbeat())

    def end(self) -> tuple[Diagnostic, ...]:
        """Read again, and say what disturbed the trial; nothing if nothing did."""
        found = disturbances(self.before, gauges().read())
        return (*found, *self.heartbeat.end())


def share_of_others(before: Snapshot, after: Snapshot) -> float | None:
    """The part of all CPUs that others used between two readings; None where nothing says so."""
    others_ns = _others_ns(_growth(before, after))
    took_ns = after.at_ns - before.at_ns
    cpus = os.sysconf("SC_NPROCESSORS_ONLN")
    return None if others_ns is None else max(others_ns, 0) / (took_ns * cpus)


def disturbances(before: Snapshot, after: Snapshot) -> tuple[Diagnostic, ...]:
    """Warn of what happened between two readings and makes what was timed between them unsure.

    Numbers in the details are rounded hard, so that a report can gather trials of a kind.
    """
    growth = _growth(before, after)
    return (*_others(growth), *_disks(growth), *_limits_and_events(growth))


def _growth(before: Snapshot, after: Snapshot) -> Snapshot:
    grown: dict[str, Any] = {
        field.name: _grown(getattr(before, field.name), getattr(after, field.name))
        for field in fields(Snapshot)
    }
    return Snapshot(**(grown | {"busy_step_ns": after.busy_step_ns}))


def _others_ns(growth: Snapshot) -> int | None:
    if growth.busy_ns is None:
        return None
    below_ns = max(growth.children_ns + growth.apart_ns, growth.group_ns)
    return growth.busy_ns - growth.self_ns - below_ns


def _others(growth: Snapshot) -> Iterator[Diagnostic]:
    if (others_ns := _others_ns(growth)) is None:
        return
    took_ns = growth.at_ns
    allowed_ns = max(OTHERS_SHARE * took_ns, min(OTHERS_SHORT_SHARE * took_ns, OTHERS_NS))
    if others_ns > max(allowed_ns, TICKS * growth.busy_step_ns):
        detail = f"other processes used {_percent(others_ns / took_ns)} of one CPU meanwhile"
        if (growth.cpu_wait_ns or 0) > WAIT_SHARE * took_ns:
            detail += ", and tasks waited for a CPU"
        yield Diagnostic(DiagnosticCode.LOADED_HOST, detail)


def _disks(growth: Snapshot) -> Iterator[Diagnostic]:
    waited_ns, moved, own = growth.disk_wait_ns, growth.disk_bytes, growth.own_disk_bytes
    if waited_ns is None or moved is None or own is None:
        return
    took_ns = growth.at_ns
    is_long = waited_ns > max(WAIT_NS, WAIT_SHARE * took_ns)
    if is_long and moved - own > max(DISK_BYTES, own):
        detail = (
            f"tasks waited for disks {_percent(waited_ns / took_ns)} of the time, while the disks "
            "moved mostly what this trial did not ask for"
        )
        yield Diagnostic(DiagnosticCode.LOADED_HOST, detail)


def _limits_and_events(growth: Snapshot) -> Iterator[Diagnostic]:
    stolen_ns, took_ns = growth.stolen_ns, growth.at_ns
    if stolen_ns and stolen_ns >= max(TICKS * _TICK_NS, STOLEN_SHARE * took_ns):
        detail = f"{_percent(stolen_ns / took_ns)} of one CPU"
        yield Diagnostic(DiagnosticCode.CPU_STOLEN, detail)
    if growth.throttled_ns:
        detail = f"held back for {_percent(growth.throttled_ns / took_ns)} of the time"
        yield Diagnostic(DiagnosticCode.CGROUP_THROTTLED, detail)
    waited_ns = growth.memory_wait_ns or 0
    if waited_ns > MEMORY_WAIT_NS:
        detail = f"waited {_percent(waited_ns / took_ns)} of the time"
        yield Diagnostic(DiagnosticCode.MEMORY_PRESSURE, detail)
    if growth.swapped_pages:
        yield Diagnostic(DiagnosticCode.SWAPPING, "in the middle of the trial")
    if growth.hot_events:
        yield Diagnostic(DiagnosticCode.THERMAL, "in the middle of the trial")
    if growth.suspended_ns > SUSPENDED_NS:
        yield Diagnostic(DiagnosticCode.SUSPENDED, f"for {growth.suspended_ns / 1e9:.1f} s")


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _percent(share: float) -> str:
    """A share with one digit that counts: 37 % is `about 40 %`."""
    return f"about {float(f'{share * 100:.1g}'):g} %"


def _opened(*paths: str) -> list[int]:
    """Open the files that are there and that this user may read."""
    fds = []
    for path in paths:
        with contextlib.suppress(OSError):
            fds.append(os.open(place(path), os.O_RDONLY | os.O_CLOEXEC))
    return fds


def _text(fds: Iterable[int]) -> str:
    """Read the first of the files now; empty if there is none, or it cannot be read."""
    for fd in fds:
        # A cgroup that is gone gives ENODEV, and PSI that is turned off EOPNOTSUPP.
        with contextlib.suppress(OSError):
            return os.pread(fd, 1 << 16, 0).decode("ascii", "replace")
    return ""


def _total(text: str, *fields: str, scale: int = 1) -> int | None:
    """Add up the numbers that follow the names of fields at the beginnings of lines."""
    lines = f"\n{text}"
    total = 0
    for field in fields:
        start = lines.find(f"\n{field}")
        if start < 0:
            return None
        start += 1 + len(field)
        total += int(lines[start : lines.find("\n", start)])
    return total * scale


def _sum(values: Iterable[int | None]) -> int | None:
    """Add up what is there; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _pressure_ns(fds: list[int]) -> int | None:
    """Read the time in which some task waited, from a file below /proc/pressure."""
    match = re.match(r"some .*total=(\d+)", _text(fds))
    return int(match.group(1)) * 1000 if match else None


def _usage_ns(text: str) -> int | None:
    """Parse the CPU time in a cgroup's cpuacct.usage (version 1) or cpu.stat (version 2)."""
    if text[:1].isdigit():
        return int(text)
    micros = _total(text, "usage_usec ")
    return None if micros is None else micros * 1000


def _group_usage_ns(path: str) -> int:
    """Read the CPU time of a cgroup that may not be there; then nothing ran in it."""
    with contextlib.suppress(OSError):
        return _usage_ns(place(path).read_text()) or 0
    return 0


def _throttled_ns(text: str) -> int | None:
    """Parse the time held back in cpu.stat: nanoseconds in cgroup v1, microseconds in v2."""
    micros = _total(text, "throttled_usec ")
    return _total(text, "throttled_time ") if micros is None else micros * 1000


def _rusage_ns(who: int) -> int:
    usage = resource.getrusage(who)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)
