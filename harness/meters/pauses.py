"""Notices that this process was stopped: by SIGSTOP, a debugger, or a frozen control group.

None of these leaves a trace that could be asked for afterwards, and what was timed meanwhile holds
the whole pause. So a thread looks at the clock ten times a second while a trial lasts. Where it
comes late, and neither waited for a CPU meanwhile (/proc/PID/task/TID/schedstat) nor was kept by
other threads of this process, which would have used CPU time, it was not allowed to run.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass

from harness.model.diagnostics import Diagnostic, DiagnosticCode

PERIOD_NS = 100_000_000
"""A look takes 15 µs: of a CPU 0.02 %."""
LEAST_NS = 100_000_000
"""Shorter pauses are not told apart from late timers; every pause of twice that is seen."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the clocks, in nanoseconds.

    Attributes:
        at_ns: CLOCK_MONOTONIC.
        used_ns: CPU time of this process.
        waited_ns: How long the looking thread was ready to run and waited for a CPU.
    """

    at_ns: int
    used_ns: int
    waited_ns: int


def pause_between(before: Look, after: Look) -> int:
    """How long the process was stopped between two looks that should be a period apart; 0: not."""
    late_ns = after.at_ns - before.at_ns - PERIOD_NS
    stopped_ns = late_ns - (after.used_ns - before.used_ns) - (after.waited_ns - before.waited_ns)
    return stopped_ns + PERIOD_NS if stopped_ns > LEAST_NS else 0


class Heartbeat:
    """Looks from now until `end`, in a thread of its own; starting that takes 0.1 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paused_ns = 0
        self._schedstat: int | None = None
        self._last: Look | None = None
        self._is_ready, self._is_over = threading.Event(), threading.Event()
        # A daemon: a trial that was never ended must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def end(self) -> tuple[Diagnostic, ...]:
        """Look no more, and warn if this process was stopped meanwhile. Call it once."""
        with self._lock:
            self._look()
        self._is_over.set()
        self._thread.join()
        if not self._paused_ns:
            return ()
        # Rounded hard, so that a report can gather trials of a kind.
        detail = f"for about {float(f'{self._paused_ns / 1e9:.1g}'):g} s"
        return (Diagnostic(DiagnosticCode.HARNESS_STOPPED, detail),)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
            self._schedstat = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            self._look()
        self._is_ready.set()
        if self._schedstat is None:
            return  # a loaded host would look like a pause
        while not self._is_over.wait(PERIOD_NS / 1e9):
            with self._lock:
                self._look()
        os.close(self._schedstat)

    def _look(self) -> None:
        if self._schedstat is None:
            return
        waited_ns = int(os.pread(self._schedstat, 64, 0).split()[1])
        now = Look(time.monotonic_ns(), time.process_time_ns(), waited_ns)
        if self._last is not None:
            self._paused_ns += pause_between(self._last, now)
        self._last = now
