"""What this host is, captured by an explicit call: a typed registry of facts.

Each fact has a name, a type, a unit where it is a quantity, and one small function that reads it.
A fact that cannot be had is recorded as None with the reason, never left out and never guessed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness.diagnostics import Diagnostic, DiagnosticCode

Value = str | int | float | bool
_COMMAND_TIMEOUT_S = 10
BUSY_LOAD_SHARE = 0.5
"""A load average above this share of the CPUs, before anything of ours runs, is a doubt."""


class MissingError(Exception):
    """A fact cannot be had; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One entry of the registry.

    Attributes:
        name: As in the records.
        kind: Type of its value.
        unit: Of a quantity; empty otherwise.
        read: Reads it; raises MissingError, OSError or ValueError when it cannot.
    """

    name: str
    kind: type[Value]
    unit: str
    read: Callable[[], Value]


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts about the host at one moment.

    Attributes:
        facts: Name -> value; None where it could not be had.
        missing: Name -> why not.
        diagnostics: Doubts that the facts give rise to.
    """

    facts: Mapping[str, Value | None]
    missing: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()


REGISTRY: dict[str, Fact] = {}


def _fact(
    name: str, kind: type[Value], unit: str = ""
) -> Callable[[Callable[[], Value]], Callable[[], Value]]:
    def register(read: Callable[[], Value]) -> Callable[[], Value]:
        assert name not in REGISTRY
        REGISTRY[name] = Fact(name, kind, unit, read)
        return read

    return register


def capture() -> Environment:
    """Read every fact of the registry now. Takes a few tens of milliseconds; raises nothing."""
    facts: dict[str, Value | None] = {}
    missing: dict[str, str] = {}
    for fact in REGISTRY.values():
        try:
            value = fact.read()
        except MissingError as error:
            facts[fact.name], missing[fact.name] = None, str(error)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            reason = f"{place}{(error.strerror or str(error)).lower()}"
            facts[fact.name], missing[fact.name] = None, reason
        except (ValueError, IndexError, KeyError) as error:
            facts[fact.name], missing[fact.name] = None, f"unexpected content: {error}"
        else:
            facts[fact.name] = fact.kind(value)
    return Environment(MappingProxyType(facts), MappingProxyType(missing), tuple(_doubts(facts)))


def _doubts(facts: Mapping[str, Value | None]) -> list[Diagnostic]:
    load, cpus = facts["load_1min"], facts["cpus"]
    if isinstance(load, float) and isinstance(cpus, int) and load > cpus * BUSY_LOAD_SHARE:
        detail = f"load average {load:.2f} on {cpus} CPUs when the run began"
        return [Diagnostic(DiagnosticCode.LOADED_HOST, detail)]
    return []


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace").strip()


def _cpuinfo(field: str) -> str:
    match = re.search(rf"^{re.escape(field)}\s*: (.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    if match is None:
        message = f"/proc/cpuinfo has no {field!r}"
        raise MissingError(message)
    return match.group(1).strip()


def _meminfo(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    if match is None:
        message = f"/proc/meminfo has no {field!r}"
        raise MissingError(message)
    return int(match.group(1)) * 1024


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        message = f"{command[0]} is not installed"
        raise MissingError(message)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.SubprocessError as error:
        message = f"{command[0]} failed: {error}"
        raise MissingError(message) from error
    return done.stdout.strip()


@_fact("kernel", str)
def _kernel() -> str:
    return platform.release()


@_fact("kernel_version", str)
def _kernel_version() -> str:
    return platform.version()


@_fact("architecture", str)
def _architecture() -> str:
    return platform.machine()


@_fact("distribution", str)
def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return release.get("PRETTY_NAME") or release["NAME"]


@_fact("hypervisor", str)
def _hypervisor() -> str:
    """Which machine this host is itself a guest of; `none` on bare metal."""
    if "hypervisor" not in _cpuinfo("flags").split():
        return "none"
    for path in ("/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor"):
        with contextlib.suppress(OSError):
            if name := _text(path):
                return name
    return "unknown: the CPU says there is one, and nothing says which"


@_fact("cpu_model", str)
def _cpu_model() -> str:
    return _cpuinfo("model name")


@_fact("cpus", int)
def _cpus() -> int:
    """CPUs that this process may use, which is what a measurement has."""
    return len(os.sched_getaffinity(0))


@_fact("cpus_online", int)
def _cpus_online() -> int:
    return os.cpu_count() or len(os.sched_getaffinity(0))


@_fact("smt", bool)
def _smt() -> bool:
    return _text("/sys/devices/system/cpu/smt/active") == "1"


@_fact("cpu_governor", str)
def _cpu_governor() -> str:
    paths = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    if not paths:
        raise MissingError("this kernel does not set the CPUs' frequency (no cpufreq)")
    return ", ".join(sorted({path.read_text().strip() for path in paths}))


@_fact("cpu_turbo", bool)
def _cpu_turbo() -> bool:
    intel = Path("/sys/devices/system/cpu/intel_pstate/no_turbo")
    if intel.exists():
        return intel.read_text().strip() == "0"
    boost = Path("/sys/devices/system/cpu/cpufreq/boost")
    if boost.exists():
        return boost.read_text().strip() == "1"
    raise MissingError("this kernel does not say (no intel_pstate, no cpufreq boost)")


@_fact("clock_source", str)
def _clock_source() -> str:
    return _text("/sys/devices/system/clocksource/clocksource0/current_clocksource")


@_fact("memory_bytes", int, "bytes")
def _memory_bytes() -> int:
    return _meminfo("MemTotal")


@_fact("memory_available_bytes", int, "bytes")
def _memory_available_bytes() -> int:
    return _meminfo("MemAvailable")


@_fact("swap_bytes", int, "bytes")
def _swap_bytes() -> int:
    return _meminfo("SwapTotal")


@_fact("transparent_huge_pages", str)
def _transparent_huge_pages() -> str:
    match = re.search(r"\[(\w+)\]", _text("/sys/kernel/mm/transparent_hugepage/enabled"))
    if match is None:
        raise MissingError("/sys/kernel/mm/transparent_hugepage/enabled marks no choice")
    return match.group(1)


@_fact("same_page_merging", bool)
def _same_page_merging() -> bool:
    return _text("/sys/kernel/mm/ksm/run") == "1"


@_fact("load_1min", float)
def _load() -> float:
    return os.getloadavg()[0]


@_fact("user", str)
def _user() -> str:
    return "root" if os.geteuid() == 0 else "ordinary user"


@_fact("container_runtime_around", str)
def _container_runtime_around() -> str:
    """Whether all this runs inside a container already; `none` if nothing says so."""
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if os.path.exists(path):
            return name
    return os.environ.get("container", "none")  # noqa: SIM112 - systemd's spelling


@_fact("cgroup_layout", str)
def _cgroup_layout() -> str:
    from harness.backends.host import cgroup_layout

    return cgroup_layout()


@_fact("data_home_filesystem", str)
def _data_home_filesystem() -> str:
    from harness.backends.host import data_home

    return filesystem_of(data_home())


@_fact("python", str)
def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


@_fact("qemu", str)
def _qemu() -> str:
    line = _output("qemu-system-x86_64", "--version").splitlines()[0]
    return line.removeprefix("QEMU emulator version ").strip()


@_fact("steelyard_revision", str)
def _steelyard_revision() -> str:
    """Git revision of the clone this runs from, with `-dirty` when files differ from it."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        raise MissingError("Steelyard does not run from a git clone")
    return _output(
        "git", "-c", f"safe.directory={checkout}", "-C", str(checkout),
        "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*",
    )  # fmt: skip


@_fact("container_launcher", str)
def _container_launcher() -> str:
    from harness.backends.host import launcher

    return launcher()


def filesystem_of(path: Path) -> str:
    """Type of the filesystem that holds `path`, or will once it is made: from mountinfo(5)."""
    while not path.exists():
        path = path.parent
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in _text("/proc/self/mountinfo").splitlines():
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
    for line in _text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mountpoint = before.split()[4].encode().decode("unicode_escape")
        if path.resolve().is_relative_to(mountpoint) and len(mountpoint) >= len(best[0]):
            best = (mountpoint, after.split()[0])
    if not best[1]:
        message = f"no mount holds {path}"
        raise MissingError(message)
    return best[1]
