"""Facts about how the kernel is set: what a user can change and a measurement depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from harness.environment.registry import MissingError, fact, place, text, unescape

_CPUS = "/sys/devices/system/cpu"


@fact("smt", bool)
def _smt() -> bool:
    return text(f"{_CPUS}/smt/active") == "1"


def _of_all_cpus(file: str) -> str:
    """What a cpufreq file says, over all CPUs: one word, or several with commas."""
    paths = place(_CPUS).glob(f"cpu[0-9]*/cpufreq/{file}")
    if not (words := {path.read_text().strip() for path in paths}):
        raise MissingError("this kernel does not set the CPUs' frequency (no cpufreq)")
    return ", ".join(sorted(words))


@fact("cpu_governor", str)
def _cpu_governor() -> str:
    return _of_all_cpus("scaling_governor")


@fact("cpu_frequency_driver", str)
def _cpu_frequency_driver() -> str:
    """With intel_pstate and amd-pstate-epp, `powersave` means something else than elsewhere."""
    return _of_all_cpus("scaling_driver")


@fact("cpu_turbo", bool)
def _cpu_turbo() -> bool:
    intel = place(f"{_CPUS}/intel_pstate/no_turbo")
    if intel.exists():
        return intel.read_text().strip() == "0"
    boost = place(f"{_CPUS}/cpufreq/boost")
    if boost.exists():
        return boost.read_text().strip() == "1"
    raise MissingError("this kernel does not say (no intel_pstate, no cpufreq boost)")


@fact("transparent_huge_pages", str)
def _transparent_huge_pages() -> str:
    match = re.search(r"\[(\w+)\]", text("/sys/kernel/mm/transparent_hugepage/enabled"))
    if match is None:
        raise MissingError("/sys/kernel/mm/transparent_hugepage/enabled marks no choice")
    return match.group(1)


@fact("same_page_merging", bool)
def _same_page_merging() -> bool:
    return text("/sys/kernel/mm/ksm/run") == "1"


@fact("pressure_stall_information", bool)
def _pressure_stall_information() -> bool:
    """Whether the kernel says how long tasks waited (PSI): else other load is seen less well."""
    try:
        # With psi=0 the file is there and reading it fails (EOPNOTSUPP).
        return bool(text("/proc/pressure/cpu"))
    except OSError:
        return False


@fact("cpu_quota", str)
def _cpu_quota() -> str:
    """The tightest CPU quota of the cgroups that Steelyard itself runs in: `1.5 CPUs` or `none`."""
    quotas = limited_cgroups().values()
    return f"{min(quotas):.4g} CPUs" if quotas else "none"


def limited_cgroups() -> dict[str, float]:
    """Folder -> CPUs, of the cgroups around this process that have a CPU quota.

    The outer ones too, as far as this process sees them: their quotas hold for all within, and only
    their own counters say when they were reached.
    """
    return {folder: cpus for folder in _own_cgroups() if (cpus := _quota(folder)) is not None}


def cgroup_mountpoint(kind: str, controller: str = "") -> str:
    """Where the whole of a cgroup hierarchy is mounted; empty if it is not.

    Args:
        kind: `cgroup` (version 1) or `cgroup2`.
        controller: Which hierarchy of version 1.
    """
    for root, mountpoint in _mounts(kind, controller):
        if root == "/":
            return mountpoint
    return ""


def _own_cgroups() -> list[str]:
    """Folders of the cgroups that this process is in and where a CPU quota could be."""
    unified: list[str] = []
    for line in text("/proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if "cpu" in controllers.split(","):
            # In a hybrid layout the controller is in one place only: this one.
            return _ancestors("cgroup", "cpu", group)
        if number == "0":
            unified = _ancestors("cgroup2", "", group)
    return unified


def _ancestors(kind: str, controller: str, group: str) -> list[str]:
    """Folders of a group and of those around it, innermost first, as far as they can be seen."""
    path = PurePosixPath(group)
    for root, mountpoint in _mounts(kind, controller):
        # In a container without a cgroup namespace only its own part of the tree is mounted.
        if ".." not in path.parts and path.is_relative_to(root):
            parts = path.relative_to(root).parts
            return ["/".join((mountpoint, *parts[:depth])) for depth in range(len(parts), -1, -1)]
    return []


def _mounts(kind: str, controller: str) -> Iterator[tuple[str, str]]:
    """(root, mount point) of the mounts of a hierarchy: proc_pid_mountinfo(5)."""
    for line in text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = after.split()
        if fields[0] == kind and (not controller or controller in fields[2].split(",")):
            root, mountpoint = before.split()[3:5]
            yield root, unescape(mountpoint)


def _quota(folder: str) -> float | None:
    """CPUs that a cgroup may use at most; None without a quota, as at the root of all."""
    if place(f"{folder}/cpu.max").exists():
        quota, period = text(f"{folder}/cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    if place(f"{folder}/cpu.cfs_quota_us").exists():
        micros = int(text(f"{folder}/cpu.cfs_quota_us"))
        return None if micros < 0 else micros / int(text(f"{folder}/cpu.cfs_period_us"))
    return None
