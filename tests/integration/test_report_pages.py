"""The pages of any run: complete, well-formed, self-contained, and safe from what users wrote."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.analysis.summary import summarise
from harness.model import Milestone
from harness.model.errors import RecordError
from harness.records import Run, RunWriter, read_run
from harness.report import write_report
from harness.report.text.answer import answer
from tests.support.odd_runs import ODD, hostile
from tests.support.synthetic import synthetic_run


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
        for _, sentence in answer(table, summary).rows:
            assert sentence in found.text
            assert sentence in markdown.replace("\\", "")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", found.text + markdown)


@pytest.fixture(scope="module")
def small_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    write_report(synthetic_run(blocks=2, scenarios=("hello",)), directory)
    return directory


def test_the_page_fetches_nothing(small_pages: Path) -> None:
    html = (small_pages / "report.html").read_text()
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
        "/usr/bin/python3 -m http.server 8000",
        "debian-python",
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
        found = answer(table, summary)
        assert text.index(table.scenario.question) < text.rindex(found.rows[0][1])
        assert all(sentence in text for sentence in (*found.findings, *found.certainty))
        assert table.scenario.source.split("\n")[0] in text
    for milestone in Milestone:
        assert milestone in text
    for doubt in summary.diagnostics:
        assert f"{doubt.code} : {doubt.remedy}" in text


@pytest.fixture(scope="module")
def hostile_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    write_report(hostile(), directory)
    return directory


def test_what_users_and_guests_write_stays_text(hostile_pages: Path) -> None:
    found = page(hostile_pages)
    assert not found.tags & {"script", "b"}
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7*7 }}" in found.text
    markdown = (hostile_pages / "summary.md").read_text()
    outside = re.sub(r"```+sh\n.*?\n```+\n", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside
    assert not re.search(r"^# head", outside, flags=re.MULTILINE)


def test_markdown_tables_have_even_rows(hostile_pages: Path) -> None:
    markdown = (hostile_pages / "summary.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_markdown_names_charts_that_exist(small_pages: Path) -> None:
    named = re.findall(r"\]\((charts/[^)]+)\)", (small_pages / "summary.md").read_text())
    assert len(named) == 5
    assert all((small_pages / name).is_file() for name in named)


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


def test_a_report_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import matplotlib as mpl
from tests.support.odd_runs import HOSTILE, ODD, hostile
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
