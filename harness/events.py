"""What a run tells while it goes on. The runner prints nothing; whoever listens may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.backend import Availability
from harness.model import ArmRecord, RunInfo, Trial


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run's folder is there and its circumstances are written.

    Attributes:
        info: The circumstances, still without arms.
        directory: The run's folder.
    """

    info: RunInfo
    directory: Path


@dataclass(frozen=True, slots=True)
class ArmPreparing:
    """An arm is being prepared; `message` says in a few words what is done right now."""

    scenario: str
    arm: str
    message: str


@dataclass(frozen=True, slots=True)
class ArmPrepared:
    """An arm is ready for its trials."""

    record: ArmRecord


@dataclass(frozen=True, slots=True)
class ArmSkipped:
    """An arm cannot run here and is left out."""

    scenario: str
    arm: str
    availability: Availability


@dataclass(frozen=True, slots=True)
class BlockStarted:
    """A block begins.

    Attributes:
        block: Its number; negative for warm-up.
        blocks: How many are wanted, without warm-up: an upper bound under a time limit.
        expected: How many blocks will fit, by what the ones so far took; None before the first.
        trials: How many trials the block has.
    """

    block: int
    blocks: int
    expected: int | None
    trials: int


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins."""

    scenario: str
    arm: str
    block: int
    position: int


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """A trial is over, and in the records."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Everything is written and everything that was made is removed."""

    directory: Path
    info: RunInfo


Event = (
    RunStarted
    | ArmPreparing
    | ArmPrepared
    | ArmSkipped
    | BlockStarted
    | TrialStarted
    | TrialFinished
    | RunFinished
)
Listener = Callable[[Event], None]
