"""A command that enters a running container: it is where the workload is, and as confined."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

import runtime
from runtime.errors import CommandNotFoundError, ContainerError
from runtime.linux.syscalls import set_dumpable

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("leaves_nothing")]

STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
NAMESPACES = "cgroup ipc mnt net pid uts"
LOOK = (
    "for n in " + NAMESPACES + "; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; "
    f"grep -E '^({'|'.join(STATUS)}):' /proc/self/status; "
    "pwd; echo $MARK; umask; ls /proc/self/fd | wc -l"
)


@pytest.fixture(params=[None, "1000:1000"], ids=["root", "user"])
def box(request: pytest.FixtureRequest) -> Iterator[runtime.Container]:
    if runtime.default_launcher() != "native":
        pytest.skip("the native launcher is not built")
    command = ["sh", "-c", f"({LOOK}) > /tmp/part; mv /tmp/part /tmp/seen; exec sleep 600"]
    with runtime.start_container(
        "busybox", command, user=request.param, environment={"MARK": "a b"},
        working_directory="/tmp", limits=runtime.ResourceLimits(64 << 20, None, 20),
    ) as container:  # fmt: skip
        yield container


def entered(box: runtime.Container, entrance: runtime.Entrance, *command: str) -> tuple[int, str]:
    """Run a command in the container; returns its exit code and what it printed."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        launched = entrance.start(command, (null_fd, write_fd, write_fd))
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
        os.close(null_fd)
    with os.fdopen(read_fd, "rb") as file:
        printed = file.read()
    ended = os.waitid(os.P_PIDFD, launched.pidfd, os.WEXITED)
    os.close(launched.pidfd)
    assert ended is not None
    return ended.si_status, printed.decode()


def test_it_has_what_the_workload_has(box: runtime.Container) -> None:
    entrance = runtime.Entrance(box)
    try:
        waits = "until [ -e /tmp/seen ]; do usleep 1000; done; cat /tmp/seen"
        _, seen = entered(box, entrance, "timeout", "20", "sh", "-c", waits)
        assert "a b" in seen
        assert entered(box, entrance, "sh", "-c", f"({LOOK})") == (0, seen)
        # In the same groups as the host sees it, and a child of no process in the box.
        code, told = entered(box, entrance, "sh", "-c", "echo $$; grep PPid /proc/self/status")
        assert code == 0
        assert re.fullmatch(r"([2-9]|\d\d+)\nPPid:\t\d+\n", told)
    finally:
        entrance.close()


def test_it_counts_against_the_boxes_limits(box: runtime.Container) -> None:
    entrance = runtime.Entrance(box)
    try:
        line = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo all"
        code, told = entered(box, entrance, "sh", "-c", f"({line}) 2>&1; kill -9 -1")
        assert "can't fork" in told
        assert code in (0, 2, 9, 137)
    finally:
        entrance.close()


def test_nothing_of_the_launcher_is_open_to_the_box(box: runtime.Container) -> None:
    held = os.open("/", os.O_RDONLY)  # inheritable or not: it must not be there
    os.set_inheritable(held, True)
    entrance = runtime.Entrance(box)
    try:
        _, told = entered(
            box, entrance, "sh", "-c", "ls -l /proc/self/fd 2>/dev/null | grep -c ' -> /$'"
        )
        assert told == "0\n"
    finally:
        entrance.close()
        os.close(held)


def test_the_launcher_may_be_looked_at_again_afterwards(box: runtime.Container) -> None:
    entrance = runtime.Entrance(box)
    try:
        entered(box, entrance, "true")
        # An undumpable process's files of /proc belong to root; ours are ours.
        assert os.stat("/proc/self/status").st_uid == os.geteuid()
        assert _is_dumpable()
    finally:
        entrance.close()
        set_dumpable(dumpable=True)


def test_a_command_that_is_not_there_leaves_nothing(box: runtime.Container) -> None:
    entrance = runtime.Entrance(box)
    try:
        with pytest.raises(CommandNotFoundError, match="there is no nothing"):
            entered(box, entrance, "nothing")
        assert _is_dumpable()
        assert entered(box, entrance, "true") == (0, "")
    finally:
        entrance.close()


def test_a_container_that_has_ended_is_not_entered(box: runtime.Container) -> None:
    entrance = runtime.Entrance(box)
    try:
        box.kill()
        with pytest.raises(ContainerError):
            entered(box, entrance, "true")
        with pytest.raises(ContainerError):
            runtime.Entrance(box)
    finally:
        entrance.close()


def test_a_command_whose_starter_was_interrupted_does_not_keep_the_box(
    box: runtime.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its zombie would: the box's first process ends only after all that are in its namespace."""

    def interrupted(future: Future[object]) -> None:
        del future
        raise KeyboardInterrupt

    # Those of other tests among them: their fixtures may live on.
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    before = listed.read_text().split()
    entrance = runtime.Entrance(box)
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        entrance.start(("sleep", "600"), (null_fd, null_fd, null_fd))
    os.close(null_fd)
    entrance.close()
    entrance.close()
    assert str(box.pid) in before
    assert listed.read_text().split() == before
    box.send_signal(signal.SIGKILL)
    assert box.wait(timeout_s=30) is not None


def _is_dumpable() -> bool:
    import ctypes

    pr_get_dumpable = 3
    return bool(ctypes.CDLL(None).prctl(pr_get_dumpable, 0, 0, 0, 0) == 1)
