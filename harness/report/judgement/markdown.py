"""GitHub-flavoured Markdown: the verdict and what is not fine in the open, the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.report.judgement.words import MARKS, headline, interval, name_of, percent, quantity

_ICONS = {
    Verdict.BETTER: "🟢",
    Verdict.SAME: "⚪",
    Verdict.WORSE: "🔴",
    Verdict.CANNOT_TELL: "🟡",
}


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    blocks = [f"### Steelyard: {_text(headline(judgement))}", _text(judgement.question)]
    news = [finding for finding in judgement.findings if finding.verdict is not Verdict.SAME]
    facts = judgement.facts.items()
    blocks.append(_bullets(map(_sentence, news)))
    blocks.append(_bullets(f"**not judged**: {_text(text)}" for text in judgement.refusals))
    details = [_table(judgement)] if judgement.findings else []
    details.append(_bullets(f"{_text(name)}: {_text(value)}" for name, value in facts))
    if folded := "\n\n".join(filter(None, details)):
        number = len(judgement.findings)
        title = f"All {number} findings" if number != 1 else "The finding"
        blocks.append(f"<details><summary>{title}</summary>\n\n{folded}\n\n</details>")
    return "\n\n".join(filter(None, blocks)) + "\n"


def _sentence(finding: Finding) -> str:
    icon, name = _ICONS[finding.verdict], _text(name_of(finding))
    return f"{icon} **{name}: {finding.word}.** {_text(finding.sentence)}"


def _table(judgement: Judgement) -> str:
    rows = [
        "| | scenario | arm | metric | value | against | change | 95 % interval or wider | pairs |",
        "|---|---|---|---|--:|--:|--:|---|--:|",
    ]
    for finding in judgement.findings:
        cells = (
            f"{MARKS[finding.verdict]} {finding.word}",
            finding.scenario,
            finding.arm,
            finding.metric,
            quantity(finding, finding.value),
            quantity(finding, finding.reference),
            percent(finding.ratio),
            interval(finding),
            str(finding.blocks),
        )
        rows.append(f"| {' | '.join(map(_text, cells))} |")
    return "\n".join(rows)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _text(text: str) -> str:
    """Escape names and sentences: nothing in them is markup, a mention or a link."""
    text = re.sub(r"([\\`*_{}\[\]<>|#~@])", r"\\\1", text)
    return " ".join(text.split())
