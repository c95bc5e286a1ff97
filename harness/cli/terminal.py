"""A run for a terminal of 80 or 100 columns: one screen, or all; colour alone says nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.analysis.summary import ScenarioTable, Summary, summarise
from harness.model import units
from harness.records import Run
from harness.records.dataset import RunData
from harness.report.text import circumstances, sentences
from harness.report.text.answer import BOUND_MEANS, answer
from harness.report.text.screen import (
    Screen,
    half_left_out,
    reading_line,
    screen,
    warnings_line,
)
from harness.report.text.tables import Grid, effort_grid, footprint_grid, memory_grid, start_grid
from harness.report.text.wording import bound

if TYPE_CHECKING:
    from rich.console import Console

MOST_ERRORS = 3
"""No more distinct errors of an arm than these are listed."""


def print_summary(run: Run | RunData | Summary, console: Console) -> None:
    """Print the answers in a table and a note or two a scenario, and how many warnings there are.

    Args:
        run: As read from its folder, or summarised already.
        console: Where to; one that is no terminal gets plain text.
    """
    summary = run if isinstance(run, Summary) else summarise(run)
    for place, table in enumerate(summary.tables):
        if place:
            console.print()
        _print_screen(screen(table, summary), console)
    if line := reading_line(summary):
        _print_wrapped(line, console)
    if line := warnings_line(summary, console.width):
        _print_wrapped(line, console, style="yellow")


def print_details(run: Run | RunData | Summary, console: Console) -> None:
    """Print the answers in sentences, the tables behind them, and every warning with its remedy.

    Args:
        run: As read from its folder, or summarised already.
        console: Where to; one that is no terminal gets plain text.
    """
    summary = run if isinstance(run, Summary) else summarise(run)
    for table in summary.tables:
        _print_scenario(table, summary, console)
    if summary.diagnostics:
        console.print()
        console.print(Text("Warnings", style="bold"))
    for warning in summary.diagnostics:
        _bullets([f"{warning.code}: {warning.remedy}."], console, "yellow")
        for occurrence in warning.occurrences:
            console.print(Padding(Text(occurrence, style="dim"), (0, 0, 0, 4)))
    console.print()


def print_result(summary: Summary, console: Console, *, verbose: bool = False) -> None:
    """Print what fits a screen, or all."""
    (print_details if verbose else print_summary)(summary, console)


def print_end(summary: Summary, report: Path | None, console: Console) -> None:
    """Print the last line: where the report is; and that half of the arms were left out, if so."""
    if report is not None:
        console.print(Text(f"report: {report}"), soft_wrap=True)
    if sentence := half_left_out(summary):
        _print_wrapped(sentence, console, style="bold yellow")


def _print_screen(shown: Screen, console: Console) -> None:
    _print_wrapped(shown.title, console, style="bold", indent="")
    fitting = (grid for grid in shown.grids if _width(grid) <= console.width)
    if (grid := next(fitting, None)) is not None:
        for place, line in enumerate(_lines(grid)):
            console.print(Text(line, style="" if place else "dim"), soft_wrap=True)
    else:
        _print_list(shown.grids[-1], console)
    for note in shown.notes:
        _print_wrapped(note, console, indent="  ")


def _print_wrapped(text: str, console: Console, *, style: str = "", indent: str = "") -> None:
    lines = textwrap.wrap(
        bound(text),
        console.width,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        break_on_hyphens=False,
    )
    for line in lines:
        console.print(Text(line.replace("\N{NO-BREAK SPACE}", " "), style=style), soft_wrap=True)


def _width(grid: Grid) -> int:
    return max((len(line) for line in _lines(grid)), default=0)


def _lines(grid: Grid) -> list[str]:
    """Lay out a grid: names, values and their intervals to the left, plain figures to the right."""
    padded: list[list[str]] = []
    for column in zip(grid.head, *grid.rows, strict=True):
        width = max(map(len, column))
        side = "<" if not padded or column[0] in grid.estimates else ">"
        padded.append([f"{cell:{side}{width}}" for cell in column])
    return [f"  {'  '.join(cells)}".rstrip() for cells in zip(*padded, strict=True)]


def _print_scenario(table: ScenarioTable, summary: Summary, console: Console) -> None:
    found = answer(table, summary)
    console.print()
    console.print(Text.assemble((table.scenario.name, "bold"), "  ", table.scenario.question))
    style = "bold green" if found.is_sure else "bold yellow"
    console.print(Text(found.headline, style=style))
    if table.trials:
        console.print(Text(f"({found.badge})", style=style))
        starts = [start_grid(table), start_grid(table, with_marks=False)]
        _print_grids(starts, console, space_above=True)
        if any(table.is_upper_bound(row) and row.ratio is not None for row in table.rows):
            _bullets([f"≤: {BOUND_MEANS}."], console)
        for grid in (footprint_grid(table), memory_grid(table), effort_grid(table)):
            _print_grids([grid], console)
        _bullets([circumstances.how_often(summary.run.info, table)], console)
    _bullets([*sentences.growth(table), *sentences.starts(table)], console)
    _bullets(list(found.certainty), console)
    for row in table.rows:
        for error, number in row.errors[:MOST_ERRORS]:
            _bullets([f"{row.arm}, {units.count(number, 'trial')}: {error}"], console, "red")
        if (further := len(row.errors) - MOST_ERRORS) > 0:
            more = units.count(further, "further error")
            _bullets([f"{row.arm}: {more}, in trials.jsonl"], console, "red")


def _bullets(sentences: list[str], console: Console, style: str = "") -> None:
    for sentence in sentences:
        grid = Table.grid(padding=(0, 1))
        grid.add_column()
        grid.add_column()
        grid.add_row(Text(" -"), Text(sentence, style=style))
        console.print(grid)


def _print_grids(grids: list[Grid], console: Console, *, space_above: bool = False) -> None:
    """Print the first of some tables that fits, else the last one as a list: no cell is cut."""
    if not grids[-1].rows:
        return
    unbounded = console.options.update(max_width=10_000)
    for grid in grids:
        shown = _shown(grid)
        if Measurement.get(console, unbounded, shown).maximum <= console.width:
            console.print(Padding(shown, (1 if space_above else 0, 0, 1, 0)))
            return
    _print_list(grids[-1], console)
    console.print()


def _print_list(grid: Grid, console: Console) -> None:
    """Print a grid as a list: a line a figure."""
    name, *heads = grid.head
    for first, *figures in grid.rows:
        console.print(Text.assemble((f"{name} ".lstrip(), "dim"), (first, "bold")))
        for head, figure in zip(heads, figures, strict=True):
            console.print(Padding(Text(f"{head}: {figure}"), (0, 0, 0, 2)))


def _shown(grid: Grid) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, head in enumerate(grid.head):
        shown.add_column(Text(head), justify="right" if place else "left", no_wrap=True)
    for name, *figures in grid.rows:
        shown.add_row(Text(name, style="bold"), *map(Text, figures))
    return shown
