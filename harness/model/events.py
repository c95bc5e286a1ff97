"""The events that a run reports while it goes on; the runner prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.model.backend import Availability
from harness.model.run import ArmRecord, RunInfo
from harness.model.trial import Trial


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run's folder is there and its circumstances are written.

    Attributes:
        info: The circumstances, still without arms.
        directory: The run's folder.
        taken: How many trials are there already: of a run that goes on.
    """

    info: RunInfo
    directory: Path
    taken: int = 0


@dataclass(frozen=True, slots=True)
class HookStarted:
    """A command of the user begins that is run once and may take long: `setup`."""

    scenario: str
    hook: str
    command: str


@dataclass(frozen=True, slots=True)
class ArmPreparing:
    """An arm, or the `image` of several, is being prepared; `message` says what is done now."""

    scenario: str
    arm: str
    message: str


@dataclass(frozen=True, slots=True)
class ImagePrepared:
    """An image is in the store, for all arms that have it.

    Attributes:
        scenario: For which it was looked up first.
        image: Its reference.
        took_ns: What making it took; a millisecond or two when it was there already.
    """

    scenario: str
    image: str
    took_ns: int


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
class HostBusy:
    """A block waits, since others use too much of the CPUs.

    Attributes:
        block: Its number; negative for warm-up.
        others: The part of all CPUs that others use.
        most: The part that they may use.
    """

    block: int
    others: float
    most: float


@dataclass(frozen=True, slots=True)
class BlockStarted:
    """A block begins.

    Attributes:
        block: Its number; negative for warm-up.
        blocks: How many are wanted, without warm-up: an upper bound under a time limit.
        expected: How many blocks will fit, by what the ones so far took; None before the first.
        trials: How many trials the block has, at most: an arm that grows stops at a failure.
        widths: Metric -> relative half-width of its widest interval when it was last looked at.
    """

    block: int
    blocks: int
    expected: int | None
    trials: int
    widths: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BlockFinished:
    """A block is over; it took so long by the clock."""

    block: int
    took_ns: int


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins; in a scale scenario the first of many."""

    scenario: str
    arm: str
    block: int
    position: int


@dataclass(frozen=True, slots=True)
class InstancesAlive:
    """In a scale scenario: so many instances of the arm live, of so many."""

    scenario: str
    arm: str
    block: int
    alive: int
    most: int


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
    | HookStarted
    | ArmPreparing
    | ImagePrepared
    | ArmPrepared
    | ArmSkipped
    | HostBusy
    | BlockStarted
    | BlockFinished
    | TrialStarted
    | InstancesAlive
    | TrialFinished
    | RunFinished
)
Listener = Callable[[Event], None]
