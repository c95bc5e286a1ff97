"""What sessions whose owner died have left on the machine, and how to take it away.

Only things that carry the name of a session whose owner is proven dead are touched: its folder is
in this data home, and its lock is free. Everything else (of another home, or of one that this mount
namespace does not show) may be in use by somebody who cannot be seen from here. In the order in
which they must go: processes, mounts, cgroups, folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runtime.containers.session import (
    Lock,
    dead_sessions,
    instances_directory,
    look_at_lock,
    proven_dead,
)
from runtime.launch.cgroups import PARENT, remove_group
from runtime.linux.cgroup_mounts import read_mounts
from runtime.linux.files import process_status, remove_tree
from runtime.linux.mounts import unmount

_IDENTIFIER = re.compile(r"[0-9a-f]{12}")
_WORD = re.compile(rf"\b{_IDENTIFIER.pattern}\b")
_KILL_TIMEOUT_NS = 5_000_000_000
_CGROUP_KINDS = ("cgroup", "cgroup2")
_NAMED_ON_COMMAND_LINE = ("qemu-system", "runc", "crun", "bwrap", "podman", "conmon")
"""Programs that get the name of an instance or of its folder on their command line."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that a dead session left behind.

    Attributes:
        kind: `process`, `mount`, `cgroup` or `folder`.
        name: What a user would look for: a pid with its command, or a path.
        session: Identifier of the session that made it.
    """

    kind: str
    name: str
    session: str
    _remove: Callable[[], None] = field(repr=False, compare=False)

    def remove(self) -> None:
        """Take it away. Gone already is fine.

        Raises:
            OSError: It could not be removed.
        """
        self._remove()


def find_leftovers(home: Path | None = None) -> list[Leftover]:
    """Everything that dead sessions left, in the order in which it can be removed.

    The folder of a session proves that its owner is dead: remove it only when the rest is gone.
    """
    # The folders first: of a session that dies from now on, the folder stays.
    folders = dead_sessions(home)
    dead = proven_dead(home)
    return [
        *_processes(dead),
        *_mounts(dead, home),
        *(
            Leftover("cgroup", path, session, partial(_remove_cgroup, path))
            for session, path in _cgroups()
            if session in dead
        ),
        *(
            Leftover("folder", os.fspath(path), path.name.lstrip("."), partial(remove_tree, path))
            for path in folders
        ),
    ]


def groups_of_others(home: Path | None = None) -> list[str]:
    """Paths of cgroups whose owner cannot be determined: they are for somebody else to remove."""
    instances = instances_directory(home)
    return [
        path
        for name, path in _cgroups()
        if look_at_lock(instances / name) not in (Lock.HELD, Lock.FREE)
        # Its owner may just have closed it: the group goes before the folder.
        and os.path.isdir(path)
    ]


def _processes(dead: AbstractSet[str]) -> Iterator[Leftover]:
    """Processes in a dead session's cgroup, or whose command names its folder or instances."""
    if not dead or not _proc_is_ours():
        return
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            started = _start_ticks(entry)
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
            command = line.decode(errors="replace")
            text = Path(f"/proc/{entry}/cgroup").read_text(errors="replace")
            if Path(f"/proc/{entry}/stat").read_bytes().rpartition(b") ")[2].startswith(b"Z"):
                continue  # dead already: its parent, not we, can let go of the rest
            # A shell that merely mentions such a name is no leftover: only these get it.
            program = os.path.basename(command.split(" ", 1)[0])
            if program.startswith(_NAMED_ON_COMMAND_LINE):
                text += command
            for session in dead & {*_WORD.findall(text)}:
                name = f"{entry} ({command.strip()[:60]})"
                yield Leftover("process", name, session, partial(_kill, int(entry), started))
                break


def _proc_is_ours() -> bool:
    """Whether the pids in /proc are those that system calls of this process take.

    After unshare(2) with CLONE_NEWPID, /proc still has the numbers of the namespace that it was
    mounted in, and one of them may mean somebody else here. `NSpid` has a number for each namespace
    from that one down to the process's (proc(5)).
    """
    with contextlib.suppress(OSError):
        return process_status("self", "NSpid") == [str(os.getpid())]
    return False


def _start_ticks(pid: str | int) -> bytes:
    """When a process started: a later one of the same pid has another time (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19]


def _kill_if(pid: int, is_still: Callable[[], bool]) -> None:
    """Kill a process unless its pid went to another one before we got hold of it."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        pidfd = os.pidfd_open(pid)
        try:
            if is_still():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                if not poll.poll(_KILL_TIMEOUT_NS / 1e6):
                    raise TimeoutError(f"process {pid} does not die")
        finally:
            os.close(pidfd)


def _kill(pid: int, started: bytes) -> None:
    _kill_if(pid, lambda: _start_ticks(pid) == started)


def _mounts(dead: AbstractSet[str], home: Path | None) -> Iterator[Leftover]:
    # The kernel says where a mount really is; the home may be reached through a symbolic link.
    base = os.path.realpath(instances_directory(home))
    # Topmost last mounted first, so that each can be unmounted.
    for mountpoint, _, _ in reversed(read_mounts()):
        session = mountpoint.removeprefix(base + "/").split("/")[0]
        if mountpoint.startswith(base + "/") and session in dead:
            yield Leftover("mount", mountpoint, session, partial(unmount, mountpoint))


def _cgroups() -> Iterator[tuple[str, str]]:
    """Session and path of every group, in every hierarchy.

    Other people's tools make theirs in each that is mounted.
    """
    parents = [f"{path}/{PARENT}" for path, kind, _ in read_mounts() if kind in _CGROUP_KINDS]
    for parent in parents:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(parent):
                session = entry.name.split("-")[0]
                if entry.is_dir() and _IDENTIFIER.fullmatch(session):
                    yield session, entry.path


def _remove_cgroup(path: str) -> None:
    for group, _, _ in os.walk(path, topdown=False):
        _empty_cgroup(group)
        remove_group(group)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _empty_cgroup(path: str) -> None:
    with contextlib.suppress(OSError):
        # Linux 5.14, version 2 only. Reaches other PID namespaces, whose processes are shown as 0.
        Path(path, "cgroup.kill").write_text("1")
    deadline = time.monotonic_ns() + _KILL_TIMEOUT_NS
    while pids := _members(path):
        if time.monotonic_ns() > deadline:
            raise OSError(errno.EBUSY, "its processes do not die", path)
        for pid in filter(None, pids):
            _kill_if(pid, lambda pid=pid: pid in _members(path))  # type: ignore[misc]
        if 0 in pids:
            time.sleep(0.001)


def _members(path: str) -> list[int]:
    try:
        return [int(line) for line in Path(path, "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []
