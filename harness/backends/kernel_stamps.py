"""The kernel's own stamps of workloads: one listener for all arms, while one of them lives.

Each listener costs every exec and exit on the host a little, and closing it takes a tenth of a
second: so there is one, opened when an arm is prepared, and never inside a trial.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from harness.model.diagnostics import Diagnostic, DiagnosticCode
from runtime.linux.perf_events import ProcessStamps

LOST_END = "the kernel's stamp of the workload's end was lost: the report of it stands"
"""Of a trial whose end is stamped late although the kernel's stamps can be had."""

_lock = threading.Lock()
_listeners: list[ProcessStamps] = []
"""The one that is open, once for each of its users."""


@contextlib.contextmanager
def kernel_stamps() -> Iterator[tuple[ProcessStamps | None, tuple[Diagnostic, ...]]]:
    """Listen to the execs and exits of the host.

    Yields:
        The stamps and no diagnostic; None and one that says why, where they cannot be had.
    """
    with _lock:
        try:
            stamps = _listeners[0] if _listeners else ProcessStamps()
        except OSError as error:
            reason = f"no kernel tracepoints: {error}"
        else:
            reason = ""
            _listeners.append(stamps)
    if reason:
        yield None, (Diagnostic(DiagnosticCode.LATE_STAMPS, reason),)
        return
    try:
        yield stamps, ()
    finally:
        with _lock:
            _listeners.pop()
            if not _listeners:
                stamps.close()
