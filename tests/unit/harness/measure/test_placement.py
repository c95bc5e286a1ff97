"""When instances go to a new folder: at each block, and within one that is long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import runtime
from harness.measure import placement
from harness.measure.placement import Placement
from harness.model import Slot
from harness.model.diagnostics import DiagnosticCode


@dataclass
class CountingSession:
    """Stands for the session of this process."""

    renewed: int = 0

    def renew_place(self) -> bool:
        self.renewed += 1
        return True


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> CountingSession:
    session = CountingSession()
    monkeypatch.setattr(runtime.Session, "existing", lambda: session)
    return session


def test_each_block_has_a_folder(session: CountingSession) -> None:
    placed = Placement()
    for block in (-1, 0, 1):
        for position, arm in enumerate(("container", "process")):
            placed.before(Slot("hello", arm, block, position))
    assert session.renewed == 3


def test_a_block_of_many_trials_has_several(session: CountingSession) -> None:
    placed = Placement()
    for position in range(17):
        placed.before(Slot("hello", "container", 0, position))
    assert session.renewed == 3  # eight, eight, one


def test_a_long_block_has_several(
    session: CountingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 4.9, 5.0, 9.9])
    monkeypatch.setattr(
        "harness.measure.placement.time.monotonic_ns", lambda: round(next(seconds) * 1e9)
    )
    placed = Placement()
    for position in range(4):
        placed.before(Slot("hello", "container", 0, position))
    assert session.renewed == 2


def test_no_session_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.Session, "existing", lambda: None)
    Placement().before(Slot("hello", "process", 0, 0))


class MovingSession(CountingSession):
    """Has a place whose folders cost something; each move takes the next of `costs_ns`."""

    def __init__(self, *costs_ns: int) -> None:
        super().__init__()
        self.costs_ns = costs_ns

    @property
    def place(self) -> int:
        return self.costs_ns[self.renewed]


@pytest.mark.parametrize(
    ("costs_us", "move", "expected_us", "moves"),
    [
        ((22,), True, 22, 0),
        ((60,), True, 60, 0),
        ((240, 23), True, 23, 1),
        ((240, 61, 30), True, 61, 1),
        ((240, 23), False, 240, 0),
    ],
)
def test_slow_folders_make_it_move_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
    costs_us: tuple[int, ...],
    expected_us: int,
    moves: int,
    *,
    move: bool,
) -> None:
    session = MovingSession(*(cost * 1000 for cost in costs_us))
    monkeypatch.setattr(runtime.Session, "existing", lambda: session)
    monkeypatch.setattr("harness.measure.placement.median_mkdir_ns", lambda place: place)
    assert placement.probe(move=move) == expected_us * 1000
    assert session.renewed == moves


def test_nothing_is_probed_where_no_instance_has_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.Session, "existing", lambda: None)
    assert placement.probe(move=True) is None


def test_slow_folders_are_a_warning_that_names_the_figure() -> None:
    assert placement.slow_folders(60_000, "before the first trial") is None
    warning = placement.slow_folders(246_400, "before the first trial")
    assert warning is not None
    assert warning.code is DiagnosticCode.SLOW_FOLDERS
    assert warning.detail == (
        "a new folder took 246 us before the first trial, where 18 to 25 are sound"
    )
    assert "container/process" in warning.remedy
