"""Files and folders as the rooms above need them: removed for good, made to last, locked, read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it, also overlay's `work/work` of mode 000; absent is fine.

    Never crosses into another filesystem by a mount: a mount that is still there makes rmdir fail
    with EBUSY, which is an error worth seeing.
    """

    def make_writable(_function: object, name: str, _error: object) -> None:
        # Only an ordinary user meets this: root passes every mode.
        os.chmod(os.path.dirname(name), 0o700)
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)

    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() == 0:
            shutil.rmtree(path)
        else:
            shutil.rmtree(path, onerror=make_writable)


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make what was renamed into a folder survive a power cut (fsync(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def directory_lock(path: Path) -> Iterator[None]:
    """Hold a folder's exclusive lock (flock(2)), made if absent; the kernel frees it if we die."""
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def try_directory_lock(path: Path) -> Iterator[bool]:
    """Try for the lock that `directory_lock` waits for; gives whether it is held."""
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def process_status(pid: int | str, field: str) -> list[str]:
    """Read the words of a field in /proc/PID/status (proc(5)); none if this kernel lacks it.

    Raises:
        OSError: There is no such process, or /proc.
    """
    with open(f"/proc/{pid}/status", errors="replace") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return line.split()[1:]
    return []
