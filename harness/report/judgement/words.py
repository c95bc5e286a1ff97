"""Words of all forms: the verdict, names, values with their units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from harness.analysis import limits
from harness.analysis.judgement import ExitCode, Finding, Judgement, Verdict
from harness.model.units import spell
from harness.report.text.wording import NONE, NOT_REACHED

HEADLINES: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.FINE: "fine",
        ExitCode.REGRESSED: "regressed",
        ExitCode.USAGE: "not judged",
        ExitCode.CANNOT_TELL: "cannot tell",
    }
)


@dataclass(frozen=True, slots=True)
class Sign:
    """How a verdict looks, whatever the form; its word is `Finding.word`, in all of them.

    Attributes:
        mark: A shape, since colour alone says nothing; ▲ is more, which is worse.
        icon: The same in Markdown, which has no colour of its own.
        annotation: Level of GitHub's annotation; empty where there is none.
    """

    mark: str
    icon: str
    annotation: str = ""


SIGNS: Mapping[Verdict, Sign] = MappingProxyType(
    {
        Verdict.WORSE: Sign("▲", "🔴", "error"),
        Verdict.CANNOT_TELL: Sign("?", "🟡", "warning"),
        Verdict.BETTER: Sign("▼", "🟢", "notice"),
        Verdict.SAME: Sign("=", "⚪"),
    }
)
"""Gravest first."""


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by verdict; those of one verdict stay in order."""
    order = tuple(SIGNS)
    return sorted(findings, key=lambda finding: order.index(finding.verdict))


def headline(judgement: Judgement) -> str:
    """Write one line: `regressed: 1 worse, 2 same`."""
    found = Counter(finding.word for finding in gravest_first(judgement.findings))
    counts = [f"{number} {word}" for word, number in found.items()]
    if judgement.refusals:
        counts.append(f"{len(judgement.refusals)} not judged")
    return f"{HEADLINES[judgement.exit_code]}: {', '.join(counts) or 'nothing was judged'}"


def name_of(finding: Finding) -> str:
    """Name scenario, arm and metric: `hello, container: ready`, `…: ready / anchor`."""
    anchored = " / anchor" if finding.is_ratio else ""
    return f"{finding.scenario}, {finding.arm}: {finding.metric}{anchored}"


def quantity(finding: Finding, value: float | None) -> str:
    """Spell a value of the finding's metric with its unit; a dash where there is none."""
    if value is None or math.isnan(value):
        return NONE
    return spell(finding.quantity.unit, value)


def percent(ratio: float | None) -> str:
    """Spell a ratio as a change: `+10.2 %`; a dash where there is none."""
    if ratio is None or math.isnan(ratio):
        return NONE
    return limits.percent(ratio) if math.isfinite(ratio) else NOT_REACHED


def interval(finding: Finding) -> str:
    """Spell the interval of a finding, as a change where it is one of ratios; else a dash."""
    if finding.interval is None:
        return NONE
    spell = percent if finding.ratio is not None else lambda end: quantity(finding, end)
    ends = (finding.interval.low, finding.interval.high)
    low, high = (spell(end) if math.isfinite(end) else "?" for end in ends)
    return f"{low} to {high}"


def columns(findings: Sequence[Finding]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay findings out in columns: their heads, and a row of cells for each.

    A ratio within blocks does not stand beside two medians, which would be taken for its terms:
    those are levels of the run, and come last.
    """
    names = ("verdict", "scenario", "arm", "metric")
    is_paired = any(finding.is_paired for finding in findings)
    change = ("within a block" if is_paired else "change", "95 % interval or wider", "blocks")
    levels = ("over the run: B", "A") if is_paired else ("value", "against")
    rows: list[tuple[str, ...]] = []
    for one in findings:
        named = (f"{SIGNS[one.verdict].mark} {one.word}", one.scenario, one.arm, one.metric)
        judged = (percent(one.ratio), interval(one), str(one.blocks))
        seen = (quantity(one, one.value), quantity(one, one.reference))
        rows.append((*named, *judged, *seen) if is_paired else (*named, *seen, *judged))
    return (*names, *change, *levels) if is_paired else (*names, *levels, *change), rows
