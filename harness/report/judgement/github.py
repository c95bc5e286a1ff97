"""GitHub's workflow commands: an annotation for each finding that is not fine.

Printed to the log of a step, they appear at the line of the scenario file whose budget they are
about (docs.github.com, "Workflow commands for GitHub Actions").
"""

from __future__ import annotations

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.report.judgement.words import headline, name_of

_LEVELS = {Verdict.WORSE: "error", Verdict.CANNOT_TELL: "warning", Verdict.BETTER: "notice"}


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    lines = [
        _command(_LEVELS[finding.verdict], _place(finding), finding.sentence)
        for finding in judgement.findings
        if finding.verdict in _LEVELS
    ]
    lines += [
        _command("warning", {"title": "Steelyard: not judged"}, text) for text in judgement.refusals
    ]
    lines.append(_data(headline(judgement)))
    return "\n".join(lines) + "\n"


def _place(finding: Finding) -> dict[str, str]:
    path, colon, line = finding.source.rpartition(":")
    place = {"file": path, "line": line} if colon and line.isdecimal() else {}
    return {**place, "title": f"{name_of(finding)}: {finding.verdict}"}


def _command(level: str, properties: dict[str, str], text: str) -> str:
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {named}::{_data(text)}"


def _data(text: str) -> str:
    """Escape as @actions/core does: a line break would begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
