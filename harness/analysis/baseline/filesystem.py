"""How much of the difference between two runs of an arm could be their filesystem's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.stats.arrays import Array, np

if TYPE_CHECKING:
    Values = Array | Sequence[float]

MOST_SHARE = 0.3
"""Beyond this share of `ready`, the levels of two runs say more about the disk than the arm."""


@dataclass(frozen=True, slots=True)
class FilesystemShare:
    """What the filesystem took in two runs of an arm: medians, in nanoseconds.

    Attributes:
        base_ns: In the earlier run.
        new_ns: In the later.
        ready_ns: The smaller of the two medians of `ready`.
    """

    base_ns: float
    new_ns: float
    ready_ns: float

    @property
    def share(self) -> float:
        """How much more it is in the later run, as a share of `ready`; negative if less."""
        return (self.new_ns - self.base_ns) / self.ready_ns

    @property
    def is_too_large(self) -> bool:
        """Whether the two levels cannot be held against each other, in either direction."""
        return abs(self.share) > MOST_SHARE


def filesystem_share(
    base_ns: Values, base_ready_ns: Values, new_ns: Values, new_ready_ns: Values
) -> FilesystemShare | None:
    """Compare the metric `file-system` of two runs of one arm.

    Args:
        base_ns: Values of `file-system` in the earlier run, a trial each; NaN where missing.
        base_ready_ns: Its values of `ready`; infinite or NaN where a trial failed.
        new_ns: As `base_ns`, of the later run.
        new_ready_ns: As `base_ready_ns`.

    Returns:
        None where one of the four has no value: of arms that have no such layer, and in records
        from before it was read.
    """
    medians = []
    for values in (base_ns, new_ns, base_ready_ns, new_ready_ns):
        numbers = np.asarray(values, dtype=float)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return None
        medians.append(float(np.median(numbers)))
    base, new, *ready = medians
    return FilesystemShare(base, new, min(ready)) if min(ready) > 0 else None
