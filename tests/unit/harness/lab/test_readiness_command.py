"""Readiness by a command inside the box, on an instance whose commands follow a script."""

from __future__ import annotations

import time

import pytest

from harness.lab.readiness import wait_ready
from harness.model import Milestone, Readiness, ReadinessKind
from harness.model.backend import Accounting, Exit, Output
from harness.model.diagnostics import Diagnostic
from harness.model.errors import LaunchFailedError, ReadinessTimeoutError, UnexpectedExitError
from harness.model.trial import DiskPart

ASKS = Readiness(ReadinessKind.COMMAND, command=("probe", "me"))
Run = Exit | LaunchFailedError | None


class Command:
    """Ends as it was made to, at the second look."""

    wake_fd: int | None = None

    def __init__(self, end: Exit) -> None:
        self._end, self._looks, self.closed = end, 0, False

    def look(self) -> Exit | None:
        self._looks += 1
        return self._end if self._looks > 1 else None

    def last_line(self) -> str:
        return "no response"

    def close(self) -> None:
        self.closed = True


class Enterable:
    """A box whose commands end as scripted; the last one again and again."""

    def __init__(self, *runs: Run, ends_after: int = -1) -> None:
        self.milestones_ns: dict[Milestone, int] = {}
        self.output = Output()
        self.exit: Exit | None = None
        self.address: str | None = None
        self.diagnostics: list[Diagnostic] = []
        self.box_pid: int | None = None
        self.commands: list[Command] = []
        self.asked = 0
        self._runs, self._ends_after = runs, ends_after

    def run_inside(self, command: tuple[str, ...]) -> Command | None:
        assert command == ("probe", "me")
        run = self._runs[min(self.asked, len(self._runs) - 1)]
        self.asked += 1
        if isinstance(run, LaunchFailedError):
            raise run
        if run is None:
            return None
        self.commands.append(Command(run))
        return self.commands[-1]

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        del wake_fd
        if self.asked == self._ends_after:
            self.exit = Exit(4, None, 9)
        left_ns = min(deadline_ns - time.monotonic_ns(), 1_000_000)
        time.sleep(max(left_ns, 0) / 1e9)

    def accounting(self) -> Accounting:
        return Accounting((), "nothing", {})

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def stop(self, timeout_ns: int) -> None: ...

    def remove(self) -> None: ...

    def console_tail(self) -> str:
        return "tail"


def soon(milliseconds: float = 40) -> int:
    return time.monotonic_ns() + round(milliseconds * 1e6)


def test_the_first_run_that_ends_well_is_the_stamp() -> None:
    later_ns = time.monotonic_ns() + 10**12
    missing = LaunchFailedError("there is no probe")
    box = Enterable(None, missing, Exit(1, None, 1), Exit(None, 9, 1), Exit(0, None, later_ns))
    ready = wait_ready(box, ASKS, None, soon(20_000))
    assert ready.at_ns == box.milestones_ns[Milestone.READY] == later_ns
    assert ready.probe_ns is not None
    assert 10**12 - 20 * 10**9 < ready.probe_ns <= 10**12
    assert box.asked == 5
    assert all(command.closed for command in box.commands)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Exit(3, None, 1), "probe me ends with code 3, saying: no response"),
        (Exit(None, 9, 1), "probe me ends with SIGKILL"),
        (LaunchFailedError("there is no probe in the image"), "probe me: there is no probe"),
        (None, "probe me: not begun"),
    ],
)
def test_a_timeout_says_how_the_last_run_ended(run: Run, said: str) -> None:
    with pytest.raises(ReadinessTimeoutError, match=said) as caught:
        wait_ready(Enterable(run), ASKS, None, soon())
    assert caught.value.console == "tail"


def test_a_workload_that_ends_ends_the_wait() -> None:
    box = Enterable(Exit(1, None, 1), ends_after=2)
    with pytest.raises(UnexpectedExitError, match="code 4, probe me should end with code 0"):
        wait_ready(box, ASKS, None, soon(20_000))
    assert all(command.closed for command in box.commands)
