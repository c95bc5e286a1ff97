"""One workload's output pipe and pidfd, polled: what the instances of most backends share.

Nothing stands between an event and its stamp: poll(2) returns, the descriptors are collected, the
clock is read. Only then is what has come looked at. `pump` is one flat function, because it lies on
the measured path: with the wait in a function of its own, the null backend measured 4 % more (on
two cores at 2.x GHz, 1 µs of 25).
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
import time
from abc import ABC, abstractmethod

from harness.model import Milestone
from harness.model.backend import Exit, InsideCommand, Output
from harness.model.diagnostics import Diagnostic
from harness.model.errors import LaunchFailedError

_READ_BYTES = 65536
_TAIL_LINES = 20
_TAIL_BYTES = 16 << 10


class StreamInstance(ABC):
    """The part of a `harness.model.backend.Instance` that reads a pipe and waits for an end."""

    def __init__(
        self, output_fd: int, milestones_ns: dict[Milestone, int], address: str | None
    ) -> None:
        """Take over a workload that has just been started.

        Args:
            output_fd: Non-blocking end of what it prints to, closed here; -1 if there is none.
            milestones_ns: Absolute stamps, as far as they are known.
            address: Where it can be reached.
        """
        self.milestones_ns = milestones_ns
        self.output = Output()
        self.exit: Exit | None = None
        self.address = address
        self.diagnostics: list[Diagnostic] = []
        self._output_fd = output_fd

    @property
    def box_pid(self) -> int | None:
        """None: unless a kind of box says otherwise, no process of the host is in it."""
        return None

    def run_inside(self, command: tuple[str, ...]) -> InsideCommand | None:
        """Kinds of boxes that can be entered replace this; the others refuse it when prepared."""
        raise LaunchFailedError(f"{command[0]} cannot be run: there is no way into this box")

    @abstractmethod
    def _register(self, poll: select.poll) -> None:
        """Register what to wait for besides the output."""

    @abstractmethod
    def _take(self, ready: set[int], now: int) -> None:
        """Take in what happened on what `_register` registered; the output is read."""

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """See `harness.model.backend.Instance.pump`."""
        poll = select.poll()
        if self._output_fd >= 0:
            poll.register(self._output_fd, select.POLLIN)
        self._register(poll)
        if wake_fd is not None:
            poll.register(wake_fd, select.POLLIN)
        # Rounded up: a poll that gives up some microseconds early would make callers spin.
        left_ms = -(-max(0, deadline_ns - time.monotonic_ns()) // 1_000_000)
        ready = {fd for fd, _ in poll.poll(left_ms)}
        now = time.monotonic_ns()
        if self._output_fd in ready:
            self._read_output(now)
        self._take(ready, now)

    def _read_output(self, now: int) -> bool:
        """Take in what is there; False when there was nothing, or the stream has ended."""
        try:
            data = os.read(self._output_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if data:
            self.output.append(data, now)
            return True
        self._close_output()
        return False

    def _read_all(self, now: int) -> None:
        """Take in what is in the stream now: who else has its other end may write for ever."""
        end_bytes = self.output.size_bytes + _unread_bytes(self._output_fd)
        while self._output_fd >= 0 and self._read_output(now):
            if self.output.size_bytes > end_bytes:
                return

    def _end(self, exit_: Exit, now: int) -> None:
        """Note the workload's end. What it printed before belongs to it, and would be lost."""
        self._read_all(now)
        self.exit = exit_

    def _close_output(self) -> None:
        if self._output_fd >= 0:
            os.close(self._output_fd)
            self._output_fd = -1

    def console_tail(self) -> str:
        """The last lines that were printed."""
        lines = self.output.data[-_TAIL_BYTES:].decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def _unread_bytes(fd: int) -> int:
    """How much can be read without waiting from a pipe or a socket; 0 without one."""
    if fd < 0:
        return 0
    size = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(size, sys.byteorder)


def wait_readable(fd: int, timeout_ns: int) -> bool:
    """Wait until a descriptor is readable; False if that takes longer than `timeout_ns`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(-(-max(0, timeout_ns) // 1_000_000)))
