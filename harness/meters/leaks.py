"""Checks that a removed instance is gone: processes, control groups, files, and mounts below them.

A process counts only if it is the same one, which psutil decides by its start time: pids are used
again. A network namespace lives as long as a process or a mount holds it, so it needs no search of
its own here; the lab looks after the interfaces that it gave away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from harness.environment.registry import procfs, unescape
from harness.model.backend import Accounting
from harness.model.errors import MeterError


@dataclass(frozen=True, slots=True)
class Traces:
    """Identifies what an instance owns after its end.

    Attributes:
        processes: Each with its start time.
        cgroups: Folders.
        owned: Folders and files.
    """

    processes: tuple[psutil.Process, ...]
    cgroups: tuple[str, ...]
    owned: tuple[str, ...]


def traces(accounting: Accounting, proc: str = "/proc") -> Traces:
    """Remember what is an instance's own, while it lives.

    A process that cannot be looked at is left out: the instance must end all the same, also on a
    host that has no open file left.
    """
    processes = []
    for pid in accounting.pids:
        with procfs(proc), suppress(psutil.Error, OSError):
            processes.append(psutil.Process(pid))
    groups = tuple(dict.fromkeys(accounting.cgroups.values()))
    return Traces(tuple(processes), groups, accounting.owned)


def left_behind(seen: Traces, proc: str = "/proc") -> tuple[str, ...]:
    """Name what is still there of an instance that has been removed.

    Raises:
        MeterError: The mounts of this process cannot be read.
    """
    with procfs(proc):
        found = [f"process {process.pid}" for process in seen.processes if _lives(process)]
    found += [f"cgroup {folder}" for folder in seen.cgroups if os.path.lexists(folder)]
    found += [f"mount {point}" for point in _mounts(seen.owned, proc)]
    for path in seen.owned:
        if os.path.lexists(path):
            found.append(f"{'folder' if os.path.isdir(path) else 'file'} {path}")
    return tuple(found)


def _lives(process: psutil.Process) -> bool:
    # One that has ended may be there as an exit status that its parent has not read.
    ended = psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD
    try:
        return process.is_running() and process.status() not in ended
    except psutil.Error:  # gone, or hidden from this user: then it is not ours either
        return False


def _mounts(owned: Sequence[str], proc: str) -> list[str]:
    # Not by `psutil.disk_partitions`, which reads /etc/mtab: out of date on some hosts.
    if not owned:
        return []
    path = f"{proc}/self/mountinfo"
    try:
        # As Python decodes names of files, so that they can be compared.
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            points = [unescape(line.split(" ")[4]) for line in file]
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror}") from error
    below = tuple(f"{path}/" for path in owned)
    return [point for point in points if point in owned or point.startswith(below)]
