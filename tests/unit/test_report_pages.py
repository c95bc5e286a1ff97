"""The pages of any run: complete, well-formed, self-contained, and safe from what users wrote."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import pytest
from rich.console import Console

from harness.analysis.summary import summarise
from harness.cli.terminal import print_summary
from harness.model import Milestone
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import RecordError
from harness.records import Run, RunWriter, read_run
from harness.report import write_report
from harness.report.text.answer import verdict
from harness.report.text.tables import effort_grid, memory_grid, start_grid
from tests.support.synthetic import synthetic_run, synthetic_scale_run

ODD = {
    "ordinary": {"blocks": 7, "scenarios": ("hello", "python-http")},
    "no trials": {"blocks": 0, "warmup_blocks": 0},
    "warm-up only": {"blocks": 0, "warmup_blocks": 2},
    "one block": {"blocks": 1},
    "one arm": {"blocks": 3, "arms": ("container",)},
    "no container": {"blocks": 6, "arms": ("vm-micro", "vm-classic")},
    "only failures": {"blocks": 3, "failure_rate": 1.0},
    "interrupted": {"blocks": 4, "interrupted": True},
    "no scenario": {"scenarios": ()},
    "cold, again": {
        "blocks": 3,
        "arms": ("container", "vm-micro"),
        "cold": True,
        "again": "container",
    },
}


@pytest.fixture(params=ODD.values(), ids=ODD.keys())
def odd(request: pytest.FixtureRequest) -> Run:
    return synthetic_run(**{"scenarios": ("hello",), **request.param})


class Page(HTMLParser):
    """Checks nesting, and gathers text, identifiers and references."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.parts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._take(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._take(tag, attrs)

    def _take(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.identifiers.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value or "")
            assert not name.startswith("on"), "a handler is a script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.parts.append(data)


def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text())


def test_every_run_has_all_its_pages(odd: Run, tmp_path: Path) -> None:
    paths = write_report(odd, tmp_path)
    assert [path.name for path in paths[:2]] == ["report.html", "summary.md"]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)
    found = page(tmp_path)
    assert len(found.identifiers) == len(set(found.identifiers))
    assert all(r.startswith("#") and r[1:] in found.identifiers for r in found.references)
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    markdown = (tmp_path / "summary.md").read_text()
    summary = summarise(odd)
    for table in summary.tables:
        answer = verdict(table, summary).headline
        assert answer in found.text
        assert answer in markdown.replace("\\", "")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", found.text + markdown)


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    write_report(synthetic_run(blocks=2, scenarios=("hello",)), tmp_path)
    html = (tmp_path / "report.html").read_text()
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s<)]+", html)) <= namespaces
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_the_page_answers_a_stranger(tmp_path: Path) -> None:
    """What was run, where, how often, what the VM costs over the container, how sure that is."""
    run = synthetic_run(blocks=20, seed=1)
    write_report(run, tmp_path)
    text = page(tmp_path).text
    summary = summarise(run)
    for told in (
        "/usr/bin/python3 -m http.server 8000 in image debian-python",
        "Ready when GET / on port 8000 first answers 200",
        "AMD EPYC 7B13",
        "not known: this host has no cpufreq",
        "80 trials of 4 arms: 20 blocks of the 20 asked for",
        "in an order drawn with seed 1",
        "95 % intervals from 20 blocks",
        "steelyard run scenarios/hello.toml scenarios/python-http.toml --blocks 20 --seed 1",
        "their distance to the container as an upper bound",
        run.info.run_id,
    ):
        assert told in text, told
    for table in summary.tables:
        found = verdict(table, summary)
        assert text.index(table.scenario.question) < text.rindex(found.headline)
        assert all(sentence in text for sentence in (*found.findings, *found.certainty))
        assert table.scenario.source.split("\n")[0] in text
    for milestone in Milestone:
        assert milestone in text
    for doubt in summary.doubts:
        assert f"{doubt.code} : {doubt.remedy}" in text


HOSTILE = "<script>alert(1)</script>\"'&<b>|`{{ 7*7 }}{% raw %}](x)\n# head"


def hostile() -> Run:
    """A run in which whatever a user or a guest can write is meant to break out."""
    run = synthetic_run(blocks=3, scenarios=("hello",), arms=("container", "vm-micro"), seed=3)
    scenario = dataclasses.replace(
        run.info.scenarios[0], question=HOSTILE, image=HOSTILE, source=HOSTILE, path=HOSTILE
    )
    info = dataclasses.replace(
        run.info,
        scenarios=(scenario,),
        command=("steelyard", "run", HOSTILE),
        environment=MappingProxyType({"cpu_model": HOSTILE}),
        arms=tuple(
            dataclasses.replace(record, facts=MappingProxyType({"argv": HOSTILE}))
            for record in run.info.arms
        ),
    )
    trials = synthetic_run(
        blocks=3, scenarios=("hello",), arms=("container", "vm-micro"), failure_rate=0.6, seed=3
    ).trials
    changed = tuple(
        dataclasses.replace(t, error=HOSTILE, console=HOSTILE) if t.error else t for t in trials
    )
    assert any(trial.error for trial in changed)
    return Run(info, changed)


def test_what_users_and_guests_write_stays_text(tmp_path: Path) -> None:
    write_report(hostile(), tmp_path)
    found = page(tmp_path)
    assert not found.tags & {"script", "b"}
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7*7 }}" in found.text
    markdown = (tmp_path / "summary.md").read_text()
    outside = re.sub(r"```+sh\n.*?\n```+\n", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside
    assert not re.search(r"^# head", outside, flags=re.MULTILINE)


def test_markdown_tables_have_even_rows(tmp_path: Path) -> None:
    write_report(hostile(), tmp_path)
    tables = re.findall(r"(?:^\|.*\n)+", (tmp_path / "summary.md").read_text(), re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_markdown_names_charts_that_exist(tmp_path: Path) -> None:
    write_report(synthetic_run(blocks=2, scenarios=("hello",)), tmp_path)
    named = re.findall(r"\]\((charts/[^)]+)\)", (tmp_path / "summary.md").read_text())
    assert len(named) == 5
    assert all((tmp_path / name).is_file() for name in named)


def test_a_report_of_records_is_the_same_as_of_the_run(tmp_path: Path) -> None:
    """From disk and back, twice, byte for byte: old runs can be reported again."""
    run = synthetic_run(blocks=5, failure_rate=0.1, scenarios=("hello",))
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(run.info)
        for trial in run.trials:
            writer.append(trial)
    first = write_report(run, tmp_path / "first")
    again = write_report(read_run(tmp_path / "run"), tmp_path / "run")
    assert len(first) == len(again)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        write_report(synthetic_run(blocks=1), tmp_path / "file")


# -- The terminal ---------------------------------------------------------------------------------


def printed(run: Run, width: int, *, terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, legacy_windows=False
    )
    print_summary(run, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_terminal_gets_every_answer_in_its_width(odd: Run, width: int) -> None:
    text = printed(odd, width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "\x1b" not in text
    assert "…" not in text, "a cell was cut"
    flat = " ".join(text.split())
    summary = summarise(odd)
    for table in summary.tables:
        found = verdict(table, summary)
        assert found.headline in flat
        assert not table.trials or f"({found.badge})" in flat
        # Bullets are wrapped with an indent, so compare words.
        assert all(sentence in flat for sentence in found.certainty)
    for doubt in summary.doubts:
        assert f"{doubt.code}: {doubt.remedy}." in flat


def test_a_wide_terminal_shows_the_milestones_and_a_narrow_one_what_fits() -> None:
    run = synthetic_run(blocks=20)
    assert "userspace" in printed(run, 100)
    assert "userspace" not in printed(run, 80)


def test_no_figure_parts_from_its_unit_however_narrow_the_terminal() -> None:
    """A table that does not fit becomes a list, arm by arm."""
    run = synthetic_run(blocks=6, scenarios=("hello",))
    table = summarise(run).tables[0]
    for width in (40, 60):
        text = printed(run, width)
        for grid in (start_grid(table, with_marks=False), memory_grid(table), effort_grid(table)):
            for row in grid.rows:
                assert all(cell in text for cell in row), (width, row)


def test_the_terminal_shows_every_cost_and_says_what_bounds_a_ratio() -> None:
    text = printed(synthetic_run(blocks=6, scenarios=("hello",), again="container"), 100)
    order = [
        text.index(word)
        for word in ("ready ", "shared, once", "MemAvailable", "work, end", "60 s")
        if word in text
    ]
    assert order == sorted(order)
    assert "≤: an upper bound" in text
    assert "Noise of this host, container against itself" in " ".join(text.split())


def test_a_scale_run_is_told_in_sentences() -> None:
    flat = " ".join(printed(synthetic_scale_run(full_at=5), 80).split())
    assert "container, up to 8 instances: each further one takes" in flat
    assert "vm-micro: the 6th instance could not be started." in flat


def test_a_thousand_distinct_doubts_make_no_wall() -> None:
    run = synthetic_run(blocks=250, scenarios=("hello",), warmup_blocks=0)
    code = DiagnosticCode.LOADED_HOST
    trials = tuple(
        dataclasses.replace(t, diagnostics=(Diagnostic(code, f"load {place}"),))
        for place, t in enumerate(run.trials)
    )
    text = printed(Run(run.info, trials), 100)
    assert text.count("load ") < 20
    assert "and 989 more like these, in the records" in text


def test_colour_carries_nothing_alone() -> None:
    run = synthetic_run(blocks=6, failure_rate=0.3)
    coloured = printed(run, 100, terminal=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(run, 100)


def test_markup_of_users_is_not_obeyed() -> None:
    run = hostile()
    scenario = dataclasses.replace(run.info.scenarios[0], question="[red]why[/red] [/]")
    text = printed(Run(dataclasses.replace(run.info, scenarios=(scenario,)), run.trials), 100)
    assert "[red]why[/red] [/]" in text


def test_failures_are_named_in_the_terminal() -> None:
    text = printed(synthetic_run(blocks=6, scenarios=("hello",), failure_rate=0.5), 100)
    assert "not ready within 60 s" in text
    assert DiagnosticCode.FORCED_STOP in text


# -- The diet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["harness.records", "harness.report", "harness.stats"])
def test_what_the_command_line_imports_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"pandas", "numpy", "matplotlib", "jinja2", "rich", "scipy", "pydantic"}
    assert not heavy & set(loaded)


def test_a_report_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import matplotlib as mpl
from tests.support.synthetic import synthetic_run, synthetic_scale_run
from harness.report import write_report
from harness.report.text.tables import effort_grid, memory_grid, start_grid

mpl.rcParams["font.size"] = 31
write_report(synthetic_run(blocks=1, scenarios=('hello',)), Path({str(tmp_path)!r}))
assert "matplotlib.pyplot" not in sys.modules
assert mpl.rcParams["font.size"] == 31
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root)
