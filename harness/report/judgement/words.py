"""Words of all forms: the verdict, names, values with their units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
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
MARKS: Mapping[Verdict, str] = MappingProxyType(
    {
        Verdict.BETTER: "▼",
        Verdict.SAME: "=",
        Verdict.WORSE: "▲",
        Verdict.CANNOT_TELL: "?",
    }
)
"""A shape for each verdict, since colour alone says nothing; ▲ is more, which is worse."""


def headline(judgement: Judgement) -> str:
    """Write one line: `regressed: 1 worse, 2 same`."""
    order = (Verdict.WORSE, Verdict.CANNOT_TELL, Verdict.BETTER, Verdict.SAME)
    by_gravity = sorted(judgement.findings, key=lambda one: order.index(one.verdict))
    found = Counter(finding.word for finding in by_gravity)
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
