"""Trials taken apart: their numbers by name into columns, the rest once for each distinct kind."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model import Meter, Outcome, Sharing, Trial
from harness.model.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.int64] | slice

Name = tuple[str, ...]
"""What one number of a trial is: `("block",)`, `("ready",)`, `("pss_bytes",)`, or of a part on disk
`("part", name, sharing, which of that name, "allocated")`."""


@dataclass(frozen=True, slots=True)
class Form:
    """Everything of a trial that is no number.

    Attributes:
        scenario, arm, outcome, error, console, diagnostics: As of `Trial`.
        readings: Of each: the meter, its scope, and why it has no value, or None if it has one.
        has_disk: Whether anything on disk was recorded.
        response_sha256: As of `Trial`.
    """

    scenario: str
    arm: str
    outcome: Outcome
    error: str | None = None
    console: str | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    readings: tuple[tuple[Meter, str, str | None], ...] = ()
    has_disk: bool = False
    response_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """What `Columns` hold, in a form that another process can take: rows, and numbers by name."""

    forms: tuple[Form, ...]
    form_of: npt.NDArray[np.int32]
    numbers: Mapping[Name, Floats]


class Columns:
    """Takes trials one by one or many of a form at once, and lays them out in columns.

    Rows keep the order of their numbers. Memory grows with the numbers alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self._forms: dict[Form, int] = {}
        self._form_of = array("i")
        self._single: dict[Name, tuple[array[int], array[float]]] = defaultdict(
            lambda: (array("q"), array("d"))
        )
        self._many: dict[Name, list[tuple[Rows, Floats | float]]] = defaultdict(list)

    def add(self, trial: Trial) -> None:
        """Take the next trial."""
        row = self.reserve(self.form(form_of(trial)))
        for name, value in numbers_of(trial):
            rows, values = self._single[name]
            rows.append(row)
            values.append(value)

    def form(self, form: Form) -> int:
        """Number a form, the same for an equal one."""
        return self._forms.setdefault(form, len(self._forms))

    def reserve(self, form: int) -> int:
        """Give the next trial its row before its numbers are there."""
        self._form_of.append(form)
        self.count += 1
        return self.count - 1

    def fill(self, rows: Rows, name: Name, values: Floats | float) -> None:
        """Put numbers of one name into rows that were reserved."""
        self._many[name].append((rows, values))

    def pack(self) -> Packed:
        """Take everything out."""
        names = {**self._single, **self._many}
        return Packed(
            tuple(self._forms), self._forms_of_rows(), {name: self._column(name) for name in names}
        )

    def append(self, packed: Packed) -> None:
        """Put what another one held behind the rows of this one."""
        import numpy as np

        rows = slice(self.count, self.count + len(packed.form_of))
        known = np.array([self.form(form) for form in packed.forms], np.int32)
        self._form_of.frombytes(known[packed.form_of].tobytes() if len(known) else b"")
        self.count = rows.stop
        for name, column in packed.numbers.items():
            self.fill(rows, name, column)

    def _forms_of_rows(self) -> npt.NDArray[np.int32]:
        import numpy as np

        return np.frombuffer(self._form_of, np.int32) if self.count else np.zeros(0, np.int32)

    def _column(self, name: Name) -> Floats:
        """Take one name's numbers out of the store, NaN in rows that have none."""
        import numpy as np

        column = np.full(self.count, math.nan)
        for rows, values in self._many.pop(name, []):
            column[rows] = values
        if name in self._single:
            rows_, values_ = self._single.pop(name)
            column[np.frombuffer(rows_, dtype=np.int64)] = np.frombuffer(values_, dtype=np.float64)
        return column


def form_of(trial: Trial) -> Form:
    """Take from a trial all that is no number."""
    return Form(
        scenario=trial.scenario,
        arm=trial.arm,
        outcome=trial.outcome,
        error=trial.error,
        console=trial.console,
        diagnostics=trial.diagnostics,
        readings=tuple(
            (reading.meter, reading.scope, _reason(reading.value, reading.missing))
            for reading in trial.readings
        ),
        has_disk=bool(trial.disk),
        response_sha256=trial.response_sha256,
    )


def numbers_of(trial: Trial) -> Iterator[tuple[Name, int]]:
    """Name every number of a trial that a report may need, and is there."""
    yield ("block",), trial.block
    yield ("position",), trial.position
    yield ("alive",), trial.alive
    yield ("together",), trial.together
    for milestone, stamp in trial.milestones_ns.items():
        yield (milestone.value,), stamp
    seen: dict[Meter, bool] = {}
    for reading in trial.readings:
        # The first that has a value, as in `harness.model.metrics`.
        if reading.value is not None and seen.setdefault(reading.meter, True):
            seen[reading.meter] = False
            yield (reading.meter.value,), reading.value
    which: dict[tuple[str, Sharing], int] = defaultdict(int)
    for part in trial.disk:
        key = (part.name, part.sharing)
        name = ("part", part.name, part.sharing.value, str(which[key]))
        which[key] += 1
        yield (*name, "allocated"), part.allocated_bytes
        yield (*name, "apparent"), part.apparent_bytes
        if part.reflinked_bytes is not None:
            yield (*name, "reflinked"), part.reflinked_bytes


def _reason(value: int | None, missing: str | None) -> str | None:
    return None if value is not None else missing or "no reason was recorded"
