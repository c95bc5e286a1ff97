"""Evicts an image from the page cache before a cold start, and counts its pages after one.

Eviction is per file, by posix_fadvise(2) with POSIX_FADV_DONTNEED; again after fdatasync(2) where
something stays, since a dirty page cannot be dropped. Pages that a process maps or reads stay. So
nothing else on the host gets colder, unlike by /proc/sys/vm/drop_caches. mincore(2) then counts the
resident pages. Inodes and folders stay cached, since the kernel evicts all of them or none. A
virtual disk is often cached again by its own host: cold means less there than on bare metal.

After a cold start, the resident pages are those that had to come from the disk, read-ahead
included. Pages of an overlay's lower layers are cached once, under the layer's own file, so they
count here for every container above it.

A walk over 1,500 files takes 50 ms, with eviction or without. It is never between t0 and ready, and
happens for cold arms only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from harness.meters.disk import walk
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
    """Count the bytes of files, and folders of files, that are in the page cache, in whole pages.

    Raises:
        MeterError: A file cannot be opened for reading.
    """
    return sum(resident_of_file(fd) for fd in _opened(paths))


@lru_cache(maxsize=64)
def total_bytes(paths: tuple[Path, ...]) -> int:
    """Count the bytes of files, and folders of files, in whole pages: the most that is resident.

    Images do not change, so each is counted once.
    """
    pages = sum(-(-status.st_size // _PAGE_BYTES) for _, status in _regular_files(paths))
    return pages * _PAGE_BYTES


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


def _regular_files(paths: Iterable[Path]) -> Iterator[tuple[str, os.stat_result]]:
    for path, status in walk(paths):
        if stat.S_ISREG(status.st_mode) and status.st_size:
            yield path, status
