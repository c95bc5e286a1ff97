"""Every page as a whole: the sentences that a user reads stand in one golden file a page.

Other tests hold codes, figures and structure; what a page says is reviewed here, as a diff.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.summary import Summary, summarise
from harness.cli.terminal import print_summary
from harness.report import render
from harness.report.judgement import FORMATS, render_judgement
from harness.stats import Interval, Method
from tests.support.synthetic import synthetic_run, synthetic_scale_run

GOLDEN = Path(__file__).parent
RUN = summarise(synthetic_run(blocks=20, scenarios=("hello",)))
SCALE = summarise(synthetic_scale_run())
JUDGEMENT = Judgement(
    "is B (app:2) worse than A (app:1)?",
    (
        Finding(
            "hello", "container", "ready", Verdict.WORSE,
            "4.42 ms against A's 4.01 ms: +10.2 % [+6.1 % to +14.0 %] estimated from 67 pairs",
            value=4.42e6, reference=4.01e6, ratio=1.102, limit=1.05, detectable=0.03, blocks=67,
            interval=Interval(1.061, 1.14, 0.98, Method.ORDER_STATISTICS),
            source="scenarios/hello.toml:31",
        ),
        Finding(
            "hello", "container", "disk", Verdict.SAME, "exactly 24,576 bytes (24.6 kB) in both",
            value=24576.0, reference=24576.0, ratio=1.0, blocks=67,
        ),
        Finding(
            "hello", "vm-micro", "ready", Verdict.CANNOT_TELL,
            "5 blocks find no change below 20 %; take 40", blocks=5,
        ),
    ),
    ("the baseline is from another host; take one here",),
    {"A": "app:1", "B": "app:2", "seed": "7"},
)  # fmt: skip


class Text(HTMLParser):
    """What a page says: a line for each block of text, without style and pictures."""

    SILENT = frozenset({"style", "svg", "script"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._silent: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.SILENT:
            self._silent.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        line = " ".join(data.replace("\N{NO-BREAK SPACE}", " ").split())
        if line and not self._silent:
            self.lines.append(line)


def terminal() -> str:
    file = io.StringIO()
    print_summary(RUN, Console(file=file, width=80, legacy_windows=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def page(form: str, summary: Summary = RUN) -> str:
    text = render([summary], form).decode()
    return text if form == "markdown" else "\n".join(Text(text).lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "page-run.terminal": terminal,
    "page-run.summary.md": lambda: page("markdown"),
    "page-run.report": lambda: page("html"),
    "page-growth.summary.md": lambda: page("markdown", SCALE),
    **{f"page-judgement.{name}": partial(render_judgement, JUDGEMENT, name) for name in FORMATS},
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_said(name: str) -> None:
    text = re.sub(r"Steelyard \d+\.\d+\.\d+", "Steelyard VERSION", PAGES[name]())
    golden = GOLDEN / name
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text
