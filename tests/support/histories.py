"""Many runs of one thing, written as folders: with a step where one is wanted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from harness.model import DiskPart, Milestone, Trial
from harness.records import Run
from harness.records.codec import encode
from tests.support.synthetic import synthetic_run

START = datetime(2026, 3, 1, 6, tzinfo=UTC)


def commit(number: int) -> str:
    """A made-up commit that begins with its number, in hexadecimal."""
    return f"{number:07x}fade5"


def one_run(
    number: int,
    *,
    factor: float = 1.0,
    more_disk: int = 0,
    blocks: int = 8,
    arms: Sequence[str] = ("container",),
    environment: Mapping[str, str | int | None] = MappingProxyType({}),
) -> Run:
    """One run of a history.

    Args:
        number: Its place in time, and the seed.
        factor: By how much longer the container takes until ready.
        more_disk: Bytes added to the container's shared layers.
        blocks: Counted blocks.
        arms: Of `tests.support.synthetic.ARMS`.
        environment: Facts that are other than usual.
    """
    run = synthetic_run(
        seed=number, blocks=blocks, scenarios=("hello",), arms=tuple(arms), warmup_blocks=1
    )
    at = START + timedelta(days=number)

    def slower(trial: Trial) -> Trial:
        if trial.arm != "container" or Milestone.READY not in trial.milestones_ns:
            return trial
        ready = round(trial.milestones_ns[Milestone.READY] * factor)
        return dataclasses.replace(
            trial, milestones_ns={**trial.milestones_ns, Milestone.READY: ready}
        )

    def larger(part: DiskPart) -> DiskPart:
        return dataclasses.replace(part, allocated_bytes=part.allocated_bytes + more_disk)

    records = tuple(
        dataclasses.replace(record, disk=(larger(record.disk[0]), *record.disk[1:]))
        if record.arm.name == "container"
        else record
        for record in run.info.arms
    )
    info = dataclasses.replace(
        run.info,
        run_id=f"{at:%Y%m%dT%H%M%SZ}-{number:06x}",
        started_at=at.isoformat(),
        arms=records,
        environment=MappingProxyType(
            {**run.info.environment, "steelyard_revision": commit(number), **environment}
        ),
    )
    return Run(info, tuple(map(slower, run.trials)))


def write_run(run: Run, folder: Path) -> Path:
    """Write a run as `harness.records.RunWriter` does, without waiting for the disk."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(encode(run.info, "")))
    lines = (json.dumps(encode(trial, "")) + "\n" for trial in run.trials)
    (folder / "trials.jsonl").write_text("".join(lines))
    return folder


def write_history(root: Path, count: int, make: Callable[[int], Run] = one_run) -> list[Path]:
    """Write so many runs, each in a folder of its own below `root`; oldest first."""
    runs = [make(number) for number in range(count)]
    return [write_run(run, root / run.info.run_id) for run in runs]
