"""A run in a terminal: a screen, or all of it, in any width; and that reports cost no import."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.summary import summarise
from harness.cli.terminal import print_details, print_end, print_summary
from harness.model import Arm, Meter, Outcome, Trial
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.records import Run
from harness.report.text.answer import answer
from harness.report.text.tables import effort_grid, memory_grid, start_grid
from tests.support.odd_runs import ODD, hostile
from tests.support.synthetic import synthetic_run, synthetic_scale_run


@pytest.fixture(params=ODD.values(), ids=ODD.keys())
def odd(request: pytest.FixtureRequest) -> Run:
    return synthetic_run(**{"scenarios": ("hello",), **request.param})


def printed(run: Run, width: int, *, terminal: bool = False, screen: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, legacy_windows=False
    )
    if screen:
        summary = summarise(run)
        print_summary(summary, console)
        print_end(summary, Path("results/20261124T120335Z-1a2b3c/report.html"), console)
    else:
        print_details(run, console)
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
    for warning in summary.diagnostics:
        assert f"{warning.code}: {warning.remedy}." in flat


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


def _named(place: int, detail: str) -> str:
    return str(place) if detail.startswith("load") else f"x{place}"


@pytest.mark.parametrize("detail", ["load {}", "the letter {}"])
def test_a_thousand_distinct_warnings_make_no_wall(detail: str) -> None:
    """Those that differ in a number are one line; of others a dozen are listed."""
    run = synthetic_run(blocks=250, scenarios=("hello",), warmup_blocks=0)
    code = DiagnosticCode.LOADED_HOST
    trials = tuple(
        dataclasses.replace(
            t, diagnostics=(Diagnostic(code, detail.format(_named(place, detail))),)
        )
        for place, t in enumerate(run.trials)
    )
    text = printed(Run(run.info, trials), 100)
    assert text.count(detail.format("")) < 20
    if detail.startswith("load"):
        assert "load 0 to 999" in text
    else:
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


def test_the_end_of_a_run_fits_a_terminal_of_80_by_24() -> None:
    """Two scenarios of four arms, with an A/A arm, which is in no table."""
    run = synthetic_run(blocks=20, again="container")
    lines = printed(run, 80, screen=True).splitlines()
    assert len(lines) <= 23, "and the prompt"
    assert max(map(len, lines)) <= 80
    assert "container-again" not in "\n".join(lines)
    assert lines[-1] == "report: results/20261124T120335Z-1a2b3c/report.html"
    (warned,) = [line for line in lines if "warning" in line]
    assert re.fullmatch(r"\d+ warnings \(.+\): -v, or the report", warned)


def test_the_screen_says_each_figure_once() -> None:
    run = synthetic_run(blocks=20, scenarios=("hello",))
    lines = printed(run, 80, screen=True).splitlines()
    (table,) = summarise(run).tables
    assert lines[0] == f"hello: {table.scenario.question}"
    assert lines[1].split() == ["ready", "×", "container", "disk", "each", "memory"]
    by_arm = {line.split()[0]: line for line in lines[2:6]}
    for row in table.rows:
        (cell,) = [cells[-2] for cells in start_grid(table).rows if cells[0] == row.arm]
        value, _, interval = cell.partition(" [")
        assert " ".join(by_arm[row.arm].split()).count(f"{value} [{interval}") == 1
    assert by_arm["process"].split()[-3] == "–", "nothing of its own on disk"
    assert re.search(r"\] +1 +\d", by_arm["container"]), "the reference is 1"
    assert re.search(r"vm-micro \* .*≤ \d+ ", by_arm["vm-micro"])
    assert lines[6] == "  * emulated CPU: times are an upper bound. 20 blocks, all trials well."


def test_the_screen_marks_memory_that_is_charged_to_a_cgroup_beside_pages_mapped() -> None:
    run = synthetic_run(blocks=6, scenarios=("hello",), arms=("container", "vm-micro"))
    assert "†" not in printed(run, 80, screen=True)
    trials = tuple(
        dataclasses.replace(
            trial,
            readings=tuple(
                reading
                for reading in trial.readings
                if trial.arm != "container"
                or reading.meter not in (Meter.PSS_BYTES, Meter.USS_BYTES)
            ),
        )
        for trial in run.trials
    )
    text = printed(Run(run.info, trials), 80, screen=True)
    assert "† charged to its cgroup, other memory is PSS." in " ".join(text.split())
    assert re.search(r"container .* MB †\n", text)
    assert re.search(r"vm-micro .* MB\n", text)


def test_a_screen_of_failures_says_how_many_and_where() -> None:
    run = synthetic_run(blocks=3, scenarios=("hello",), failure_rate=1.0)
    text = printed(run, 80, screen=True)
    assert re.search(r"container ! +failed, 3 of 3 ", text)
    assert "12 of 12 trials failed" in text
    assert "! container failed in 3 of 3 trials: " in text


def test_a_screen_of_growth_is_its_slopes() -> None:
    lines = printed(synthetic_scale_run(full_at=5), 80, screen=True).splitlines()
    assert lines[1].split() == [
        "each",
        "further",
        "costs",
        "on",
        "disk",
        "in",
        "memory",
        "up",
        "to",
    ]
    assert re.fullmatch(r"  container +14\.5 kB \[.+\] +312 kB +\[.+\] +8", lines[2])
    assert "  ! the 6th vm-micro could not be started." in lines
    assert len(lines) <= 9


def test_many_arms_are_further_rows_alone() -> None:
    few = printed(synthetic_run(blocks=6, scenarios=("hello",)), 80, screen=True)
    many = printed(synthetic_run(blocks=6, scenarios=("hello",), cold=True), 80, screen=True)
    # A warning more makes no line more.
    assert len(many.splitlines()) == len(few.splitlines()) + 4


def test_the_last_line_says_that_half_of_the_arms_were_left_out_and_why() -> None:
    run = synthetic_run(blocks=6, scenarios=("hello",), arms=("process", "container"))
    arms = (*run.info.scenarios[0].arms, Arm("vm-micro"), Arm("vm-classic"))
    scenario = dataclasses.replace(run.info.scenarios[0], arms=arms)
    skipped = tuple(
        Diagnostic(DiagnosticCode.ARM_SKIPPED, f"hello, {arm}: no QEMU: install it")
        for arm in ("vm-micro", "vm-classic")
    )
    info = dataclasses.replace(run.info, scenarios=(scenario,), diagnostics=skipped)
    text = printed(Run(info, run.trials), 200, screen=True)
    assert re.search(r"vm-micro +left out ", text)
    assert text.splitlines()[-1] == (
        "2 of 4 arms left out, only process and container ran: vm-micro (no QEMU: install it); "
        "vm-classic (no QEMU: install it)"
    )
    info = dataclasses.replace(info, diagnostics=skipped[:1])
    assert printed(Run(info, run.trials), 200, screen=True).splitlines()[-1].startswith("report: ")


def test_anchors_are_in_no_table_and_are_no_reference() -> None:
    run = synthetic_run(blocks=6, scenarios=("hello",), again="container")
    twin = dataclasses.replace(run.info.scenarios[0].arms[-1], repeats=None, anchors="container")
    arms = (twin, *run.info.scenarios[0].arms[:-1])
    records = tuple(
        dataclasses.replace(r, arm=twin) if r.arm.name == twin.name else r for r in run.info.arms
    )
    scenario = dataclasses.replace(run.info.scenarios[0], arms=arms)
    info = dataclasses.replace(run.info, scenarios=(scenario,), arms=records)
    anchored = Run(info, run.trials)
    assert summarise(anchored).tables[0].reference == "container"
    for screen in (True, False):
        rows = [line.split() for line in printed(anchored, 80, screen=screen).splitlines()]
        assert not [cells for cells in rows if cells[:1] == [twin.name]]


def test_the_screen_hides_no_failure() -> None:
    run = synthetic_run(blocks=6, scenarios=("hello",), arms=("container",), again="container")

    def failing(wanted: Callable[[Trial], bool]) -> str:
        trials = tuple(
            dataclasses.replace(trial, outcome=Outcome.FAILED, error="it broke")
            if wanted(trial)
            else trial
            for trial in run.trials
        )
        return printed(Run(run.info, trials), 80, screen=True)

    assert "6 blocks, all trials well" in failing(lambda _: False).lower()
    twin = failing(lambda trial: trial.arm == "container-again" and trial.block == 2)
    assert "1 of 12 trials failed" in twin
    assert "! container-again failed in 1 of 6 trials: it broke." in twin
    beside = failing(lambda trial: trial.block < 0)
    assert "all that count well, 2 failed beside them" in beside
