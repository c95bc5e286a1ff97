"""What the records themselves say about being whole: trials that are missing, or there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.units import count
from harness.records.dataset import RunData

if TYPE_CHECKING:
    import pandas as pd


def flaws(data: RunData) -> tuple[Diagnostic, ...]:
    """Doubt records that a run which ended properly cannot have left like that."""
    told = [*data.problems, *_repeated(data.frame), *_lost(data)]
    return tuple(Diagnostic(DiagnosticCode.RECORDS, sentence) for sentence in told)


def _repeated(frame: pd.DataFrame) -> Iterator[str]:
    # Instances that are started together share everything but their times.
    key = ["scenario", "arm", "block", "position", "alive", "together", "ready_ns", "removed_ns"]
    if (frame["together"] == 1).all() and (frame["alive"] == 0).all():
        key = ["scenario", "arm", "block"]
    number = int(frame.duplicated(key).sum())
    if number:
        yield (
            f"{number} of {len(frame)} trials are there more than once; of such a block the last "
            "counts"
        )


def _lost(data: RunData) -> Iterator[str]:
    """Look for blocks without a trial of an arm that has some, where nothing interrupted them."""
    info, frame = data.info, data.frame
    if info.ended_at is None or info.interrupted:
        return
    for scenario in info.scenarios:
        counted = frame[(frame["scenario"] == scenario.name) & frame["counted"]]
        if not len(counted):
            if info.blocks and any(r.scenario == scenario.name for r in info.arms):
                yield f"{scenario.name}: the run ended properly, and none of its trials is there"
            continue
        expected = max(info.blocks, int(counted["block"].max()) + 1)
        whole = complete_blocks(counted)
        if whole < expected:
            yield (
                f"{scenario.name}: the run ended properly with "
                f"{count(expected, 'complete block')}, and {whole} of them can be found"
            )


def complete_blocks(counted: pd.DataFrame) -> int:
    """Count the blocks in which every arm that ran has a trial, from a scenario's counted rows."""
    arms = counted["arm"].cat.codes.to_numpy()
    found = set(range(0))
    for number, code in enumerate(set(arms.tolist())):
        blocks = set(counted["block"].to_numpy()[arms == code].tolist())
        found = found & blocks if number else blocks
    return len(found)
