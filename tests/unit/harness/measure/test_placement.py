"""When instances go to a new folder: at each block, and within one that is long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import runtime
from harness.measure.placement import Placement
from harness.model import Slot


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
