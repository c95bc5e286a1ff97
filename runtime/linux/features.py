"""What this kernel and this user can do, probed once, by doing, into a frozen record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from runtime.linux import abi, syscalls
from runtime.linux.files import process_status

# What a container must not see or change, after docker's defaults (oci/defaults.go of moby; OCI
# runtime spec, maskedPaths and readonlyPaths).
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Features:
    """The probed facts that decide how a launch is lowered.

    Attributes:
        effective_capabilities: Mask of what this process may do.
        last_capability: Highest capability number the kernel knows.
        masked_files: Existing kernel files hidden behind /dev/null.
        masked_directories: Existing kernel folders hidden behind an empty tmpfs.
        read_only_paths: Existing kernel paths that are shown but cannot be written.
        overlay: Whether the kernel knows overlayfs.
        mount_namespaces: Whether this user may make a mount namespace.
    """

    effective_capabilities: int
    last_capability: int
    masked_files: tuple[str, ...]
    masked_directories: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    overlay: bool
    mount_namespaces: bool


@cache
def probe_features() -> Features:
    """Probe, the first time; afterwards the same record."""
    return Features(
        effective_capabilities=int("".join(process_status("self", "CapEff")) or "0", 16),
        last_capability=_last_capability(),
        masked_files=tuple(p for p in _MASKED if os.path.exists(p) and not os.path.isdir(p)),
        masked_directories=tuple(p for p in _MASKED if os.path.isdir(p)),
        read_only_paths=tuple(p for p in _READ_ONLY if os.path.exists(p)),
        overlay=_knows_overlay(),
        mount_namespaces=_can_unshare(abi.CLONE_NEWNS),
    )


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except OSError:
        return 40  # CAP_CHECKPOINT_RESTORE, the last since Linux 5.9


def _knows_overlay() -> bool:
    with open("/proc/filesystems", "rb") as file:
        if any(line.split()[-1] == b"overlay" for line in file):
            return True
    # As a module it is listed only once loaded; a mount by root loads it by itself.
    release = os.uname().release
    return any(
        os.path.exists(f"/lib/modules/{release}/kernel/fs/overlayfs/overlay.ko{suffix}")
        for suffix in ("", ".xz", ".zst", ".gz")
    )


def _can_unshare(flags: int) -> bool:
    try:
        syscalls.in_new_thread(lambda: syscalls.unshare(flags))
    except OSError:
        return False
    return True
