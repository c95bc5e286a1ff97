"""Facts about the machine: its CPUs, its clock, its memory, and what is around it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import timeit

import psutil

from harness.environment.registry import MissingError, cpuinfo, fact, meminfo, place, text
from harness.model.units import cpu_list

_CPUS = "/sys/devices/system/cpu"


fact("architecture", str)(platform.machine)


@fact("hypervisor", str)
def _hypervisor() -> str:
    """Name the hypervisor of which this host is a guest; `none` on bare metal."""
    if "hypervisor" not in cpuinfo("flags").split():
        return "none"
    for path in ("/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor"):
        with contextlib.suppress(OSError):
            if name := text(path):
                return name
    return "unknown: the CPU says there is one, and nothing says which"


fact("cpu_model", str)(lambda: cpuinfo("model name"))


# CPUs that this process may use, which is what a measurement has.
fact("cpus", int)(lambda: len(os.sched_getaffinity(0)))
# Which they are, as `taskset -c` has it; all, or those that this process was pinned to.
fact("cpus_allowed", str)(lambda: cpu_list(os.sched_getaffinity(0)))
# Not `os.cpu_count`, which from Python 3.13 on says what PYTHON_CPU_COUNT says.
fact("cpus_online", int)(lambda: psutil.cpu_count() or len(os.sched_getaffinity(0)))


@fact("cpu_cores", int)
def _cpu_cores() -> int:
    """Physical cores, which two CPUs may share."""
    if (cores := psutil.cpu_count(logical=False)) is None:
        raise MissingError("this kernel does not say which CPUs share a core")
    return cores


@fact("cpu_frequency_mhz", int, "MHz")
def _cpu_frequency_mhz() -> int:
    """The mean of all CPUs at this moment, mostly idle ones."""
    if (frequency := psutil.cpu_freq()) is None:
        raise MissingError("neither cpufreq nor /proc/cpuinfo has it")
    return round(frequency.current)


@fact("cpu_frequency_max_mhz", int, "MHz")
def _cpu_frequency_max_mhz() -> int:
    """What the kernel may set, turbo included."""
    frequency = psutil.cpu_freq()
    if frequency is None or not frequency.max:
        raise MissingError("this kernel does not set the CPUs' frequency (no cpufreq)")
    return round(frequency.max)


@fact("thermal_throttle_events", int)
def _thermal_throttle_events() -> int:
    """How often any core or package slowed down because of heat since the host booted."""
    counters = sorted(place(_CPUS).glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    if not counters:
        raise MissingError("this kernel does not count it (no thermal_throttle)")
    events = 0
    packages: dict[str, int] = {}
    for counter in counters:
        events += int(counter.read_text())
        # Every CPU of a package shows the same count of the package.
        package = (counter.parents[1] / "topology/physical_package_id").read_text().strip()
        packages[package] = int((counter.parent / "package_throttle_count").read_text())
    return events + sum(packages.values())


fact("clock_source", str)(
    lambda: text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
)


@fact("clock_read_ns", int, "ns")
def _clock_read_ns() -> int:
    """Time one reading of the clock, Python's share included: the best of ten rounds."""
    return round(min(timeit.repeat(time.monotonic_ns, number=100, repeat=10)) / 100 * 1e9)


fact("memory_bytes", int, "bytes")(lambda: psutil.virtual_memory().total)
# What psutil estimates where the kernel does not say, which was before Linux 3.14.
fact("memory_available_bytes", int, "bytes")(lambda: psutil.virtual_memory().available)
fact("swap_bytes", int, "bytes")(lambda: meminfo("SwapTotal"))
fact("swap_used_bytes", int, "bytes")(lambda: meminfo("SwapTotal") - meminfo("SwapFree"))
fact("load_1min", float)(lambda: os.getloadavg()[0])
