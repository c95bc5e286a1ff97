"""A command inside a box that is a child of this process: how it ends, and what it said last."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from harness.model.backend import Exit

_SAID_BYTES = 64 << 10
"""What a pipe holds (pipe(7)); a command that prints more is refused the rest (EAGAIN)."""


class ChildCommand:
    """See `harness.model.backend.InsideCommand`."""

    def __init__(self, start: Callable[[tuple[int, int, int]], int]) -> None:
        """Start it.

        Args:
            start: Gets the descriptors that become the command's 0, 1 and 2, and returns the pidfd
                of a child of this process; what it raises is passed on.
        """
        self._output_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.wake_fd: int | None = start((null_fd, write_fd, write_fd))
        except BaseException:
            os.close(self._output_fd)
            raise
        finally:
            os.close(write_fd)
            os.close(null_fd)
        self._exit: Exit | None = None
        self._said = b""

    def look(self) -> Exit | None:
        """See `harness.model.backend.InsideCommand.look`."""
        if self._exit is None and self.wake_fd is not None:
            now = time.monotonic_ns()
            ended = os.waitid(os.P_PIDFD, self.wake_fd, os.WEXITED | os.WNOHANG)
            if ended is not None:
                self._take_end(ended.si_code == os.CLD_EXITED, ended.si_status, now)
        return self._exit

    def last_line(self) -> str:
        """See `harness.model.backend.InsideCommand.last_line`."""
        lines = self._said.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        """See `harness.model.backend.InsideCommand.close`."""
        fd, self.wake_fd = self.wake_fd, None
        if fd is None:
            return
        if self._exit is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, fd, os.WEXITED)
        os.close(fd)
        os.close(self._output_fd)

    def _take_end(self, exited: bool, status: int, now: int) -> None:
        self._exit = Exit(status, None, now) if exited else Exit(None, status, now)
        with suppress(BlockingIOError):
            self._said = os.read(self._output_fd, _SAID_BYTES)
