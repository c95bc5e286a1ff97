"""What sessions whose owner died have left on the machine, and how to take it away.

Only things that carry the name of a dead session are touched. In the order in which they must go:
processes, mounts, cgroups, folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runtime.containers.session import dead_sessions, instances_directory, is_alive
from runtime.launch.cgroups import PARENT, remove_group
from runtime.linux import syscalls
from runtime.linux.abi import MNT_DETACH
from runtime.linux.files import remove_tree
from runtime.paths import unescape_mountinfo

_IDENTIFIER = re.compile(r"[0-9a-f]{12}")
_KILL_TIMEOUT_NS = 5_000_000_000
_TOLD_THE_NAME = ("qemu-system", "runc", "crun", "bwrap", "podman", "conmon")
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
    """Everything that dead sessions left, in the order in which it can be removed."""
    return [
        *_processes(home),
        *_mounts(home),
        *_cgroups(home),
        *(
            Leftover("folder", os.fspath(path), path.name.lstrip("."), partial(remove_tree, path))
            for path in dead_sessions(home)
        ),
    ]


def _processes(home: Path | None) -> Iterator[Leftover]:
    """Processes in a dead session's cgroup, or whose command names its folder or instances."""
    prefix = re.escape(os.fspath(instances_directory(home)))
    named = re.compile(rf"(?:{prefix}/|\bsteelyard[-/])({_IDENTIFIER.pattern})\b")
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (
                Path(f"/proc/{entry}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
            groups = Path(f"/proc/{entry}/cgroup").read_text(errors="replace")
            if Path(f"/proc/{entry}/stat").read_bytes().rpartition(b") ")[2].startswith(b"Z"):
                continue  # dead already: its parent, not we, can let go of the rest
            found = {*named.findall(groups)}
            # A shell that merely mentions such a name is no leftover: only these are told it.
            program = os.path.basename(command.split(" ", 1)[0])
            if program.startswith(_TOLD_THE_NAME):
                found |= {*named.findall(command)}
            for session in found:
                if not is_alive(session, home):
                    name = f"{entry} ({command.strip()[:60]})"
                    yield Leftover("process", name, session, partial(_kill, int(entry)))
                    break


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_KILL_TIMEOUT_NS / 1e6):
                raise TimeoutError(f"process {pid} does not die")
        finally:
            os.close(pidfd)


def _mounts(home: Path | None) -> Iterator[Leftover]:
    base = os.fspath(instances_directory(home))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mountpoints = [unescape_mountinfo(line.split()[4]) for line in file]
    # Topmost last mounted first, so that each can be unmounted.
    for mountpoint in reversed(mountpoints):
        session = mountpoint.removeprefix(base + "/").split("/")[0]
        if mountpoint.startswith(base + "/") and not is_alive(session, home):
            yield Leftover(
                "mount",
                mountpoint,
                session,
                partial(syscalls.umount, mountpoint, MNT_DETACH),
            )


def _cgroups(home: Path | None) -> Iterator[Leftover]:
    """Groups in every hierarchy: other people's tools make theirs in each that is mounted."""
    for parent in _cgroup_parents():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(parent):
                session = entry.name.split("-")[0]
                if not entry.is_dir() or not _IDENTIFIER.fullmatch(session):
                    continue
                if not is_alive(session, home):
                    yield Leftover(
                        "cgroup", entry.path, session, partial(_remove_cgroup, entry.path)
                    )


def _cgroup_parents() -> list[str]:
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
                found.append(f"{unescape_mountinfo(before.split()[4])}/{PARENT}")
    return found


def _remove_cgroup(path: str) -> None:
    for group, _, _ in os.walk(path, topdown=False):
        _empty_cgroup(group)
        remove_group(group)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _empty_cgroup(path: str) -> None:
    deadline = time.monotonic_ns() + _KILL_TIMEOUT_NS
    while time.monotonic_ns() < deadline:
        try:
            pids = [int(line) for line in Path(path, "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return
        if not pids:
            return
        for pid in pids:
            _kill(pid)
