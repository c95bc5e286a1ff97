"""Facts about what runs on the machine: kernel, distribution, tools, and Steelyard itself."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil

from harness.environment.registry import MissingError, fact, output

fact("kernel", str)(platform.release)
fact("kernel_version", str)(platform.version)


@fact("distribution", str)
def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return release.get("PRETTY_NAME") or release["NAME"]


@fact("booted_at", str)
def _booted_at() -> str:
    """When the kernel started, in UTC; a second off after the clock was set (`btime`, proc(5))."""
    return datetime.fromtimestamp(psutil.boot_time(), UTC).isoformat(timespec="seconds")


# Of all users that this process can see, itself and kernel threads among them.
fact("processes", int)(lambda: len(psutil.pids()))
fact("user", str)(lambda: "root" if os.geteuid() == 0 else "ordinary user")


@fact("container_runtime_around", str)
def _container_runtime_around() -> str:
    """Whether all this runs inside a container already; `none` if nothing says so."""
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if os.path.exists(path):
            return name
    return os.environ.get("container", "none")  # noqa: SIM112 - systemd's spelling


@fact("cgroup_layout", str)
def _cgroup_layout() -> str:
    from runtime.linux.cgroup_mounts import find_layout

    return str(find_layout().name)


fact("python", str)(lambda: f"{platform.python_implementation()} {platform.python_version()}")


@fact("qemu", str)
def _qemu() -> str:
    line = output("qemu-system-x86_64", "--version").splitlines()[0]
    return line.removeprefix("QEMU emulator version ").strip()


@fact("steelyard_revision", str)
def _steelyard_revision() -> str:
    """Git revision of the clone this runs from, with `-dirty` when files differ from it."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        raise MissingError("Steelyard does not run from a git clone")
    return output(
        "git", "-c", f"safe.directory={checkout}", "-C", str(checkout),
        "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*",
    )  # fmt: skip


@fact("container_launcher", str)
def _container_launcher() -> str:
    from runtime import default_launcher

    return str(default_launcher())
