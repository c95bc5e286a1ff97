"""Copies of images' root filesystems that programs may write into, kept from one use to the next.

    copies/<hex of the manifest>-<n>/          locked (flock(2)) while somebody has it
    copies/<hex of the manifest>-<n>/rootfs    the merged tree
    copies/<hex of the manifest>-<n>/seal      what says that it is unchanged

A copy belongs to one holder at a time: who finds all of them locked makes another, n + 1. One that
is not as it was made is made anew before it is given out. That is seen from the seal, a digest over
the inode of every entry: the kernel sets ctime at each change of content or attributes, and no
program can set it back (inode(7)). The seal also holds the boot: nothing is flushed to disk, so a
copy of before the last boot may not be whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.images.formats.image import Image
from runtime.images.layer import merged
from runtime.images.store.layout import StoreLayout
from runtime.linux.files import try_directory_lock

_CLOCK_REALTIME_COARSE = 5
"""linux/time.h: the clock that inodes are stamped by."""


@contextlib.contextmanager
def hold_copy(
    layout: StoreLayout,
    image: Image,
    finish: Callable[[Path], None],
    say_copying: Callable[[], None],
) -> Iterator[Path]:
    """Give a copy that is as it was made, to the caller alone, for as long as it is held.

    Args:
        layout: Of the store.
        image: Of which.
        finish: Adds what all holders want in it; the same for every caller.
        say_copying: Called when a copy has to be made.

    Raises:
        OSError, StoreError: It cannot be made; nothing half-made is kept.
    """
    with contextlib.ExitStack() as stack:
        # Nobody removes a copy between its being found and its being locked.
        with layout.writing():
            folder = stack.enter_context(_first_free(layout, image.digest))
            rootfs, seal = folder / "rootfs", folder / "seal"
            if not is_sealed(rootfs, seal):
                say_copying()
                with layout.temporary_folder() as staging:
                    # First of all: whoever finds what a killed process leaves must not trust it.
                    seal.unlink(missing_ok=True)
                    if rootfs.exists():
                        rootfs.rename(staging / "changed")
                    merged.flatten(image, staging / "rootfs")
                    finish(staging / "rootfs")
                    (staging / "rootfs").rename(rootfs)
                    _wait_for_another_ctime(rootfs)
                    (staging / "seal").write_text(seal_of(rootfs))
                    (staging / "seal").rename(seal)
        yield rootfs


@contextlib.contextmanager
def _first_free(layout: StoreLayout, digest: str) -> Iterator[Path]:
    for number in itertools.count():
        folder = layout.copy_path(digest, number)
        with try_directory_lock(folder) as is_locked:
            if is_locked:
                yield folder
                return


def is_sealed(rootfs: Path, seal: Path) -> bool:
    """Whether a copy is as it was when its seal was written."""
    try:
        return seal.read_text() == seal_of(rootfs)
    except (OSError, UnicodeDecodeError):
        return False


def seal_of(rootfs: Path) -> str:
    """Digest a tree by what the kernel keeps of each entry; 3 ms for 300 of them.

    The time of the last access does not count: reading is no change.
    """
    seal = hashlib.sha256(_boot())
    for path, status in _entries(rootfs):
        fields = (
            status.st_dev, status.st_ino, status.st_mode, status.st_nlink, status.st_uid,
            status.st_gid, status.st_rdev, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
        seal.update(b"%s\0%s\n" % (path, repr(fields).encode()))
    return seal.hexdigest()


def _entries(rootfs: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path of a tree, its top included, in a fixed order."""
    pending = [os.fsencode(rootfs)]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            pending += sorted(os.path.join(path, name) for name in os.listdir(path))


def _wait_for_another_ctime(rootfs: Path) -> None:
    """Wait until a change would get a later time than any entry has: the clock goes in ticks."""
    newest_ns = max(status.st_ctime_ns for _, status in _entries(rootfs))
    now_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    while newest_ns >= now_ns and newest_ns - now_ns < 1_000_000_000:
        time.sleep(0.001)
        now_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def _boot() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes()
