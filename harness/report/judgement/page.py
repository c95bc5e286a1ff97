"""The verdict of a comparison as the head of its run's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis.judgement import ExitCode, Judgement
from harness.report.judgement import printable
from harness.report.judgement.words import SIGNS, columns, gravest_first, headline, name_of
from harness.report.text.tables import Grid


@dataclass(frozen=True, slots=True)
class VerdictSection:
    """What a page shows of a judgement.

    Attributes:
        title: The question, as a title.
        headline: The verdict in one line.
        is_sure: Whether there is a verdict.
        findings: Mark, name and word, then the sentence of each; the gravest first.
        refusals: Why something was not judged.
        facts: What A and B are, how many blocks there were, the seed.
        grid: All findings as a table.
    """

    title: str
    headline: str
    is_sure: bool
    findings: tuple[tuple[str, str], ...]
    refusals: tuple[str, ...]
    facts: Mapping[str, str]
    grid: Grid


def verdict_section(judgement: Judgement | None) -> VerdictSection | None:
    """Lay a judgement out for a page; None where a run has none."""
    if judgement is None:
        return None
    judgement = printable(judgement)
    found = gravest_first(judgement.findings)
    heads, rows = columns(found)
    return VerdictSection(
        title=judgement.question[:1].upper() + judgement.question[1:],
        headline=headline(judgement),
        is_sure=judgement.exit_code is not ExitCode.CANNOT_TELL,
        findings=tuple(
            (f"{SIGNS[one.verdict].mark} {name_of(one)}: {one.word}", one.sentence) for one in found
        ),
        refusals=judgement.refusals,
        facts=judgement.facts,
        grid=Grid(heads, tuple(rows)),
    )
