"""One running guest, driven by the descriptors it has: console, control, output, pidfd."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from harness.backends.stream_instance import StreamInstance
from harness.backends.vm.accelerator import USERSPACE_MARK
from harness.backends.vm.machine import Ending, Machine
from harness.meters.disk import measure
from harness.model import DiskPart, Meter, Milestone, Reading, Sharing
from harness.model.backend import Accounting, Exit, InsideCommand
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import (
    InstanceError,
    LaunchFailedError,
    MeterError,
    UnexpectedExitError,
)

_KERNEL_MARK = b"Linux version "
"""The first words of every kernel, printed as soon as there is a console to print on."""
_DISK_SCOPE = "root disk"
_READ_BYTES = 65536
_DRAIN_PATIENCE_NS = 2_000_000_000
_FLUSH_PATIENCE_NS = 10_000_000_000


class _GuestCommand:
    """A run of the readiness command, which the guest's init makes and reports."""

    wake_fd: int | None = None

    def __init__(self) -> None:
        self.exit: Exit | None = None
        self.said = ""

    def look(self) -> Exit | None:
        """See `harness.model.backend.InsideCommand.look`."""
        return self.exit

    def last_line(self) -> str:
        """See `harness.model.backend.InsideCommand.last_line`."""
        return self.said

    def close(self) -> None:
        """Nothing: what still runs ends with the guest."""


class VmInstance(StreamInstance):
    """A guest, from its first instruction to the end of QEMU.

    Marks come from two places and are stamped here when they arrive: `kernel` is the kernel's
    banner on the console, `userspace` the line that the guest's init prints as its first act,
    `started` the line that it writes to the control port just before the workload's exec.

    Stopping ends QEMU by `quit`, with the guest and the workload in it as they are, just as a
    container is stopped by SIGKILL: a box's stop time should not depend on its workload's signal
    handlers.
    """

    def __init__(
        self,
        machine: Machine,
        milestones_ns: dict[Milestone, int],
        disk: tuple[Path, str],
        image_bytes: int,
        address: str | None,
        diagnostics: list[Diagnostic],
        take_away: Callable[[], None],
    ) -> None:
        """Take over a machine whose vCPUs have just been let go, and its output socket.

        `disk` is the file of its own disk, and the name of the part; `image_bytes` is how much of
        the image the guest could read; `take_away` removes what it has besides its machine.
        """
        super().__init__(machine.output.detach(), milestones_ns, address)
        self.diagnostics = diagnostics
        self._machine = machine
        self._disk = disk
        self._image_bytes = image_bytes
        self._take_away = take_away
        self._control = b""
        self._commands: list[_GuestCommand] = []
        # The workload has ended, but not all that it printed is here yet.
        self._ended: Exit | None = None
        self._is_flush_asked = self._is_flushed = False
        self._open: dict[int, socket.socket] = {
            end.fileno(): end for end in (machine.console, machine.control)
        }

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """See `harness.model.backend.Instance.pump`.

        Raises:
            LaunchFailedError: The guest ended before its workload started, or could not start it.
            UnexpectedExitError: The guest ended with the workload in it, or does not know how the
                workload ended.
        """
        if self._ended is not None:
            deadline_ns = min(deadline_ns, self._ended.at_ns + _DRAIN_PATIENCE_NS)
        super().pump(deadline_ns, wake_fd)

    def _register(self, poll: select.poll) -> None:
        for fd in self._open:
            poll.register(fd, select.POLLIN)
        if self.exit is None:
            poll.register(self._machine.pidfd, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        # Console before control: marks on it come first in the guest too.
        for fd, end in tuple(self._open.items()):
            if fd in ready:
                self._read(end, now)
        ended = self._ended
        if ended is not None and self.exit is None and now - ended.at_ns >= _DRAIN_PATIENCE_NS:
            self.exit = ended
        if self.exit is None and self._machine.pidfd in ready:
            self._take_end(now)

    def run_inside(self, command: tuple[str, ...]) -> InsideCommand | None:
        """See `harness.model.backend.Instance.run_inside`; the guest knows the command already."""
        if Milestone.STARTED not in self.milestones_ns:
            return None
        try:
            self._machine.control.send(b"%d\n" % len(self._commands))
        except OSError as error:
            raise LaunchFailedError(
                f"the guest cannot be asked to run {command[0]}: {error.strerror}"
            ) from error
        self._commands.append(_GuestCommand())
        return self._commands[-1]

    def _take_probed(self, words: str, now: int) -> None:
        """Note the end of a readiness command: its number, its exit code, what it said last."""
        number, code, *said = words.split(" ", 2)
        command = self._commands[int(number)]
        command.exit, command.said = Exit(int(code), None, now), " ".join(said).strip()

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """Measure the overlay, or the copy, once the guest has written out what it holds.

        It is asked to by the first call; later calls give what has come to the disk since.
        A guest keeps what it writes in memory for 5 to 30 s. Waiting for it takes 20 to 140 ms, and
        the guest's CPU time: other meters are read before.
        """
        if not self._is_flush_asked:
            self._is_flush_asked = True
            if not self._flush():
                self.diagnostics.append(Diagnostic(DiagnosticCode.NOT_FLUSHED))
        path, name = self._disk
        return (measure(path, name, Sharing.EXCLUSIVE),)

    def accounting(self) -> Accounting:
        """QEMU: everything that the guest costs the host is its; and what the guest has read."""
        machine = self._machine
        path, _ = self._disk
        read: int | None = None
        readings = [Reading(Meter.IMAGE_TOTAL_BYTES, self._image_bytes, _DISK_SCOPE)]
        try:
            read = machine.disk_read_bytes()
        except MeterError as error:
            readings.append(Reading(Meter.IMAGE_READ_BYTES, None, _DISK_SCOPE, str(error)))
        return Accounting(
            pids=() if machine.ended(0) else (machine.process.pid,),
            scope="QEMU",
            cgroups={},
            image_read_bytes=read,
            readings=tuple(readings),
            owned=(str(path.parent),),
        )

    def _flush(self) -> bool:
        """Have the guest write out what it holds back; False if it does not answer."""
        control = self._machine.control
        deadline_ns = time.monotonic_ns() + _FLUSH_PATIENCE_NS
        try:
            control.send(b"sync\n")
            while (
                not self._is_flushed
                and control.fileno() in self._open
                and time.monotonic_ns() < deadline_ns
            ):
                super().pump(deadline_ns)
        except (OSError, InstanceError):
            pass  # the guest, or QEMU, is gone; it may have answered before
        return self._is_flushed

    def stop(self, timeout_ns: int) -> None:
        """See `harness.model.backend.Instance.stop`."""
        if Milestone.STOPPED in self.milestones_ns:
            return
        ending = self._machine.end(timeout_ns / 1e9)
        now = time.monotonic_ns()
        self.milestones_ns[Milestone.STOPPED] = now
        if ending is Ending.KILLED:
            detail = f"QEMU did not quit within {timeout_ns / 1e9:g} s"
            self.diagnostics.append(Diagnostic(DiagnosticCode.FORCED_STOP, detail))
        if self.exit is None:
            self.exit = self._ended or Exit(None, signal.SIGKILL, now)

    def remove(self) -> None:
        """See `harness.model.backend.Instance.remove`."""
        if Milestone.REMOVED in self.milestones_ns:
            return
        self._machine.close()
        self._open.clear()
        self._close_output()
        self._take_away()
        self.milestones_ns[Milestone.REMOVED] = time.monotonic_ns()

    def console_tail(self) -> str:
        """The last lines of QEMU's complaints, of the console, and of the workload's output."""
        tail = self._machine.tail()
        if Milestone.STARTED not in self.milestones_ns:
            return tail
        return f"{tail}\n{super().console_tail() or '(the workload printed nothing)'}"

    def _read(self, end: socket.socket, now: int) -> bool:
        """Take in what one stream has; False when it has nothing, or has ended."""
        try:
            data = end.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            # QEMU is going; its pidfd shows the rest.
            del self._open[end.fileno()]
            return False
        if end is self._machine.console:
            self._take_console(data, now)
        else:
            self._take_control(data, now)
        return True

    def _take_console(self, data: bytes, now: int) -> None:
        self._machine.keep_console(data)
        if Milestone.USERSPACE in self.milestones_ns:
            return
        for milestone, mark in (
            (Milestone.KERNEL, _KERNEL_MARK),
            (Milestone.USERSPACE, USERSPACE_MARK),
        ):
            if milestone not in self.milestones_ns and mark in self._machine.console_bytes:
                self.milestones_ns[milestone] = now

    def _take_control(self, data: bytes, now: int) -> None:
        """Handle whole lines; the rest of one waits for more."""
        *lines, self._control = (self._control + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            match word:
                case "started":
                    self.milestones_ns.setdefault(Milestone.STARTED, now)
                case "exit":
                    self._ended = Exit(int(rest), None, now)
                case "signal":
                    self._ended = Exit(None, int(rest), now)
                case "synced":
                    self._is_flushed = True
                case "lost":
                    raise self._no_verdict(rest, now)
                case "drained":
                    if self._ended is None:
                        raise self._no_verdict("it ended without a word about its end", now)
                    self._drain(now)
                case "probed":
                    self._take_probed(rest, now)
                case "failed":
                    raise LaunchFailedError(
                        f"the guest could not start the workload: {rest}", self.console_tail()
                    )

    def _no_verdict(self, why: str, now: int) -> UnexpectedExitError:
        """The error for a workload whose end the guest does not know: that is never a success."""
        self._drain(now)
        return UnexpectedExitError(
            f"the guest does not know how the workload ended: {why}", self.console_tail()
        )

    def _drain(self, now: int) -> None:
        """What was printed before the end belongs to it: it is in the socket by now."""
        self._read_all(now)
        if self.exit is None:
            self.exit = self._ended

    def _take_end(self, now: int) -> None:
        """QEMU is gone. Read what it still had to say, then judge."""
        self._read_all(now)
        for end in tuple(self._open.values()):
            while end.fileno() in self._open and self._read(end, now):
                pass
        if self._ended is not None or self.exit is not None:
            self.exit = self.exit or self._ended
            return
        tail = self.console_tail()
        panic = next((line for line in tail.splitlines() if "Kernel panic" in line), "")
        complaint = self._machine.complaints().splitlines()
        why = panic or (complaint[-1] if complaint else "")
        text = f"the guest went down{f': {why}' if why else ''}"
        if Milestone.STARTED in self.milestones_ns:
            raise UnexpectedExitError(f"{text}; its workload went with it", tail)
        raise LaunchFailedError(f"{text}; its workload had not started", tail)
