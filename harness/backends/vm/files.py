"""Writing into the cache so that what is there is whole, whoever else writes or dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_aside(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file under another name, sync it, and give it its name when it is whole."""
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        fd = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make renames in a folder last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def directory_lock(path: Path) -> Iterator[None]:
    """Hold a folder's exclusive lock (flock(2)); the kernel lets go of it if we die."""
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
