"""The peer's own foreground process, and what it leaves in the control groups."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.backends.peers.argv import CGROUP_PARENT
from harness.backends.stream_instance import wait_readable
from runtime.linux.mounts import MountNamespace

_EMPTYING_NS = 2_000_000_000
_PEER_PATIENCE_S = 20


@dataclass(frozen=True, slots=True)
class Tool:
    """Where and how a peer is run.

    Attributes:
        directory: The arm's folder.
        namespace: The mounts that it sees.
        unwatched: Why process events cannot be had; None if they can.
        hierarchies: Mount points of the control group hierarchies that it sees.
    """

    program: str
    environment: Mapping[str, str]
    directory: str
    namespace: MountNamespace
    unwatched: str | None
    hierarchies: tuple[str, ...]

    @property
    def state(self) -> str:
        """Where it keeps its state: in memory, as `/run` is, and gone with the namespace."""
        return f"{self.directory}/state"

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run one of its commands; see `run_peer`."""
        return run_peer([self.program, *arguments], self.environment)


class PeerProcess:
    """A started program: its pidfd, and its end.

    Attributes:
        pidfd: Readable when it has ended.
        status: Wait status, once it has been waited for.
        cpu_ns: User and system time of it and all that it waited for (wait4(2)), once it has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stdio: tuple[int, int],
        info: tuple[int, str] | None = None,
    ) -> None:
        """Start a program by its absolute path.

        `stdio` becomes 0, and both 1 and 2; `info` is a descriptor that it inherits, and the file
        behind it.

        Raises:
            OSError: It cannot be started.
        """
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_DUP2, stdio[0], 0),
            (os.POSIX_SPAWN_DUP2, stdio[1], 1),
            (os.POSIX_SPAWN_DUP2, stdio[1], 2),
        ]
        if info is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            actions.append((os.POSIX_SPAWN_OPEN, info[0], info[1], flags, 0o600))
        self.pid = os.posix_spawn(
            argv[0],
            list(argv),
            environment,
            file_actions=actions,
            # Ctrl-C is for the harness, which ends its instances itself.
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
        )
        self.pidfd = os.pidfd_open(self.pid)
        self.status: int | None = None
        self.cpu_ns = (0, 0)

    def wait(self, deadline_ns: int) -> bool:
        """Wait until it has ended; False if the deadline came first."""
        if self.status is not None:
            return True
        if not wait_readable(self.pidfd, deadline_ns - time.monotonic_ns()):
            return False
        _, self.status, usage = os.wait4(self.pid, 0)
        self.cpu_ns = (round(usage.ru_utime * 1e9), round(usage.ru_stime * 1e9))
        return True

    def kill(self) -> None:
        """SIGKILL, if it has not ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the pidfd go. Idempotent."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def run_peer(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a short command of a peer to its end, in the calling thread's namespaces.

    Returns:
        Its exit code, and all that it printed; a code of -1 if it could not be run, or hung.
    """
    try:
        done = subprocess.run(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PEER_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"{argv[0]} did not end within {_PEER_PATIENCE_S} s"
    except OSError as error:
        return -1, f"{argv[0]}: {(error.strerror or str(error)).lower()}"
    return done.returncode, done.stdout.strip()


def kill_process(pid: int) -> None:
    """SIGKILL to a process of the host, and wait a little until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_readable(pidfd, _EMPTYING_NS)
        finally:
            os.close(pidfd)


def family(*roots: int) -> tuple[int, ...]:
    """Pids of these processes and all below them that live, as /proc shows them now.

    Not by `psutil.Process.children`, which walks /proc anew for each root, and each walk takes 1.7
    times as long: the instance runs on meanwhile, and its CPU time is read next.
    """
    children: dict[int, list[int]] = {}
    living: set[int] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        with contextlib.suppress(OSError):
            state, parent = _state_and_parent(entry)
            if state not in "ZX":
                living.add(int(entry))
            children.setdefault(parent, []).append(int(entry))
    found: dict[int, None] = {}
    pending = list(roots)
    while pending:
        pid = pending.pop(0)
        if pid not in found:
            found[pid] = None
            pending += children.get(pid, [])
    return tuple(pid for pid in found if pid in living)


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if it has ended."""
    try:
        return _state_and_parent(str(pid))[1]
    except OSError:
        return None


def _state_and_parent(pid: str) -> tuple[str, int]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        state, parent = file.read().rpartition(b") ")[2].split()[:2]
    return state.decode(), int(parent)


def hierarchies() -> tuple[str, ...]:
    """Mount points of all control group hierarchies of this host (proc(5), mountinfo)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        parts = [line.split(" - ", 1) for line in file]
    return tuple(
        before.split()[4] for before, after in parts if after.split()[0] in ("cgroup", "cgroup2")
    )


def cgroup_folders(path: str, mounts: Sequence[str]) -> dict[str, str]:
    """Controller -> folder of the group called `path` in its hierarchy, where there is one.

    `cpuacct` is whatever counts CPU time, as every version 2 group does.
    """
    folders: dict[str, str] = {}
    for mount in mounts:
        folder = f"{mount}{path}"
        if not os.path.isdir(folder):
            continue
        try:
            names = Path(folder, "cgroup.controllers").read_text().split()
            folders.setdefault("cpuacct", folder)
        except FileNotFoundError:
            # Version 1 hierarchies are mounted under the names of their controllers.
            names = os.path.basename(mount).split(",")
        folders |= dict.fromkeys(names, folder)
    return folders


def remove_cgroups(path: str, mounts: Sequence[str]) -> None:
    """Remove a group with those below it from every hierarchy; absent is fine.

    Raises:
        OSError: Processes are still in one after two seconds.
    """
    for mount in mounts:
        for folder, _, _ in os.walk(f"{mount}{path}", topdown=False):
            _remove_cgroup(folder)


def _remove_cgroup(folder: str) -> None:
    # A process leaves its groups a little after its parent could reap it (cgroups(7)).
    deadline = time.monotonic_ns() + _EMPTYING_NS
    while True:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic_ns() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def remove_cgroup_parents(mounts: Sequence[str]) -> None:
    """Remove the folder above all groups of Steelyard, where nobody uses it."""
    for mount in mounts:
        with contextlib.suppress(OSError):
            os.rmdir(f"{mount}/{CGROUP_PARENT}")
