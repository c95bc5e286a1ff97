"""What doctor removes, and what it never touches: boxes of other homes, namespaces and copies."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.containers.leftovers import find_leftovers, groups_of_others
from runtime.containers.session import Lock, look_at_lock, proven_dead

pytestmark = pytest.mark.privileged

_PATIENCE_MS = 20_000
_DOCTOR = "import sys; from harness.cli.main import main; sys.exit(main())"
_CLEAN = """
import json
from dataclasses import asdict
from harness.experiment.doctor import _leftovers
print(json.dumps({"leftovers": [asdict(one) for one in _leftovers(clean=True)]}))
"""
_OWNER = """
import sys, time
from runtime.containers.container import launch_container
from runtime.containers.session import Session
from runtime.launch.spec import ContainerSpec, OverlayRoot, ResourceLimits

if sys.argv[2] == "lab":
    from harness.lab import Lab
    lab = Lab()
    lab.lease()
session = Session.current()
spec = ContainerSpec(OverlayRoot((sys.argv[1],), "", "", ""), ("sh", "-c", "sleep 1000"),
                     {"PATH": "/bin"}, limits=ResourceLimits(64 << 20, 1, 50))
container = launch_container(spec)
print(session.identifier, flush=True)
sys.stdin.read()
"""


@dataclass
class Box:
    """A process that owns a home with a session and a live container in it."""

    home: Path
    process: subprocess.Popen[str]
    session: str
    pidfd: int

    @property
    def directory(self) -> Path:
        return self.home / "instances" / self.session

    @property
    def groups(self) -> list[Path]:
        return _groups(self.session)

    def is_running(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def kill_owner(self) -> None:
        """End what launched the container; the kernel ends the container with it."""
        self.process.kill()
        self.process.wait()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        assert poll.poll(_PATIENCE_MS), "the container outlived its owner"
        # The owner may be a child of what was killed: its end lets the lock go.
        if self.directory.is_dir():
            with (self.directory / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)


def _groups(session: str) -> list[Path]:
    places = (Path(line.split()[4]) for line in _mountinfo() if " - cgroup" in line)
    return [path for place in places for path in place.glob(f"steelyard/{session}-*")]


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def clean(
    home: Path, session: str, *, wrapper: tuple[str, ...] = (), is_whole: bool = False
) -> list[dict[str, str]]:
    """What `steelyard doctor --clean` for a home removes, or cannot, of one session.

    Args:
        home: Of the doctor.
        session: Whose things count; others may leave theirs on this host.
        wrapper: A command that starts the doctor.
        is_whole: Run all of the command, which also tries every arm.
    """
    whole = [_DOCTOR, "doctor", "--clean", "--format", "json"]
    result = subprocess.run(
        [*wrapper, sys.executable, "-c", *(whole if is_whole else [_CLEAN])],
        env=os.environ | {"STEELYARD_HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stderr == ""
    found: list[dict[str, str]] = json.loads(result.stdout)["leftovers"]
    return [one for one in found if session in one["name"]]


@pytest.fixture
def box(
    request: pytest.FixtureRequest, can_run: None, rootfs: Path, tmp_path: Path
) -> Iterator[Box]:
    """Parametrized indirectly by the command that starts the owner, and `lab` or `plain`."""
    wrapper, kind = getattr(request, "param", ((), "plain"))
    home = tmp_path / "home-of-the-box"
    with subprocess.Popen(
        [*wrapper, sys.executable, "-c", _OWNER, rootfs, kind],
        env=os.environ | {"STEELYARD_HOME": str(home)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        session = process.stdout.readline().strip()
        assert session, "no container was launched"
        (first, *_) = (
            int(pid)
            for group in _groups(session)
            for pid in (group / "cgroup.procs").read_text().split()
        )
        pidfd = os.pidfd_open(first)
        box = Box(home, process, session, pidfd)
        try:
            yield box
        finally:
            box.kill_owner()
            os.close(pidfd)
            for left in find_leftovers(home):
                left.remove()
            assert not box.groups


NEW_NETWORK = ("unshare", "--net")
# `--kill-child`: the owner is the child of unshare, and this test kills unshare.
NEW_PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
OUR_PROC = NEW_PIDS[:-1]
EVERYWHERE = pytest.mark.parametrize(
    "box",
    [
        pytest.param(((), "plain"), id="here"),
        pytest.param((NEW_NETWORK, "plain"), id="other-network"),
        pytest.param((NEW_NETWORK, "lab"), id="lab-in-other-network"),
        pytest.param((NEW_PIDS, "plain"), id="other-pids"),
        pytest.param(((*NEW_NETWORK, *NEW_PIDS[1:]), "plain"), id="other-network-and-pids"),
    ],
    indirect=True,
)


@EVERYWHERE
def test_a_live_box_survives_the_doctor_of_any_home(box: Box, tmp_path: Path) -> None:
    assert len(box.groups) >= 1
    for home in (tmp_path / "another-home", box.home):
        assert clean(home, box.session, is_whole=True) == []
        assert box.is_running()
        assert all(group.is_dir() for group in box.groups)
        assert look_at_lock(box.directory) is Lock.HELD


@EVERYWHERE
def test_what_a_dead_owner_left_is_removed_by_the_doctor_of_its_home_only(
    box: Box, tmp_path: Path
) -> None:
    box.kill_owner()
    groups = box.groups
    assert groups
    assert clean(tmp_path / "another-home", box.session) == []
    assert box.groups == groups
    assert box.directory.is_dir()
    removed = clean(box.home, box.session)
    assert {one["kind"] for one in removed} == {"cgroup", "folder"}
    assert all(one["removed"] for one in removed)
    assert box.groups == []
    assert not box.directory.exists()


@pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(NEW_NETWORK, id="network"),
        pytest.param(NEW_PIDS, id="pids"),
        pytest.param(OUR_PROC, id="pids-with-our-proc"),
    ],
)
def test_a_doctor_in_other_namespaces_leaves_a_live_box_alone(
    box: Box, tmp_path: Path, wrapper: tuple[str, ...]
) -> None:
    for home in (tmp_path / "another-home", box.home):
        assert clean(home, box.session, wrapper=wrapper) == []
        assert box.is_running()
        assert box.directory.is_dir()


def test_a_doctor_that_sees_another_folder_in_the_place_of_the_home_leaves_it_alone(
    box: Box,
) -> None:
    hidden = f'mount -t tmpfs none {box.home} && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", hidden, "sh")
    assert clean(box.home, box.session, wrapper=wrapper) == []
    assert box.is_running()
    box.kill_owner()
    assert clean(box.home, box.session, wrapper=wrapper) == []
    assert box.groups


def test_a_copy_of_a_home_proves_nothing(box: Box, tmp_path: Path) -> None:
    copy = tmp_path / "copied-home"
    shutil.copytree(box.home, copy, symlinks=True)
    # The copied folder is nobody's, and goes; what carries its name is the original owner's.
    assert box.session not in proven_dead(copy)
    removed = clean(copy, box.session)
    assert [(one["kind"], one["name"]) for one in removed] == [
        ("folder", str(copy / "instances" / box.session))
    ]
    assert box.is_running()
    assert box.directory.is_dir()


def test_a_home_by_another_path_is_the_same_home(box: Box, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(box.home)
    assert clean(link, box.session) == []
    assert box.is_running()
    box.kill_owner()
    rootfs = box.directory / "mounted"
    rootfs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", rootfs], check=True)
    removed = clean(link, box.session)
    assert {one["kind"] for one in removed} == {"cgroup", "mount", "folder"}
    assert not any(str(rootfs) in line for line in _mountinfo())
    assert not box.directory.exists()


def test_a_mount_of_another_home_that_is_seen_in_this_one_stays(box: Box, tmp_path: Path) -> None:
    # The other home's instances are mounted into ours: their locks are seen, and held.
    ours = tmp_path / "ours"
    (ours / "instances").mkdir(parents=True)
    subprocess.run(["mount", "--bind", box.home / "instances", ours / "instances"], check=True)
    try:
        assert clean(ours, box.session) == []
        assert box.is_running()
        assert any(str(ours) in line for line in _mountinfo())
    finally:
        subprocess.run(["umount", ours / "instances"], check=True)


def test_two_doctors_at_once(box: Box) -> None:
    box.kill_owner()
    command = [sys.executable, "-c", _DOCTOR, "doctor", "--clean", "--format", "json"]
    environment = os.environ | {"STEELYARD_HOME": str(box.home)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    for one in both:
        told = json.loads(one.communicate()[0])["leftovers"]
        assert all(found["problem"] is None for found in told if box.session in found["name"])
    assert box.groups == []
    assert not box.directory.exists()


def test_the_folder_stays_until_the_rest_is_gone(box: Box) -> None:
    box.kill_owner()
    busy = box.groups[0]
    subprocess.run(["mount", "-t", "tmpfs", "none", busy], check=True)  # rmdir(2): EBUSY
    try:
        told = clean(box.home, box.session)
    finally:
        subprocess.run(["umount", busy], check=True)
    kept = {one["name"]: one["problem"] for one in told if not one["removed"]}
    assert kept == {
        str(busy): "device or resource busy",
        str(box.directory): "it stays until the rest is removed",
    }
    assert box.groups == [busy]
    assert all(one["removed"] for one in clean(box.home, box.session))
    assert box.groups == []
    assert not box.directory.exists()


def test_a_doctor_in_another_pid_namespace_ends_what_survived_its_dead_owner(box: Box) -> None:
    groups = [group for group in box.groups if (group / "cgroup.kill").exists()]
    if not groups:
        pytest.skip("this kernel cannot kill a cgroup as a whole (Linux 5.14, version 2)")
    with subprocess.Popen(["sleep", "1000"]) as survivor:
        try:
            (groups[0] / "cgroup.procs").write_text(str(survivor.pid))
            box.kill_owner()
            assert all(one["removed"] for one in clean(box.home, box.session, wrapper=NEW_PIDS))
            assert survivor.wait(timeout=_PATIENCE_MS / 1000) == -signal.SIGKILL
        finally:
            survivor.kill()
    assert box.groups == []


@pytest.mark.parametrize(
    ("wrapper", "is_ours"), [((), "True"), (NEW_PIDS, "True"), (OUR_PROC, "False")]
)
def test_pids_of_proc_are_used_only_where_system_calls_take_them(
    wrapper: tuple[str, ...], is_ours: str
) -> None:
    program = "from runtime.containers.leftovers import _proc_is_ours; print(_proc_is_ours())"
    result = subprocess.run(
        [*wrapper, sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == is_ours


def test_groups_of_others_are_told(box: Box, tmp_path: Path) -> None:
    groups = {str(group) for group in box.groups}
    assert groups <= set(groups_of_others(tmp_path / "another-home"))
    assert not groups & set(groups_of_others(box.home))
    result = subprocess.run(
        [sys.executable, "-c", _DOCTOR, "doctor"],
        env=os.environ | {"STEELYARD_HOME": str(tmp_path / "another-home")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "of another home or namespace left alone" in result.stdout
    box.process.send_signal(signal.SIGKILL)
    box.process.wait()
    assert not groups & set(groups_of_others(box.home))
