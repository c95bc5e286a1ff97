"""A session whose process is killed: its workloads die, and what it left is found and removed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.containers.leftovers import Leftover, find_leftovers
from runtime.containers.session import dead_sessions, is_alive

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]

_PATIENCE_MS = 20_000
_PROGRAM = """
import os, sys, time
from pathlib import Path
from runtime.containers.container import launch_container
from runtime.launch.launcher import Launcher
from runtime.containers.session import Session
from runtime.launch.spec import ContainerSpec, OverlayRoot, ResourceLimits

rootfs, home, launcher, ending = sys.argv[1:]
session = Session(Path(home))
session.renew_place()
spec = ContainerSpec(OverlayRoot((rootfs,), "", "", ""), ("sh", "-c", "echo > /x; sleep 1000"),
                     {"PATH": "/bin"}, limits=ResourceLimits(64 << 20, 1, 50))
containers = [launch_container(spec, session=session, launcher=Launcher(launcher)) for _ in "ab"]
print(session.identifier, *(container.launched.pid for container in containers), flush=True)
if ending == "close":
    session.close()
elif ending == "exit":
    import atexit
    atexit.register(session.close)
else:
    time.sleep(1000)
"""


@dataclass
class Owner:
    """A process with a session of two containers."""

    process: subprocess.Popen[str]
    session: str
    pidfds: list[int]
    home: Path

    def wait_for_the_workloads(self) -> None:
        for pidfd in self.pidfds:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(_PATIENCE_MS), "a workload outlived its launcher"

    def leftovers(self) -> list[Leftover]:
        return [left for left in find_leftovers(self.home) if left.session == self.session]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def owner(can_run: None, rootfs: Path, home: Path, launcher: str) -> Iterator[Owner]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, rootfs, home, launcher, "sleep"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        session, *pids = process.stdout.readline().split()
        owner = Owner(process, session, [os.pidfd_open(int(pid)) for pid in pids], home)
        yield owner
        process.kill()
        process.wait()
        owner.wait_for_the_workloads()
        for fd in owner.pidfds:
            os.close(fd)
        for left in owner.leftovers():
            left.remove()
        assert owner.leftovers() == []


def test_a_living_session_is_left_alone(owner: Owner) -> None:
    assert is_alive(owner.session, owner.home)
    assert is_alive(owner.session)  # also for those who look in another home
    assert dead_sessions(owner.home) == []
    assert owner.leftovers() == []


def test_killed(owner: Owner) -> None:
    owner.process.send_signal(signal.SIGKILL)
    owner.process.wait()
    owner.wait_for_the_workloads()
    assert not is_alive(owner.session, owner.home)
    assert not is_alive(owner.session)
    directory = owner.home / "instances" / owner.session
    assert dead_sessions(owner.home) == [directory]

    found = owner.leftovers()
    kinds = [left.kind for left in found]
    assert kinds[-1] == "folder"
    assert set(kinds) == {"cgroup", "folder"}
    assert found[-1].name == str(directory)
    for left in found:
        left.remove()
        left.remove()  # gone already is fine
    assert not directory.exists()
    assert owner.leftovers() == []
    assert not [left for left in found if left.kind == "cgroup" and os.path.exists(left.name)]


def test_a_process_that_survived_is_found_and_ended(owner: Owner) -> None:
    # Something that did not ask to die with its launcher, in the group of a dead session.
    group = next(
        path
        for line in Path(f"/proc/{owner.process.pid}/mountinfo").read_text().splitlines()
        if " - cgroup" in line
        for path in Path(line.split()[4], "steelyard").glob(f"{owner.session}-*")
    )
    with subprocess.Popen(["sleep", "1000"]) as survivor:
        (group / "cgroup.procs").write_text(str(survivor.pid))
        owner.process.kill()
        owner.process.wait()
        owner.wait_for_the_workloads()
        for left in owner.leftovers():
            left.remove()
        assert survivor.wait() == -signal.SIGKILL
    assert not group.exists()


@pytest.mark.parametrize("ending", ["close", "exit"])
def test_an_orderly_end_leaves_nothing_even_of_running_containers(
    can_run: None, rootfs: Path, home: Path, launcher: str, ending: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, rootfs, home, launcher, ending],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    session = result.stdout.split()[0]
    assert result.stderr == ""
    assert os.listdir(home / "instances") == []
    assert [left for left in find_leftovers(home) if left.session == session] == []
