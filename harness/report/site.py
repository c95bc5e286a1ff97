"""A static site of a history: an index, a page a series, and the report of every run.

Plain files with relative links: it works from file://, from any web server and any folder of one,
without a script. The reports are made from the records, not copied: a site of artifacts from
elsewhere holds nothing but what this Steelyard has drawn.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.history import Point, RunRef
from harness.analysis.judgement import Verdict
from harness.analysis.trend_words import change_in_words, in_short, newest_in_words, size_of
from harness.analysis.trends import State, Trend, Trends
from harness.model import units
from harness.model.errors import RecordError
from harness.records import RUN_FILE, TRIALS_FILE
from harness.report import render, write_files
from harness.report.charts import parts
from harness.report.charts.sparkline import sparkline
from harness.report.charts.trend import Link, file_name, trend_chart
from harness.report.html import render_template
from harness.report.text import wording

REPORTS_PER_PROCESS = 4
"""Fewer reports are not worth the start of a process."""
SERIES_FOLDER, RUNS_FOLDER = "series", "runs"
_COLOURS = {
    Verdict.WORSE: "bad",
    Verdict.CANNOT_TELL: "unsure",
    Verdict.SAME: "sure",
    Verdict.BETTER: "sure",
}
"""Of the badge: a class of the style sheet."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text, its link, and an SVG element before the text; empty for none."""

    text: str
    link: str = ""
    drawing: str = ""


def write_site(found: Trends, folder: Path) -> tuple[Path, ...]:
    """Write the site, and return its pages, the index first; RecordError where that fails.

    Files of an older site are replaced, and none is deleted. The report of a run is made when it
    is not there or older than its records.
    """
    reports = _reports(found, folder)
    pages = {folder / "index.html": render_index(found).encode()}
    for trend in found.trends:
        page = folder / SERIES_FOLDER / f"{file_name(trend.series.id)}.html"
        pages[page] = render_series(trend, reports).encode()
    write_files(pages)
    return (*pages, *(folder / RUNS_FOLDER / name for name in reports.values()))


def render_index(found: Trends) -> str:
    """Make the page of all series."""
    opened = [(trend, change) for trend in found.trends for change in trend.open]
    runs = found.history.runs_with_points
    return render_template(
        "site-index.html.j2",
        title="What the box costs, run by run",
        answer=in_short(found),
        colour=_COLOURS[found.verdict],
        opened=[
            (
                _series_cell(trend, full=True),
                f"{size_of(trend.series, change)}, began with {change.first.label}",
            )
            for trend, change in opened
        ],
        groups=[
            {
                "title": f"{group[0].series.id.scenario} on {group[0].series.id.setting}",
                "host": group[0].series.host,
                "rows": [_index_row(trend) for trend in group],
            }
            for group in found.by_setting()
        ],
        heads=("series", "trend", "runs", "newest", "level since", "last change"),
        span=f"{units.count(len(runs), 'run')}, {runs[0].at:%Y-%m-%d} to {runs[-1].at:%Y-%m-%d}"
        if runs
        else "no run",
        notes=(*found.history.problems, *found.stale),
    )


def render_series(trend: Trend, reports: Mapping[RunRef, str]) -> str:
    """Make the page of one series, with links to the files of reports, as far as they exist."""

    def link(point: Point) -> str | None:
        name = reports.get(point.run)
        return f"../{RUNS_FOLDER}/{name}" if name else None

    series = trend.series
    chart = trend_chart(trend, link)
    return render_template(
        "site-series.html.j2",
        title=f"{series.id.scenario}, {series.id.arm}: {series.id.quantity.title}",
        trend=trend,
        series=series,
        answer=_series_answer(trend),
        colour="" if trend.is_shown_only else _COLOURS[trend.verdict],
        badge="open" if trend.open else change_in_words(trend),
        wide=_without_keys(chart.inline_wide),
        narrow=_without_keys(chart.inline_narrow),
        caption=chart.caption,
        change_heads=("change", "began with", "the one before", "from", "to", "state"),
        changes=[_change_row(trend, number, link) for number in range(len(trend.changes))],
        heads=chart.grid.head,
        points=[
            (Cell(row[0], link(point) or ""), *map(Cell, row[1:]))
            for row, point in zip(chart.grid.rows, reversed(series.points), strict=True)
        ],
        where=[
            ("Series", str(series.id)),
            ("Host", series.host),
            ("Points needed to see a change", str(trend.wanted)),
        ],
    )


def _reports(found: Trends, folder: Path) -> dict[RunRef, str]:
    """Make the reports that are missing; returns the file of each run that has one."""
    taken: set[str] = set()
    names: dict[RunRef, str] = {}
    wanted: list[tuple[Path, Path]] = []
    for run in found.history.runs:
        if run.folder is not None:
            names[run] = _report_name(run, taken)
            taken.add(names[run])
            path = folder / RUNS_FOLDER / names[run]
            if not _is_newer(path, run.folder):
                wanted.append((run.folder, path))
    _make_reports(wanted)
    return {run: name for run, name in names.items() if (folder / RUNS_FOLDER / name).exists()}


def _make_reports(wanted: Sequence[tuple[Path, Path]]) -> None:
    """Make the reports of run folders, several at a time where they are many."""
    workers = min(len(os.sched_getaffinity(0)), len(wanted) // REPORTS_PER_PROCESS)
    if workers < 2:
        for folder, path in wanted:
            _make_report(folder, path)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(_make_report, *zip(*wanted, strict=True)))


def _make_report(folder: Path, path: Path) -> None:
    from harness.analysis.summary import summarise
    from harness.records.scan import read_data

    try:
        data = read_data(folder)
    except RecordError:
        return  # its records have gone, or changed, since they were gathered
    write_files({path: render([summarise(data)], "html")})


def _report_name(run: RunRef, taken: set[str]) -> str:
    """Choose a file name that no other run has; identifiers in records may be anything."""
    plain = parts.slug(run.run_id)[:80]
    names = (f"{plain}-{number}.html" for number in itertools.count(2))
    return next(name for name in itertools.chain((f"{plain}.html",), names) if name not in taken)


def _is_newer(path: Path, folder: Path) -> bool:
    records = [folder / name for name in (RUN_FILE, TRIALS_FILE)]
    with contextlib.suppress(OSError):
        made = path.stat().st_mtime_ns
        return all(made > one.stat().st_mtime_ns for one in records if one.exists())
    return False


def _index_row(trend: Trend) -> tuple[Cell, ...]:
    series = trend.series
    unit = series.id.quantity.unit
    texts = (
        str(len(series.points)),
        wording.amount(series.points[-1].value, unit),
        series.points[trend.level_begins].label,
        change_in_words(trend),
    )
    drawing = Cell("", drawing=sparkline(trend))
    return (_series_cell(trend), drawing, *map(Cell, texts))


def _series_cell(trend: Trend, *, full: bool = False) -> Cell:
    name = trend.series.id
    scenario = f"{name.scenario}, " if full else ""
    return Cell(f"{scenario}{name.arm}: {name.what}", f"{SERIES_FOLDER}/{file_name(name)}.html")


def _change_row(trend: Trend, number: int, link: Link) -> tuple[Cell, ...]:
    change, unit = trend.changes[number], trend.series.id.quantity.unit
    reason = f": {change.reason}" if change.reason else ""
    return (
        Cell(f"{number + 1}: {size_of(trend.series, change)}"),
        Cell(change.first.label, link(change.first) or ""),
        Cell(change.last.label, link(change.last) or ""),
        Cell(wording.amount(change.found.before, unit)),
        Cell(wording.amount(change.found.after, unit)),
        Cell(f"{change.state}{reason}"),
    )


def _series_answer(trend: Trend) -> str:
    if trend.open:
        change = trend.open[0]
        size = size_of(trend.series, change)
        return f"{size} since {change.first.label}, and nobody has said that it is meant."
    if trend.instead is not None:
        return f"Not judged: {trend.instead.what} is, in its place."
    if not trend.is_judged:
        count = units.count(len(trend.series.points), "run")
        return f"Too few runs to tell: {count}, and {trend.wanted} are needed."
    if trend.apart is not None or not trend.changes:
        return f"{newest_in_words(trend)}."
    change = trend.changes[-1]
    ending = {
        State.ACKNOWLEDGED: f"acknowledged: {change.reason}",
        State.UNDONE: "taken back since",
        State.SMALL: "too small to matter",
    }.get(change.state, "for the better")
    return f"{size_of(trend.series, change)} since {change.first.label}, {ending}."


def _without_keys(drawing: str) -> str:
    """Take the links of marks out of the tab order: the table has the same links for the keyboard.

    matplotlib would open each in a new window.
    """
    return drawing.replace(' target="_blank"', ' tabindex="-1"')
