"""Takes trials apart: their numbers by name into columns, the rest once for each distinct kind."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from harness.model import Meter, Milestone, Outcome, Reading, Sharing, Trial
from harness.model.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.int64] | slice

Name = tuple[str, ...]
"""What one number of a trial is: `("block",)`, `("ready",)`, `("pss_bytes",)`, or of a part on disk
`("part", name, sharing, which of that name, "allocated")`."""

COUNTS = ("block", "position", "alive", "together", "repetition")

BATCH = 4096
"""Trials of one layout whose numbers are put into columns at a time."""

MOST_BODIES = 8
"""Distinct answers to the prober of an arm that are kept apart; more are only known to differ."""


class Form(NamedTuple):
    """Everything of a trial but its numbers. A tuple, as one is made and hashed for each trial.

    Attributes:
        scenario, arm, outcome, error, console, diagnostics: As of `Trial`.
        milestones: Which happened.
        readings: Of each: the meter, its scope, and why it has no value, or None if it has one.
        parts: Of each part on disk: its name, and who shares it.
        response_sha256: As of `Trial`.
    """

    scenario: str
    arm: str
    outcome: Outcome
    error: str | None = None
    console: str | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    milestones: tuple[Milestone, ...] = ()
    readings: tuple[tuple[Meter, str, str | None], ...] = ()
    parts: tuple[tuple[str, Sharing], ...] = ()
    response_sha256: str | None = None

    @property
    def has_disk(self) -> bool:
        """Whether anything on disk was recorded."""
        return bool(self.parts)


@dataclass(frozen=True, slots=True)
class PackedColumns:
    """The content of `Columns`, in a form that another process can take."""

    forms: tuple[Form, ...]
    form_of: npt.NDArray[np.int32]
    numbers: Mapping[Name, Floats]


@dataclass(slots=True)
class _Batch:
    """Trials of one layout whose numbers, one trial after the other, are in no column yet."""

    names: tuple[Name, ...]
    rows: list[int] = field(default_factory=list)
    numbers: list[int | None] = field(default_factory=list)


class Columns:
    """Takes trials one by one and lays them out in columns.

    Rows keep the order of their trials. Memory grows with the numbers alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self._forms: dict[Form, int] = {}
        self._form_of = array("i")
        self._known: dict[Form, tuple[int, _Batch]] = {}
        self._batches: dict[tuple[Name, ...], _Batch] = {}
        self._bodies: dict[tuple[str, str], dict[str | None, None]] = defaultdict(dict)
        self._numbers: dict[Name, list[tuple[Rows, Floats]]] = defaultdict(list)

    def add(self, trial: Trial) -> None:
        """Take the next trial."""
        form = _form_of(trial)
        number, batch = self._known.get(form) or self._meet(form)
        self._form_of.append(number)
        batch.rows.append(self.count)
        self.count += 1
        held = batch.numbers
        held += (trial.block, trial.position, trial.alive, trial.together, trial.repetition)
        held += trial.milestones_ns.values()
        held += [reading.value for reading in trial.readings]
        for part in trial.disk:
            held += (part.allocated_bytes, part.apparent_bytes, part.reflinked_bytes)
        if len(batch.rows) >= BATCH:
            self._flush(batch)

    def pack(self) -> PackedColumns:
        """Take everything out."""
        import numpy as np

        for batch in self._batches.values():
            self._flush(batch)
        form_of = np.frombuffer(self._form_of, np.int32) if self.count else np.zeros(0, np.int32)
        numbers = {name: self._column(name) for name in tuple(self._numbers)}
        return PackedColumns(tuple(self._forms), form_of, numbers)

    def append(self, packed: PackedColumns) -> None:
        """Append the rows of another one."""
        import numpy as np

        rows = slice(self.count, self.count + len(packed.form_of))
        known = np.array([self._number(form) for form in packed.forms], np.int32)
        self._form_of.frombytes(known[packed.form_of].tobytes() if len(known) else b"")
        self.count = rows.stop
        for name, column in packed.numbers.items():
            self._numbers[name].append((rows, column))

    def _meet(self, form: Form) -> tuple[int, _Batch]:
        """Find the number and the batch of a form that is new."""
        names = _names(form)
        batch = self._batches.setdefault(names, _Batch(names))
        bodies = self._bodies[form.scenario, form.arm]
        if form.response_sha256 in bodies or len(bodies) < MOST_BODIES:
            bodies[form.response_sha256] = None
            found = self._known[form] = self._number(form), batch
            return found
        return self._number(form._replace(response_sha256=next(iter(bodies)))), batch

    def _number(self, form: Form) -> int:
        return self._forms.setdefault(form, len(self._forms))

    def _flush(self, batch: _Batch) -> None:
        """Put held numbers into their columns, NaN where a trial has none."""
        import numpy as np

        rows = np.array(batch.rows, np.int64)
        held = np.array(batch.numbers, float).reshape(len(rows), len(batch.names))
        found: dict[Name, Floats] = {}
        for name, column in zip(batch.names, held.T, strict=True):
            earlier = found.get(name, column)  # of readings of one meter, the first with a value
            found[name] = np.where(np.isnan(earlier), column, earlier)
        for name, column in found.items():
            if not np.isnan(column).all():
                self._numbers[name].append((rows, column))
        batch.rows, batch.numbers = [], []

    def _column(self, name: Name) -> Floats:
        """Take one name's numbers out of the store, NaN in rows that have none."""
        import numpy as np

        column = np.full(self.count, math.nan)
        for rows, values in self._numbers.pop(name):
            column[rows] = values
        return column


def _form_of(trial: Trial) -> Form:
    return Form(
        trial.scenario,
        trial.arm,
        trial.outcome,
        trial.error,
        trial.console,
        trial.diagnostics,
        tuple(trial.milestones_ns),
        tuple([(one.meter, one.scope, _reason(one)) for one in trial.readings]),
        tuple([(part.name, part.sharing) for part in trial.disk]),
        trial.response_sha256,
    )


def _reason(reading: Reading) -> str | None:
    return None if reading.value is not None else reading.missing or "no reason was recorded"


def _names(form: Form) -> tuple[Name, ...]:
    """Name the numbers of a trial in the order in which `Columns.add` takes them."""
    found: list[Name] = [(str(name),) for name in (*COUNTS, *form.milestones)]
    found += [(meter.value,) for meter, _, _ in form.readings]
    for place, (name, sharing) in enumerate(form.parts):
        which = str(form.parts[:place].count((name, sharing)))  # of the parts of that name
        sizes = ("allocated", "apparent", "reflinked")
        found += [("part", name, sharing.value, which, size) for size in sizes]
    return tuple(found)
