"""Which disk holds a folder, and whether its filesystem has a journal: read from a made-up /sys."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from runtime.linux import abi, ext4


def made_up_sys(folder: Path, of: Path, journal_task: str | None) -> Path:
    """A /sys in which the device that holds `of` is the partition sdz1 of an ext4."""
    number = of.stat().st_dev
    blocks = folder / "dev/block"
    blocks.mkdir(parents=True)
    (blocks / f"{os.major(number)}:{os.minor(number)}").symlink_to("../../devices/x/sdz/sdz1")
    if journal_task is not None:
        (folder / "fs/ext4/sdz1").mkdir(parents=True)
        (folder / "fs/ext4/sdz1/journal_task").write_text(journal_task)
    return folder


@pytest.mark.parametrize(
    ("journal_task", "expected"), [("<none>\n", False), ("312\n", True), (None, None)]
)
def test_the_journal_is_that_of_the_device(
    tmp_path: Path, journal_task: str | None, expected: bool | None
) -> None:
    sys = made_up_sys(tmp_path / "sys", tmp_path, journal_task)
    assert ext4.device_name(tmp_path, sys) == "sdz1"
    assert ext4.has_journal(tmp_path, sys) is expected


def test_no_block_device_no_journal(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    assert ext4.device_name(tmp_path, tmp_path / "sys") is None
    assert ext4.has_journal("/proc") is None


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ext4.has_journal(tmp_path / "absent")


def flags_of(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY)
    try:
        data = fcntl.ioctl(fd, abi.FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(struct.unpack("@l", data)[0])


def test_folders_are_spread_on_ext4_without_a_journal_alone(tmp_path: Path) -> None:
    """Whatever this host has: the flag is there afterwards, or nothing was changed."""
    is_due = ext4.has_journal(tmp_path) is False
    before = flags_of(tmp_path)
    assert ext4.spread_subfolders(tmp_path) is is_due
    assert flags_of(tmp_path) == before | (abi.FS_TOPDIR_FL if is_due else 0)
    assert ext4.spread_subfolders(tmp_path) is is_due
    below = tmp_path / "below"
    below.mkdir()
    assert not flags_of(below) & abi.FS_TOPDIR_FL


def test_what_cannot_be_spread_is_left_as_it_is(tmp_path: Path) -> None:
    assert not ext4.spread_subfolders("/proc")
    assert not ext4.spread_subfolders(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert not ext4.spread_subfolders(tmp_path / "file")
