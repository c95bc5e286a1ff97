"""A judgement in the form that its reader wants: terminal, pull request, CI system, program.

Each form is a module with one pure function `render(judgement) -> str`, imported on demand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.model.errors import HarnessError
from harness.model.suggestions import did_you_mean

if TYPE_CHECKING:
    from harness.analysis.judgement import Finding, Judgement

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "terminal": "plain text: the verdict, then a line for each finding",
        "markdown": "for a pull request's comment or $GITHUB_STEP_SUMMARY; details folded",
        "junit": "JUnit XML, which GitHub, GitLab and Jenkins read",
        "github": "workflow commands: annotations at the line of each budget",
        "json": "everything, with units, for programs",
        "badge": "an SVG image of the verdict",
    }
)
"""Name -> purpose."""
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Control characters, surrogates, and all else that XML 1.0 (section 2.2) excludes even escaped."""


def render_judgement(judgement: Judgement, name: str, *, cannot_tell_fails: bool = False) -> str:
    """Put a judgement into a form, a key of `FORMATS`; it ends with a newline.

    Args:
        judgement: Of any command.
        name: Of the form.
        cannot_tell_fails: Whether JUnit has "cannot tell" as a failure; else it is skipped there.

    Raises:
        HarnessError: There is no such form.
    """
    if name not in FORMATS:
        problem = f"there is no output format {name!r}"
        raise HarnessError(f"{problem}; {did_you_mean(name, tuple(FORMATS))}")
    module = import_module(f"harness.report.judgement.{name}")
    options = {"cannot_tell_fails": cannot_tell_fails} if name == "junit" else {}
    text: str = module.render(printable(judgement), **options)
    return text


def printable(judgement: Judgement) -> Judgement:
    """Replace characters in names and sentences that terminals must not get and XML excludes."""

    def cleaned(finding: Finding) -> dict[str, Any]:
        names = ("scenario", "arm", "sentence", "source")
        return {name: _clean(getattr(finding, name)) for name in names}

    return replace(
        judgement,
        question=_clean(judgement.question),
        findings=tuple(replace(finding, **cleaned(finding)) for finding in judgement.findings),
        refusals=tuple(map(_clean, judgement.refusals)),
        facts={_clean(name): _clean(value) for name, value in judgement.facts.items()},
    )


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)
