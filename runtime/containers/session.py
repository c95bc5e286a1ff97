"""Who owns what: the folder that one process keeps all its instances in.

A session is a folder locked by flock(2) for as long as its process lives. Everything per instance
lies below it or carries its identifier in its name: a free lock means that the owner is dead,
however it died, and the names say what it left behind. No pid is compared: pids are used again,
locks are not.

A folder that is not there proves nothing: the session may live in another data home, or where this
mount namespace does not reach. Nor does a copy of one, which no owner ever locked: the lock file
says which device and inode it was made as.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from runtime.launch import cgroups
from runtime.linux.ext4 import SOUND_MKDIR_NS, mkdir_times_ns, spread_subfolders
from runtime.linux.files import remove_tree
from runtime.paths import data_home

_LOCK_NAME = ".lock"
_MAKING_NS = 60_000_000_000
"""A session is under its hidden name for microseconds; one older than this was never finished."""
_MOST_PLACES = 8
_ROUNDS = 3
_current: Session | None = None


class Lock(enum.Enum):
    """What the lock of a session's folder says about its owner."""

    HELD = "the owner lives"
    FREE = "the owner is dead"
    COPY = "the folder is a copy: its owner locks another file"
    ABSENT = "the folder, or the lock in it, is not there"
    UNREADABLE = "this user, or this filesystem, does not let us look"


class Session:
    """One process's folder of instances.

    Attributes:
        identifier: Twelve hexadecimal digits, part of the name of everything the session makes.
        directory: `<data home>/instances/<identifier>`.
        place: Where the folders of instances are made: `directory`, or after `renew_place` a hidden
            folder in it.
        on_close: Called when the session closes: the `remove` of every instance that it still has.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.identifier = secrets.token_hex(6)
        instances = instances_directory(home)
        self.directory = instances / self.identifier
        # Made under another name, locked, then renamed: nobody can find it unlocked and think the
        # owner dead. `dead_sessions` leaves hidden names alone while they are new.
        aside = instances / f".{self.identifier}"
        instances.mkdir(parents=True, exist_ok=True)
        # What other sessions deleted is then not in the way of what this one makes.
        spread_subfolders(instances)
        aside.mkdir(mode=0o700)
        self._lock_fd = os.open(aside / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        os.write(self._lock_fd, _identity(self._lock_fd))
        aside.rename(self.directory)
        self._sign_of_life = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sign_of_life.bind(_socket_name(self.identifier))
        self._owner_pid = os.getpid()
        self._counter = 0
        self.place = self.directory
        self._places = 0
        self._earlier_places: list[Path] = []
        self.on_close: set[Callable[[], None]] = set()

    @classmethod
    def existing(cls) -> Session | None:
        """The session of this process, if it has one."""
        is_ours = _current is not None and _current._owner_pid == os.getpid()
        return _current if is_ours else None

    @classmethod
    def current(cls) -> Session:
        """The session of this process, made when first asked for."""
        global _current
        if _current is None or cls.existing() is None:
            _current = cls()
            # An orderly end of this process also tidies up; the rest is found by its free lock.
            atexit.register(_current.close)
        return _current

    def next_name(self, prefix: str) -> str:
        """A name not used before in this session: `<prefix>-<n>`."""
        self._counter += 1
        return f"{prefix}-{self._counter}"

    def new_instance_directory(self, name: str) -> Path:
        """Make the folder of an instance in `place`; OSError if it is there already."""
        path = self.place / name
        os.mkdir(path, 0o700)
        return path

    def renew_place(self) -> bool:
        """Make the next instances in a new folder, in a block group with few deleted inodes.

        Where that serves (`spread_subfolders`): elsewhere nothing is done. Takes 0.5 to 1 ms, up to
        eight times that where the disk is full of deleted inodes, and as long again to remove the
        folders of before, once they are empty.

        Returns:
            Whether `place` is another one now; not either if the disk is full.
        """
        if not spread_subfolders(self.directory):
            return False
        # ext4 chooses the block groups with the fewest folders, which on a small disk may be one
        # that was left just now. What was tried stays meanwhile, so that it chooses another.
        tried: list[tuple[int, Path]] = []
        try:
            while len(tried) < _MOST_PLACES and not any(ns <= SOUND_MKDIR_NS for ns, _ in tried):
                # Hidden, so that an instance may be called 1.
                place = self.directory / f".{self._places + 1}"
                os.mkdir(place, 0o700)
                self._places += 1
                tried.append((min(mkdir_times_ns(place, _ROUNDS)), place))
        except OSError:
            pass
        if not tried:
            return False
        self._earlier_places += [place for _, place in tried]
        if self.place != self.directory:
            self._earlier_places.append(self.place)
        self.place = min(tried)[1]
        self._earlier_places.remove(self.place)
        self._earlier_places = [place for place in self._earlier_places if not _is_gone(place)]
        return True

    def close(self) -> None:
        """Remove every instance and the folder, and let the lock go. Idempotent.

        The folder stays if an instance cannot be removed: it is what proves the owner of the rest
        dead.
        """
        global _current
        if self._lock_fd < 0 or self._owner_pid != os.getpid():
            return
        if _current is self:
            _current = None
        # Last in, first out; each is tried, whatever becomes of the others.
        with contextlib.ExitStack() as stack:
            stack.callback(self._let_go)
            stack.callback(cgroups.cgroup_manager().remove_parents)
            stack.push(self._remove_folder)
            for remove in self.on_close:
                stack.callback(remove)

    def _remove_folder(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            remove_tree(self.directory)

    def _let_go(self) -> None:
        self._sign_of_life.close()
        os.close(self._lock_fd)
        self._lock_fd = -1


def _is_gone(place: Path) -> bool:
    """Remove a folder if it is empty."""
    try:
        os.rmdir(place)
    except OSError:
        return False
    return True


def _socket_name(identifier: str) -> str:
    """Of an abstract Unix socket that the kernel frees with its process (unix(7)).

    Seen only in the same network namespace: taken, it proves that the owner lives; free, nothing.
    """
    return f"\0steelyard-{identifier}"


def is_alive(identifier: str, home: Path | None = None) -> bool:
    """Whether the session of that name still has an owner, as far as can be seen from here.

    False does not prove that the owner is dead: see `look_at_lock`.
    """
    lock = look_at_lock(instances_directory(home) / identifier)
    if lock is not Lock.ABSENT:
        return lock in (Lock.HELD, Lock.UNREADABLE)
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
    """Folders that belong to no living session, copies and half-made ones too, oldest first."""
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
            if not path.is_dir() or path.is_symlink():
                continue
            if look_at_lock(path) not in (Lock.HELD, Lock.UNREADABLE):
                found.append((made_ns, path))
    return [path for _, path in sorted(found)]


def proven_dead(home: Path | None = None) -> frozenset[str]:
    """Name the sessions of this home whose lock is free: nothing else proves an owner dead."""
    return frozenset(path.name for path in dead_sessions(home) if look_at_lock(path) is Lock.FREE)


def look_at_lock(directory: Path) -> Lock:
    """Read what the lock in a session's folder says about the session's owner."""
    try:
        fd = os.open(directory / _LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Lock.ABSENT  # never there, or its maker or remover was killed half-way
    except OSError:
        return Lock.UNREADABLE
    try:
        # Shared, so that two who look at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Empty is that of an older version, which did not write it.
        is_original = os.read(fd, 100) in (_identity(fd), b"")
    except BlockingIOError:
        return Lock.HELD
    except OSError:
        return Lock.UNREADABLE
    finally:
        os.close(fd)
    return Lock.FREE if is_original else Lock.COPY


def _identity(fd: int) -> bytes:
    """What a file has and no copy of it."""
    status = os.fstat(fd)
    return f"{status.st_dev} {status.st_ino}\n".encode()
