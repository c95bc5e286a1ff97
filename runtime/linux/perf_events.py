"""When processes execute and end, by the kernel's own stamps (perf_event_open(2)).

The tracepoints `sched_process_exec` and `sched_process_exit` lie at the end of execve(2) and at the
beginning of a thread's end, before the kernel takes away the namespaces of which it was the last: a
report of the end (wait(2), a pidfd, the process events connector) comes after that. What they say
is written into a ring of memory for each CPU, stamped on the monotonic clock; nobody is woken.

A ring that is full takes no more until it is read, which is at launches and look-ups. What was lost
by then may be the very stamp that is looked for: nothing since before that is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from runtime.linux import abi
from runtime.linux.syscalls import in_new_thread, mount, perf_event_open, unshare

_TRACING = "/sys/kernel/tracing"
_TRACING_FOLDERS = (_TRACING, "/sys/kernel/debug/tracing")
_ONLINE = "/sys/devices/system/cpu/online"
_CLOCK_MONOTONIC = 1
_RING_BYTES = 16 * mmap.PAGESIZE
"""A power of two; holds 2,047 execs and exits of one CPU."""
_HEAD_AT, _TAIL_AT = 1024, 1032
"""Of `data_head` and `data_tail` in struct perf_event_mmap_page."""
_RECORD = struct.Struct("=IHHQIIQ")
"""struct perf_event_header, and what the sample bits below ask for: event, pid, tid, time. 32 bytes
divide the ring's size, so that none is in two pieces while only samples are written."""
_HEADER_BYTES = 8
_KEPT_PROCESSES = 4096
_EXEC, _EXIT = "sched_process_exec", "sched_process_exit"


class ProcessStamps:
    """Listens to all processes of the host; several threads may share it.

    Process numbers are those of this process's pid namespace.

    Raises:
        OSError: The kernel lacks it, or this user may not have it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, list[tuple[str, int]]] = {}
        self._kinds: dict[int, str] = {}
        self._rings: list[mmap.mmap] = []
        self._lost_ns = self._drained_ns = -1
        self._hold = contextlib.ExitStack()
        try:
            numbers = {name: tracepoint_number("sched", name) for name in (_EXEC, _EXIT)}
            for cpu in online_cpus():
                self._open(cpu, numbers)
        except BaseException:
            self._hold.close()
            raise

    def executed_ns(self, pid: int, since_ns: int) -> int | None:
        """When the process first executed a program since then.

        Returns:
            None if that was not seen, or if an earlier one may be lost.
        """
        return min(self._stamps(_EXEC, pid, since_ns), default=None)

    def ended_ns(self, pid: int, since_ns: int) -> int | None:
        """When the last of the threads that ended since then began to.

        Returns:
            None if none was seen, or if a later one may be lost.
        """
        return max(self._stamps(_EXIT, pid, since_ns), default=None)

    def make_room(self) -> None:
        """Take in what was written so far: a full ring takes no more. Call it before a launch."""
        with self._lock:
            for ring in self._rings:
                self._drain(ring)
            self._drained_ns = time.monotonic_ns()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        with self._lock:
            self._rings.clear()
            self._hold.close()

    def _open(self, cpu: int, numbers: Mapping[str, int]) -> None:
        """One ring for both tracepoints."""
        output: int | None = None
        for name, number in numbers.items():
            fd = perf_event_open(_attributes(number), -1, cpu)
            self._hold.callback(os.close, fd)
            if output is None:
                output = fd
                ring = mmap.mmap(fd, mmap.PAGESIZE + _RING_BYTES)
                self._rings.append(self._hold.enter_context(ring))
            else:
                fcntl.ioctl(fd, abi.PERF_EVENT_IOC_SET_OUTPUT, output)
            identifier = fcntl.ioctl(fd, abi.PERF_EVENT_IOC_ID, bytes(8))
            self._kinds[int.from_bytes(identifier, "little")] = name

    def _stamps(self, kind: str, pid: int, since_ns: int) -> list[int]:
        self.make_room()
        with self._lock:
            if self._lost_ns >= since_ns:
                return []
            return [at for name, at in self._seen.get(pid, ()) if name == kind and at >= since_ns]

    def _drain(self, ring: mmap.mmap) -> None:
        (head,) = struct.unpack_from("=Q", ring, _HEAD_AT)
        (tail,) = struct.unpack_from("=Q", ring, _TAIL_AT)
        is_full = head - tail >= _RING_BYTES - _RECORD.size  # its last byte is never written
        while tail < head:
            at = tail % _RING_BYTES
            record = ring[mmap.PAGESIZE + at : mmap.PAGESIZE + min(at + _RECORD.size, _RING_BYTES)]
            if len(record) < _RECORD.size:  # it goes on at the ring's beginning
                record += ring[mmap.PAGESIZE : mmap.PAGESIZE + _RECORD.size - len(record)]
            kind, _, length, event, pid, _, at_ns = _RECORD.unpack(record)
            if kind == abi.PERF_RECORD_SAMPLE:
                self._seen.setdefault(pid, []).append((self._kinds[event], at_ns))
            elif kind == abi.PERF_RECORD_LOST:
                # Written with the first sample for which there is room again: it comes too late for
                # a look-up, and the loss was before the last reading.
                self._lost_ns = max(self._lost_ns, self._drained_ns)
            tail += length
        struct.pack_into("=Q", ring, _TAIL_AT, tail)
        if is_full:
            self._lost_ns = time.monotonic_ns()
        while len(self._seen) > _KEPT_PROCESSES:
            del self._seen[next(iter(self._seen))]


def _attributes(tracepoint: int) -> bytes:
    """A struct perf_event_attr: every passage makes a sample."""
    sample = abi.PERF_SAMPLE_IDENTIFIER | abi.PERF_SAMPLE_TID | abi.PERF_SAMPLE_TIME
    size, flags = abi.perf_event_attr.size, abi.PERF_ATTR_USE_CLOCKID
    nothing = (0,) * 7
    return abi.perf_event_attr.pack(
        *(abi.PERF_TYPE_TRACEPOINT, size, tracepoint, 1, sample, 0, flags),
        *nothing,
        *(_CLOCK_MONOTONIC, 0, 0, 0, 0),
    )


def tracepoint_number(system: str, name: str) -> int:
    """The number by which perf knows a tracepoint; tracefs need not be mounted.

    Raises:
        OSError: This kernel has no such tracepoint, or this user may not look.
    """
    inner = f"events/{system}/{name}/id"
    for folder in _TRACING_FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            return int(Path(folder, inner).read_text())

    def look() -> int:
        unshare(abi.CLONE_NEWNS)  # so that nobody else sees the mount
        mount(None, "/", None, abi.MS_REC | abi.MS_PRIVATE)
        mount("tracefs", _TRACING, "tracefs", abi.MS_NOSUID | abi.MS_NODEV | abi.MS_NOEXEC)
        return int(Path(_TRACING, inner).read_text())

    return in_new_thread(look)


def online_cpus() -> list[int]:
    """The CPUs that run, from the kernel's list of ranges (`0-3,6`)."""
    cpus: list[int] = []
    for part in Path(_ONLINE).read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
