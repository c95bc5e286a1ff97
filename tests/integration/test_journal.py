"""What deleted files make of a new folder: on ext4 with and without a journal, on loop devices.

Ratios within one run alone: of a new folder after thousands of files were deleted beside it, to one
before. Without a journal it costs 10 to 30 times as much, for a minute; where a session puts its
instances it does not.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.environment import median_mkdir_ns
from runtime.containers.session import Session
from runtime.linux.ext4 import has_journal, spread_subfolders

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(300)]

_SIZE_BYTES = 8 << 30  # sparse: 64 block groups of 8,192 inodes
_FILES = 4000
_PATIENCE_S = 30


@contextlib.contextmanager
def mounted(folder: Path, features: str) -> Iterator[Path]:
    """An ext4 in a sparse file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    folder.mkdir()
    disk, mountpoint = folder / "disk", folder / "mounted"
    mountpoint.mkdir()
    with disk.open("wb") as file:
        file.truncate(_SIZE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", features, disk], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", disk, mountpoint], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a loop device cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)
        disk.unlink()


@pytest.fixture
def without_journal(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "without", "^has_journal") as place:
        yield place


@pytest.fixture
def with_journal(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "with", "has_journal") as place:
        yield place


def cost_ns(folder: Path) -> int:
    """The least of five medians: what others do on the host makes it only longer."""
    return min(median_mkdir_ns(folder) for _ in range(5))


def make_and_delete(folder: Path) -> None:
    files = [folder / str(number) for number in range(_FILES)]
    for file in files:
        file.touch()
    for file in files:
        file.unlink()


def wait_for_effect(folder: Path, before_ns: int) -> float:
    """Wait until a new folder costs more than 5 times as much; returns the last ratio.

    The kernel compares whole seconds, so it may take one until what was deleted counts.
    """
    give_up = time.monotonic() + _PATIENCE_S
    ratio = 0.0
    while ratio <= 5 and time.monotonic() < give_up:
        ratio = cost_ns(folder) / before_ns
    return ratio


def test_deleted_files_slow_new_folders_without_a_journal_alone(
    without_journal: Path, with_journal: Path
) -> None:
    assert (has_journal(without_journal), has_journal(with_journal)) == (False, True)
    places = [without_journal / "here", with_journal / "here"]
    before_ns = []
    for place in places:
        place.mkdir()
        before_ns.append(cost_ns(place))
        make_and_delete(place)
    assert wait_for_effect(places[0], before_ns[0]) > 5
    # Deleted before the other's effect was seen, so its own would be there as well.
    assert cost_ns(places[1]) / before_ns[1] < 2
    assert spread_subfolders(without_journal)
    assert not spread_subfolders(with_journal)


def test_a_session_puts_its_instances_where_nothing_was_deleted(without_journal: Path) -> None:
    session = Session(without_journal / "home")
    try:
        before_ns = cost_ns(session.place)
        make_and_delete(session.place)
        assert wait_for_effect(session.place, before_ns) > 5
        # The next session is not slowed down by this one.
        other = Session(without_journal / "home")
        try:
            assert cost_ns(other.place) / before_ns < 2
        finally:
            other.close()
        assert session.renew_place()
        assert cost_ns(session.place) / before_ns < 2
        make_and_delete(session.place)
        assert wait_for_effect(session.place, before_ns) > 5
        assert session.renew_place()
        assert cost_ns(session.place) / before_ns < 2
    finally:
        session.close()
