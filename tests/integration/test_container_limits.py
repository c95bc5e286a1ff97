"""Limits that limit, on whatever cgroup layout this machine has; and cgroups that go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtime.containers.container import Container
from runtime.containers.session import Session
from runtime.launch.cgroups import PARENT, cgroup_manager
from runtime.launch.launcher import Launcher
from runtime.launch.spec import ResourceLimits
from tests.support.containers import Run

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing", "limits")]

_PATIENCE_S = 20


@pytest.fixture
def limits() -> None:
    """Skip where this process can set no limits."""
    layout = cgroup_manager().layout
    if layout.name == "none":
        pytest.skip("this machine has no cgroup filesystem")


def _file(container: Container, v2: str, v1: str) -> Path:
    """The file of the container's cgroup that has a limit, whichever version it is in."""
    assert container.cgroup is not None
    groups = [container.cgroup.unified, *container.cgroup.legacy]
    found = [Path(group, name) for group in groups if group for name in {v2, v1}]
    found = [path for path in found if path.exists()]
    assert len(found) == 1, found
    return found[0]


def test_more_memory_than_allowed_is_killed(run: Run, launcher: Launcher) -> None:
    # dd takes a buffer of the block's size and fills it.
    command = ("dd", "if=/dev/zero", "of=/dev/null", "count=1")
    small = run(*command, "bs=1M", limits=ResourceLimits(16 << 20), launcher=launcher)
    assert (small.code, small.signal) == (0, None)
    large = run(*command, "bs=64M", limits=ResourceLimits(16 << 20), launcher=launcher)
    assert (large.code, large.signal) == (None, 9)


def test_more_processes_than_allowed_are_refused(run: Run, launcher: Launcher) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 1000 & done; echo all"
    assert run("sh", "-c", script, limits=ResourceLimits(pids=10)).output == "all\n"
    result = run("sh", "-c", script, limits=ResourceLimits(pids=3), launcher=launcher)
    assert "can't fork" in result.output
    assert "all" not in result.output


def test_more_cpu_than_allowed_is_throttled(run: Run, launcher: Launcher) -> None:
    def check(container: Container) -> None:
        quota = _file(container, "cpu.max", "cpu.cfs_quota_us").read_text().split()
        assert quota[0] == "5000"  # of a period of 100 ms
        # In a hybrid layout the version 2 group has a cpu.stat too, without the throttling.
        statistics = _file(container, "cpu.max", "cpu.cfs_quota_us").with_name("cpu.stat")
        deadline = time.monotonic() + _PATIENCE_S
        while " 0" in _line(statistics, "nr_throttled") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert " 0" not in _line(statistics, "nr_throttled")
        container.kill()

    run(
        "sh", "-c", "while :; do :; done", limits=ResourceLimits(cpus=0.05), launcher=launcher,
        while_running=check,
    )  # fmt: skip


def _line(path: Path, name: str) -> str:
    return next(line for line in path.read_text().splitlines() if line.startswith(name))


def test_limits_are_in_the_files_and_the_workload_is_in_the_groups(
    run: Run, launcher: Launcher
) -> None:
    def check(container: Container) -> None:
        assert container.cgroup is not None
        memory = _file(container, "memory.max", "memory.limit_in_bytes")
        assert memory.read_text().strip() == str(64 << 20)
        assert _file(container, "pids.max", "pids.max").read_text().strip() == "50"
        for group in (container.cgroup.unified, *container.cgroup.legacy):
            if group:
                processes = Path(group, "cgroup.procs").read_text().split()
                assert processes == [str(container.launched.pid)]
                assert Path(group).parent.name == PARENT
                assert Path(group).name.startswith(Session.current().identifier)
        container.kill()

    run(
        "sleep", "1000", limits=ResourceLimits(64 << 20, 1.5, 50), launcher=launcher,
        while_running=check,
    )  # fmt: skip


def test_the_cgroup_is_the_root_of_its_namespace(run: Run, launcher: Launcher) -> None:
    output = run("cat", "/proc/self/cgroup", limits=ResourceLimits(64 << 20, 1, 50)).output
    ours = [line.split(":", 2) for line in output.splitlines()]
    layout = cgroup_manager().layout
    wanted = {"", *layout.legacy} if layout.unified else {*layout.legacy}
    seen = {name for _, names, path in ours if path == "/" for name in names.split(",")}
    assert wanted <= seen
    assert PARENT not in output


def test_cpu_time_is_counted(run: Run) -> None:
    def check(container: Container) -> None:
        assert container.cgroup is not None
        if container.cgroup.unified is None:
            assert container.cgroup.cpu_usage_ns() is None
            return
        deadline = time.monotonic() + _PATIENCE_S
        while not container.cgroup.cpu_usage_ns() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (container.cgroup.cpu_usage_ns() or 0) > 0
        container.kill()

    run("sh", "-c", "while :; do :; done", limits=ResourceLimits(pids=10), while_running=check)


def test_groups_are_gone_afterwards(run: Run, launcher: Launcher) -> None:
    groups: list[Path] = []

    def note(container: Container) -> None:
        assert container.cgroup is not None
        groups.extend(
            Path(path) for path in (container.cgroup.unified, *container.cgroup.legacy) if path
        )
        assert all(path.is_dir() for path in groups)

    run(
        "sh", "-c", "sleep 1000 & sleep 1000 & exit 0", limits=ResourceLimits(64 << 20, 1, 50),
        launcher=launcher, while_running=note,
    )  # fmt: skip
    assert groups
    assert not any(path.exists() for path in groups)
