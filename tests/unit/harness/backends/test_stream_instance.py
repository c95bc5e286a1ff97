"""Output without end: bounded in memory, and in what the workload's end waits for."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from harness.backends.stream_instance import StreamInstance
from harness.lab.readiness import wait_ready
from harness.model import DiskPart, Milestone, Readiness, ReadinessKind
from harness.model.backend import KEPT_OUTPUT_BYTES, Accounting, Exit, Output
from harness.model.errors import ReadinessTimeoutError


class Child(StreamInstance):
    """A plain child of this process, in a process group of its own."""

    def __init__(self, *command: str) -> None:
        output_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_fd, True)
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=write_fd, start_new_session=True
        )
        os.close(write_fd)
        self._pidfd = os.pidfd_open(self.child.pid)
        super().__init__(output_fd, {Milestone.REQUESTED: time.monotonic_ns()}, None)

    def _register(self, poll: select.poll) -> None:
        if self.exit is None:
            poll.register(self._pidfd, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        if self._pidfd in ready and self.exit is None:
            self._end(Exit(self.child.wait(), None, now), now)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def accounting(self) -> Accounting:
        return Accounting((), "child", {})

    def stop(self, timeout_ns: int) -> None:
        del timeout_ns

    def remove(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        os.close(self._pidfd)
        self._close_output()


@contextmanager
def running(*command: str) -> Iterator[Child]:
    child = Child(*command)
    try:
        yield child
    finally:
        child.remove()


@pytest.mark.parametrize(
    "readiness",
    [Readiness(ReadinessKind.EXIT), Readiness(ReadinessKind.EXIT, output="up"),
     Readiness(ReadinessKind.OUTPUT, output="^up$"),
     Readiness(ReadinessKind.OUTPUT, output=r"u\np")],
)  # fmt: skip
def test_a_flood_of_output_meets_its_deadline_in_bounded_memory(readiness: Readiness) -> None:
    with running("yes") as child:
        deadline_ns = time.monotonic_ns() + 100_000_000
        with pytest.raises(ReadinessTimeoutError) as caught:
            wait_ready(child, readiness, None, deadline_ns)
        assert child.output.size_bytes > KEPT_OUTPUT_BYTES
        assert len(child.output.data) <= 2 * KEPT_OUTPUT_BYTES
        assert caught.value.console == "\n".join("y" * 20)


def test_an_end_does_not_wait_for_what_others_print_on() -> None:
    with running("sh", "-c", "yes & exit 3") as child:
        while child.exit is None:
            child.pump(time.monotonic_ns() + 10**10)
        assert child.exit.code == 3


def test_the_digest_is_that_of_all_that_was_printed() -> None:
    command = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done"
    printed = "".join(f"line {number}\n" for number in range(60_000)).encode()
    ready = Readiness(ReadinessKind.EXIT, output="^line 7$")
    with running("sh", "-c", command) as child:
        wait_ready(child, ready, None, time.monotonic_ns() + 60 * 10**9)
        assert child.output.size_bytes == len(printed)
        assert child.output.sha256 == hashlib.sha256(printed).hexdigest()
        assert printed.endswith(child.output.data)


def test_who_listens_late_has_what_is_kept() -> None:
    output, seen = Output(), list[tuple[bytes, int]]()
    output.append(b"a", 1)
    output.append(b"b", 2)
    output.listen(lambda data, at_ns: seen.append((data, at_ns)))
    output.append(b"c", 3)
    assert seen == [(b"ab", 2), (b"c", 3)]
