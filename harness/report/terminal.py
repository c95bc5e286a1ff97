"""The summary of a run for a terminal of 80 or 100 columns; nothing is told by colour alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.model import Run
from harness.report import circumstances, wording
from harness.report.cells import Grid, cost_grid, start_grid
from harness.report.tables import ScenarioTable, Summary, summarise
from harness.report.verdict import Verdict, verdict

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(run: Run, console: Console) -> None:
    """Print the answers, the tables behind them, and every doubt.

    Args:
        run: As read from its folder.
        console: Where to; one that is no terminal gets plain text.
    """
    summary = summarise(run)
    for table in summary.tables:
        _print_scenario(table, verdict(table, summary), console, summary)
    _print_doubts(summary, console)


def _print_scenario(
    table: ScenarioTable, found: Verdict, console: Console, summary: Summary
) -> None:
    console.print()
    console.print(Text.assemble((table.scenario.name, "bold"), "  ", table.scenario.question))
    console.print(Text(found.headline, style="bold green" if found.is_sure else "bold yellow"))
    if table.trials:
        _print_start(table, console)
        console.print(Padding(_shown(cost_grid(table)), (0, 0, 1, 0)))
        _bullets([circumstances.how_often(summary.run.info, table)], console)
    _bullets(list(found.certainty), console)
    for row in table.rows:
        for error, number in row.errors[:3]:
            _bullets([f"{row.arm}, {wording.count(number, 'trial')}: {error}"], console, "red")


def _print_doubts(summary: Summary, console: Console) -> None:
    if not summary.doubts:
        return
    console.print()
    console.print(Text("Doubts", style="bold"))
    for doubt in summary.doubts:
        _bullets([f"{doubt.code}: {doubt.remedy}."], console, "yellow")
        for occurrence in doubt.occurrences:
            console.print(Padding(Text(occurrence, style="dim"), (0, 0, 0, 4)))


def _bullets(sentences: list[str], console: Console, style: str = "") -> None:
    for sentence in sentences:
        grid = Table.grid(padding=(0, 1))
        grid.add_column()
        grid.add_column()
        grid.add_row(Text(" -"), Text(sentence, style=style))
        console.print(grid)


def _print_start(table: ScenarioTable, console: Console) -> None:
    """Print the milestones if they fit, else `ready` alone: no cell is cut."""
    shown = _shown(start_grid(table))
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, shown).maximum > console.width:
        shown = _shown(start_grid(table, with_marks=False))
    console.print(Padding(shown, (1, 0)))


def _shown(grid: Grid) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, head in enumerate(grid.head):
        shown.add_column(Text(head), justify="right" if place else "left", no_wrap=True)
    for name, *figures in grid.rows:
        shown.add_row(Text(name, style="bold"), *map(Text, figures))
    return shown
