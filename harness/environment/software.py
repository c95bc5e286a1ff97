"""Facts about what runs on the machine: kernel, distribution, tools, and Steelyard itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from harness.environment.registry import MissingError, fact, output, text


@fact("kernel", str)
def _kernel() -> str:
    return platform.release()


@fact("kernel_version", str)
def _kernel_version() -> str:
    return platform.version()


@fact("distribution", str)
def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return release.get("PRETTY_NAME") or release["NAME"]


@fact("user", str)
def _user() -> str:
    return "root" if os.geteuid() == 0 else "ordinary user"


@fact("container_runtime_around", str)
def _container_runtime_around() -> str:
    """Whether all this runs inside a container already; `none` if nothing says so."""
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if os.path.exists(path):
            return name
    return os.environ.get("container", "none")  # noqa: SIM112 - systemd's spelling


@fact("cgroup_layout", str)
def _cgroup_layout() -> str:
    from runtime import find_layout

    return str(find_layout().name)


@fact("data_home_filesystem", str)
def _data_home_filesystem() -> str:
    from runtime import data_home

    return filesystem_of(data_home())


@fact("python", str)
def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


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


def filesystem_of(path: Path) -> str:
    """Type of the filesystem that holds `path`, or will once it is made: from mountinfo(5)."""
    while not path.exists():
        path = path.parent
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if fields[2] == wanted:
            found = after.split()[0]
    if not found:
        # btrfs shows another device number to stat(2) than to mountinfo.
        found = _filesystem_by_mountpoint(path)
    return found


def _filesystem_by_mountpoint(path: Path) -> str:
    best = ("", "")
    for line in text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mountpoint = before.split()[4].encode().decode("unicode_escape")
        if path.resolve().is_relative_to(mountpoint) and len(mountpoint) >= len(best[0]):
            best = (mountpoint, after.split()[0])
    if not best[1]:
        message = f"no mount holds {path}"
        raise MissingError(message)
    return best[1]
