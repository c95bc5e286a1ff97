"""Finds files that are open and have no name: they take space on disk, and no walk finds them.

O_TMPFILE makes such files, and unlink(2) of an open one. Their space is free when the last
descriptor is closed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from harness.meters.disk import BLOCK_BYTES
from harness.meters.readings import read_text

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})


def unlinked_bytes(pids: Iterable[int], proc: str = "/proc") -> int:
    """What processes have on disk in files without a name, in bytes of whole blocks.

    Each inode counts once. What is in memory (memfd_create(2), a tmpfs) does not count, nor what is
    mapped and no longer open. Processes that end meanwhile, or may not be looked at, have nothing.
    """
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        kinds: dict[str, str] | None = None
        with contextlib.suppress(OSError):
            for number in os.listdir(f"{proc}/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(f"{proc}/{pid}/fd/{number}")
                    if not stat.S_ISREG(status.st_mode) or status.st_nlink:
                        continue
                    if kinds is None:
                        kinds = _kinds(f"{proc}/{pid}/mountinfo")
                    # A memfd's mount is the kernel's own and in no list.
                    if kinds.get(_mount(f"{proc}/{pid}/fdinfo/{number}"), "tmpfs") in _IN_MEMORY:
                        continue
                    found[status.st_dev, status.st_ino] = status.st_blocks * BLOCK_BYTES
    return sum(found.values())


def _kinds(mountinfo: str) -> dict[str, str]:
    """Mount id -> type of its filesystem (proc_pid_mountinfo(5))."""
    lines = (line.partition(" - ") for line in read_text(mountinfo).splitlines())
    return {left.split()[0]: right.split()[0] for left, _, right in lines}


def _mount(fdinfo: str) -> str:
    """The id of the mount that a descriptor is open on (proc_pid_fdinfo(5))."""
    words = read_text(fdinfo).split()
    return words[words.index("mnt_id:") + 1]
