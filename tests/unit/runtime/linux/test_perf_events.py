"""The kernel's stamps of execs and exits: from rings made up here, and from the kernel."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import perf_events
from runtime.linux.perf_events import ProcessStamps, online_cpus, tracepoint_number

EXEC_EVENT, EXIT_EVENT = 71, 72
SAMPLE, LOST = 9, 2


def sample(event: int, pid: int, at_ns: int) -> bytes:
    return struct.pack("=IHHQIIQ", SAMPLE, 0, 32, event, pid, pid, at_ns)


class Ring:
    """A page of control, as the kernel lays it out, and the ring behind it."""

    def __init__(self, begun_at: int = 0) -> None:
        self.memory = mmap.mmap(-1, mmap.PAGESIZE + perf_events._RING_BYTES)
        self.head = begun_at
        struct.pack_into("=QQ", self.memory, 1024, begun_at, begun_at)

    def write(self, *records: bytes) -> None:
        for byte in b"".join(records):
            self.memory[mmap.PAGESIZE + self.head % perf_events._RING_BYTES] = byte
            self.head += 1
        struct.pack_into("=Q", self.memory, 1024, self.head)

    @property
    def tail(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, 1032)[0])


def reading(*rings: Ring) -> ProcessStamps:
    made = ProcessStamps.__new__(ProcessStamps)
    made._lock = threading.Lock()
    made._seen = {}
    made._kinds = {EXEC_EVENT: "sched_process_exec", EXIT_EVENT: "sched_process_exit"}
    made._rings = [ring.memory for ring in rings]
    made._lost_ns = made._drained_ns = -1
    return made


def test_the_first_exec_and_the_last_exit_count() -> None:
    one, other = Ring(), Ring()
    one.write(sample(EXEC_EVENT, 7, 100), sample(EXIT_EVENT, 8, 110), sample(EXIT_EVENT, 7, 400))
    other.write(sample(EXEC_EVENT, 7, 200), sample(EXIT_EVENT, 7, 390))
    stamps = reading(one, other)
    assert stamps.executed_ns(7, 0) == 100
    assert stamps.ended_ns(7, 0) == 400
    assert (stamps.executed_ns(8, 0), stamps.ended_ns(9, 0)) == (None, None)
    assert one.tail == one.head


def test_a_number_that_is_used_again_has_no_part_of_its_earlier_life() -> None:
    ring = Ring()
    ring.write(sample(EXEC_EVENT, 7, 100), sample(EXIT_EVENT, 7, 200), sample(EXEC_EVENT, 7, 300))
    stamps = reading(ring)
    assert stamps.executed_ns(7, 250) == 300
    assert stamps.ended_ns(7, 250) is None


@pytest.mark.parametrize("before_the_end", [8, 16, 24, 32])
def test_a_record_may_go_on_at_the_beginning_of_the_ring(before_the_end: int) -> None:
    ring = Ring(begun_at=3 * perf_events._RING_BYTES - before_the_end)
    lost = struct.pack("=IHHQQ", LOST, 0, 24, EXEC_EVENT, 3)
    ring.write(sample(EXEC_EVENT, 7, 100), lost, sample(EXIT_EVENT, 7, 200))
    stamps = reading(ring)
    assert (stamps.executed_ns(7, 0), stamps.ended_ns(7, 0)) == (100, 200)


@pytest.mark.parametrize(("written", "is_lost"), [(2046, False), (2047, True)])
def test_from_a_ring_that_was_full_nothing_is_known(written: int, *, is_lost: bool) -> None:
    """As of one that the kernel fills: see below. An earlier thread's exit is no end either."""
    ring = Ring()
    begun_ns = time.monotonic_ns()
    ring.write(sample(EXEC_EVENT, 7, begun_ns), sample(EXIT_EVENT, 7, begun_ns + 1))
    ring.write(*[sample(EXIT_EVENT, 8, begun_ns + 2)] * (written - 2))
    stamps = reading(ring)
    expected = (None, None) if is_lost else (begun_ns, begun_ns + 1)
    assert (stamps.executed_ns(7, begun_ns), stamps.ended_ns(7, begun_ns)) == expected
    # What began after that reading is not touched by it.
    later_ns = time.monotonic_ns()
    ring.write(sample(EXEC_EVENT, 9, later_ns), sample(EXIT_EVENT, 9, later_ns + 1))
    assert (stamps.executed_ns(9, later_ns), stamps.ended_ns(9, later_ns)) == (
        later_ns, later_ns + 1,
    )  # fmt: skip


def test_a_loss_that_is_reported_later_was_before_the_last_reading() -> None:
    ring = Ring()
    stamps = reading(ring)
    ring.write(sample(EXEC_EVENT, 7, 100))
    stamps.make_room()
    begun_ns = time.monotonic_ns()
    lost = struct.pack("=IHHQQ", LOST, 0, 24, EXEC_EVENT, 3)
    ring.write(lost, sample(EXIT_EVENT, 7, begun_ns))
    assert stamps.ended_ns(7, 100) is None
    assert stamps.ended_ns(7, begun_ns) == begun_ns


def test_of_processes_that_nobody_asks_for_the_oldest_are_forgotten() -> None:
    ring = Ring()
    stamps = reading(ring)
    for pid in range(perf_events._KEPT_PROCESSES + 5):
        ring.write(sample(EXEC_EVENT, pid, pid))
        if pid % 1000 == 0:
            stamps.make_room()
    assert stamps.executed_ns(4, 0) is None
    assert stamps.executed_ns(5, 0) == 5


@pytest.mark.parametrize(
    ("text", "cpus"), [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,4,6-7\n", [0, 1, 4, 6, 7])]
)
def test_lists_of_cpus(
    text: str, cpus: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "online").write_text(text)
    monkeypatch.setattr(perf_events, "_ONLINE", str(tmp_path / "online"))
    assert online_cpus() == cpus


@pytest.fixture
def stamps() -> Iterator[ProcessStamps]:
    try:
        made = ProcessStamps()
    except OSError as error:
        pytest.skip(f"no tracepoints: {error}")
    yield made
    made.close()


@pytest.mark.privileged
def test_the_kernel_stamps_what_happens_between_two_looks_at_the_clock(
    stamps: ProcessStamps,
) -> None:
    before_ns = time.monotonic_ns()
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exec sh -c 'exit 3'"], {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    after_ns = time.monotonic_ns()
    started_ns = stamps.executed_ns(pid, before_ns)
    assert started_ns is not None
    second_ns = stamps.executed_ns(pid, started_ns + 1)
    ended_ns = stamps.ended_ns(pid, started_ns)
    assert second_ns is not None
    assert ended_ns is not None
    assert before_ns < started_ns < second_ns < ended_ns < after_ns


@pytest.mark.privileged
def test_the_end_is_that_of_the_last_thread(stamps: ProcessStamps) -> None:
    # The first thread ends at once, the other when it is asked to.
    program = (
        "import ctypes, os, threading\n"
        "threading.Thread(target=lambda: (os.read(0, 1), os._exit(0))).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("the number of exit(2) is that of x86-64")
    read_fd, write_fd = os.pipe()
    before_ns = time.monotonic_ns()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-c", program],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read_fd, 0)],
    )
    while stamps.ended_ns(pid, before_ns) is None:  # the first thread's
        os.sched_yield()
    asked_ns = time.monotonic_ns()
    os.write(write_fd, b"x")
    os.waitpid(pid, 0)
    ended_ns = stamps.ended_ns(pid, before_ns)
    assert ended_ns is not None
    assert asked_ns < ended_ns < time.monotonic_ns()
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.privileged
def test_what_others_push_out_of_the_kernels_ring_is_not_known(stamps: ProcessStamps) -> None:
    def end_threads(many: int) -> None:
        for _ in range(many):
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # so that all is written into one ring
    try:
        before_ns = time.monotonic_ns()
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
        end_threads(2100)
        assert stamps.ended_ns(pid, before_ns) is None
        after_ns = time.monotonic_ns()
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
        assert stamps.ended_ns(pid, after_ns) is not None
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_tracepoint_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match=r"no_such_tracepoint|not permitted"):
        tracepoint_number("sched", "no_such_tracepoint")
