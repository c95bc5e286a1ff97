"""GitHub-flavoured Markdown: the verdict and what is not fine in the open, the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.report.judgement import printable
from harness.report.judgement.words import SIGNS, columns, gravest_first, headline, name_of

MOST_BYTES = 60_000
"""GitHub refuses a comment of 65,536 characters, and leaves room here for what is put around it."""
_MOST_OF_A_SENTENCE = 1_500
_ESCAPE = "\\"
_LEFT = ("verdict", "scenario", "arm", "metric")
"""Columns of words; the others are figures."""


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    found = gravest_first(judgement.findings)
    news = [_sentence(finding) for finding in found if finding.verdict is not Verdict.SAME]
    news += [f"**not judged**: {_text(text)}" for text in judgement.refusals]
    facts = [f"{_text(name)}: {_text(value)}" for name, value in judgement.facts.items()]
    blocks = [
        f"### Steelyard: {_text(headline(judgement))}",
        _text(judgement.question),
        bullets(news, MOST_BYTES // 2),
    ]
    details = bullets(facts, MOST_BYTES // 10)
    if found:
        # Whatever the sentences and facts leave free.
        room = MOST_BYTES - 1_000 - len("\n".join((*blocks, details)).encode())
        details = f"{table(found, room)}\n\n{details}"
    if details:
        number = len(found)
        title = f"All {number} findings" if number != 1 else "The finding"
        blocks.append(f"<details><summary>{title}</summary>\n\n{details.rstrip()}\n\n</details>")
    return "\n\n".join(filter(None, blocks)) + "\n"


def comparison(judgement: Judgement) -> list[str]:
    """Make the head of a comparison's summary: the verdict, each finding, what A and B are."""
    judgement = printable(judgement)
    question = judgement.question
    found = gravest_first(judgement.findings)
    sentences = [_sentence(finding) for finding in found]
    sentences += [f"**not judged**: {_text(text)}" for text in judgement.refusals]
    facts = [f"{_text(name)}: {_text(value)}" for name, value in judgement.facts.items()]
    blocks = [
        f"# {_text(question[:1].upper() + question[1:])}",
        f"**{_text(headline(judgement))}**",
        bullets(sentences, MOST_BYTES // 4),
        table(found, MOST_BYTES // 4) if found else "",
        bullets(facts, MOST_BYTES // 10),
    ]
    return list(filter(None, blocks))


def _sentence(finding: Finding) -> str:
    icon, name = SIGNS[finding.verdict].icon, _text(name_of(finding))
    return f"{icon} **{name}: {finding.word}.** {_text(finding.sentence)}"


def table(findings: Sequence[Finding], room: int) -> str:
    """Lay findings out as a table of at most so many bytes."""
    heads, rows = columns(findings)
    lines = [_row(heads), _row([":--" if head in _LEFT else "--:" for head in heads])]
    kept, left = _fitting([_row(list(map(_text, row))) for row in rows], room)
    text = "\n".join([*lines, *kept])
    return f"{text}\n\nand {left} more" if left else text


def bullets(items: Iterable[str], room: int) -> str:
    """List sentences, in at most so many bytes."""
    kept, left = _fitting([f"- {_cut(item)}" for item in items], room)
    return "\n".join([*kept, f"- and {left} more"] if left else kept)


def _fitting(lines: Sequence[str], room: int) -> tuple[list[str], int]:
    """Keep the first lines that fit, and count the others."""
    kept: list[str] = []
    for line in lines:
        room -= len(line.encode(errors="replace")) + 1
        if room < 0:
            break
        kept.append(line)
    return kept, len(lines) - len(kept)


def _cut(text: str) -> str:
    """Cut a sentence that goes on for pages, such as one that names a hundred layers."""
    if len(text) <= _MOST_OF_A_SENTENCE:
        return text
    # Not between an escape and its character.
    return f"{text[:_MOST_OF_A_SENTENCE].rstrip(_ESCAPE)} …"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Escape names and sentences: nothing in them is markup, a mention or a link."""
    text = re.sub(r"([\\`*_{}\[\]<>|#~@])", r"\\\1", text)
    return " ".join(text.split())
