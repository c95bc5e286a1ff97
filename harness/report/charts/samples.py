"""The samples that charts draw: one arm's durations to `ready`, in the order they were taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis import estimates
from harness.analysis.summary import ScenarioTable
from harness.records.dataset import RunData, trial_samples

if TYPE_CHECKING:
    from harness.records.dataset import Floats


@dataclass(frozen=True, slots=True)
class Samples:
    """Every counted trial of an arm, as far as `ready` is concerned.

    Attributes:
        values: Shape (trials that went well,): ns from t0 to `ready`, in the order taken.
        missed: Number of trials that failed or were not ready in time.
    """

    values: Floats
    missed: int

    @property
    def count(self) -> int:
        """All trials, failed ones counted."""
        return len(self.values) + self.missed


def samples_of(table: ScenarioTable, data: RunData) -> dict[str, Samples]:
    """Take the samples of a scenario, by arm, from the run that it was made from."""
    import numpy as np

    rows = data.frame
    counted = rows[(rows["scenario"] == table.scenario.name) & rows["counted"].astype(bool)]
    is_scale = table.scenario.scale is not None
    found = {}
    for row in table.rows:
        arm = estimates.arm_data(data, counted, row.arm, None, is_scale=is_scale)
        _, ready = trial_samples(arm.rows, "ready_ns")
        is_there = np.isfinite(ready)
        found[row.arm] = Samples(ready[is_there], int((~is_there).sum()))
    return found
