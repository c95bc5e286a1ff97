"""A harness that was stopped, told apart from one that had to wait; stopped for real, too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.meters.pauses import PERIOD_NS, Heartbeat, Look, pause_between

MS = 1_000_000


@pytest.mark.parametrize(
    ("late_ms", "used_ms", "waited_ms", "paused_ms"),
    [
        (0, 0, 0, 0),
        (4000, 0, 0, 4100),  # stopped
        (4000, 3950, 0, 0),  # another thread of ours held the interpreter
        (4000, 0, 3950, 0),  # a loaded host
        (4000, 1000, 1000, 2100),  # both, and stopped
        (90, 0, 0, 0),
        (-60, 0, 0, 0),  # looked at in between
    ],
)
def test_only_what_nothing_else_accounts_for_is_a_pause(
    late_ms: int, used_ms: int, waited_ms: int, paused_ms: int
) -> None:
    before = Look(10**9, 5 * MS, 7 * MS)
    after = Look(
        before.at_ns + PERIOD_NS + late_ms * MS,
        before.used_ns + used_ms * MS,
        before.waited_ns + waited_ms * MS,
    )
    assert pause_between(before, after) == paused_ms * MS


@pytest.mark.parametrize(
    ("seconds", "details"), [(0.0, []), (4.132, ["for about 4 s"]), (0.21, ["for about 0.2 s"])]
)
def test_all_pauses_are_one_warning_with_a_rounded_detail(
    seconds: float, details: list[str]
) -> None:
    heart = Heartbeat()
    heart._paused_ns = round(seconds * 1e9)
    assert [one.detail for one in heart.end()] == details


def test_nothing_of_it_is_left_after_a_trial() -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    Heartbeat().end()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)


HARNESS = """
import sys, time
from harness.meters.host_activity import Watch
watch = Watch.begin()
print("begun", flush=True)
sys.stdin.readline()
print([str(one.code) for one in watch.end()], flush=True)
"""
STOPPED_S = 0.5
"""Longer than a period and the shortest pause that is told."""


@contextlib.contextmanager
def begun(checkout: Path) -> Iterator[subprocess.Popen[str]]:
    """A harness that watches."""
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
    ) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == "begun\n"
        yield harness


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_harness_that_is_stopped_says_so(checkout: Path, is_stopped: bool) -> None:
    with begun(checkout) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        if is_stopped:
            harness.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, harness.pid, os.WSTOPPED | os.WNOWAIT)
        # Nothing comes: the pause itself.
        assert not select.select([harness.stdout], [], [], STOPPED_S)[0]
        if is_stopped:
            harness.send_signal(signal.SIGCONT)
        harness.stdin.write("\n")
        harness.stdin.flush()
        assert ("harness-stopped" in harness.stdout.readline()) is is_stopped


@pytest.mark.privileged
def test_a_harness_whose_control_group_is_frozen_says_so(checkout: Path) -> None:
    parent = Path("/sys/fs/cgroup/freezer")
    state = ("freezer.state", "FROZEN", "THAWED")
    if not parent.is_dir():
        parent, state = Path("/sys/fs/cgroup"), ("cgroup.freeze", "1", "0")
    group = parent / f"steelyard-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        if not (group / state[0]).exists():
            pytest.skip("no freezer here")
        with begun(checkout) as harness:
            assert harness.stdin is not None
            assert harness.stdout is not None
            (group / "cgroup.procs").write_text(str(harness.pid))
            (group / state[0]).write_text(state[1])
            assert not select.select([harness.stdout], [], [], STOPPED_S)[0]
            (group / state[0]).write_text(state[2])
            harness.stdin.write("\n")
            harness.stdin.flush()
            assert "harness-stopped" in harness.stdout.readline()
    finally:
        group.rmdir()
