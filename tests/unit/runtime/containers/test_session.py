"""Sessions: alive while their process is, found when it is not."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.containers.session import (
    Lock,
    Session,
    dead_sessions,
    instances_directory,
    is_alive,
    look_at_lock,
    remove_tree,
)
from runtime.linux.cgroup_mounts import read_mounts
from runtime.linux.ext4 import has_journal, spread_subfolders
from runtime.paths import cache_home, data_home

_PROGRAM = """
import sys, time
from pathlib import Path
from runtime.containers.session import Session
session = Session(Path(sys.argv[1]))
session.new_instance_directory("one")
print(session.identifier, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


def test_a_session_is_a_locked_private_folder(session: Session, tmp_path: Path) -> None:
    assert session.directory == tmp_path / "instances" / session.identifier
    assert stat.S_IMODE(session.directory.stat().st_mode) == 0o700
    assert len(session.identifier) == 12
    int(session.identifier, 16)
    with (session.directory / ".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_alive_and_then_closed(session: Session, tmp_path: Path) -> None:
    assert is_alive(session.identifier, tmp_path)
    assert is_alive(session.identifier, tmp_path / "another-home")
    assert dead_sessions(tmp_path) == []
    session.close()
    assert not is_alive(session.identifier, tmp_path)
    assert not is_alive(session.identifier, tmp_path / "another-home")
    assert os.listdir(tmp_path / "instances") == []
    session.close()  # again: nothing happens


def test_looking_does_not_make_it_seem_alive_to_others(session: Session, tmp_path: Path) -> None:
    dead = tmp_path / "instances" / "0123456789ab"
    dead.mkdir()
    (dead / ".lock").touch()
    with (dead / ".lock").open() as other:  # another who looks this very moment
        fcntl.flock(other, fcntl.LOCK_SH)
        assert dead_sessions(tmp_path) == [dead]


def test_what_a_lock_tells(session: Session, tmp_path: Path) -> None:
    assert look_at_lock(session.directory) is Lock.HELD
    copy = tmp_path / "copied-home/instances" / session.identifier
    shutil.copytree(session.directory, copy)
    assert look_at_lock(copy) is Lock.COPY  # nobody ever held it: that proves nothing
    moved = tmp_path / "moved"
    session.directory.rename(moved)
    assert look_at_lock(moved) is Lock.HELD
    moved.rename(session.directory)
    assert look_at_lock(moved) is Lock.ABSENT
    (copy / ".lock").unlink()
    assert look_at_lock(copy) is Lock.ABSENT
    (copy / ".lock").touch()  # as an older version left it
    assert look_at_lock(copy) is Lock.FREE
    (copy / ".lock").unlink()
    (copy / ".lock").symlink_to(session.directory / ".lock")
    assert look_at_lock(copy) is Lock.UNREADABLE
    assert dead_sessions(copy.parent.parent) == []


def test_a_killed_process_leaves_a_dead_session(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        identifier = process.stdout.readline().strip()
        assert is_alive(identifier, tmp_path)
        assert dead_sessions(tmp_path) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    directory = tmp_path / "instances" / identifier
    assert dead_sessions(tmp_path) == [directory]
    assert not is_alive(identifier, tmp_path)
    assert (directory / "one").is_dir()


def test_a_forked_child_does_not_close_its_parents_session(session: Session) -> None:
    pid = os.fork()
    if pid == 0:
        session.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (session.directory / ".lock").exists()


def test_a_session_under_way_is_left_alone_and_one_never_finished_is_found(tmp_path: Path) -> None:
    aside = tmp_path / "instances" / ".0123456789ab"
    aside.mkdir(parents=True)
    assert dead_sessions(tmp_path) == []
    an_hour_ago = time.time() - 3600
    os.utime(aside, (an_hour_ago, an_hour_ago))
    assert dead_sessions(tmp_path) == [aside]


def test_dead_sessions_come_oldest_first_and_nothing_else_does(tmp_path: Path) -> None:
    instances = instances_directory(tmp_path)
    assert dead_sessions(tmp_path) == []
    instances.mkdir()
    for age, name in ((10, "bbbbbbbbbbbb"), (20, "aaaaaaaaaaaa")):
        (instances / name).mkdir()
        os.utime(instances / name, (time.time() - age,) * 2)
    (instances / "file").write_text("")
    (instances / "link").symlink_to(tmp_path)
    assert [path.name for path in dead_sessions(tmp_path)] == ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]


def test_names_are_not_used_twice(session: Session) -> None:
    assert [session.next_name("x") for _ in range(3)] == ["x-1", "x-2", "x-3"]
    session.new_instance_directory("x-1")
    with pytest.raises(FileExistsError):
        session.new_instance_directory("x-1")


def test_closing_removes_instances_whatever_becomes_of_some(
    session: Session, tmp_path: Path
) -> None:
    removed: list[str] = []

    def fail() -> None:
        removed.append("failed")
        raise OSError("cannot")

    session.on_close.update({fail, lambda: removed.append("other")})
    with pytest.raises(OSError, match="cannot"):
        session.close()
    assert sorted(removed) == ["failed", "other"]
    # It proves that the owner of what could not be removed is gone.
    assert look_at_lock(session.directory) is Lock.FREE
    assert dead_sessions(tmp_path) == [session.directory]


def test_current_is_one_a_process() -> None:
    assert Session.current() is Session.current()


def test_remove_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "work/work").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "work/work").chmod(0)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()
    remove_tree(tree)  # absent is fine


@pytest.mark.parametrize(
    ("variables", "data", "cache"),
    [
        ({"HOME": "/h"}, "/h/.local/share/steelyard", "/h/.cache/steelyard"),
        ({"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}, "/d/steelyard", "/c/steelyard"),
        # The specification: relative ones are ignored.
        ({"HOME": "/h", "XDG_DATA_HOME": "d"}, "/h/.local/share/steelyard", "/h/.cache/steelyard"),
        ({"STEELYARD_HOME": "/s", "STEELYARD_CACHE": "/t", "XDG_DATA_HOME": "/d"}, "/s", "/t"),
    ],
)
def test_homes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], data: str, cache: str
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "STEELYARD_HOME", "STEELYARD_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (str(data_home()), str(cache_home())) == (data, cache)


def test_mounts_are_read_with_their_paths_unescaped() -> None:
    text = (
        "23 1 8:1 / /a\\040b\\134040\\011ü rw - tmpfs none rw,size=1k\n24 1 0:9 / / rw - ext4  rw\n"
    )
    expected = [("/a b\\040\tü", "tmpfs", "rw,size=1k"), ("/", "ext4", "rw")]
    assert read_mounts(text) == expected
    assert "proc" in {kind for _, kind, _ in read_mounts()}


def test_sessions_are_spread_where_that_serves(session: Session, tmp_path: Path) -> None:
    instances = session.directory.parent
    assert spread_subfolders(instances) is (has_journal(instances) is False)


def test_places_are_renewed_and_those_before_removed_once_they_are_empty(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.containers.session.spread_subfolders", lambda _: True)
    monkeypatch.setattr("runtime.containers.session.mkdir_times_ns", lambda *_: [1])
    first = session.new_instance_directory("one")
    assert first == session.directory / "one"
    assert session.renew_place()
    used = session.new_instance_directory("two")
    assert used.parent == session.place == session.directory / ".1"
    assert stat.S_IMODE(session.place.stat().st_mode) == 0o700
    assert session.renew_place()
    assert used.is_dir()
    assert session.place == session.directory / ".2"
    used.rmdir()
    assert session.renew_place()
    assert {path.name for path in session.directory.iterdir()} == {".lock", "one", ".3"}
    session.new_instance_directory("three")
    session.close()
    assert not session.directory.exists()


@pytest.mark.parametrize(
    ("costs_us", "chosen"),
    [
        ((22,), ".1"),
        ((300, 22), ".2"),
        ((300, 22, 5), ".2"),  # the first that is sound
        ((300, 200, 100, 90, 80, 90, 100, 200), ".5"),  # none is: the best of eight
    ],
)
def test_a_slow_place_is_not_taken_if_there_is_a_better_one(
    session: Session, monkeypatch: pytest.MonkeyPatch, costs_us: tuple[int, ...], chosen: str
) -> None:
    costs = iter(costs_us)
    seen: list[int] = []

    def measure(place: Path, rounds: int) -> list[int]:
        # What was tried before is still there, so that the kernel chooses another block group.
        seen.append(len([path for path in session.directory.iterdir() if path.is_dir()]))
        return [10**9, next(costs) * 1000]

    monkeypatch.setattr("runtime.containers.session.spread_subfolders", lambda _: True)
    monkeypatch.setattr("runtime.containers.session.mkdir_times_ns", measure)
    assert session.renew_place()
    assert session.place == session.directory / chosen
    assert {path.name for path in session.directory.iterdir()} == {".lock", chosen}
    assert seen == list(range(1, len(seen) + 1))


def test_a_place_is_not_renewed_where_that_serves_nothing_or_fails(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.containers.session.spread_subfolders", lambda _: False)
    assert not session.renew_place()
    assert session.place == session.directory
    monkeypatch.setattr("runtime.containers.session.spread_subfolders", lambda _: True)
    monkeypatch.setattr("runtime.containers.session.mkdir_times_ns", lambda *_: [1])
    (session.directory / ".1").touch()
    assert not session.renew_place()
    assert session.new_instance_directory("one").parent == session.directory


def test_a_session_is_not_made_by_asking_for_it(tmp_path: Path) -> None:
    code = (
        "from runtime.containers.session import Session\n"
        "assert Session.existing() is None\n"
        "assert Session.current() is Session.existing()\n"
        "Session.current().close()\n"
        "assert Session.existing() is None\n"
    )
    env = {**os.environ, "STEELYARD_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
