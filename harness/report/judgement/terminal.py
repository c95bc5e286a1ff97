"""Plain text for a terminal or a log: the verdict first, then a line for each finding."""

from __future__ import annotations

from harness.analysis.judgement import Judgement
from harness.report.judgement.words import SIGNS, headline, name_of


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    lines = [judgement.question, ""]
    for finding in judgement.findings:
        lines.append(f"  {SIGNS[finding.verdict].mark} {name_of(finding)}: {finding.word}")
        lines.append(f"      {finding.sentence}")
    lines += [f"  ! not judged: {refusal}" for refusal in judgement.refusals]
    if judgement.findings or judgement.refusals:
        lines.append("")
    lines += [f"  {name}: {value}" for name, value in judgement.facts.items()]
    if judgement.facts:
        lines.append("")
    lines.append(headline(judgement))
    return "\n".join(lines) + "\n"
