"""The disk meter, against what the filesystem itself says."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.meters import disk
from harness.model import Sharing

FICLONE = 0x40049409


def measure(path: Path) -> disk.DiskPart:
    return disk.measure(path, "part", Sharing.EXCLUSIVE)


def test_a_file_is_measured_by_its_inode(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10_000)
    os.sync()
    part = measure(file)
    assert part.apparent_bytes == 10_000
    assert part.allocated_bytes == file.stat().st_blocks * 512


def test_holes_are_apparent_and_not_allocated(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    part = measure(file)
    assert part.apparent_bytes == 1 << 30
    assert part.allocated_bytes == 0


def test_a_tree_is_what_du_says(tmp_path: Path) -> None:
    for folder in ("a", "a/b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data").write_bytes(os.urandom(50_000))
    (tmp_path / "link").symlink_to("a/data")
    os.sync()
    told = subprocess.run(
        ["du", "--summarize", "--block-size=1", tmp_path], check=True, capture_output=True
    ).stdout
    assert measure(tmp_path).allocated_bytes == int(told.split()[0])


def test_hard_links_count_once_and_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_bytes(b"x" * 100_000)
    (inside / "one").write_bytes(b"y" * 50_000)
    os.sync()
    alone = measure(inside)
    os.link(inside / "one", inside / "two")
    (inside / "away").symlink_to("../outside")
    part = measure(inside)
    assert part.allocated_bytes == alone.allocated_bytes
    assert part.apparent_bytes == alone.apparent_bytes + len("../outside")


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    part = measure(tmp_path / "absent")
    assert (part.apparent_bytes, part.allocated_bytes, part.reflinked_bytes) == (0, 0, 0)


@pytest.mark.privileged
def test_other_filesystems_below_do_not_count(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    before = measure(tmp_path)
    if subprocess.run(["mount", "-t", "tmpfs", "none", below], check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        (below / "large").write_bytes(b"x" * 1_000_000)
        part = measure(tmp_path)
    finally:
        subprocess.run(["umount", below], check=True)
    assert part.allocated_bytes <= before.allocated_bytes


def test_files_that_vanish_meanwhile_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(b"x" * 10_000)
    scan = os.scandir

    def scan_and_remove(path: str) -> object:
        entries = scan(path)
        (tmp_path / "b" / "data").unlink(missing_ok=True)
        if (tmp_path / "b").exists():
            (tmp_path / "b").rmdir()
        return entries

    monkeypatch.setattr(disk.os, "scandir", scan_and_remove)
    assert measure(tmp_path).apparent_bytes >= 10_000


def test_a_filesystem_without_reflinks_shares_nothing_or_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    part = measure(file)
    assert part.reflinked_bytes in (0, None)
    assert part.exclusive_bytes == part.allocated_bytes


@pytest.mark.privileged
def test_reflinked_extents_are_seen(tmp_path: Path) -> None:
    """On a filesystem that has them: XFS on a loop device."""
    image, mountpoint = tmp_path / "image", tmp_path / "xfs"
    mountpoint.mkdir()
    if shutil.which("mkfs.btrfs"):
        make = ["mkfs.btrfs", "-q"]
    elif shutil.which("mkfs.xfs"):
        make = ["mkfs.xfs", "-q", "-m", "reflink=1"]
    else:
        pytest.skip("neither mkfs.btrfs nor mkfs.xfs is installed")
    with image.open("wb") as stream:
        stream.truncate(400 << 20)
    subprocess.run([*make, image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mountpoint], check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        original, clone = mountpoint / "original", mountpoint / "clone"
        original.write_bytes(os.urandom(1 << 20))
        with original.open("rb") as source, clone.open("wb") as target:
            fcntl.ioctl(target, FICLONE, source.fileno())
        with clone.open("r+b") as target:
            target.write(b"x" * 65_536)
        os.sync()
        part = measure(clone)
        assert part.reflinked_bytes == (1 << 20) - 65_536
        assert part.exclusive_bytes == 65_536
        assert measure(mountpoint).allocated_bytes >= 2 << 20
    finally:
        subprocess.run(["umount", mountpoint], check=True)
