"""Facts about the machine: its CPUs, its clock, its memory, and what is around it."""

from __future__ import annotations

import contextlib
import os
import platform
import time

import psutil

from harness.environment.registry import MissingError, cpuinfo, fact, meminfo, place, text

_CPUS = "/sys/devices/system/cpu"


@fact("architecture", str)
def _architecture() -> str:
    return platform.machine()


@fact("hypervisor", str)
def _hypervisor() -> str:
    """Which machine this host is itself a guest of; `none` on bare metal."""
    if "hypervisor" not in cpuinfo("flags").split():
        return "none"
    for path in ("/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor"):
        with contextlib.suppress(OSError):
            if name := text(path):
                return name
    return "unknown: the CPU says there is one, and nothing says which"


@fact("cpu_model", str)
def _cpu_model() -> str:
    return cpuinfo("model name")


@fact("cpus", int)
def _cpus() -> int:
    """CPUs that this process may use, which is what a measurement has."""
    return len(os.sched_getaffinity(0))


@fact("cpus_online", int)
def _cpus_online() -> int:
    """Not `os.cpu_count`, which from Python 3.13 on says what PYTHON_CPU_COUNT says."""
    return psutil.cpu_count() or len(os.sched_getaffinity(0))


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


@fact("clock_source", str)
def _clock_source() -> str:
    return text("/sys/devices/system/clocksource/clocksource0/current_clocksource")


@fact("clock_read_ns", int, "ns")
def _clock_read_ns() -> int:
    """What one reading of the clock takes here, Python's share included: the best of ten rounds."""
    rounds = 100
    best = []
    for _ in range(10):
        begun_ns = time.monotonic_ns()
        for _ in range(rounds):
            time.monotonic_ns()
        best.append((time.monotonic_ns() - begun_ns) // rounds)
    return min(best)


@fact("memory_bytes", int, "bytes")
def _memory_bytes() -> int:
    return psutil.virtual_memory().total


@fact("memory_available_bytes", int, "bytes")
def _memory_available_bytes() -> int:
    """What psutil estimates where the kernel does not say, which was before Linux 3.14."""
    return psutil.virtual_memory().available


@fact("swap_bytes", int, "bytes")
def _swap_bytes() -> int:
    return meminfo("SwapTotal")


@fact("swap_used_bytes", int, "bytes")
def _swap_used_bytes() -> int:
    return meminfo("SwapTotal") - meminfo("SwapFree")


@fact("load_1min", float)
def _load() -> float:
    """What psutil has is this very function."""
    return os.getloadavg()[0]
