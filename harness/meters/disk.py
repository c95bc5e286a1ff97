"""Measures what a folder takes on disk, from the inodes and not from file sizes.

Three questions, three numbers (stat(2), ioctl_fiemap in the kernel's Documentation/filesystems):

* apparent: the sum of `st_size`. What `ls -l` says; holes count.
* allocated: 512 bytes for each of `st_blocks`. What the filesystem has given away; holes do not
  count, folders and long symbolic links do.
* reflinked: the allocated bytes whose extents another file shares, asked of FIEMAP. A filesystem
  without reflinks that answers FIEMAP says 0, one that does not answer it says nothing: None.

An inode met twice (hard links) counts once. Walking never leaves the filesystem it began on, so a
merged overlay or a `/proc` mounted below a folder does not count as the folder's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Iterator

from harness.model import DiskPart, Sharing

BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the filesystem's own block size is (stat(2))."""

FS_IOC_FIEMAP = 0xC020660B
"""linux/fs.h: `_IOWR('f', 11, struct fiemap)`."""
FIEMAP_EXTENT_LAST = 0x0001
FIEMAP_EXTENT_SHARED = 0x2000
_HEADER = struct.Struct("=QQIIII")  # struct fiemap without its extents
_EXTENT = struct.Struct("=QQQQQIIII")  # struct fiemap_extent
_EXTENTS_AT_ONCE = 64
_END_OF_FILE = 0xFFFF_FFFF_FFFF_FFFF


def measure(path: str | os.PathLike[str], name: str, sharing: Sharing) -> DiskPart:
    """Measure a file, or a folder with all that is in it, as one named part.

    Args:
        path: File or folder; one that is not there counts as nothing.
        name: What the part is called in tables, e.g. `layer` or `upperdir`.
        sharing: Whether all instances of an image share it, or one instance has it alone.

    Returns:
        The footprint now. What disappears while it is being measured counts as not there.

    Raises:
        PermissionError: Something below the path may not be read.
    """
    apparent = allocated = 0
    reflinked: int | None = 0
    for entry, status in walk([path]):
        apparent += status.st_size
        allocated += status.st_blocks * BLOCK_BYTES
        if reflinked is not None and stat.S_ISREG(status.st_mode) and status.st_blocks:
            shared = reflinked_bytes(entry)
            reflinked = None if shared is None else reflinked + shared
    if reflinked is not None:
        # An extent may be larger than the file's part of it; no part shares more than it has.
        reflinked = min(reflinked, allocated)
    return DiskPart(name, sharing, apparent, allocated, reflinked)


def reflinked_bytes(path: str | os.PathLike[str]) -> int | None:
    """Count the bytes of a regular file in shared extents; None if it does not open or answer."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with open(os.open(path, flags), "rb", buffering=0) as file:
            extents = _extents(file.fileno())
            return sum(length for length, flags in extents if flags & FIEMAP_EXTENT_SHARED)
    except OSError:
        return None


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """(length in bytes, flags) of each extent of an open file, in order.

    Not FIEMAP_FLAG_SYNC: writing back dirty pages would disturb the instance that is measured.
    Delayed allocations are never shared, so nothing is missed.
    """
    start = 0
    while True:
        request = bytearray(
            _HEADER.pack(start, _END_OF_FILE - start, 0, 0, _EXTENTS_AT_ONCE, 0)
            + bytes(_EXTENT.size * _EXTENTS_AT_ONCE)
        )
        fcntl.ioctl(fd, FS_IOC_FIEMAP, request)
        mapped = _HEADER.unpack_from(request)[3]
        if mapped == 0:
            return
        for number in range(mapped):
            extent = _EXTENT.unpack_from(request, _HEADER.size + number * _EXTENT.size)
            logical, length, flags = extent[0], extent[2], extent[5]
            yield length, flags
            if flags & FIEMAP_EXTENT_LAST:
                return
            start = logical + length


def walk(tops: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is at and below `tops`, each inode once, with its status, in no order.

    What is not there, or disappears meanwhile, is left out.
    """
    seen: set[tuple[int, int]] = set()
    for path in tops:
        top = os.fspath(path)
        try:
            status = os.lstat(top)
        except FileNotFoundError:
            continue
        device = status.st_dev
        if _is_new(status, seen):
            yield top, status
        pending = [top] if stat.S_ISDIR(status.st_mode) else []
        while pending:
            with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if status.st_dev == device and _is_new(status, seen):
                        yield entry.path, status
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(entry.path)


def _is_new(status: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    key = status.st_dev, status.st_ino
    if key in seen:
        return False
    seen.add(key)
    return True
