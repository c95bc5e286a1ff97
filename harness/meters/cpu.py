"""Reads the CPU time of an instance until ready, and of nothing else.

The sources, in the order in which they are tried:

| instance | CPU time from |
|---|---|
| has a cgroup | `cpu.stat` (v2) or `cpuacct.usage_user`, `cpuacct.usage_sys` (v1) |
| has processes | each one's CPU-time clock, split as its `stat` says |
| has ended | `wait4` |

A cgroup counts every process that was ever in it, from the first instruction after clone. The clock
(clock_getcpuclockid(3)) counts all threads of a process in nanoseconds, ended ones too; children
that it has waited for are added from `stat`, in clock ticks of 10 ms. The work of the harness and
of kernel threads for an instance does not count. RUSAGE_CHILDREN would miss children that nobody
waited for, and psutil's `cpu_times` counts clock ticks alone: a start of 5 ms is nothing, or 10 ms.

How the sum divides into user and system is the kernel's estimate in every case: it knows the sum
exactly, and in which mode it found a CPU at each clock tick (kernel/sched/cputime.c,
`cputime_adjust`). Of what used fewer than ten ticks the division is chance, and is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from harness.meters.readings import missing, read_text, why
from harness.model import Meter, Reading
from harness.model.backend import Accounting
from harness.model.errors import MeterError

_METERS = (Meter.CPU_NS, Meter.CPU_USER_NS, Meter.CPU_SYSTEM_NS)
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_FEWEST_TICKS = 10
_CLOCK_OF_PROCESS = 2
"""CPUCLOCK_SCHED (linux/posix-timers.h): the low bits of a clock that counts a process's time."""

Clock = Callable[[int], int]


def process_clock_ns(pid: int) -> int:
    """Read the CPU time of a process with all its threads so far.

    Raises:
        OSError: There is no such process.
    """
    # MAKE_PROCESS_CPUCLOCK (linux/posix-timers.h); the C library computes the same.
    return time.clock_gettime_ns((~pid << 3) | _CLOCK_OF_PROCESS)


def read(
    accountings: Sequence[Accounting], proc: str = "/proc", clock_ns: Clock = process_clock_ns
) -> tuple[Reading, ...]:
    """Read the CPU time of instances so far, user and system, added up.

    Args:
        accountings: Of one instance, or of all that live.
        proc: Where procfs is mounted.
        clock_ns: CPU time of a process, by pid.
    """
    user = system = 0
    scope = accountings[0].scope if accountings else "nothing"
    try:
        for accounting in accountings:
            how, (more_user, more_system) = _of_instance(accounting, proc, clock_ns)
            scope = f"{accounting.scope}{how}"
            user += more_user
            system += more_system
    except (MeterError, OSError, ValueError) as error:
        return missing(_METERS, scope, why(error))
    total = Reading(Meter.CPU_NS, user + system, scope)
    if user + system < _FEWEST_TICKS * _TICK_NS:
        reason = f"below {_FEWEST_TICKS} clock ticks the kernel guesses how the time divides"
        return (total, *missing(_METERS[1:], scope, reason))
    return (
        total,
        Reading(Meter.CPU_USER_NS, user, scope),
        Reading(Meter.CPU_SYSTEM_NS, system, scope),
    )


def _of_instance(accounting: Accounting, proc: str, clock_ns: Clock) -> tuple[str, tuple[int, int]]:
    """Count (user, system) in ns; the first value words the method, for the scope."""
    for controller in ("cpuacct", "cpu"):
        folder = accounting.cgroups.get(controller)
        if folder is not None and (counted := _of_cgroup(folder)) is not None:
            return " (cgroup)", counted
    user, system = accounting.ended_cpu_ns
    seen = user + system > 0
    for pid in accounting.pids:
        try:
            more_user, more_system = _of_process(pid, proc, clock_ns)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except OSError as error:
            # The kernel knows no clock of a process that is gone (clock_gettime(2), EINVAL).
            if os.path.exists(f"{proc}/{pid}"):
                raise MeterError(f"process {pid}: {error.strerror}") from error
            continue
        seen = True
        user += more_user
        system += more_system
    if not seen:
        raise MeterError("its processes have ended, and nothing counted their CPU time")
    return "", (user, system)


def group_ns(folder: str) -> int:
    """Read the CPU time of a control group so far; 0 if it is not there or does not count."""
    return sum(_of_cgroup(folder) or (0, 0))


def _of_cgroup(folder: str) -> tuple[int, int] | None:
    """Read (user, system) of a group in ns; None if it does not count."""
    try:
        fields = dict(line.split() for line in read_text(f"{folder}/cpu.stat").splitlines())
        if "user_usec" in fields:
            return int(fields["user_usec"]) * 1000, int(fields["system_usec"]) * 1000
    except FileNotFoundError:
        pass
    try:
        user = int(read_text(f"{folder}/cpuacct.usage_user"))
        return user, int(read_text(f"{folder}/cpuacct.usage_sys"))
    except FileNotFoundError:
        return None


def _of_process(pid: int, proc: str, clock_ns: Clock) -> tuple[int, int]:
    # Behind the last ")", because a name may contain anything (proc(5)).
    fields = read_text(f"{proc}/{pid}/stat").rpartition(")")[2].split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    total_ns = clock_ns(pid)
    system_ns = total_ns * stime // (utime + stime) if utime + stime else 0
    return total_ns - system_ns + cutime * _TICK_NS, system_ns + cstime * _TICK_NS
