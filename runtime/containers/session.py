"""Who owns what: the folder that one process keeps all its instances in.

A session is a folder locked by flock(2) for as long as its process lives. Everything per instance
lies below it or carries its identifier in its name, so that whoever finds a session whose lock is
free knows that the owner is dead, however it died, and what it left behind. No pid is compared:
pids are used again, locks are not.

For what is not below the folder (cgroups, processes) there is a second sign of life that needs no
path: the session holds an abstract Unix socket named after itself, which the kernel frees when the
process dies (unix(7)).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from runtime.launch import cgroups
from runtime.linux.files import remove_tree
from runtime.paths import data_home

_LOCK_NAME = ".lock"
_MAKING_NS = 60_000_000_000
"""A session is under its hidden name for microseconds; one older than this was never finished."""
_current: Session | None = None


class Session:
    """One process's folder of instances.

    Attributes:
        identifier: Twelve hexadecimal digits, part of the name of everything the session makes.
        directory: `<data home>/instances/<identifier>`.
        on_close: Called when the session closes: the `remove` of every instance that it still has.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.identifier = secrets.token_hex(6)
        instances = instances_directory(home)
        self.directory = instances / self.identifier
        # Made under another name, locked, then renamed: nobody can find it unlocked and think the
        # owner dead. `dead_sessions` leaves hidden names alone while they are new.
        aside = instances / f".{self.identifier}"
        aside.mkdir(parents=True, mode=0o700)
        self._lock_fd = os.open(aside / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        aside.rename(self.directory)
        self._sign_of_life = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sign_of_life.bind(_socket_name(self.identifier))
        self._owner_pid = os.getpid()
        self._counter = 0
        self.on_close: set[Callable[[], None]] = set()

    @classmethod
    def current(cls) -> Session:
        """The session of this process, made when first asked for."""
        global _current
        if _current is None or _current._owner_pid != os.getpid():
            _current = cls()
            # Whatever ends this process in an orderly way also tidies up; the rest is found by its
            # free lock.
            atexit.register(_current.close)
        return _current

    def next_name(self, prefix: str) -> str:
        """A name not used before in this session: `<prefix>-<n>`."""
        self._counter += 1
        return f"{prefix}-{self._counter}"

    def new_instance_directory(self, name: str) -> Path:
        """Make `<session>/<name>`; OSError if it is there already."""
        path = self.directory / name
        os.mkdir(path, 0o700)
        return path

    def close(self) -> None:
        """Remove every instance and the folder, and let the lock go. Idempotent."""
        global _current
        if self._lock_fd < 0 or self._owner_pid != os.getpid():
            return
        if _current is self:
            _current = None
        # Last in, first out; each is tried, whatever becomes of the others.
        with contextlib.ExitStack() as stack:
            stack.callback(self._let_go)
            stack.callback(cgroups.cgroup_manager().remove_parents)
            stack.callback(remove_tree, self.directory)
            for remove in self.on_close:
                stack.callback(remove)

    def _let_go(self) -> None:
        self._sign_of_life.close()
        os.close(self._lock_fd)
        self._lock_fd = -1


def _socket_name(identifier: str) -> str:
    return f"\0steelyard-{identifier}"


def is_alive(identifier: str, home: Path | None = None) -> bool:
    """Whether the session of that name still has an owner, here or under another data home."""
    directory = instances_directory(home) / identifier
    if directory.is_dir():
        return _is_locked(directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as attempt:
        try:
            attempt.bind(_socket_name(identifier))
        except OSError:
            return True
    return False


def instances_directory(home: Path | None = None) -> Path:
    """The folder that holds one folder a session."""
    return (home or data_home()) / "instances"


def dead_sessions(home: Path | None = None) -> list[Path]:
    """Folders of sessions whose owner no longer lives, oldest first."""
    found: list[tuple[int, Path]] = []
    now_ns = time.time_ns()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in instances_directory(home).iterdir():
            try:
                made_ns = path.lstat().st_mtime_ns
            except FileNotFoundError:
                continue  # its owner has just closed it
            if path.name.startswith(".") and now_ns - made_ns < _MAKING_NS:
                continue
            if path.is_dir() and not path.is_symlink() and not _is_locked(path):
                found.append((made_ns, path))
    return [path for _, path in sorted(found)]


def _is_locked(directory: Path) -> bool:
    """Whether a living process holds the session's lock."""
    try:
        fd = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # its maker or remover was killed half-way
    try:
        # Shared, so that two who look at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
