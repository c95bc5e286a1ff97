"""Whether an instance is really gone: what was its own is looked for once it has been removed.

Looked for are its processes, its control groups, its folders and files, and mounts at or below
them. A process counts only if it is the same one: pids are used again, start times are not.
A network namespace lives as long as a process or a mount holds it, so it needs no search of its own
here; the lab looks after the interfaces that it gave away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.meters.readings import read_text
from harness.model.backend import Accounting
from harness.model.errors import MeterError

_START_TIME = 19
"""Index of `starttime` among the fields behind the name in /proc/PID/stat (proc(5), field 22)."""


@dataclass(frozen=True, slots=True)
class Traces:
    """By what an instance is recognised after its end.

    Attributes:
        processes: Pairs of (pid, start time in clock ticks since boot).
        cgroups: Folders.
        owned: Folders and files.
    """

    processes: tuple[tuple[int, int], ...]
    cgroups: tuple[str, ...]
    owned: tuple[str, ...]


def traces(accounting: Accounting, proc: str = "/proc") -> Traces:
    """Remember what is an instance's own, while it lives."""
    processes = tuple(
        (pid, started) for pid in accounting.pids if (started := _start_time(pid, proc)) is not None
    )
    groups = tuple(dict.fromkeys(accounting.cgroups.values()))
    return Traces(processes, groups, accounting.owned)


def left_behind(seen: Traces, proc: str = "/proc") -> tuple[str, ...]:
    """What is still there of an instance that has been removed, each thing named.

    Raises:
        MeterError: The mounts of this process cannot be read.
    """
    found = [
        f"process {pid}" for pid, started in seen.processes if _start_time(pid, proc) == started
    ]
    found += [f"cgroup {folder}" for folder in seen.cgroups if os.path.lexists(folder)]
    found += [f"mount {point}" for point in _mounts(seen.owned, proc)]
    found += [f"{_kind(path)} {path}" for path in seen.owned if os.path.lexists(path)]
    return tuple(found)


def _start_time(pid: int, proc: str) -> int | None:
    """When a process began; None if there is none, or only its exit status is left."""
    try:
        fields = read_text(f"{proc}/{pid}/stat").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[_START_TIME])
    except (OSError, IndexError, ValueError):
        return None


def _mounts(owned: Sequence[str], proc: str) -> list[str]:
    if not owned:
        return []
    try:
        text = read_text(f"{proc}/self/mountinfo")
    except OSError as error:
        raise MeterError(f"{proc}/self/mountinfo: {error.strerror}") from error
    found = []
    for line in text.splitlines():
        point = _unescape(line.split()[4])
        if any(point == path or point.startswith(f"{path}/") for path in owned):
            found.append(point)
    return found


def _unescape(field: str) -> str:
    r"""`\040` is a space, and so on (proc(5), mountinfo)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _kind(path: str) -> str:
    return "folder" if os.path.isdir(path) else "file"
