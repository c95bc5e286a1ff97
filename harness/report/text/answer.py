"""The answer in plain sentences, with its certainty, from a scenario's estimates. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness import stats
from harness.analysis.summary import ArmRow, ScenarioTable, Summary
from harness.model import RunInfo, units
from harness.model.metrics import METRICS
from harness.report.text import sentences, wording

UPPER_BOUND = "emulated CPU: upper bound"
"""Marks each comparison of a VM under TCG with an arm that ran on the real processor."""

BOUND_MEANS = "an upper bound, since this arm's CPU was emulated (TCG) and the other's was not"
"""Meaning of the sign `≤` before a ratio."""

MOST_NAMED = 5
"""No more arms than these are named in the headline."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one scenario's question.

    Attributes:
        rows: The answer, a sentence each: time until ready, disk, memory, by their titles. Of a
            scenario that grows, what each further instance costs comes first.
        badge: Its certainty in a few words.
        findings: A sentence for each arm, then on disk, memory and growth.
        certainty: Sentences on the certainty, and its conditions.
        is_sure: Whether all comparisons of the headline have closed intervals of 95 % and ran on
            the same kind of processor.
    """

    rows: tuple[tuple[str, str], ...]
    badge: str
    findings: tuple[str, ...]
    certainty: tuple[str, ...]
    is_sure: bool

    @property
    def headline(self) -> str:
        """The rows in one paragraph."""
        return " ".join(sentence for _, sentence in self.rows)


def answer(table: ScenarioTable, summary: Summary) -> Answer:
    """Put the answer to a scenario's question into words."""
    table = replace(table, rows=table.shown)
    reference = next((row for row in table.rows if row.is_reference), None)
    interruption = _interruption(summary.run.info, table)
    if reference is None:
        return Answer(
            (("Answer", "No trial was taken, so there is no answer."),),
            "no trial",
            tuple(f"{_named(row)} did not run." for row in table.rows),
            tuple(interruption),
            is_sure=False,
        )
    compared = _compared(table, reference)
    is_sure = bool(compared) and all(map(_is_certain, compared)) and not _bounds(table)
    return Answer(
        rows=tuple(_rows(table, reference)),
        badge=_badge(table, reference, compared),
        findings=(
            *(_finding(table, row, reference) for row in table.rows),
            *_between_vms(table, reference),
            *_disk(table),
            *sentences.growth(table),
            *sentences.starts(table),
        ),
        certainty=(
            *_spread(table, compared, reference),
            *sentences.noise(table, summary.run.info.run_id),
            *sentences.undetectable(table),
            *_failures(table, reference),
            *_emulation(table, reference),
            *sentences.outliers(table),
            *sentences.missing(table),
            *_same_work(table),
            *interruption,
        ),
        is_sure=is_sure,
    )


def _rows(table: ScenarioTable, reference: ArmRow) -> Iterator[tuple[str, str]]:
    if slopes := sentences.slopes(table):
        clauses = [
            f"{slope.arm} costs {_slope(slope)}"
            for slope in slopes[:MOST_NAMED]
            if slope.disk or slope.memory
        ]
        if clauses:
            yield "Growth", f"Each further {wording.listed(clauses)}."
    yield "Start", _headline(table, reference)
    yield from _footprints(table, reference)


def _slope(slope: sentences.Slope) -> str:
    amounts = (
        f"{wording.size_estimate(amount)} of {name}"
        for amount, name in ((slope.disk, "disk"), (slope.memory, "memory"))
        if amount is not None
    )
    return wording.listed(list(amounts))


def _bounds(table: ScenarioTable) -> list[ArmRow]:
    """List the arms of the headline whose ratio sets an emulated CPU against the real one."""
    return [row for row in _others(table) if table.is_upper_bound(row)]


def _badge(table: ScenarioTable, reference: ArmRow, compared: list[stats.Estimate]) -> str:
    blocks = units.count(table.complete_blocks, "block")
    if table.trials and not any(row.ok for row in table.rows):
        return f"no answer: {wording.every(table.trials, 'trial')} failed"
    if reference.ready is None or not reference.ready.is_reached:
        return f"no answer: {reference.arm} failed"
    bound = f"; {UPPER_BOUND}" if _bounds(table) else ""
    if all(map(_is_certain, compared)):
        return f"95 % intervals from {blocks}{bound}"
    if table.complete_blocks < stats.FEWEST_FOR_LEVEL:
        return f"not sure: {blocks} only{bound}"
    return f"not sure: too many trials failed{bound}"


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
    """Name an arm in a sentence; a name that is a common noun gets its article."""
    if row.arm not in ("container", "process"):
        return row.arm
    return f"{'the' if inside else 'The'} {row.arm}"


def _others(table: ScenarioTable) -> list[ArmRow]:
    """List the arms of the headline: the VMs if one ran, else all but the reference."""
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
    clauses = [_against(table, row) for row in others[:MOST_NAMED]]
    if len(others) > MOST_NAMED:
        clauses.append(f"{units.count(len(others) - MOST_NAMED, 'further arm')} in the table")
    found = f"{start}; {wording.listed(clauses)}."
    ratios = [row.ratio.estimate.interval for row in others if row.ratio is not None]
    if any(interval is None or not interval.is_certain for interval in ratios):
        # Too few blocks for a fact.
        blocks = units.count(table.complete_blocks, "block")
        return f"A first look, {blocks}: {re.sub('^The ', 'the ', found)}"
    return found


def _against(table: ScenarioTable, row: ArmRow) -> str:
    """Say in a clause how far an arm is from the reference."""
    if row.ready is None or not row.ready.is_reached:
        return _missed(row, inside=True)
    name = _named(row, inside=True)
    if row.difference is None or row.ratio is None or not row.ratio.estimate.is_reached:
        return f"{name} after {wording.duration(row.ready.median)}, but not beside it"
    bound = "≤ " if table.is_upper_bound(row) else ""
    if _is_unclear(row):
        return f"{name} is not told apart from that ({bound}{wording.ratio(row.ratio)})"
    far = row.difference.estimate.median
    word = "more" if far >= 0 else "less"
    factor = wording.times(row.ratio.estimate.median)
    return f"{name} needs {wording.duration(abs(far))} {word} ({bound}{factor})"


def _footprints(table: ScenarioTable, reference: ArmRow) -> Iterator[tuple[str, str]]:
    """Say in a sentence each what an instance takes on disk and in memory."""
    if not reference.ok:
        return
    yield from _footprint(table, reference, "disk", "Disk", "On disk each instance takes")
    # By the measure that the reference has: shares of pages, or the charge of its cgroup.
    metric = sentences.memory(reference) or "pss"
    name = sentences.SHORT[metric].removeprefix("memory ")
    yield from _footprint(table, reference, metric, "Memory", f"Memory {name}:")


def _footprint(
    table: ScenarioTable, reference: ArmRow, metric: str, subject: str, begin: str
) -> Iterator[tuple[str, str]]:
    base = reference.metrics.get(metric)
    if base is None:
        # A scale scenario may have read it of all instances at once: another sentence says so.
        if not any(curve.metric == metric for curve in table.growth):
            yield subject, f"{subject} was not measured."
        return
    amounts = []
    for row in _others(table)[:MOST_NAMED]:
        far = row.differences.get(metric)
        if far is None or not far.estimate.is_reached:
            # An arm whose memory is known by another measure alone is not subtracted from this.
            other = sentences.memory(row) if metric in sentences.MEMORY else ""
            if other and metric not in row.metrics:
                value = wording.median_amount(row.metrics[other], METRICS[other].unit)
                amounts.append(
                    f"{row.arm} {sentences.SHORT[other].removeprefix('memory ')}: {value}"
                )
            continue
        amount = wording.size(abs(far.estimate.median))
        word = "more" if far.estimate.median >= 0 else "less"
        more = f"{amount} {word}" if far.estimate.median else "as much"
        amounts.append(f"{row.arm} {more}")
    rest = f"; {wording.listed(amounts)}" if amounts else ""
    yield subject, f"{begin} {wording.size(base.median)} ({reference.arm}){rest}."


def _missed(row: ArmRow, *, inside: bool = False) -> str:
    missed = row.ready.censored if row.ready is not None else 0
    return f"{_named(row, inside=inside)} failed in {missed} of {units.count(row.trials, 'trial')}"


def _finding(table: ScenarioTable, row: ArmRow, reference: ArmRow) -> str:
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
    ratio = wording.ratio(row.ratio)
    bound = f" ({UPPER_BOUND})" if table.is_upper_bound(row) else ""
    if _is_unclear(row):
        return f"{start}, {ratio} that of {against}{bound}: the two are not told apart."
    word = "later" if row.difference.estimate.median >= 0 else "sooner"
    return (
        f"{start}: {wording.difference(row.difference)} {word} than {against}, or {ratio} its "
        f"time{bound}."
    )


def _is_unclear(row: ArmRow) -> bool:
    """Return whether the interval of the ratio contains 1."""
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
    each, once = [], []
    for row in table.rows:
        if row.exclusive is not None:
            each.append(f"{wording.size(row.exclusive.median)} ({row.arm})")
            if row.shared_bytes is not None:
                once.append(f"{wording.size(row.shared_bytes)} ({row.arm})")
    if not each:
        return []
    shared = f"; shared by all instances, once: {wording.listed(once)}" if once else ""
    return [f"On disk, each instance allocates {wording.listed(each)}{shared}."]


def _spread(
    table: ScenarioTable, compared: list[stats.Estimate], reference: ArmRow
) -> Iterator[str]:
    """Explain the intervals."""
    reached = [found for found in compared if found.is_reached]
    if not reached:
        yield "There is no figure to be sure of."
        return
    fewest = min(reached, key=lambda found: found.count)
    blocks = units.count(fewest.count, "block")
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
        "Every block ran each arm, in random order, and a × is the median of the ratios within "
        "blocks, not the ratio of two medians: what slowed the host for longer than a block (heat, "
        "other work) weighs on all arms; a short disturbance still falls on one of them."
    )
    against = _named(reference, inside=True)
    unclear = [row.arm for row in table.rows if _is_unclear(row)]
    if unclear:
        yield (
            f"The interval of {wording.listed(unclear)} contains 1 ×: chance alone could make "
            f"that difference to {against}, and a real one as large as the interval is not ruled "
            "out."
        )
    elif any(row.ratio is not None for row in table.rows):
        yield (
            f"No interval contains 1 ×: chance alone would make such a difference to {against} in "
            "less than 1 of 20 comparisons."
        )


def _failures(table: ScenarioTable, reference: ArmRow) -> Iterator[str]:
    bad = [row for row in table.rows if row.trials > row.ok]
    if table.failed_beside:
        yield (
            f"{units.count(table.failed_beside, 'trial')} that are in no figure failed (warm-up, "
            "discarded, or of a block that was taken again); trials.jsonl has their errors."
        )
    if not bad:
        counted = " that count" if table.failed_beside else ""
        yield f"All {units.count(table.trials, 'trial')}{counted} went well."
        return
    counts = [f"{row.trials - row.ok} of {row.trials} in {row.arm}" for row in bad]
    yield (
        f"Trials failed or were not ready in time: {wording.listed(counts)}. They count as slower "
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


def _emulation(table: ScenarioTable, reference: ArmRow) -> Iterator[str]:
    if not any(row.is_emulated and row.trials for row in table.rows):
        return
    begin = "The VMs' processors were emulated (TCG), not virtualised: read their "
    if reference.is_emulated:
        yield f"{begin}times as an upper bound; where KVM works they are smaller."
    else:
        against = _named(reference, inside=True)
        yield (
            f"{begin}distance to {against} as an upper bound; where KVM works it is smaller. "
            "Their CPU time is the emulator's too; disk is the same."
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
    verb = "is" if table.complete_blocks == 1 else "are"
    blocks = f"{table.complete_blocks} of {units.count(info.asked_blocks, 'block')}"
    return [f"The run {how}: {blocks} {verb} complete."]
