"""The summary in a terminal: every answer, in any width; and that reports cost no import."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from harness.analysis.summary import summarise
from harness.cli.terminal import print_summary
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.records import Run
from harness.report.text.answer import answer
from harness.report.text.tables import effort_grid, memory_grid, start_grid
from tests.support.odd_runs import ODD, hostile
from tests.support.synthetic import synthetic_run, synthetic_scale_run


@pytest.fixture(params=ODD.values(), ids=ODD.keys())
def odd(request: pytest.FixtureRequest) -> Run:
    return synthetic_run(**{"scenarios": ("hello",), **request.param})


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
        found = answer(table, summary)
        assert found.headline in flat
        assert not table.trials or f"({found.badge})" in flat
        # Bullets are wrapped with an indent, so compare words.
        assert all(sentence in flat for sentence in found.certainty)
    for doubt in summary.diagnostics:
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


@pytest.mark.parametrize("module", ["harness.records", "harness.report", "harness.stats"])
def test_what_the_command_line_imports_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"pandas", "numpy", "matplotlib", "jinja2", "rich", "scipy", "pydantic"}
    assert not heavy & set(loaded)
