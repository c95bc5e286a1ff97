"""One QEMU process: started with its sockets, let run, and ended for certain."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends.stream_instance import wait_readable
from harness.backends.vm.argv import ROOT_DRIVE
from harness.model.errors import HarnessError, LaunchFailedError, MeterError

if TYPE_CHECKING:
    from harness.backends.vm.qmp import QmpMonitor

_HANDSHAKE_TIMEOUT_S = 30.0
_METER_TIMEOUT_S = 2.0
_CONSOLE_KEPT_BYTES = 64 * 1024
_TAIL_LINES = 25


class Ending(StrEnum):
    """How far the teardown had to go."""

    GONE = "gone"
    """QEMU had ended already."""
    QUIT = "quit"
    """It went when QMP said `quit`."""
    KILLED = "killed"
    """It had to be killed."""


@dataclass(frozen=True)
class Descriptors:
    """The guest's ends of the socket pairs, named as in `Wiring`."""

    console_fd: int
    qmp_fd: int
    control_fd: int
    output_fd: int


class Machine:
    """A QEMU process with the host's ends of its console, control port, output port and QMP.

    QEMU dies with the thread that started it: setpriv(1) sets the parent-death signal (prctl(2),
    PR_SET_PDEATHSIG) and becomes QEMU, so that nothing runs between fork and exec here. The kernel
    keeps that signal across exec because QEMU is neither set-user-ID nor has file capabilities.

    Attributes:
        pidfd: Readable once it has ended (pidfd_open(2)).
        console: Host's end of the serial console; so are `control` and `output` of their ports.
        console_bytes: The last of what the console printed, as `keep_console` was given it.
    """

    def __init__(
        self,
        argv: Callable[[Descriptors], tuple[str, ...]],
        log: Path,
        inherited: tuple[int, ...] = (),
        prefix: tuple[str, ...] = (),
    ) -> None:
        """Start QEMU by the command line that `argv` makes once the descriptors are known.

        QEMU's own complaints go to `log`. It gets the descriptors `inherited`; the command `prefix`
        is put in front and execs the rest.

        Raises:
            LaunchFailedError: The program cannot be started.
        """
        self.console_bytes = b""
        self._log = log
        self._closed = False
        self._monitor: QmpMonitor | None = None
        with contextlib.ExitStack() as mine, contextlib.ExitStack() as theirs:
            ends: list[socket.socket] = []
            fds: list[int] = []
            for _ in range(4):
                host, guest = socket.socketpair()
                ends.append(mine.enter_context(host))
                fds.append(theirs.enter_context(guest).fileno())
            command = (*prefix, *death_signal_prefix(), *argv(Descriptors(*fds)))
            with open(log, "wb") as errors:
                try:
                    self.process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=errors,
                        stderr=errors,
                        pass_fds=(*fds, *inherited),
                        close_fds=True,
                        # Ctrl-C at the terminal is for us, who then end the guest in order.
                        start_new_session=True,
                    )
                except OSError as error:
                    raise LaunchFailedError(f"{command[0]}: {error.strerror}") from None
            self.pidfd = os.pidfd_open(self.process.pid)
            mine.pop_all()
        self.console, self._qmp_end, self.control, self.output = ends
        for end in (self.console, self.control, self.output):
            end.setblocking(False)

    def connect(self, name: str) -> str:
        """Open QMP and ask which accelerator runs.

        Returns:
            `kvm` or `tcg`.

        Raises:
            LaunchFailedError: QEMU ended or does not answer; with what it complained of.
        """
        # Late: it loads asyncio, which no other arm should pay for.
        from harness.backends.vm.qmp import QmpMonitor

        self._monitor = QmpMonitor(self._qmp_end, name)
        try:
            self._monitor.connect(_HANDSHAKE_TIMEOUT_S)
            return self._monitor.accelerator(_HANDSHAKE_TIMEOUT_S)
        except HarnessError as error:
            raise self._no_start(str(error)) from None

    def run(self) -> None:
        """Let the vCPUs go.

        Raises:
            LaunchFailedError: QEMU ended instead.
        """
        assert self._monitor is not None
        try:
            self._monitor.execute("cont", _HANDSHAKE_TIMEOUT_S)
        except HarnessError as error:
            raise self._no_start(str(error)) from None

    def disk_read_bytes(self) -> int:
        """What the guest has read of its root disk so far.

        Raises:
            MeterError: QEMU does not say: it has ended, or is stuck.
        """
        if self._monitor is None or self.ended(0):
            raise MeterError("QEMU has ended")
        try:
            return self._monitor.disk_read_bytes(ROOT_DRIVE, _METER_TIMEOUT_S)
        except HarnessError as error:
            raise MeterError(str(error)) from None

    def keep_console(self, data: bytes) -> None:
        """Remember console output for a post-mortem, the last of it."""
        self.console_bytes = (self.console_bytes + data)[-_CONSOLE_KEPT_BYTES:]

    def tail(self) -> str:
        """QEMU's own complaints and the last lines of the console."""
        with contextlib.suppress(OSError):
            while data := self.console.recv(65536):
                self.keep_console(data)
        text = self.console_bytes.decode("utf-8", "replace").replace("\r\n", "\n")
        return "\n".join((*self.complaints().splitlines(), *text.splitlines()[-_TAIL_LINES:]))

    def complaints(self) -> str:
        """What QEMU wrote to its standard error."""
        try:
            return self._log.read_text("utf-8", "replace").strip()
        except OSError:
            return ""

    def last_complaint(self) -> str:
        """The last line of `complaints` that is one, not an advice; empty if there is none.

        QEMU's own name and the place in its sources are left out: they do not help a user.
        """
        lines = [line for line in self.complaints().splitlines() if not line.startswith("Use -")]
        return re.sub(r"^\S+: (\S+\.c:\d+: )?", "", lines[-1]) if lines else ""

    def ended(self, timeout_s: float) -> bool:
        """Whether the process has ended, waiting for it at most so long."""
        if self.process.returncode is not None:
            return True
        if not wait_readable(self.pidfd, int(timeout_s * 1e9)):
            return False
        self.process.wait()
        return True

    def end(self, timeout_s: float) -> Ending:
        """End the process: `quit`, then SIGKILL, which cannot be refused. Idempotent."""
        if self.ended(0):
            return Ending.GONE
        deadline = time.monotonic() + timeout_s
        if self._monitor is not None:
            # QEMU often hangs up before it answers, and that is an answer.
            with contextlib.suppress(HarnessError):
                self._monitor.execute("quit", timeout_s)
            if self.ended(deadline - time.monotonic()):
                return Ending.QUIT
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return Ending.KILLED

    def close(self) -> None:
        """Kill what still runs and give back every descriptor. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if not self.ended(0):
            self.process.kill()
            self.process.wait()
        if self._monitor is not None:
            self._monitor.close()
        for end in (self.console, self.control, self.output, self._qmp_end):
            end.close()
        os.close(self.pidfd)

    def _no_start(self, reason: str) -> LaunchFailedError:
        """The error for a QEMU that did not get as far as running its guest."""
        self.ended(1.0)
        text = self.last_complaint() or reason
        return LaunchFailedError(f"QEMU did not start: {text}", console=self.tail())


@functools.cache
def death_signal_prefix() -> tuple[str, ...]:
    """The command that makes QEMU die with us, or nothing where setpriv cannot do it."""
    program = shutil.which("setpriv")
    if program is None:
        return ()
    tried = subprocess.run(
        [program, "--pdeathsig", "KILL", "true"], capture_output=True, check=False
    )
    return (program, "--pdeathsig", "KILL") if tried.returncode == 0 else ()
