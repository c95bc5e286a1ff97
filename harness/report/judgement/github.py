"""GitHub's workflow commands: an annotation for each finding that is not fine.

Printed to the log of a step, they appear at the line of the scenario file whose budget they are
about (docs.github.com, "Workflow commands for GitHub Actions").
"""

from __future__ import annotations

from harness.analysis.judgement import Finding, Judgement
from harness.report.judgement.words import SIGNS, gravest_first, headline, name_of

_MOST = 10
"""GitHub shows no more of a level for one step, and says nothing of the rest."""


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    by_level: dict[str, list[str]] = {}
    for finding in gravest_first(judgement.findings):
        if level := SIGNS[finding.verdict].annotation:
            command = _command(level, _place(finding), finding.sentence)
            by_level.setdefault(level, []).append(command)
    by_level.setdefault("warning", []).extend(
        _command("warning", {"title": "Steelyard: not judged"}, text) for text in judgement.refusals
    )
    lines = [
        line
        for level in (sign.annotation for sign in SIGNS.values())
        for line in _bounded(level, by_level.get(level, []))
    ]
    lines.append(_data(headline(judgement)))
    return "\n".join(lines) + "\n"


def _bounded(level: str, commands: list[str]) -> list[str]:
    """As many as GitHub shows, of which the last counts those that are left out."""
    if len(commands) <= _MOST:
        return commands
    shown = commands[: _MOST - 1]
    text = f"and {len(commands) - len(shown)} more; the log and the other forms have all of them"
    return [*shown, _command(level, {"title": "Steelyard"}, text)]


def _place(finding: Finding) -> dict[str, str]:
    path, colon, line = finding.source.rpartition(":")
    place = {"file": path, "line": line} if colon and line.isdecimal() else {}
    return {**place, "title": f"{name_of(finding)}: {finding.word}"}


def _command(level: str, properties: dict[str, str], text: str) -> str:
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {named}::{_data(text)}"


def _data(text: str) -> str:
    """Escape as @actions/core does: a line break would begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
