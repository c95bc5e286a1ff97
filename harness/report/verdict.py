"""The answer in plain sentences, with what it rests on: figures in, words out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness import stats
from harness.diagnostics import DiagnosticCode
from harness.model import RunInfo
from harness.report import wording
from harness.report.tables import ArmRow, ScenarioTable, Summary


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one scenario's question.

    Attributes:
        headline: One sentence, the answer.
        findings: A sentence for each arm, then one on disk.
        certainty: Sentences that say how sure that is, and what it depends on.
        is_sure: Whether all that the headline compares has closed intervals of 95 %.
    """

    headline: str
    findings: tuple[str, ...]
    certainty: tuple[str, ...]
    is_sure: bool


def verdict(table: ScenarioTable, summary: Summary) -> Verdict:
    """Put the answer to a scenario's question into words."""
    reference = next((row for row in table.rows if row.is_reference), None)
    interruption = _interruption(summary.run.info, table)
    if reference is None:
        return Verdict(
            "No trial was taken, so there is no answer.",
            tuple(f"{_named(row)} did not run." for row in table.rows),
            tuple(interruption),
            is_sure=False,
        )
    compared = _compared(table, reference)
    return Verdict(
        headline=_headline(table, reference),
        findings=(
            *(_finding(row, reference) for row in table.rows),
            *_between_vms(table, reference),
            *_disk(table),
        ),
        certainty=(
            *_spread(table, compared, reference),
            *_failures(table, reference),
            *_emulation(table, summary),
            *_same_work(table),
            *interruption,
        ),
        is_sure=bool(compared) and all(map(_is_certain, compared)),
    )


def _is_certain(found: stats.Estimate) -> bool:
    """Whether a median has an interval of 95 % that failures did not leave open at an end."""
    interval = found.interval
    return (
        found.is_reached
        and interval is not None
        and interval.is_certain
        and math.isfinite(interval.low)
        and math.isfinite(interval.high)
    )


def _named(row: ArmRow, *, inside: bool = False) -> str:
    """Name an arm in a sentence: those called like a thing get their article."""
    if row.arm not in ("container", "process"):
        return row.arm
    return f"{'the' if inside else 'The'} {row.arm}"


def _others(table: ScenarioTable) -> list[ArmRow]:
    """List what the headline compares: the VMs if one ran, else everything but the reference."""
    ran = [row for row in table.rows if row.trials and not row.is_reference]
    return [row for row in ran if row.is_vm] or ran


def _compared(table: ScenarioTable, reference: ArmRow) -> list[stats.Estimate]:
    """List the estimates on which the headline rests."""
    found = [row.ratio.estimate for row in _others(table) if row.ratio is not None]
    return found or ([reference.ready] if reference.ready is not None else [])


def _headline(table: ScenarioTable, reference: ArmRow) -> str:
    ready = reference.ready
    if ready is None or not ready.is_reached:
        return f"{_missed(reference)}, so there is nothing to compare the others with."
    start = f"{_named(reference)} is ready after {wording.duration(ready.median)}"
    others = _others(table)
    if not others:
        return f"{start}; no other arm ran, so nothing is compared."
    return f"{start}; {wording.listed([_against(row) for row in others])}."


def _against(row: ArmRow) -> str:
    """Say in a clause how far an arm is from the reference."""
    if row.ready is None or not row.ready.is_reached:
        return _missed(row, inside=True)
    name = _named(row, inside=True)
    if row.difference is None or row.ratio is None or not row.ratio.estimate.is_reached:
        return f"{name} after {wording.duration(row.ready.median)}, but not beside it"
    factor = wording.times(row.ratio.estimate.median)
    if _is_unclear(row):
        return f"{name} shows no difference to that ({factor})"
    far = row.difference.estimate.median
    word = "more" if far >= 0 else "less"
    return f"{name} needs {wording.duration(abs(far))} {word} ({factor})"


def _missed(row: ArmRow, *, inside: bool = False) -> str:
    missed = row.ready.censored if row.ready is not None else 0
    return (
        f"{_named(row, inside=inside)} failed in {missed} of {wording.count(row.trials, 'trial')}"
    )


def _finding(row: ArmRow, reference: ArmRow) -> str:
    if row.ready is None:
        return f"{_named(row)} did not run."
    if not row.ready.is_reached:
        return f"{_missed(row)}."
    start = f"{_named(row)} is ready after {wording.duration_estimate(row.ready)}"
    if row.is_reference:
        return f"{start}."
    against = _named(reference, inside=True)
    if row.ratio is None or row.difference is None or not row.ratio.estimate.is_reached:
        return f"{start}; it cannot be compared with {against}."
    if _is_unclear(row):
        return f"{start}, {wording.ratio(row.ratio)} that of {against}: no difference is shown."
    word = "later" if row.difference.estimate.median >= 0 else "sooner"
    return (
        f"{start}: {wording.difference(row.difference)} {word} than {against}, or "
        f"{wording.ratio(row.ratio)} its time."
    )


def _is_unclear(row: ArmRow) -> bool:
    """Whether the interval of the ratio has room for no difference at all."""
    interval = row.ratio.estimate.interval if row.ratio is not None else None
    return interval is not None and interval.low <= 1 <= interval.high


def _between_vms(table: ScenarioTable, reference: ArmRow) -> list[str]:
    if reference.is_vm:
        return []
    first = next((row.arm for row in table.rows if row.is_vm and row.trials), "")
    return [
        f"Among the VMs, {name} takes {wording.ratio(found)} the time of {first}."
        for name, found in table.between_vms.items()
        if found.estimate.is_reached
    ]


def _disk(table: ScenarioTable) -> list[str]:
    each = [
        f"{wording.size(row.exclusive.median)} ({row.arm})"
        for row in table.rows
        if row.exclusive is not None
    ]
    once = [
        f"{wording.size(row.shared_bytes)} ({row.arm})"
        for row in table.rows
        if row.exclusive is not None and row.shared_bytes is not None
    ]
    told = [f"each instance allocates {wording.listed(each)}"] if each else []
    told += [f"shared by all instances, once: {wording.listed(once)}"] if once else []
    return [f"On disk, {'; '.join(told)}."] if told else []


def _spread(
    table: ScenarioTable, compared: list[stats.Estimate], reference: ArmRow
) -> Iterator[str]:
    """Say what the intervals are worth."""
    reached = [found for found in compared if found.is_reached]
    if not reached:
        yield "There is no figure to be sure of."
        return
    fewest = min(reached, key=lambda found: found.count)
    blocks = wording.count(fewest.count, "block")
    if fewest.interval is None:
        yield (
            "Not sure at all: a single trial of each arm says nothing about how much they vary. "
            f"Take at least {stats.FEWEST_FOR_LEVEL} blocks."
        )
        return
    if not fewest.interval.is_certain:
        yield (
            f"Not sure yet: with {blocks}, the brackets are the range of what was seen, and such "
            f"a range contains the true median with {fewest.interval.coverage * 100:.4g} % only. "
            f"Take at least {stats.FEWEST_FOR_LEVEL} blocks for an interval of 95 %."
        )
        return
    yield (
        f"Brackets are 95 % intervals for the median over {blocks} ({fewest.interval.method}). "
        "Every block ran each arm once, in random order, and ratios are taken within blocks, so "
        "what disturbed the host disturbed all arms alike."
    )
    against = _named(reference, inside=True)
    unclear = [row.arm for row in table.rows if _is_unclear(row)]
    if unclear:
        yield (
            f"The interval of {wording.listed(unclear)} contains 1 ×: chance alone could make "
            f"that difference to {against}."
        )
    elif any(row.ratio is not None for row in table.rows):
        yield f"No interval contains 1 ×: chance alone explains no difference to {against}."


def _failures(table: ScenarioTable, reference: ArmRow) -> Iterator[str]:
    bad = [row for row in table.rows if row.trials > row.ok]
    if not bad:
        yield f"All {wording.count(table.trials, 'trial')} went well."
        return
    told = [f"{row.trials - row.ok} of {row.trials} in {row.arm}" for row in bad]
    yield (
        f"Trials failed or were not ready in time: {wording.listed(told)}. They count as slower "
        "than any other, and none was dropped; where they leave the end of an interval open, it "
        "reads “?”."
    )
    undetermined = [
        f"{row.ratio.undetermined} for {row.arm}"
        for row in table.rows
        if row.ratio is not None and row.ratio.undetermined
    ]
    if undetermined:
        yield (
            f"Blocks in which both an arm and {_named(reference, inside=True)} failed say nothing "
            f"about their ratio: {wording.listed(undetermined)}."
        )


def _emulation(table: ScenarioTable, summary: Summary) -> Iterator[str]:
    virtual = [row for row in table.rows if row.is_vm and row.trials]
    told = any(doubt.code is DiagnosticCode.TCG for doubt in summary.doubts)
    if virtual and (told or any(row.facts.get("accelerator") == "tcg" for row in virtual)):
        yield (
            "The VMs' processors were emulated (TCG), not virtualised: read their distance to the "
            "container as an upper bound; where KVM works it is smaller."
        )


def _same_work(table: ScenarioTable) -> Iterator[str]:
    if table.same_response is True:
        yield "Every answer to the prober was the same, byte for byte, in all arms."
    elif table.same_response is False:
        yield "The arms did not all answer with the same bytes: they did not do the same work."


def _interruption(info: RunInfo, table: ScenarioTable) -> list[str]:
    if info.ended_at is not None and not info.interrupted:
        return []
    how = "was interrupted" if info.interrupted else "did not end properly"
    return [f"The run {how}: {table.complete_blocks} of {info.blocks} blocks are complete."]
