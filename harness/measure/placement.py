"""Moves the folders of instances away from where many files were deleted, between trials.

On ext4 without a journal each new inode costs 1.4 µs for each one that was deleted in its block
group within the last minute (measured on a host of two cores; `runtime.linux.ext4` says why), and
a container makes and deletes about ten. So that a trial does not pay for those before it, each
block has a folder of its own, and a block of many trials several. Elsewhere nothing is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import runtime
from harness.environment import median_mkdir_ns
from harness.model import Slot
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from runtime.linux.ext4 import SOUND_MKDIR_NS

_LONGEST_NS = 5_000_000_000
_MOST_TRIALS = 8
"""At most 80 deleted inodes: 0.1 ms of a start that takes 2 ms."""


MKDIR_BEGIN, MKDIR_END = "mkdir_begin_ns", "mkdir_end_ns"
"""Facts of a run: what a new folder costs where its instances are, before its first trial and after
its last."""


def probe(*, move: bool) -> int | None:
    """Measure what a new folder costs where instances are made, in nanoseconds.

    Args:
        move: Where that is more than `SOUND_MKDIR_NS`, look for another folder for them first.

    Returns:
        None in a process without instances that have files, and where no folder can be made.
    """
    if (session := runtime.Session.existing()) is None:
        return None
    try:
        cost_ns = median_mkdir_ns(session.place)
        if move and cost_ns > SOUND_MKDIR_NS and session.renew_place():
            cost_ns = median_mkdir_ns(session.place)
    except OSError:
        return None
    return cost_ns


def slow_folders(cost_ns: int, when: str) -> Diagnostic | None:
    """Warn of folders that cost more than `SOUND_MKDIR_NS`; `when` ends the sentence."""
    if cost_ns <= SOUND_MKDIR_NS:
        return None
    detail = f"a new folder took {cost_ns / 1e3:.0f} us {when}, where 18 to 25 are sound"
    return Diagnostic(DiagnosticCode.SLOW_FOLDERS, detail)


@dataclass(slots=True)
class Placement:
    """When this process's instances go to a new folder."""

    _block: int | None = None
    _since_ns: int = 0
    _trials: int = 0

    def before(self, slot: Slot) -> None:
        """Call before each trial, or slot in which instances grow: outside of what is timed."""
        now_ns = time.monotonic_ns()
        if (
            slot.block == self._block
            and self._trials < _MOST_TRIALS
            and now_ns - self._since_ns < _LONGEST_NS
        ):
            self._trials += 1
            return
        # A process that has no session has no instances with files, as those of `process`.
        if (session := runtime.Session.existing()) is not None:
            session.renew_place()
        self._block, self._since_ns, self._trials = slot.block, now_ns, 1
