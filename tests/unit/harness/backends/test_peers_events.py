"""What the kernel's process events say about a workload, from datagrams and in any order."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from harness.backends.peers import events
from harness.backends.peers.events import (
    EXEC,
    EXIT,
    FORK,
    ProcessEvent,
    ProcessEvents,
    WorkloadWatch,
    exit_of,
    parse,
)
from harness.model.backend import Exit
from runtime.linux.perf_events import ProcessStamps
from tests.support.process_events import need_process_events

# Higher than any pid can be (PID_MAX_LIMIT): nobody's, so they have ended.
TOOL, INIT, WORKLOAD, OTHER = 5_000_000, 5_000_001, 5_000_002, 5_000_003


def datagram(kind: int, at_ns: int, *fields: int) -> bytes:
    header = struct.pack("=IHHII", 0, 3, 0, 0, 0) + struct.pack("=IIIIHH", 1, 1, 0, 0, 0, 0)
    return header + struct.pack("=IIQ", kind, 0, at_ns) + struct.pack("=IIII", *fields)


def test_datagrams_are_read_as_the_kernel_writes_them() -> None:
    assert parse(datagram(FORK, 5, 1, 1, 2, 2), 9) == ProcessEvent(FORK, 5, 9, 1, 2)
    assert parse(datagram(EXEC, 6, 2, 2, 0, 0), 9) == ProcessEvent(EXEC, 6, 9, 2)
    assert parse(datagram(EXIT, 7, 2, 2, 0x300, 17), 9) == ProcessEvent(EXIT, 7, 9, 2, 0x300)


def test_the_exit_of_a_thread_is_one_of_its_process() -> None:
    assert parse(datagram(EXIT, 5, 3, 2, 0x100, 17), 9) == ProcessEvent(EXIT, 5, 9, 2, 0x100)


def test_new_threads_and_other_news_are_not_of_interest() -> None:
    assert parse(datagram(FORK, 5, 1, 1, 3, 2), 9) is None  # a thread of 2
    assert parse(datagram(0x200, 5, 1, 1, 2, 2), 9) is None  # a new name
    assert parse(b"short", 9) is None


@pytest.mark.parametrize(
    ("status", "code", "number"),
    [(0, 0, None), (0x300, 3, None), (0x0B, None, 11), (0x8B, None, 11)],  # 0x80: dumped core
)
def test_wait_statuses(status: int, code: int | None, number: int | None) -> None:
    assert exit_of(status, 4) == Exit(code, number, 4)


class Scripted:
    """Stands where the socket is: gives batches of events."""

    def __init__(self, *batches: list[ProcessEvent]) -> None:
        self.batches = list(batches)
        self.is_complete = True

    def read(self) -> list[ProcessEvent]:
        return self.batches.pop(0) if self.batches else []

    def fileno(self) -> int:
        return 0

    def close(self) -> None:
        pass


def watching(
    *batches: list[ProcessEvent], pid_file: Callable[[], int | None], is_child: bool = False
) -> WorkloadWatch:
    scripted = cast("ProcessEvents", Scripted(*batches))
    return WorkloadWatch(scripted, pid_file, is_child=is_child)


STORY = [
    ProcessEvent(FORK, 1, 11, TOOL, INIT),
    ProcessEvent(EXEC, 2, 12, TOOL),
    ProcessEvent(EXEC, 3, 13, INIT),
    ProcessEvent(EXEC, 4, 14, INIT),  # a shell that execs what it was asked to
    ProcessEvent(EXIT, 5, 15, INIT, 0x300),
    ProcessEvent(EXIT, 6, 16, TOOL, 0),
]


def test_a_workload_is_known_by_its_first_exec_and_its_end() -> None:
    watch = watching(STORY, pid_file=lambda: INIT)
    watch.look()
    assert (watch.pid, watch.started_ns, watch.ended) == (INIT, 3, Exit(3, None, 5))


@pytest.mark.parametrize(("stamp_ns", "at_ns", "is_late"), [(4, 4, False), (None, 5, True)])
def test_the_end_is_late_where_its_stamp_is_lost(
    stamp_ns: int | None, at_ns: int, *, is_late: bool
) -> None:
    class Stamps:
        def ended_ns(self, pid: int, since_ns: int) -> int | None:
            assert (pid, since_ns) == (INIT, 3)
            return stamp_ns

    scripted = cast("ProcessEvents", Scripted(STORY))
    stamps = cast("ProcessStamps", Stamps())
    watch = WorkloadWatch(scripted, lambda: INIT, is_child=False, stamps=stamps)
    watch.look()
    assert (watch.ended, watch.is_late) == (Exit(3, None, at_ns), is_late)


def test_what_comes_before_the_pid_is_known_is_kept() -> None:
    pids: Iterator[int | None] = iter([None, None, INIT])
    watch = watching(STORY[:3], STORY[3:], [], pid_file=lambda: next(pids))
    watch.look()
    watch.look()
    assert (watch.started_ns, watch.ended) == (None, None)
    watch.look()
    assert (watch.started_ns, watch.ended) == (3, Exit(3, None, 5))


def test_a_first_process_of_the_tools_own_has_the_workload_as_its_child() -> None:
    story = [
        ProcessEvent(FORK, 1, 11, TOOL, INIT),
        ProcessEvent(FORK, 2, 12, INIT, WORKLOAD),
        ProcessEvent(EXEC, 3, 13, WORKLOAD),
        ProcessEvent(FORK, 4, 14, WORKLOAD, OTHER),
        ProcessEvent(EXEC, 5, 15, OTHER),
        ProcessEvent(EXIT, 6, 16, OTHER, 0x700),
        ProcessEvent(EXIT, 7, 17, WORKLOAD, 0),
        ProcessEvent(EXIT, 8, 18, INIT, 0),
    ]
    watch = watching(*([event] for event in story), pid_file=lambda: INIT, is_child=True)
    for _ in story:
        watch.look()
    assert (watch.pid, watch.started_ns, watch.ended) == (WORKLOAD, 3, Exit(0, None, 7))


def test_exits_of_what_was_there_before_the_workload_are_not_its_end() -> None:
    """A tool's first thread ends because another one calls execve, and may be told of too late."""
    early = ProcessEvent(EXIT, 2, 12, INIT, 0)
    late = ProcessEvent(EXIT, 3, 14, INIT, 0)
    story = [early, ProcessEvent(EXEC, 3, 13, INIT), late, ProcessEvent(EXIT, 5, 15, INIT, 0x300)]
    watch = watching(story, pid_file=lambda: INIT)
    watch.look()
    assert (watch.started_ns, watch.ended) == (3, Exit(3, None, 5))


def test_the_last_exit_may_be_told_an_instant_after_the_process_is_over() -> None:
    late = ProcessEvent(EXIT, 3, 14, INIT, 0)
    last = ProcessEvent(EXIT, 5, 15, INIT, 0x300)
    watch = watching([ProcessEvent(EXEC, 3, 13, INIT), late], [last], pid_file=lambda: INIT)
    watch.look()
    assert watch.ended == Exit(3, None, 5)


def test_a_process_of_which_something_is_left_has_not_ended() -> None:
    own = os.getpid()
    story = [ProcessEvent(EXEC, 3, 13, own), ProcessEvent(EXIT, 4, 14, own, 0)]
    watch = watching(story, pid_file=lambda: own)
    watch.look()
    assert (watch.started_ns, watch.ended) == (3, None)
    watch.close()


def test_events_that_were_dropped_are_not_taken_for_things_that_did_not_happen() -> None:
    scripted = Scripted([])
    watch = WorkloadWatch(cast("ProcessEvents", scripted), lambda: INIT, is_child=False)
    watch.look()
    assert watch.sees_all
    scripted.is_complete = False
    watch.look()
    assert not watch.sees_all


def test_without_events_the_first_process_is_still_known() -> None:
    watch = WorkloadWatch(None, lambda: INIT, is_child=False)
    watch.look()
    assert (watch.first_pid, watch.started_ns, watch.sees_all) == (INIT, None, False)


@pytest.fixture
def subscription() -> Iterator[ProcessEvents]:
    need_process_events()
    made = ProcessEvents()
    assert made.is_answered()
    yield made
    made.close()


@pytest.mark.privileged
def test_the_kernel_tells_when_a_program_started_and_how_it_ended(
    subscription: ProcessEvents,
) -> None:
    before_ns = time.monotonic_ns()
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -TERM $$"], {})
    watch = WorkloadWatch(subscription, lambda: pid, is_child=False)
    deadline = time.monotonic() + 5
    while watch.ended is None and time.monotonic() < deadline:
        watch.look()
    os.waitpid(pid, 0)
    after_ns = time.monotonic_ns()
    assert watch.started_ns is not None
    assert watch.ended is not None
    assert before_ns < watch.started_ns < watch.ended.at_ns < after_ns
    assert watch.ended.signal == signal.SIGTERM


@pytest.mark.privileged
def test_an_exec_by_another_thread_than_the_first_is_no_end(subscription: ProcessEvents) -> None:
    program = (
        "import os, threading; t = threading.Thread(target=os.execv, args=('/bin/sh', "
        "['sh', '-c', 'exit 3'])); t.start(); t.join()"
    )
    for _ in range(10):
        pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", program], os.environ)
        watch = WorkloadWatch(subscription, lambda pid=pid: pid, is_child=False)
        deadline = time.monotonic() + 10
        while watch.ended is None and time.monotonic() < deadline:
            watch.look()
        os.waitpid(pid, 0)
        assert watch.ended is not None
        assert watch.ended.code == 3
        assert watch._pidfd is not None
        os.close(watch._pidfd)


@pytest.mark.privileged
def test_a_full_buffer_is_noticed(subscription: ProcessEvents) -> None:
    inner = subscription._socket
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)  # the kernel's least
    for _ in range(60):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    subscription.read()
    assert not subscription.is_complete


def test_a_kernel_that_is_silent_has_not_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_ANSWER_PATIENCE_NS", 20_000_000)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    silent = ProcessEvents.__new__(ProcessEvents)
    one.setblocking(False)
    silent._socket = one
    assert not silent.is_answered()
    other.send(datagram(events.NONE, 0, 1, 0, 0, 0))  # EPERM
    assert not silent.is_answered()
    other.send(datagram(events.NONE, 0, 0, 0, 0, 0))
    assert silent.is_answered()
    one.close()
    other.close()
