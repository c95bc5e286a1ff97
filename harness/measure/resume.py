"""Decides how an interrupted run goes on: what may be added to, and what is there already. Pure.

Trials of two hosts, images or kernels in one run would be compared as if nothing lay between them.
So a run goes on only where it was, with what it had; everything else is a new run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.model import ArmRecord, Milestone, RunInfo, Slot, Trial
from harness.model.comparability import ARM_FACTS, HOST_FACTS, same_memory
from harness.model.errors import RecordError
from harness.records import Run


@dataclass(frozen=True, slots=True)
class Resumption:
    """An interrupted run that goes on.

    Attributes:
        run: What its records hold, but for the diagnostics that its trials gave rise to.
        directory: Its folder, for sentences.
    """

    run: Run
    directory: Path

    @property
    def wanted_blocks(self) -> int:
        """How many blocks it was to take."""
        info = self.run.info
        return info.blocks if info.wanted_blocks is None else info.wanted_blocks

    def reopened(self, at: str) -> RunInfo:
        """Make the run's circumstances those of a run that goes on."""
        info = self.run.info
        return replace(
            info,
            ended_at=None,
            interrupted=False,
            blocks=self.wanted_blocks,
            wanted_blocks=self.wanted_blocks,
            resumed_at=(*info.resumed_at, at),
        )

    def record_of(self, scenario: str, arm: str) -> ArmRecord | None:
        """Find the record of an arm when the run began; None if it was left out."""
        arms = self.run.info.arms
        return next((one for one in arms if (one.scenario, one.arm.name) == (scenario, arm)), None)

    def taken(self, slot: Slot) -> tuple[Trial, ...]:
        """Find the trials of a slot in the records; only the broken block can have any left."""
        if slot.block != self.broken_block:
            return ()
        return tuple(
            trial
            for trial in self.run.trials
            if (trial.scenario, trial.arm, trial.block, trial.repetition)
            == (slot.scenario, slot.arm, slot.block, slot.repetition)
        )

    @property
    def broken_block(self) -> int | None:
        """The block that the last trial belongs to: all before it are whole. None without trials.

        Blocks are taken one after the other, so only the last one can have gaps.
        """
        return self.run.trials[-1].block if self.run.trials else None

    def block_times_ns(self) -> list[int]:
        """Estimate what each whole block took, from its trials: a little less than by the clock."""
        times: dict[int, int] = {}
        for trial in self.run.trials:
            if trial.block != self.broken_block:
                ended_ns = max(trial.milestones_ns.values(), default=0)
                ended_ns = trial.milestones_ns.get(Milestone.REMOVED, ended_ns)
                times[trial.block] = times.get(trial.block, 0) + ended_ns
        return list(times.values())


def refuse_unless_resumable(resumption: Resumption, steelyard: str) -> None:
    """Check the records alone.

    Raises:
        RecordError: There is nothing to go on with, or another version took the trials.
    """
    info, directory = resumption.run.info, resumption.directory
    if info.ended_at is not None and not info.interrupted:
        raise RecordError(
            f"{directory} ended as it should, at {info.ended_at}: there is nothing to resume; "
            "make a new run for more blocks"
        )
    if info.steelyard != steelyard:
        raise _differs(directory, "Steelyard's version", info.steelyard, steelyard)


def refuse_another_host(resumption: Resumption, facts: Mapping[str, object]) -> None:
    """Compare the host's facts now, as in the records, with those of then.

    Raises:
        RecordError: They differ; names the first fact that does.
    """
    before = resumption.run.info.environment
    for name in HOST_FACTS:
        if name in before and name in facts and before[name] != facts[name]:
            what = f"the host's {name.replace('_', ' ')}"
            raise _differs(resumption.directory, what, before[name], facts[name])
    then, now = before.get("memory_bytes"), facts.get("memory_bytes")
    if not same_memory(then, now):
        raise _differs(resumption.directory, "the host's memory", f"{then} B", f"{now} B")


def refuse_another_arm(resumption: Resumption, record: ArmRecord) -> None:
    """Compare an arm as it is prepared now with how it was.

    Raises:
        RecordError: They differ; names the first fact that does.
    """
    before = resumption.record_of(record.scenario, record.arm.name)
    assert before is not None
    for name in ARM_FACTS:
        then, now = before.facts.get(name), record.facts.get(name)
        if then != now:
            what = f"{record.scenario}, {record.arm.name}: the {name.replace('_', ' ')}"
            raise _differs(resumption.directory, what, then, now)


def _differs(directory: Path, what: str, then: object, now: object) -> RecordError:
    return RecordError(
        f"{directory} cannot go on: {what} was {_spelled(then)} and is {_spelled(now)} now, "
        "and trials of the two must not be mixed; make a new run"
    )


def _spelled(value: object) -> str:
    return "not known" if value is None else str(value)
