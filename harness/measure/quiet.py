"""Waits for a quiet host before a block, and sees whether it stayed quiet: `--quiet`.

It looks at the CPU time that others use and never at what a block measured, so it cannot wait for a
result that one would like.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.measure.interruption import Interruption
from harness.meters.host_activity import Snapshot, gauges, share_of_others

PATIENCE_NS = 60_000_000_000
"""A host that is not quiet by then will not be soon: the block is taken all the same."""
LOOK_S = 1.0
"""Of one look: shorter ones see the ticks of /proc/stat rather than a use."""
MOST_RETAKES = 2
"""A block that was disturbed so often and once more counts as it is."""


class QuietHost:
    """Others' use of the CPUs, held against the part that they may use.

    Args:
        most: The part of all CPUs that others may use.
        interruption: Lets a signal end the waiting.
        read: Reads what happened on the host so far.
        pause: Lets so many seconds pass.
    """

    def __init__(
        self,
        most: float,
        interruption: Interruption,
        read: Callable[[], Snapshot] = lambda: gauges().read(),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._most = most
        self._interruption = interruption
        self._read = read
        self._pause = pause
        self._begun: Snapshot | None = None

    def wait(self, on_busy: Callable[[float], None]) -> float | None:
        """Wait until others use less, and begin to watch.

        Args:
            on_busy: Called once, with the part of all CPUs that others use, before it waits longer.

        Returns:
            The part that they still used when patience was at an end; None if it is quiet, or if
            this host does not say who uses its CPUs.
        """
        first = before = self._read()
        while True:
            with self._interruption.safe():
                self._pause(LOOK_S)
            self._begun = after = self._read()
            share = share_of_others(before, after)
            if share is None or share < self._most:
                return None
            if after.at_ns - first.at_ns >= PATIENCE_NS:
                return share
            if before is first:
                on_busy(share)
            before = after

    def disturbed(self) -> float | None:
        """The part of all CPUs that others used since `wait`, if it was too much; else None."""
        assert self._begun is not None
        share = share_of_others(self._begun, self._read())
        return None if share is None or share < self._most else share
