"""All trials of a run as one tidy table: a row a trial, a column a variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.model import Milestone, Outcome, Run, Trial

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "scenario",
    "arm",
    "block",
    "position",
    "counted",
    "outcome",
    "error",
    *(f"{milestone}_ns" for milestone in Milestone),
    "stop_ns",
    "remove_ns",
    "exclusive_bytes",
)


def trials_frame(run: Run) -> pd.DataFrame:
    """Lay the trials out for analysis.

    Returns:
        Shape (trials, 18), in the order in which they were taken, columns as `COLUMNS` names them:

        - `scenario`, `arm`, `outcome`, `error`: strings, `error` missing where there was none;
        - `block`, `position`: integers; `counted`: whether the block is no warm-up;
        - one `<milestone>_ns` for each milestone: nanoseconds since t0 as float64 (exact up to 104
          days), NaN where it did not happen or the record does not have it;
        - `stop_ns`: from `ready` to `stopped`, `remove_ns`: from `stopped` to `removed`, NaN if
          either end is missing;
        - `exclusive_bytes`: what the instance alone had on disk, NaN for a trial that failed before
          that was read.
    """
    import pandas as pd

    return pd.DataFrame([_row(trial) for trial in run.trials], columns=list(COLUMNS))


def _row(trial: Trial) -> Mapping[str, object]:
    at = {milestone: float(stamp) for milestone, stamp in trial.milestones_ns.items()}
    missing = math.nan
    return {
        "scenario": trial.scenario,
        "arm": trial.arm,
        "block": trial.block,
        "position": trial.position,
        "counted": trial.block >= 0,
        "outcome": trial.outcome.value,
        "error": trial.error,
        **{f"{milestone}_ns": at.get(milestone, missing) for milestone in Milestone},
        "stop_ns": at.get(Milestone.STOPPED, missing) - at.get(Milestone.READY, missing),
        "remove_ns": at.get(Milestone.REMOVED, missing) - at.get(Milestone.STOPPED, missing),
        "exclusive_bytes": float(sum(part.exclusive_bytes for part in trial.disk))
        if trial.disk or trial.outcome is Outcome.OK
        else missing,
    }


def durations(rows: pd.DataFrame, column: str) -> dict[int, float]:
    """Take one duration of one arm by block, failures censored.

    Args:
        rows: Counted trials of one arm of one scenario, from `trials_frame`.
        column: `<milestone>_ns`.

    Returns:
        Block number to nanoseconds. A trial that went well and lacks the value has no entry. One
        that failed before it has infinity: longer than any that would have been waited for. To
        `ready` also a trial that failed later has infinity: it is not a result like the others.
    """
    found = {}
    for block, outcome, value in zip(rows["block"], rows["outcome"], rows[column], strict=True):
        failed = outcome != Outcome.OK
        if failed and (column == "ready_ns" or math.isnan(value)):
            found[int(block)] = math.inf
        elif not math.isnan(value):
            found[int(block)] = float(value)
    return found
