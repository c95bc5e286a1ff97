"""A command inside a box that is a child of this process: how it ends, and what it said last."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from harness.model.backend import Exit

_TAIL_BYTES = 64 << 10
"""How much of the end of what it prints is looked at."""


class ChildCommand:
    """See `harness.model.backend.InsideCommand`."""

    def __init__(self, start: Callable[[tuple[int, int, int]], int]) -> None:
        """Start it.

        Args:
            start: Gets the descriptors that become the command's 0, 1 and 2, and returns the pidfd
                of a child of this process; what it raises is passed on.
        """
        # A file: a pipe that nobody reads from would make it wait, or fail (EAGAIN), when full.
        self._output_fd = os.memfd_create("output", os.MFD_CLOEXEC)
        # Who opens /dev/stderr anew has a position of his own (and empties the file).
        fcntl.fcntl(self._output_fd, fcntl.F_SETFL, os.O_APPEND)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.wake_fd: int | None = start((null_fd, self._output_fd, self._output_fd))
        except BaseException:
            os.close(self._output_fd)
            raise
        finally:
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
        fd = self.wake_fd
        if fd is None:
            return
        if self._exit is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, fd, os.WEXITED)
        self.wake_fd = None  # only now: a signal may have ended an earlier call in its wait
        os.close(fd)
        os.close(self._output_fd)

    def _take_end(self, exited: bool, status: int, now: int) -> None:
        self._exit = Exit(status, None, now) if exited else Exit(None, status, now)
        size = os.fstat(self._output_fd).st_size
        self._said = os.pread(self._output_fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
