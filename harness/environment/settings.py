"""Facts about how the kernel is set: what a user can change and a measurement depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from harness.environment.registry import MissingError, fact, place, text, unescape

_CPUS = "/sys/devices/system/cpu"
_RCU_PARAMETERS = ("rcupdate.", "rcutree.", "rcu_nocbs")


fact("smt", bool)(lambda: text(f"{_CPUS}/smt/active") == "1")


def _of_all_cpus(file: str) -> str:
    """Read a cpufreq file of all CPUs: one word, or several with commas."""
    paths = place(_CPUS).glob(f"cpu[0-9]*/cpufreq/{file}")
    if not (words := {path.read_text().strip() for path in paths}):
        raise MissingError("this kernel does not set the CPUs' frequency (no cpufreq)")
    return ", ".join(sorted(words))


fact("cpu_governor", str)(lambda: _of_all_cpus("scaling_governor"))
# With intel_pstate and amd-pstate-epp, `powersave` means something else than elsewhere.
fact("cpu_frequency_driver", str)(lambda: _of_all_cpus("scaling_driver"))


@fact("cpu_turbo", bool)
def _cpu_turbo() -> bool:
    for path, is_on in ((f"{_CPUS}/intel_pstate/no_turbo", "0"), (f"{_CPUS}/cpufreq/boost", "1")):
        if place(path).exists():
            return text(path) == is_on
    raise MissingError("this kernel does not say (no intel_pstate, no cpufreq boost)")


@fact("transparent_huge_pages", str)
def _transparent_huge_pages() -> str:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if (match := re.search(r"\[(\w+)\]", text(path))) is None:
        raise MissingError(f"{path} marks no choice")
    return match.group(1)


fact("same_page_merging", bool)(lambda: text("/sys/kernel/mm/ksm/run") == "1")


@fact("pressure_stall_information", bool)
def _pressure_stall_information() -> bool:
    """Whether the kernel reports how long tasks waited (PSI)."""
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


@fact("cgroup_favordynmods", bool)
def _cgroup_favordynmods() -> bool:
    """Whether moving processes between cgroups is made cheap, and their forks and exits dearer.

    A mount option of Linux 6.0 and later (kernel: Documentation/admin-guide/cgroup-v2.rst).
    """
    hierarchies = [
        line.partition(" - ")[2].split()
        for line in text("/proc/self/mountinfo").splitlines()
        if line.partition(" - ")[2].startswith("cgroup")
    ]
    if not hierarchies:
        raise MissingError("no cgroup hierarchy is mounted")
    return any("favordynmods" in fields[-1].split(",") for fields in hierarchies)


# The kernel waits for RCU grace periods when namespaces, cgroups and mounts go, for milliseconds
# each unless they are expedited (kernel: Documentation/admin-guide/kernel-parameters.txt).
fact("rcu_expedited", bool)(lambda: text("/sys/kernel/rcu_expedited") != "0")
fact("rcu_normal", bool)(lambda: text("/sys/kernel/rcu_normal") != "0")


@fact("rcu_boot_parameters", str)
def _rcu_boot_parameters() -> str:
    """Those of the kernel's command line that set RCU; `none` without."""
    words = text("/proc/cmdline").split()
    return " ".join(word for word in words if word.startswith(_RCU_PARAMETERS)) or "none"


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
    mounts = _mounts(kind, controller)
    return next((mountpoint for root, mountpoint in mounts if root == "/"), "")


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
