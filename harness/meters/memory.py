"""Reads what an instance takes in memory: five values side by side, since they differ by factors.

| meter | read from | counts |
|---|---|---|
| PSS | `smaps_rollup` of each process (psutil), `Pss` | a page shared by n processes as 1/n |
| USS | the same, all of `Private_*` (proc(5)) | pages that one process alone maps |
| cgroup current | `memory.usage_in_bytes` (v1), `memory.current` (v2) | pages charged, cache too |
| cgroup peak | `memory.max_usage_in_bytes` (v1), `memory.peak` (v2) | the most of it so far |
| available delta | `MemAvailable` of /proc/meminfo | what the whole host lost, others' work too |

PSS and USS are sums over the instance's processes; memory that two of them share counts whole in
its PSS and in no USS. Neither includes page tables, kernel memory, and unmapped files in
the page cache. After a workload that ran to its end both are missing, and the cgroup has its peak.

smaps_rollup walks the page tables: 0.06 ms for a small process, of which psutil takes 0.02, and 1
to 3 ms for a guest of 256 MiB. psutil is imported with this module: an import between ready and the
first reading would take 14 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from harness.environment.registry import procfs
from harness.meters.readings import missing, read_text, take, why
from harness.model import Meter, Reading
from harness.model.backend import Accounting
from harness.model.errors import MeterError

_KIB = 1024
_NO_PROCESS = "no process is left that could map memory: the workload has ended"
_NO_CGROUP = "it has no memory cgroup of its own (a container gets one with a memory limit)"
_CGROUP_FILES = {
    Meter.CGROUP_CURRENT_BYTES: ("memory.usage_in_bytes", "memory.current"),
    Meter.CGROUP_PEAK_BYTES: ("memory.max_usage_in_bytes", "memory.peak"),
}
"""Meter -> files of version 1 and of version 2 (cgroup-v1/memory.rst, cgroup-v2.rst)."""


def read(
    accountings: Sequence[Accounting], available_before: int | None, proc: str = "/proc"
) -> tuple[Reading, ...]:
    """Take all memory readings of instances, added up.

    Args:
        accountings: Of one instance, or of all that live.
        available_before: `available_bytes()` before the first was requested; None if unknown.
        proc: Where procfs is mounted.
    """
    return (
        *_mapped(accountings, proc),
        *(_charged(meter, accountings) for meter in _CGROUP_FILES),
        _available(available_before, proc),
    )


def available_bytes(proc: str = "/proc") -> int:
    """Read the host's MemAvailable: what could be had without swapping (proc(5)).

    Not by psutil, which takes half as long again before each t0, and estimates what is not there.

    Raises:
        MeterError: This kernel does not say.
    """
    for line in read_text(f"{proc}/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * _KIB
    raise MeterError(f"{proc}/meminfo has no MemAvailable")


def available_if_known() -> int | None:
    """Read the host's MemAvailable; None where this kernel does not say."""
    try:
        return available_bytes()
    except (MeterError, OSError):
        return None


def _mapped(accountings: Sequence[Accounting], proc: str) -> tuple[Reading, ...]:
    meters = (Meter.PSS_BYTES, Meter.USS_BYTES)
    scope = _scope(accountings)
    if any(not accounting.pids for accounting in accountings):
        return missing(meters, scope, _NO_PROCESS)
    proportional = unique = walked = 0
    for accounting in accountings:
        for pid in accounting.pids:
            try:
                with procfs(proc):
                    sizes = psutil.Process(pid).memory_full_info()
            except psutil.NoSuchProcess:
                continue  # it ended meanwhile, and took its memory with it
            except psutil.AccessDenied:
                return missing(meters, scope, f"{proc}/{pid}/smaps_rollup: Permission denied")
            except (OSError, ValueError) as error:
                return missing(meters, scope, why(error))
            if sizes.vms == 0:
                continue  # only its exit status is left: of a zombie psutil says zeros
            walked += 1
            proportional += sizes.pss
            unique += sizes.uss
    if not walked:
        return missing(meters, scope, _NO_PROCESS)
    return (
        Reading(Meter.PSS_BYTES, proportional, scope),
        Reading(Meter.USS_BYTES, unique, scope),
    )


def _charged(meter: Meter, accountings: Sequence[Accounting]) -> Reading:
    def total() -> int:
        charged = 0
        for accounting in accountings:
            folder = accounting.cgroups.get("memory")
            if folder is None:
                raise MeterError(_NO_CGROUP)
            charged += _first_file(folder, _CGROUP_FILES[meter])
        return charged

    return take(meter, f"{_scope(accountings)} (cgroup)", total)


def _first_file(folder: str, names: tuple[str, ...]) -> int:
    for name in names:
        try:
            return int(read_text(f"{folder}/{name}"))
        except FileNotFoundError:
            continue
    raise MeterError(f"{folder} has no {' or '.join(names)}: this kernel does not count it")


def _available(before: int | None, proc: str) -> Reading:
    def fall() -> int:
        if before is None:
            raise MeterError("MemAvailable could not be read before the start")
        return before - available_bytes(proc)

    return take(Meter.AVAILABLE_DELTA_BYTES, "host", fall)


def _scope(accountings: Sequence[Accounting]) -> str:
    return accountings[0].scope if accountings else "nothing"
