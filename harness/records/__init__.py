"""Records: a run as a folder of files, written as it goes on and read back whole."""

from __future__ import annotations

from harness.records.dataset import Run
from harness.records.store import (
    GROWTH_FILE,
    HOOKS_FILE,
    RUN_FILE,
    TRIALS_FILE,
    RunWriter,
    find_runs,
    new_run_id,
    read_info,
    read_run,
    write_atomically,
)

__all__ = [
    "GROWTH_FILE",
    "HOOKS_FILE",
    "RUN_FILE",
    "TRIALS_FILE",
    "Run",
    "RunWriter",
    "find_runs",
    "new_run_id",
    "read_info",
    "read_run",
    "write_atomically",
]
