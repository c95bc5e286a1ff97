"""Lays all trials of a run out as one tidy table: a row a trial, a column a variable.

A million trials do not fit into a million objects, so a run is held as columns of numbers. The rest
(names, errors, consoles, diagnostics, scopes of readings) differs between few trials only and is
held once for each distinct combination: a `Form`, which the column `form` refers to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.model import GrowthPoint, Meter, Milestone, Outcome, RunInfo, Sharing, Trial
from harness.model.metrics import METRICS, initial_bytes, is_flushed, static_bytes
from harness.records.columns import COUNTS, Columns, Form, PackedColumns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]
    _Parts = Mapping[tuple[str, Sharing, str], Floats]

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
    "repetition",
    *(f"{milestone}_ns" for milestone in Milestone),
    *(metric.column for metric in MEASURED if not metric.is_milestone),
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
        problems: Of the files that the trials were read from, a sentence each.
    """

    info: RunInfo
    frame: pd.DataFrame
    forms: tuple[Form, ...]
    parts: _Parts
    growth: tuple[GrowthPoint, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back: its circumstances and all its trials, in the order they were taken.

    Attributes:
        info: Its circumstances.
        trials: All of them, warm-up included.
        growth: Footprints of many living instances, of scale scenarios.
        directory: Its folder; None where it was never on disk.
    """

    info: RunInfo
    trials: tuple[Trial, ...]
    growth: tuple[GrowthPoint, ...] = ()
    directory: Path | None = field(default=None, compare=False)

    def frame(self) -> pd.DataFrame:
        """Lay all trials out: a row a trial, a column a metric; see `trials_frame`."""
        return trials_frame(self)


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
        Shape (trials, columns), in the order in which they were taken, columns as in `COLUMNS`:

        - `scenario`, `arm`, `outcome`, `error`: categories of strings, `error` missing without one;
        - `block`, `position`, `alive`, `together`, `repetition`: integers; `counted`: False for
          warm-up, for what was discarded, and for what was taken again;
        - one `<milestone>_ns` for each milestone: nanoseconds since t0 as float64 (exact up to 104
          days), NaN where it did not happen or the record does not have it;
        - every metric of a trial (`harness.model.metrics`) under its column's name, NaN where the
          trial does not have it. Nothing is censored: a failed trial has its measured values;
        - `form`: index into `RunData.forms`, where the rest of the trial is.
    """
    return run_data(run).frame


def durations(rows: pd.DataFrame, column: str) -> dict[int, float]:
    """Take one duration (`<milestone>_ns`) of one arm by block, failures censored.

    Returns:
        Block number to nanoseconds. A trial that went well and lacks the value has no entry. One
        that failed before it has infinity, longer than any wait; for `ready` also one that failed
        later. Of several trials in a block the value is that of `samples`.
    """
    return dict(zip(*(array.tolist() for array in samples(rows, column)), strict=True))


def samples(rows: pd.DataFrame, column: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """Take one metric of one arm by block, failures censored as `trial_value` does it.

    Several trials of a block give one value, as `harness.model.metrics.block_value` does it: they
    are alike for what the block has in common, and no further evidence of the level of the arm.

    Returns:
        Blocks and values, both of shape (blocks that have it or failed before it,), in the order
        of their first trials.
    """
    blocks, values = trial_samples(rows, column)
    return _by_block(blocks, values)


def trial_samples(rows: pd.DataFrame, column: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """Take one metric of one arm by trial, in the order taken, failures censored as in `samples`.

    Returns:
        Blocks and values, both of shape (trials that have it or failed before it,).
    """
    import numpy as np

    values = rows[column].to_numpy(dtype=np.float64, copy=True)
    if column in _CENSORED:
        failed = (rows["outcome"] != Outcome.OK.value).to_numpy(dtype=bool)
        values[failed & (np.isnan(values) | (column == "ready_ns"))] = math.inf
    there = ~np.isnan(values)
    return rows["block"].to_numpy(dtype=np.int64)[there], values[there]


def _by_block(
    blocks: npt.NDArray[np.int64], values: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Reduce the values of each block to their upper median."""
    import numpy as np

    _, first, place, counts = np.unique(
        blocks, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(blocks):
        return blocks, values
    ordered = values[np.lexsort((values, place))]
    middle = ordered[np.cumsum(counts) - counts + counts // 2]
    order = np.argsort(first)
    return blocks[first[order]], middle[order]


_CENSORED = frozenset(metric.column for metric in MEASURED if metric.is_milestone)


def laid_out(
    packed: PackedColumns,
    info: RunInfo,
    growth: tuple[GrowthPoint, ...] = (),
    problems: tuple[str, ...] = (),
) -> RunData:
    """Make the table of a run from the numbers of its trials."""
    parts: dict[tuple[str, Sharing, str], Floats] = {}
    for name, column in packed.numbers.items():
        if name[0] == "part":
            _, part, sharing, _, what = name
            key = (part, Sharing(sharing), what)
            # A second part of the same name in one trial counts together with the first.
            parts[key] = column if key not in parts else _both(parts[key], column)
    frame = _frame(packed, info, parts)
    shown = {key: column for key, column in parts.items() if key[2] != "reflinked"}
    return RunData(info, frame, packed.forms, shown, growth, problems)


def _frame(packed: PackedColumns, info: RunInfo, parts: _Parts) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    forms, form_of_row = packed.forms, packed.form_of
    found: dict[str, object] = {
        name: _categories([getattr(form, name) for form in forms], form_of_row)
        for name in ("scenario", "arm", "outcome", "error")
    }
    for count in COUNTS:
        found[count] = packed.numbers.get((count,), np.zeros(0)).astype(np.int64)
    found["counted"] = (np.asarray(found["block"]) >= 0) & (np.asarray(found["repetition"]) >= 0)
    source = _OfColumns(packed, info, parts)
    found |= {f"{milestone}_ns": source.at(milestone) for milestone in Milestone}
    found |= {metric.column: metric.of(source) for metric in MEASURED}
    found["form"] = form_of_row
    frame = pd.DataFrame({name: found[name] for name in COLUMNS}, copy=False)
    if info.retaken:
        again = frame[frame["block"].isin(info.retaken)]
        earlier = again.duplicated(["scenario", "arm", "block", "repetition"], keep="last")
        frame.loc[earlier[earlier].index, "counted"] = False
    return frame


class _OfColumns:
    """The columns of a run's trials as a `MetricSource`."""

    def __init__(self, packed: PackedColumns, info: RunInfo, parts: _Parts) -> None:
        self._packed = packed
        self._arms = {(record.scenario, record.arm.name): record for record in info.arms}
        self._owned = _owned(parts, len(packed.form_of))

    def at(self, milestone: Milestone) -> Floats:
        return self._numbers(milestone)

    def read(self, meter: Meter) -> Floats:
        return self._numbers(meter)

    def stop_asked_ns(self) -> Floats:
        import numpy as np

        asked = self.at(Milestone.STOPPING)
        return np.where(np.isnan(asked), self.at(Milestone.READY), asked)

    def written_bytes(self) -> Floats:
        return self._owned + self._of_form(
            lambda form: 0 if form.has_disk and is_flushed(form.diagnostics) else math.nan
        )

    def owned_bytes(self) -> Floats:
        return self._owned + self._of_form(
            lambda form: (
                0
                if is_flushed(form.diagnostics) and (form.has_disk or form.outcome is Outcome.OK)
                else math.nan
            )
        )

    def static_bytes(self) -> Floats:
        return self._of_form(lambda form: static_bytes(self._arms.get((form.scenario, form.arm))))

    def initial_bytes(self) -> Floats:
        return self._of_form(lambda form: initial_bytes(self._arms.get((form.scenario, form.arm))))

    def _numbers(self, name: Milestone | Meter) -> Floats:
        import numpy as np

        found = self._packed.numbers.get((name.value,))
        return np.full(len(self._packed.form_of), math.nan) if found is None else found

    def _of_form(self, value: Callable[[Form], float]) -> Floats:
        import numpy as np

        return np.array([value(form) for form in self._packed.forms], float)[self._packed.form_of]


def _categories(words: Iterable[str | None], form_of_row: npt.NDArray[np.int32]) -> object:
    """Make a column of few distinct words, from the word of each form."""
    import numpy as np
    import pandas as pd

    words = list(words)
    known = list(dict.fromkeys(word for word in words if word is not None))
    code = {word: place for place, word in enumerate(known)}
    codes = np.array([-1 if word is None else code[word] for word in words], np.int32)
    return pd.Categorical.from_codes(codes[form_of_row], categories=pd.Index(known, dtype=object))


def _owned(parts: _Parts, count: int) -> Floats:
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
