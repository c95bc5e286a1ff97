"""All trials of a run as one tidy table: a row a trial, a column a variable.

A million trials do not fit into a million objects, so a run is held as columns of numbers. What is
no number (names, errors, consoles, doubts, the scope of a reading) differs between few trials only
and is held once for each distinct combination: a `Form`, which the column `form` refers to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model import (
    ArmRecord,
    DiskPart,
    GrowthPoint,
    Meter,
    Milestone,
    Outcome,
    Run,
    RunInfo,
    Sharing,
)
from harness.model.metrics import METRICS
from harness.records.columns import COUNTS, Columns, Form, Packed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

MEASURED = tuple(metric for metric in METRICS.values() if not metric.is_static)
"""The metrics that a trial has, in the order of their columns."""

COLUMNS = (
    "scenario",
    "arm",
    "block",
    "position",
    "counted",
    "outcome",
    "error",
    "alive",
    "together",
    *(f"{milestone}_ns" for milestone in Milestone),
    *(metric.column for metric in MEASURED if metric.name not in list(Milestone)),
    "form",
)


@dataclass(frozen=True, slots=True)
class RunData:
    """A run, its trials as columns.

    Attributes:
        info: The circumstances.
        frame: A row a trial, as `trials_frame` describes it.
        forms: What the column `form` counts in.
        parts: Of each named part on disk, its `allocated` and `apparent` bytes of each trial:
            shape (trials,), NaN where a trial has no such part.
        growth: Footprints of many instances.
        flaws: What is wrong with the files that the trials were read from, a sentence each.
    """

    info: RunInfo
    frame: pd.DataFrame
    forms: tuple[Form, ...]
    parts: Mapping[tuple[str, Sharing, str], Floats]
    growth: tuple[GrowthPoint, ...] = ()
    flaws: tuple[str, ...] = ()


def run_data(run: Run | RunData) -> RunData:
    """Lay a run out in columns; one that is already comes back as it is."""
    if isinstance(run, RunData):
        return run
    columns = Columns()
    for trial in run.trials:
        columns.add(trial)
    return laid_out(columns.pack(), run.info, run.growth)


def trials_frame(run: Run | RunData) -> pd.DataFrame:
    """Lay the trials out for analysis.

    Returns:
        Shape (trials, columns), in the order in which they were taken, columns as `COLUMNS` names
        them:

        - `scenario`, `arm`, `outcome`, `error`: categories of strings, `error` missing where there
          was none;
        - `block`, `position`, `alive`, `together`: integers; `counted`: whether the block is no
          warm-up;
        - one `<milestone>_ns` for each milestone: nanoseconds since t0 as float64 (exact up to 104
          days), NaN where it did not happen or the record does not have it;
        - every metric of a trial (`harness.model.metrics`) under its column's name, NaN where the
          trial does not have it. Nothing is censored here: a failed trial has what was measured of
          it;
        - `form`: index of what the trial has that is no number, in `RunData.forms`.
    """
    return run_data(run).frame


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
    blocks, values = samples(rows, column)
    return dict(zip(blocks.tolist(), values.tolist(), strict=True))


def samples(rows: pd.DataFrame, column: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """Take one metric of one arm, failures censored as `harness.model.metrics.trial_value` does it.

    Args:
        rows: Trials of one arm of one scenario.
        column: As of a metric.

    Returns:
        Their blocks and their values, both of shape (trials that have it or failed before it,).
    """
    import numpy as np

    values = rows[column].to_numpy(dtype=np.float64, copy=True)
    if column in _CENSORED:
        failed = (rows["outcome"] != Outcome.OK.value).to_numpy(dtype=bool)
        values[failed & (np.isnan(values) | (column == "ready_ns"))] = math.inf
    there = ~np.isnan(values)
    return rows["block"].to_numpy(dtype=np.int64)[there], values[there]


_CENSORED = frozenset(metric.column for metric in MEASURED if metric.name in list(Milestone))
METERS = {
    metric.column: meter
    for metric in MEASURED
    for meter in Meter
    if meter.value in (metric.column, metric.name.replace("-", "_"))
}
"""Column of a metric -> the meter that it is read from."""


def laid_out(
    packed: Packed,
    info: RunInfo,
    growth: tuple[GrowthPoint, ...] = (),
    flaws: tuple[str, ...] = (),
) -> RunData:
    """Make the table of a run from the numbers of its trials."""
    parts: dict[tuple[str, Sharing, str], Floats] = {}
    for name, column in packed.numbers.items():
        if name[0] == "part":
            _, part, sharing, _, what = name
            key = (part, Sharing(sharing), what)
            # A second part of the same name in one trial is told together with the first.
            parts[key] = column if key not in parts else _both(parts[key], column)
    frame = _frame(packed, info, parts)
    shown = {key: column for key, column in parts.items() if key[2] != "reflinked"}
    return RunData(info, frame, packed.forms, shown, growth, flaws)


def _frame(
    packed: Packed, info: RunInfo, parts: Mapping[tuple[str, Sharing, str], Floats]
) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    forms, form_of_row = packed.forms, packed.form_of
    nothing = np.full(len(form_of_row), math.nan)
    found: dict[str, object] = {
        name: _categories([getattr(form, name) for form in forms], form_of_row)
        for name in ("scenario", "arm", "outcome", "error")
    }
    for count in COUNTS:
        found[count] = packed.numbers.get((count,), nothing[:0]).astype(np.int64)
    found["counted"] = np.asarray(found["block"]) >= 0
    at = {milestone: packed.numbers.get((milestone.value,), nothing) for milestone in Milestone}
    found |= {f"{milestone}_ns": column for milestone, column in at.items()}
    # Records of schema 1 do not say when the stop was asked for: right after ready.
    asked = np.where(np.isnan(at[Milestone.STOPPING]), at[Milestone.READY], at[Milestone.STOPPING])
    found["stop_ns"] = at[Milestone.STOPPED] - asked
    found["remove_ns"] = at[Milestone.REMOVED] - at[Milestone.STOPPED]
    for column, meter in METERS.items():
        found[column] = packed.numbers.get((meter.value,), nothing)
    static, initial = _per_form(info.arms, forms)
    owned = _owned(parts, len(form_of_row))
    has_disk = np.array([form.has_disk or form.outcome is Outcome.OK for form in forms], bool)
    owned[~has_disk[form_of_row]] = math.nan
    found["disk_bytes"] = owned + static[form_of_row]
    # Schema 1 did not say what an instance begins with.
    growth = owned - initial[form_of_row] if info.schema > 1 else nothing
    # What has no files of its own writes where others write.
    own = np.array([form.has_disk for form in forms], bool)
    found["disk_growth_bytes"] = np.where(own[form_of_row], growth, math.nan)
    found["form"] = form_of_row
    return pd.DataFrame({name: found[name] for name in COLUMNS}, copy=False)


def _categories(words: Iterable[str | None], form_of_row: npt.NDArray[np.int32]) -> object:
    """Make a column of few distinct words, from the word of each form."""
    import numpy as np
    import pandas as pd

    words = list(words)
    known = list(dict.fromkeys(word for word in words if word is not None))
    code = {word: place for place, word in enumerate(known)}
    codes = np.array([-1 if word is None else code[word] for word in words], np.int32)
    return pd.Categorical.from_codes(codes[form_of_row], categories=pd.Index(known, dtype=object))


def _per_form(records: tuple[ArmRecord, ...], forms: tuple[Form, ...]) -> tuple[Floats, Floats]:
    """For each form: bytes of static parts that each instance owns, and of what it starts with."""
    import numpy as np

    known = {(record.scenario, record.arm.name): record for record in records}
    found = [known.get((form.scenario, form.arm)) for form in forms]
    static = [_exclusive(record.disk) if record else 0 for record in found]
    initial = [_exclusive(record.initial_disk) if record else 0 for record in found]
    return np.array(static, float), np.array(initial, float)


def _exclusive(parts: tuple[DiskPart, ...]) -> int:
    return sum(part.exclusive_bytes for part in parts)


def _owned(parts: Mapping[tuple[str, Sharing, str], Floats], count: int) -> Floats:
    """Add up what each trial's instance alone had on disk, as `DiskPart.exclusive_bytes` says."""
    import numpy as np

    owned = np.zeros(count)
    for (_, sharing, what), column in parts.items():
        if sharing is Sharing.EXCLUSIVE and what in ("allocated", "reflinked"):
            there = np.nan_to_num(column)
            owned += there if what == "allocated" else -there
    return owned


def _both(first: Floats, second: Floats) -> Floats:
    """Add two columns; NaN only where neither has a number."""
    import numpy as np

    return np.where(np.isnan(first), second, first + np.nan_to_num(second))
