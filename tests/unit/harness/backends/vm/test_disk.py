"""An image's disk: whole, always the same, sparse, and there only when it is finished."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.backends.vm.guest.disk import _EPOCH_S as EPOCH_S
from harness.backends.vm.guest.disk import copy_disk, make_disk
from harness.model.errors import PrepareError

pytestmark = pytest.mark.skipif(shutil.which("mke2fs") is None, reason="no e2fsprogs here")


def make_root(folder: Path) -> Path:
    root = folder / "root"
    (root / "etc").mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "etc/motd").write_bytes(b"welcome\n" * 9000)
    (root / "etc/link").symlink_to("motd")
    os.link(root / "etc/motd", root / "etc/second")
    (root / "etc/motd").chmod(0o4711)
    for path in (root / "etc/motd", root / "etc", root / "proc", root):
        os.utime(path, (1, 1_600_000_000))
    return root


def debugfs(disk: Path, command: str) -> str:
    argv = ["debugfs", "-R", command, str(disk)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that nobody changes."""
    folder = tmp_path_factory.mktemp("disk")
    made = folder / "disk.raw"
    make_disk(make_root(folder), made)
    return made


def test_a_disk_holds_the_folder_and_its_mountpoints(disk: Path) -> None:
    assert debugfs(disk, "cat /etc/motd") == "welcome\n" * 9000
    shown = debugfs(disk, "stat /etc/motd")
    assert "Mode:  04711" in shown
    assert "Links: 2" in shown
    assert 'Fast link dest: "motd"' in debugfs(disk, "stat /etc/link")
    for name in ("proc", "sys", "dev"):
        assert "Type: directory" in debugfs(disk, f"stat /{name}")
    subprocess.run(["e2fsck", "-fn", str(disk)], check=True, capture_output=True)
    assert stat_mode(disk) == 0o444


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_same_folder_gives_the_same_bytes_whenever_it_was_unpacked(
    disk: Path, tmp_path: Path
) -> None:
    first, second = disk, tmp_path / "second.raw"
    # Other inodes, other access times, another order of names on the host's disk.
    copy = tmp_path / "again"
    subprocess.run(["cp", "-a", str(disk.parent / "root"), str(copy)], check=True)
    for path in (copy / "etc/motd", copy / "etc", copy):
        os.utime(path, (1_500_000_000, path.stat().st_mtime))
    make_disk(copy, second)
    subprocess.run(["cmp", str(first), str(second)], check=True)
    # Nobody can choose the time of a change: that it is not kept shows in the disk itself.
    for name in ("/", "/etc", "/etc/motd", "/etc/link", "/proc", "/sys"):
        shown = debugfs(first, f"stat {name}")
        times = re.findall(r"(ctime|atime|crtime): 0x([0-9a-f]+)", shown)
        assert times == [(field, f"{EPOCH_S:08x}") for field in ("ctime", "atime", "crtime")]


def test_room_to_write_takes_no_space_until_it_is_used(disk: Path) -> None:
    status = disk.stat()
    assert status.st_size > 512 << 20
    assert status.st_blocks * 512 < 2 << 20


def test_a_copy_is_equal_private_and_as_sparse(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.raw"
    copy_disk(disk, copy)
    subprocess.run(["cmp", str(disk), str(copy)], check=True)
    assert copy.stat().st_blocks <= disk.stat().st_blocks + 8
    assert copy.stat().st_ino != disk.stat().st_ino


@pytest.mark.parametrize("missing", ["mke2fs", "debugfs"])
def test_nothing_half_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {"mke2fs", "debugfs", "dumpe2fs"} - {missing}:
        (tools / name).symlink_to(shutil.which(name) or name)
    root = make_root(tmp_path)
    disks = tmp_path / "disks"
    disks.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(PrepareError, match=f"there is no {missing}; install .* e2fsprogs"):
        make_disk(root, disks / "disk.raw")
    assert list(disks.iterdir()) == []
