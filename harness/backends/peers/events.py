"""The kernel's own report of what processes do: forks, execs and exits, each with its stamp.

The process events connector (drivers/connector/cn_proc.c, linux/cn_proc.h) reports every process
of the host, with `CLOCK_MONOTONIC` stamps, over a netlink socket. It needs CAP_NET_ADMIN in the
first user, pid and network namespace. A listener costs every fork, exec and exit on the host about
a microsecond, so one lives no longer than it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.backends.stream_instance import wait_readable
from harness.model.backend import Exit
from runtime.linux.perf_events import ProcessStamps

# linux/netlink.h, linux/connector.h, linux/cn_proc.h
_NETLINK_CONNECTOR = 11
_NLMSG_DONE = 3
_CN_IDX_PROC, _CN_VAL_PROC = 1, 1
_PROC_CN_MCAST_LISTEN, _PROC_CN_MCAST_IGNORE = 1, 2
_NLMSGHDR = struct.Struct("=IHHII")
_CN_MSG = struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQ")
_EVENT_AT = _NLMSGHDR.size + _CN_MSG.size
_DATA_AT = _EVENT_AT + _EVENT.size
_FOUR = struct.Struct("=IIII")
NONE, FORK, EXEC, EXIT = 0x0, 0x1, 0x2, 0x8000_0000
"""PROC_EVENT_NONE (the answer to a request), _FORK, _EXEC, _EXIT."""
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 2 << 20
_ANSWER_PATIENCE_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One thing that a process did.

    Attributes:
        kind: FORK, EXEC or EXIT.
        at_ns: When, by the kernel, on the monotonic clock.
        seen_ns: When it was read here.
        pid: Of the process; for FORK the parent's. EXIT comes for each of its threads.
        detail: For FORK the child's pid, for EXIT the status as wait(2) gives it.
    """

    kind: int
    at_ns: int
    seen_ns: int
    pid: int
    detail: int = 0


class ProcessEvents:
    """A subscription; every read gives what happened since the last.

    Attributes:
        is_complete: False once the kernel had to drop something.

    Raises:
        OSError: This process may not have them.
    """

    def __init__(self) -> None:
        self.is_complete = True
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_CONNECTOR,
        )
        try:
            # Other processes' events wait here while nobody reads; the usual buffer holds 300.
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.bind((0, _CN_IDX_PROC))
            self._request(_PROC_CN_MCAST_LISTEN)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when something happened."""
        return self._socket.fileno()

    def read(self) -> list[ProcessEvent]:
        """What there is, in the order of arrival; never waits."""
        found = []
        while (data := self._receive()) is not None:
            # Each by itself: more of them may come in while the first are read, and none is seen
            # before it happened.
            event = parse(data, time.monotonic_ns())
            if event is not None:
                found.append(event)
        return found

    def is_answered(self) -> bool:
        """Wait for the kernel's answer to the subscription: False if it refuses, or none comes."""
        deadline_ns = time.monotonic_ns() + _ANSWER_PATIENCE_NS
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0 and wait_readable(
            self.fileno(), left_ns
        ):
            while (data := self._receive()) is not None:
                kind = _EVENT.unpack_from(data, _EVENT_AT)[0]
                if kind == NONE:
                    return bool(_FOUR.unpack_from(data, _DATA_AT)[0] == 0)
        return False

    def close(self) -> None:
        """End the subscription. Idempotent."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._request(_PROC_CN_MCAST_IGNORE)
            self._socket.close()

    def _request(self, operation: int) -> None:
        body = struct.pack("=I", operation)
        message = _CN_MSG.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(body), 0) + body
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(message), _NLMSG_DONE, 0, 0, 0)
        self._socket.send(header + message)

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(512)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.is_complete = False
            return self._receive()


def why_no_events() -> str | None:
    """Why this process cannot have them, as the end of a sentence; None if it can."""
    try:
        with contextlib.closing(ProcessEvents()) as events:
            if events.is_answered():
                return None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return f"this process may not have the kernel's process events ({reason})"
    return (
        "the kernel sends process events only to the first pid namespace, and this is another "
        "(a container's), or it has no CONFIG_PROC_EVENTS"
    )


def parse(data: bytes, seen_ns: int) -> ProcessEvent | None:
    """One datagram; None for what is not of interest, new threads among it."""
    if len(data) < _DATA_AT + _FOUR.size:
        return None
    kind, _, at_ns = _EVENT.unpack_from(data, _EVENT_AT)
    _, second, third, fourth = _FOUR.unpack_from(data, _DATA_AT)
    if kind == FORK and third == fourth:  # else: a new thread
        return ProcessEvent(FORK, at_ns, seen_ns, second, fourth)
    if kind == EXEC:
        return ProcessEvent(EXEC, at_ns, seen_ns, second)
    if kind == EXIT:
        return ProcessEvent(EXIT, at_ns, seen_ns, second, third)
    return None


class WorkloadWatch:
    """Finds out when one workload was executed and how it ended.

    The tool says which process is the first of the box, in a file, sooner or later; until then
    everything is kept. An exit in the workload's process is its end only if nothing of the process
    is left, which its pidfd shows: a thread may end alone. A tool with threads, as those in Go
    are, may well call execve in another than the first, and then that one ends, its exit being
    reported before or after the execve as it happens (kernel: `de_thread`, `exit_notify`).

    Args:
        events: Where from; None: nothing can be found out but the box's first process.
        pid_file: Reads what the tool wrote: the pid of the box's first process, or None.
        is_child: The tool keeps the first process for itself; the workload is its first child.
        stamps: When processes began to end. The connector reports an end when it is over, with the
            removal of the namespaces that only the workload was in.

    Attributes:
        first_pid: Of the box's first process, once known.
        pid: Of the workload, once known.
        started_ns: When its execve was done, by the kernel.
        ended: How it ended; the stamp is the kernel's.
        is_late: Whether that stamp is the connector's, as that of `stamps` was lost.
    """

    def __init__(
        self,
        events: ProcessEvents | None,
        pid_file: Callable[[], int | None],
        *,
        is_child: bool,
        stamps: ProcessStamps | None = None,
    ) -> None:
        self.first_pid: int | None = None
        self.pid: int | None = None
        self.started_ns: int | None = None
        self.ended: Exit | None = None
        self.is_late = False
        self._events = events
        self._pid_file = pid_file
        self._is_child = is_child
        self._stamps = stamps
        self._kept: list[ProcessEvent] = []
        self._is_complete = events is not None
        self._pidfd: int | None = None

    @property
    def fd(self) -> int | None:
        """Readable when something happened; None when nothing is listened to any more."""
        return None if self._events is None else self._events.fileno()

    @property
    def sees_all(self) -> bool:
        """Whether what was not seen did not happen."""
        return self._is_complete

    def look(self) -> None:
        """Take in what there is."""
        if self.first_pid is None:
            self.first_pid = self._pid_file()
        self._read()
        exits = self._understand()
        if not exits or self.ended is not None or not self._is_over():
            return
        # The pidfd is ready an instant before the last exit is reported: look once more.
        self._read()
        last = (exits + self._understand())[-1]
        began_ns: int | None = None
        if self._stamps is not None:
            assert self.started_ns is not None
            began_ns = self._stamps.ended_ns(last.pid, self.started_ns)
            self.is_late = began_ns is None
        self.ended = exit_of(last.detail, last.at_ns if began_ns is None else began_ns)

    def _read(self) -> None:
        if self._events is not None:
            self._kept += self._events.read()
            self._is_complete = self._is_complete and self._events.is_complete

    def _understand(self) -> list[ProcessEvent]:
        """Go through what was kept; gives the exits in the workload's process since its execve."""
        exits: list[ProcessEvent] = []
        if self.first_pid is None:
            return exits
        if self.pid is None and not self._is_child:
            self._found(self.first_pid)
        for event in self._kept:
            if self.pid is None and event.kind == FORK and event.pid == self.first_pid:
                self._found(event.detail)
            elif event.pid != self.pid:
                continue
            elif event.kind == EXEC and self.started_ns is None:
                self.started_ns = event.at_ns
            elif event.kind == EXIT and self.started_ns is not None:
                exits.append(event)
        self._kept.clear()
        return exits

    def _found(self, pid: int) -> None:
        self.pid = pid
        if self._events is not None:
            with contextlib.suppress(ProcessLookupError):  # over, and waited for
                self._pidfd = os.pidfd_open(pid)

    def _is_over(self) -> bool:
        """Whether the workload's process has ended with all its threads."""
        return self._pidfd is None or wait_readable(self._pidfd, 0)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def exit_of(status: int, at_ns: int) -> Exit:
    """A wait status in the words of the harness."""
    if os.WIFSIGNALED(status):
        return Exit(None, os.WTERMSIG(status), at_ns)
    return Exit(os.WEXITSTATUS(status), None, at_ns)
