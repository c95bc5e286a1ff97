"""Readiness, on an instance that plays a script."""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace
from typing import cast

import pytest

from harness.lab import Lab
from harness.lab import readiness as readiness_module
from harness.lab.endpoints import NetworkEndpoint
from harness.lab.http import parse_header
from harness.lab.prober import Probe
from harness.lab.readiness import signal_name, wait_ready
from harness.model import DiskPart, Milestone, Readiness, ReadinessKind
from harness.model.backend import Accounting, Exit, Output
from harness.model.diagnostics import Diagnostic
from harness.model.errors import HarnessError, ReadinessTimeoutError, UnexpectedExitError

Step = bytes | Exit | tuple[bytes, ...]


class Scripted:
    """Plays one step a pump; then nothing more happens."""

    def __init__(self, *steps: Step, address: str | None = None) -> None:
        self.milestones_ns: dict[Milestone, int] = {}
        self.output = Output()
        self.exit: Exit | None = None
        self.address = address
        self.box_pid: int | None = None
        self.diagnostics: list[Diagnostic] = []
        self.pumps = 0
        self._pieces = 0
        self._steps = list(steps)

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        self.pumps += 1
        if not self._steps:
            left_s = max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
            select.select([] if wake_fd is None else [wake_fd], [], [], left_s)
            return
        step = self._steps.pop(0)
        if isinstance(step, Exit):
            self.exit = step
            return
        for data in step if isinstance(step, tuple) else (step,):
            self.output.append(data, 1000 + self._pieces)
            self._pieces += 1

    def accounting(self) -> Accounting:
        return Accounting((), "nothing", {})

    def run_inside(self, command: tuple[str, ...]) -> None:
        del command

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def stop(self, timeout_ns: int) -> None: ...

    def remove(self) -> None: ...

    def console_tail(self) -> str:
        return self.output.data.decode()


def soon(milliseconds: float = 30) -> int:
    return time.monotonic_ns() + round(milliseconds * 1e6)


ENDED_WELL = Exit(0, None, 77)


def test_exit_is_stamped_when_the_host_saw_it() -> None:
    instance = Scripted(b"hi\n", ENDED_WELL)
    assert wait_ready(instance, Readiness(ReadinessKind.EXIT), None, soon()).at_ns == 77
    assert instance.milestones_ns == {Milestone.READY: 77}


@pytest.mark.parametrize(
    ("steps", "readiness", "message"),
    [
        ((Exit(3, None, 1),), Readiness(ReadinessKind.EXIT), "ended with code 3, .* with code 0"),
        ((Exit(None, 9, 1),), Readiness(ReadinessKind.EXIT), "was ended by SIGKILL"),
        ((ENDED_WELL,), Readiness(ReadinessKind.EXIT, exit_code=3), "code 0, .* with code 3"),
        ((b"a\nno\n", ENDED_WELL), Readiness(ReadinessKind.EXIT, output="^hi$"),
         "printed /\\^hi\\$/; its last line: no"),
        ((b"no\n", Exit(1, None, 1)), Readiness(ReadinessKind.OUTPUT, output="hi"), "code 1"),
        ((b"no\n", ENDED_WELL), Readiness(ReadinessKind.OUTPUT, output="hi"), "code 0"),
    ],
)  # fmt: skip
def test_another_end_than_wanted_is_told_with_the_last_words(
    steps: tuple[Step, ...], readiness: Readiness, message: str
) -> None:
    with pytest.raises(UnexpectedExitError, match=message) as caught:
        wait_ready(Scripted(*steps), readiness, None, soon())
    assert caught.value.console == b"".join(s for s in steps if isinstance(s, bytes)).decode()


def test_output_is_stamped_by_the_piece_that_completed_it() -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="^ready$")
    instance = Scripted(b"not read", b"y\nre", (b"ad", b"y\n", b"more\n"))
    # Pieces 1000 and 1001, then 1002 to 1004 in one pump: "y\n" is the fourth.
    assert wait_ready(instance, ready, None, soon()).at_ns == 1002 + 1


def test_output_that_was_there_before_the_end_counts() -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="hi")
    assert wait_ready(Scripted(b"hi", Exit(1, None, 1)), ready, None, soon()).at_ns == 1000


def test_output_that_is_no_text_does_no_harm() -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="hi")
    assert wait_ready(Scripted(b"\xff\xfe\x00", b"hi"), ready, None, soon()).at_ns == 1001


@pytest.mark.parametrize(
    "readiness",
    [Readiness(ReadinessKind.EXIT), Readiness(ReadinessKind.OUTPUT, output="hi")],
)
def test_a_timeout_comes_at_its_time_without_spinning(readiness: Readiness) -> None:
    instance = Scripted(b"waiting\n")
    begun = time.monotonic_ns()
    with pytest.raises(ReadinessTimeoutError, match="not ready in time; it has not") as caught:
        wait_ready(instance, readiness, None, soon(30))
    assert 25e6 < time.monotonic_ns() - begun < 1e9
    assert instance.pumps <= 4
    assert caught.value.console == "waiting\n"
    assert Milestone.READY not in instance.milestones_ns


def test_the_network_needs_an_address() -> None:
    with pytest.raises(HarnessError, match="needs an address"):
        wait_ready(Scripted(), Readiness(ReadinessKind.TCP, port=1), None, soon())


def test_a_dear_look_into_the_box_is_followed_by_as_long_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look takes 50 ms, and every millisecond something is printed: 10 looks fit in 0.99 s."""
    now_ns = looks = 0

    class Dear(Scripted):
        @property
        def box_pid(self) -> int | None:
            nonlocal now_ns, looks
            now_ns, looks = now_ns + 50_000_000, looks + 1
            return None

        @box_pid.setter
        def box_pid(self, pid: int | None) -> None: ...

        def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
            nonlocal now_ns
            now_ns = min(now_ns + 1_000_000, deadline_ns)

    monkeypatch.setattr(readiness_module, "time", SimpleNamespace(monotonic_ns=lambda: now_ns))
    inside = Readiness(ReadinessKind.TCP, port=1, address="127.0.0.1")
    with pytest.raises(ReadinessTimeoutError, match="no process of the box is known"):
        wait_ready(Dear(address="10.0.0.2"), inside, cast("Lab", object()), 990_000_000)
    assert looks == 10


def test_a_probe_finishes_once_and_closes_twice() -> None:
    cancelled: list[Probe] = []
    probe = Probe(
        Readiness(ReadinessKind.TCP, port=1), NetworkEndpoint("10.0.0.1", 1), 0, cancelled.append
    )
    assert not select.select([probe.wake_fd], [], [], 0)[0]
    probe.finish()
    assert select.select([probe.wake_fd], [], [], 0)[0]
    fd = probe.wake_fd
    probe.close()
    probe.close()
    probe.finish()
    assert cancelled == [probe]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 12", (200, 12)),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length:7\r\nA: b", (404, 7)),
        (b"HTTP/1.1 204", (204, None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x", (200, None)),
        (b"SSH-2.0-OpenSSH_9.2", (None, None)),
        (b"", (None, None)),
        (b"HTTP/1.1 200 OK\nContent-Length: 3", (200, 3)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", (200, None)),
    ],
)
def test_headers(header: bytes, expected: tuple[int | None, int | None]) -> None:
    assert parse_header(header) == expected


def test_signals_have_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(60) == "signal 60"
