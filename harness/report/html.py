"""`report.html`: one file, no script, nothing fetched; light and dark, phone, desktop and paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness import stats
from harness.analysis.summary import ArmRow, ScenarioTable, Summary
from harness.model import CacheState, units
from harness.report.charts.drawing import THEMED, Chart
from harness.report.text import circumstances, wording
from harness.report.text import tables as cells
from harness.report.text.answer import BOUND_MEANS, Verdict, verdict

TEMPLATE = "report.html.j2"

MOST_LISTED = 500
"""No more trials than these are listed one by one in a page, which must open on a phone."""


@dataclass(frozen=True, slots=True)
class Section:
    """Everything that the page says about one scenario.

    Attributes:
        anchor: Its identifier in the page.
        table: The figures.
        verdict: The answer.
        badge: How sure, in a few words beside the answer.
        charts: In order, each with its figures.
        cost: What else an arm costs.
        more: Further tables by title, those of charts left out.
        command: What runs in the box.
        readiness: When it counts as usable.
        limits: What it may use.
        how_often: Trials, blocks, order.
    """

    anchor: str
    table: ScenarioTable
    verdict: Verdict
    badge: str
    charts: tuple[Chart, ...]
    cost: cells.Grid
    more: tuple[tuple[str, cells.Grid], ...]
    command: str
    readiness: str
    limits: str
    how_often: str


def render_html(summary: Summary, charts: Mapping[str, list[Chart]]) -> str:
    """Make the page.

    Args:
        summary: The figures.
        charts: Scenario name to its charts.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Only our own drawings pass unescaped; what of the user's is in them, the drawing escaped.
    jinja.filters["drawing"] = Markup
    jinja.filters["bound"] = _bound
    jinja.filters["duration"] = wording.duration
    jinja.filters["counted"] = units.count
    jinja.filters["facts"] = circumstances.facts
    info = summary.run.info
    return jinja.get_template(TEMPLATE).render(
        summary=summary,
        info=info,
        title=_title(summary),
        sections=[_section(n, table, summary, charts) for n, table in enumerate(summary.tables, 1)],
        when=circumstances.when(info),
        environment=circumstances.environment(info),
        repeat=circumstances.repeat_command(info),
        glossary=[(str(milestone), meaning) for milestone, meaning in wording.MEANING.items()],
        boxes=_boxes(summary),
        again=circumstances.again(info),
        bound_means=BOUND_MEANS,
        light={name: colour for colour, (name, _) in THEMED.items()},
        dark=dict(THEMED.values()),
        level=f"{stats.LEVEL:.0%}".replace("%", " %"),
    )


def _section(
    number: int, table: ScenarioTable, summary: Summary, charts: Mapping[str, list[Chart]]
) -> Section:
    scenario = table.scenario
    found = verdict(table, summary)
    return Section(
        anchor=f"scenario-{number}",
        table=table,
        verdict=found,
        badge=found.badge,
        charts=tuple(charts.get(scenario.name, [])),
        cost=cells.cost_grid(table),
        more=_more(table, summary, charts.get(scenario.name, [])),
        command=circumstances.command(scenario),
        readiness=circumstances.readiness(scenario.readiness),
        limits=circumstances.limits(scenario.limits),
        how_often=circumstances.how_often(summary.run.info, table),
    )


def _more(
    table: ScenarioTable, summary: Summary, charts: list[Chart]
) -> tuple[tuple[str, cells.Grid], ...]:
    """List the tables of a scenario that stand behind no chart."""
    trials = cells.trial_grid(table, summary.run)
    title = "Every trial, in the order taken, time since the request"
    if len(trials.rows) > MOST_LISTED:
        trials = cells.Grid(trials.head, trials.rows[:MOST_LISTED])
        title = f"The first {MOST_LISTED} trials, time since the request; all are in the records"
    against = f", and as a multiple of {table.reference}'s" if table.reference else ""
    tables = (
        (f"Every metric{against}", cells.comparison_grid(table)),
        ("Distribution of ready, and how trials ended", cells.quantile_grid(table)),
        ("On disk, part by part", cells.disk_grid(table)),
        (title, trials),
    )
    behind = {chart.told.grid_title for chart in charts}
    return tuple((name, grid) for name, grid in tables if name not in behind)


def _boxes(summary: Summary) -> list[tuple[str, str]]:
    """List each arm of the run once, and what kind of box it is."""
    rows = {row.arm: row for table in summary.tables for row in table.rows}
    return [(row.arm, _box(row)) for row in rows.values()]


def _box(row: ArmRow) -> str:
    told = wording.BACKENDS.get(row.backend, row.backend)
    if row.cache is CacheState.COLD:
        told += "; the image's files are evicted from the page cache before each trial"
    if row.repeats is not None:
        told += f"; the same as {row.repeats} once more, which shows this host's noise"
    return told


def _bound(sentence: str) -> str:
    """Bind figures to their units and brackets, so that no line breaks between them."""
    return re.sub(
        r"(?<=[\d×]) (?=(?:[nµm]?s|[kMG]?B|%|×|\[)(?!\w))", "\N{NO-BREAK SPACE}", sentence
    )


def _title(summary: Summary) -> str:
    names = wording.listed([table.scenario.name for table in summary.tables])
    return f"What the box costs: {names}" if names else "What the box costs"
