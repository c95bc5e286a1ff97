"""The root disk of an image's guests: made once for each image digest, and kept.

An ext4 file system made from the image's merged root by `mke2fs -d`, without a mount. Everything
that could differ from one making to the next is fixed: features, UUIDs, and the times that mke2fs
takes from the source's inodes, which are those of unpacking (debugfs(8) sets them afterwards). The
file is sparse, so that room to write costs nothing until it is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.model.errors import PrepareError
from runtime import cache_home
from runtime.linux.files import directory_lock, fsync_directory

if TYPE_CHECKING:
    from harness.model.backend import Progress
    from runtime import Image, ImageStore

_MIB = 1 << 20
_BLOCK_BYTES = 4096
_ROOM_BYTES = 512 * _MIB
_SPARE_INODES = 4096
_JOURNAL_MIB = 4
_UUID = "53746565-6c79-4172-8420-76697274756c"
_HASH_SEED = "53746565-6c79-4172-8420-68617368206d"
_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum"
)
_EPOCH_S = 946684800  # 2000-01-01: any time will do as long as it is always the same
_MOUNTPOINTS = ("dev", "proc", "sys")
_FORMAT = 1
"""Raised when the same image would give another disk."""


def image_disk(image: Image, store: ImageStore, progress: Progress) -> Path:
    """The raw disk with an image's merged root, made if this host does not have it yet.

    Raises:
        PrepareError: It cannot be made; nothing half-made is kept.
    """
    directory = cache_home() / "disks"
    path = directory / f"{image.digest.partition(':')[2] or image.digest}-{_FORMAT}.raw"
    with directory_lock(directory):
        if not path.exists():
            # The lock is ours alone: what is unfinished was left by a killed process.
            for unfinished in directory.glob(".*.raw-*"):
                unfinished.unlink()
            progress("making the virtual disk")
            with store.lease(image), _merged_root(image, store) as root:
                make_disk(root, path)
    return path


def make_disk(root: Path, path: Path) -> None:
    """Make a disk from a folder; it appears under its name only when it is whole.

    Raises:
        PrepareError: A tool is missing or refuses.
    """
    content_bytes, inodes = _demand(root)
    size_bytes = -(-(content_bytes + _ROOM_BYTES) // _MIB) * _MIB
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    whole = path.with_name(f".{path.name}-{os.getpid()}-whole")
    try:
        with open(aside, "wb") as file:
            os.truncate(file.fileno(), size_bytes)
        _run(
            [
                *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-I", "256"),
                *("-O", _FEATURES, "-U", _UUID, "-L", "steelyard", "-m", "0", "-e", "remount-ro"),
                *("-N", str(inodes + _SPARE_INODES), "-J", f"size={_JOURNAL_MIB}"),
                # Nothing is left for the guest's kernel to initialise in the background.
                *("-E", f"hash_seed={_HASH_SEED},lazy_itable_init=0,lazy_journal_init=0"),
                *("-d", str(root), str(aside)),
            ]
        )
        missing = [name for name in _MOUNTPOINTS if not (root / name).is_dir()]
        _debugfs(aside, [f"mkdir {name}" for name in missing])
        _debugfs(aside, _time_commands(aside, missing))
        _copy_without_zeros(aside, whole)
        os.rename(whole, path)
        fsync_directory(path.parent)
    except OSError as error:
        raise PrepareError(f"the virtual disk {path} cannot be made: {error.strerror}") from None
    finally:
        for unfinished in (aside, whole):
            unfinished.unlink(missing_ok=True)


def copy_disk(source: Path, target: Path) -> None:
    """A private full copy; holes stay holes. What the file system shares by itself, it shares.

    Raises:
        OSError: Of the file system; a half-made copy goes with its folder.
    """
    with open(source, "rb", buffering=0) as from_file, open(target, "xb", buffering=0) as to_file:
        size_bytes = os.fstat(from_file.fileno()).st_size
        os.truncate(to_file.fileno(), size_bytes)
        for start, end in _data_ranges(from_file.fileno(), size_bytes):
            _copy_range(from_file.fileno(), to_file.fileno(), start, end)


@contextlib.contextmanager
def _merged_root(image: Image, store: ImageStore) -> Iterator[Path]:
    """A folder with the image's root: the layer itself if there is one, else a merged copy."""
    if len(image.layers) == 1:
        yield image.layers[0].path
        return
    with store.temporary_folder() as folder:
        merged = folder / "merged"
        store.flatten(image, merged)
        yield merged


def _demand(root: Path) -> tuple[int, int]:
    """Bytes (in whole blocks, names and extents included, generously) and inodes of a folder."""
    blocks = inodes = 0
    for directory, folders, files in os.walk(root):
        inodes += 1 + len(files)
        blocks += 1 + len(folders) // 32
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            blocks += 1 + -(-status.st_size // _BLOCK_BYTES)
    return blocks * _BLOCK_BYTES, inodes


def _time_commands(disk: Path, made: list[str]) -> list[str]:
    """Commands for debugfs that fix the times that depend on when things were done."""
    fields = ("atime", "ctime", "crtime")
    lines = [
        f"set_inode_field <{inode}> {field} @{_EPOCH_S}"
        for inode in _used_inodes(disk)
        for field in fields
    ]
    touched = [f"/{name}" for name in made] + (["/"] if made else [])
    return lines + [f"set_inode_field {path} mtime @{_EPOCH_S}" for path in touched]


def _used_inodes(disk: Path) -> Iterator[int]:
    """Inode numbers in use: all but those that dumpe2fs(8) lists as free, group by group."""
    text = _run(["dumpe2fs", str(disk)])
    count = re.search(r"^Inode count:\s+(\d+)$", text, re.MULTILINE)
    if count is None:
        raise PrepareError("dumpe2fs does not say how many inodes the virtual disk has")
    free: set[int] = set()
    for listed in re.findall(r"^  Free inodes: (.*)$", text, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
            free.update(range(int(first), int(last or first) + 1))
    return (inode for inode in range(1, int(count[1]) + 1) if inode not in free)


def _debugfs(disk: Path, commands: list[str]) -> None:
    """Run debugfs commands on a disk. debugfs exits with 0 whatever happens, but it complains."""
    if not commands:
        return
    script = "\n".join(commands) + "\n"
    result = _tool(["debugfs", "-w", "-f", "-", str(disk)], script)
    complaints = [line for line in result.stderr.splitlines() if not line.startswith("debugfs 1")]
    if result.returncode or complaints:
        detail = complaints[0] if complaints else f"exit code {result.returncode}"
        raise PrepareError(f"debugfs cannot finish the virtual disk: {detail}")


def _run(command: list[str]) -> str:
    result = _tool(command)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        detail = lines[-1] if lines else f"exit code {result.returncode}"
        raise PrepareError(f"the virtual disk cannot be made: {command[0]}: {detail}")
    return result.stdout


def _tool(command: list[str], script: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "MKE2FS_CONFIG": os.devnull,  # features and sizes are ours, not the distribution's
        # e2fsprogs before and since 1.47.1.
        "E2FSPROGS_FAKE_TIME": str(_EPOCH_S),
        "SOURCE_DATE_EPOCH": str(_EPOCH_S),
    }
    try:
        return subprocess.run(
            command,
            input=script,
            stdin=subprocess.DEVNULL if script is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise PrepareError(f"there is no {command[0]}; install the package e2fsprogs") from None


def _copy_without_zeros(source: Path, target: Path) -> None:
    """Copy a disk so that what holds zeros is a hole, and sync it.

    mke2fs reserves the journal and zeroes tables, which takes space on the host and says nothing.
    """
    zeros = bytes(_BLOCK_BYTES)
    with open(source, "rb") as from_file, open(target, "xb") as to_file:
        fd = to_file.fileno()
        size_bytes = os.fstat(from_file.fileno()).st_size
        os.truncate(fd, size_bytes)
        for start, end in _data_ranges(from_file.fileno(), size_bytes):
            for offset in range(start, end, _BLOCK_BYTES):
                block = os.pread(from_file.fileno(), min(_BLOCK_BYTES, end - offset), offset)
                if block != zeros[: len(block)]:
                    os.pwrite(fd, block, offset)
        os.fchmod(fd, 0o444)
        os.fsync(fd)


def _data_ranges(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch that is no hole (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy one stretch in the kernel, or through it where the two file systems cannot."""
    while start < end:
        try:
            copied = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            copied = os.pwrite(target, os.pread(source, min(end - start, _MIB), start), start)
        if copied == 0:
            return
        start += copied
