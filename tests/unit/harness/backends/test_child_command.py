"""A command inside a box, here a plain child: how it ends and what it said last."""

from __future__ import annotations

import os
import select
from contextlib import closing
from pathlib import Path

from harness.backends.child_command import ChildCommand
from harness.model.backend import Exit

PATIENCE_S = 30


def running(line: str) -> ChildCommand:
    def start(stdio: tuple[int, int, int]) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
        argv = ["sh", "-c", line]
        return os.pidfd_open(os.posix_spawnp("sh", argv, os.environ, file_actions=actions))

    return ChildCommand(start)


def ended(command: ChildCommand) -> Exit:
    assert command.wake_fd is not None
    assert select.select([command.wake_fd], [], [], PATIENCE_S)[0]
    end = command.look()
    assert end is not None
    return end


def test_it_ends_as_its_process_does_and_says_its_last_line() -> None:
    with closing(running("echo first; echo last >&2; exit 3")) as command:
        assert ended(command).code == 3
        assert command.last_line() == "last"


def test_a_command_that_prints_more_than_a_pipe_holds_is_not_refused_it() -> None:
    """Both streams have one position, so that neither writes over the other."""
    line = "head -c 300000 /dev/zero | tr '\\0' x || exit 9; echo; echo err >&2; echo last"
    with closing(running(line)) as command:
        assert ended(command).code == 0
        assert command.last_line() == "last"
    with closing(running("echo a; echo no > /dev/stderr; echo b")) as command:
        assert ended(command).code == 0
        assert command.last_line() == "b"
    with closing(running("seq 100000 || exit 9; exit 4")) as command:
        assert ended(command).code == 4
        assert command.last_line() == "100000"


def test_closing_ends_it_and_leaves_nothing() -> None:
    before = os.listdir("/proc/self/fd")
    command = running("exec sleep 600")
    fd = command.wake_fd
    assert fd is not None
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    )
    pid = fields["Pid"]
    command.close()
    command.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert os.listdir("/proc/self/fd") == before
