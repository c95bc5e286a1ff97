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
from harness.model import Slot

_LONGEST_NS = 5_000_000_000
_MOST_TRIALS = 8
"""At most 80 deleted inodes: 0.1 ms of a start that takes 2 ms."""


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
