"""The circumstances of a run: arms as prepared, pairs, noise floors, facts about the host."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from harness.model.diagnostics import Diagnostic
from harness.model.scenario import Arm, Scenario
from harness.model.trial import DiskPart

SCHEMA_VERSION = 2
"""Version of what `records.py` writes; raised whenever an old reader could misread a new record."""


FEWEST_BLOCKS = 3
"""A time limit does not cut a run below these where nobody asks for more."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms of a run that are held against each other.

    Attributes:
        scenario: Scenario name.
        reference: Name of the arm that was there before, or is compared with: A.
        candidate: Name of the arm in question: B.
    """

    scenario: str
    reference: str
    candidate: str


@dataclass(frozen=True, slots=True)
class PairedLimit:
    """What is asked of one metric of two arms.

    Attributes:
        pair: The arms.
        metric: A key of `harness.model.metrics.METRICS`.
        limit: What the ratio B / A may at most be: 1.05 is 5 % more.
        is_margin: Whether differences up to the limit are none in both directions (`compare`), or
            more than the limit is worse (`check --against`).
        source: `scenarios/hello.toml:12` of the budget that says so; empty if none does.
        is_asked: Whether the metric was named: then it is reported when it is missing.
    """

    pair: Pair
    metric: str
    limit: float
    is_margin: bool
    source: str = ""
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class PairedQuestions:
    """What a paired run is to find out.

    Attributes:
        question: In one line: `is B (busybox:2) worse than A (busybox:1)?`.
        reference: What A is: an image, a setting, a revision.
        candidate: What B is.
        limits: Of each metric of each pair.
        cautions: What the verdict does not cover, a sentence each.
    """

    question: str
    reference: str
    candidate: str
    limits: tuple[PairedLimit, ...]
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repetitions:
    """How often the arms of a scenario are taken in each block that counts.

    Attributes:
        scenario: Scenario name.
        count: Counted trials of each light arm; a heavy one has one.
        heavy: Names of the arms whose trials take so much longer than the others' that the light
            ones stand around them, and that one of these is taken after each and not counted.
    """

    scenario: str
    count: int = 1
    heavy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What an A/A comparison of an arm with itself showed on this host.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        blocks: Pairs that it rests on.
        floor: Relative difference that 95 % of single pairs stay below: 0.16 is 16 %.
        detectable: Smallest relative difference of medians that a run of as many blocks finds in
            80 % of cases at a false alarm rate of 5 %.
        run_id: Of the run that it was measured in.
    """

    scenario: str
    arm: str
    metric: str
    blocks: int
    floor: float
    detectable: float
    run_id: str

    def detectable_with(self, blocks: int) -> float:
        """The same of a run of another number of blocks, from 1.

        An interval of a median shrinks with the root of the blocks; ratios do so in logarithms.
        """
        return math.expm1(math.log1p(self.detectable) * math.sqrt(self.blocks / blocks))


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """What was prepared for one arm of one scenario: once, apart from the trials.

    Attributes:
        scenario: Scenario name.
        arm: The arm.
        prepare_ns: Time that making the image, disk and so on took in this run.
        disk: The static parts that all instances share.
        facts: What ran: `accelerator`, `kernel`, `qemu`, `argv`, `plan_sha256`, `launcher`, …
        diagnostics: Warnings about the arm.
        initial_disk: What an instance owns on disk before it has run: what `disk` of a trial has
            beyond it grew until ready; None where an older writer did not say.
    """

    scenario: str
    arm: Arm
    prepare_ns: int
    disk: tuple[DiskPart, ...]
    facts: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
    initial_disk: tuple[DiskPart, ...] | None = None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The circumstances of a run: everything in `run.json`.

    Attributes:
        schema: `SCHEMA_VERSION` of the writer.
        steelyard: Version of Steelyard.
        run_id: Sortable and unique: `20261124T120335Z-1a2b3c`.
        started_at: UTC, ISO 8601.
        ended_at: The same; None while the run goes on, or if it was killed.
        command: argv as the user typed it, for repeating.
        seed: Of the order of trials.
        blocks: Complete blocks that count, of each scenario; while the run goes on, or if it was
            killed, those that it wants.
        warmup_blocks: Blocks that were run and recorded but count in no figure.
        scenarios: In order.
        arms: What was prepared.
        environment: Facts about the host; each either a JSON scalar or None with a reason in
            `environment_missing`.
        environment_missing: Fact name -> why it could not be had.
        diagnostics: Warnings about the run as a whole.
        interrupted: Whether it was ended by the user, or by an error, before all was done.
        until: Metric name -> relative width of its interval at which the run could stop.
        noise: The noise floors of this host that are known: measured in this run, or before.
        resumed_at: When it was taken up again after an interruption, each time.
        wanted_blocks: How many blocks were asked for, at most where there is a time limit or a
            width to be reached; None where an older writer did not say.
        time_limit_ns: What the trials might take in all; None is no limit.
        paired: Whether it was taken to hold arms against each other until that was decided: then
            they are sides of a comparison, and no point of a history.
        pairs: Which arms those are; empty in older records, where arms stand behind each other.
        asked: What a paired run is to find out; None in older records, and of other runs.
        repetitions: Of the scenarios in which light arms stand beside heavy ones.
        fewest_blocks: How many the time limit did not cut it below.
        cpuset: The CPUs that it and its instances were kept to; empty: all that it may use.
        quiet: A part of all CPUs: a block waited until others used less, and was taken again when
            they used more meanwhile; None: no block waited.
        retaken: Blocks that were taken again, as often as they were; of such a block the last
            version of each trial counts.
    """

    schema: int
    steelyard: str
    run_id: str
    started_at: str
    ended_at: str | None
    command: tuple[str, ...]
    seed: int
    blocks: int
    warmup_blocks: int
    scenarios: tuple[Scenario, ...]
    arms: tuple[ArmRecord, ...]
    environment: Mapping[str, str | int | float | bool | None]
    environment_missing: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
    interrupted: bool = False
    until: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    noise: tuple[NoiseFloor, ...] = ()
    resumed_at: tuple[str, ...] = ()
    wanted_blocks: int | None = None
    time_limit_ns: int | None = None
    paired: bool = False
    pairs: tuple[Pair, ...] = ()
    asked: PairedQuestions | None = None
    repetitions: tuple[Repetitions, ...] = ()
    fewest_blocks: int = FEWEST_BLOCKS
    cpuset: tuple[int, ...] = ()
    quiet: float | None = None
    retaken: tuple[int, ...] = ()

    def arms_in(self, scenario: str) -> list[Arm]:
        """List the arms of a scenario that were prepared."""
        return [record.arm for record in self.arms if record.scenario == scenario]

    @property
    def asked_blocks(self) -> int:
        """Blocks that it was to have: those that it has, unless it was cut short."""
        if self.interrupted and self.wanted_blocks is not None:
            return self.wanted_blocks
        return self.blocks
