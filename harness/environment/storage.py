"""Facts about the filesystem of the data home, where instances have their folders."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import psutil

from harness.environment.registry import MissingError, fact, place, procfs
from runtime import data_home
from runtime.linux import ext4

_ROUNDS = 15


@fact("data_home_filesystem", str)
def _data_home_filesystem() -> str:
    return filesystem_of(data_home())


@fact("data_home_journal", str)
def _data_home_journal() -> str:
    """`yes` or `none` on ext4: without one, new folders search past deleted inodes."""
    kind = filesystem_of(data_home())
    if kind != "ext4":
        return f"not applicable: {kind}"
    has_journal = ext4.has_journal(_existing(data_home()), place("/sys"))
    if has_journal is None:
        raise MissingError("/sys/fs/ext4 has no journal_task of its device")
    return "yes" if has_journal else "none"


@fact("data_home_discard", bool)
def _data_home_discard() -> bool:
    """Whether the disk is asked to drop freed blocks at once, so that each removal waits for it."""
    _, options = _mount_of(data_home())
    return any(
        option == "discard" or option.startswith("discard=") for option in options.split(",")
    )


def median_mkdir_ns(folder: Path) -> int:
    """Measure what a new folder costs there, in nanoseconds: the median of 15, each removed.

    `runtime.linux.ext4.SOUND_MKDIR_NS` says what to expect.

    Raises:
        OSError: None can be made.
    """
    return round(statistics.median(ext4.mkdir_times_ns(folder, _ROUNDS)))


def filesystem_of(path: Path) -> str:
    """Find the type of the filesystem that holds `path`, or will once it is made.

    Raises:
        MissingError: No mount that this process sees holds it, as in a chroot.
    """
    kind, _ = _mount_of(path)
    return kind


def _mount_of(path: Path) -> tuple[str, str]:
    """(type, options with commas)."""
    # For "/proc" as such psutil reads /etc/mtab, which is out of date on some hosts.
    with procfs(f"{place('/proc')}/."):
        found = psutil.disk_partitions(all=True)
    mounts = {mount.mountpoint: (mount.fstype, mount.opts) for mount in found if mount.fstype}
    path = path.resolve()
    for folder in (path, *path.parents):
        # Only what is a mount now: one that lies below a later mount is listed as well.
        if os.path.ismount(folder) and (mount := mounts.get(str(folder))):
            return mount
    raise MissingError(f"no mount holds {path}")


def _existing(path: Path) -> Path:
    """The folder itself, or the innermost one around it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
