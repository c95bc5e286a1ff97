"""What the page cache holds of an image: emptied before a cold start, read after one.

Eviction is per file, by posix_fadvise(2) with POSIX_FADV_DONTNEED; again after fdatasync(2) where
something stays, since a dirty page cannot be dropped. What a process maps or reads at the moment
stays. So nothing else on the host gets colder, unlike by /proc/sys/vm/drop_caches. mincore(2) then
counts what is resident. The inodes and folders of the image stay cached: of those the kernel lets
nobody evict a part. So does what the storage below keeps: a virtual disk is often cached again by
its own host, and cold there means less than on a machine of iron.

After a cold start, what is resident is what the start read, and what the kernel read ahead of it:
what really had to come from the disk. Pages of an overlay's lower layers are cached once, under the
layer's own file, so they are counted here for every container above it.

A walk over 1,500 files takes 50 ms, with eviction or without. It is never between t0 and ready, and
happens for cold arms only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from harness.model.errors import MeterError
from runtime.linux.syscalls import resident_bytes as resident_of_file

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def evict(paths: Sequence[Path]) -> int:
    """Take files, and folders of files, out of the page cache.

    Returns:
        Bytes of them that are still resident: mapped or being read by somebody.

    Raises:
        MeterError: A file cannot be opened for reading.
    """
    return sum(_evict(fd) for fd in _opened(paths))


def _evict(fd: int) -> int:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    left = resident_of_file(fd)
    if left:
        # Dirty, perhaps. Not done for every file: fdatasync also empties the disk's own cache, and
        # takes 3 ms even where nothing is to be written.
        with contextlib.suppress(OSError):  # a read-only filesystem may refuse
            os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        left = resident_of_file(fd)
    return left


def resident_bytes(paths: Sequence[Path]) -> int:
    """Bytes of files, and folders of files, that are in the page cache, in whole pages.

    Raises:
        MeterError: A file cannot be opened for reading.
    """
    return sum(resident_of_file(fd) for fd in _opened(paths))


@lru_cache(maxsize=64)
def _total_bytes(paths: tuple[Path, ...]) -> int:
    return sum(
        -(-status.st_size // _PAGE_BYTES) * _PAGE_BYTES for _, status in _regular_files(paths)
    )


def total_bytes(paths: Sequence[Path]) -> int:
    """Bytes of files, and folders of files, in whole pages: the most that can be resident.

    Images do not change, so each is counted once.
    """
    return _total_bytes(tuple(paths))


def _opened(paths: Sequence[Path]) -> Iterator[int]:
    """A descriptor for each regular file; closed when the next is asked for."""
    for path, _ in _regular_files(paths):
        try:
            # O_NOATIME would need ownership, and a read-only open changes no time.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MeterError(f"{path}: {error.strerror}") from error
        try:
            yield fd
        finally:
            os.close(fd)


def _regular_files(paths: Sequence[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file at or below the paths that holds anything, each inode once."""
    seen: set[tuple[int, int]] = set()
    pending: list[str] = []

    def is_new(status: os.stat_result) -> bool:
        key = status.st_dev, status.st_ino
        if not stat.S_ISREG(status.st_mode) or not status.st_size or key in seen:
            return False
        seen.add(key)
        return True

    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            pending.append(os.fspath(path))
        elif is_new(status):
            yield os.fspath(path), status
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if is_new(status):
                    yield entry.path, status
