"""`report.html`: one file, no script, nothing fetched; light and dark, phone, desktop and paper."""

from __future__ import annotations

from collections.abc import Mapping

from harness import stats
from harness.analysis.summary import ScenarioTable, Summary
from harness.model import CacheState, units
from harness.report.charts.drawing import THEMED, Chart
from harness.report.judgement.page import verdict_section
from harness.report.text import circumstances, wording
from harness.report.text import tables as cells
from harness.report.text.answer import BOUND_MEANS, answer
from harness.report.text.screen import certainty, warning_name

MOST_LISTED = 500
"""No more trials than these are listed one by one in a page, which must open on a phone."""


def render_html(summary: Summary, charts: Mapping[str, list[Chart]]) -> str:
    """Make the page of a summary with its charts, by scenario."""
    info = summary.run.info
    names = wording.listed([table.scenario.name for table in summary.tables])
    verdict = verdict_section(summary.judgement)
    title = f"What the box costs: {names}" if names else "What the box costs"
    return render_template(
        "report.html.j2",
        summary=summary,
        info=info,
        title=title if verdict is None else verdict.title,
        verdict=verdict,
        sections=[
            _section(f"scenario-{number}", table, summary, charts.get(table.scenario.name, []))
            for number, table in enumerate(summary.tables, 1)
        ],
        warnings=wording.listed([warning_name(found.code) for found in summary.diagnostics]),
        when=circumstances.when(info),
        environment=circumstances.environment(info),
        repeat=circumstances.repeat_command(info),
        glossary=[(str(milestone), meaning) for milestone, meaning in wording.MEANING.items()],
        boxes=_boxes(summary),
        again=circumstances.again(info),
        bound_means=BOUND_MEANS,
        level=f"{stats.LEVEL:.0%}".replace("%", " %"),
    )


def render_template(template: str, **values: object) -> str:
    """Make a page from a template of this package."""
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
    # Only our own drawings pass unescaped; the drawing has escaped the user's text in them.
    jinja.filters["drawing"] = Markup
    jinja.filters["bound"] = wording.bound
    jinja.filters["duration"] = wording.duration
    jinja.filters["counted"] = units.count
    jinja.filters["facts"] = circumstances.facts
    return jinja.get_template(template).render(
        light={name: colour for colour, (name, _) in THEMED.items()},
        dark=dict(THEMED.values()),
        **values,
    )


def _section(
    anchor: str, table: ScenarioTable, summary: Summary, charts: list[Chart]
) -> dict[str, object]:
    scenario = table.scenario
    return {
        "anchor": anchor,
        "table": table,
        "answer": answer(table, summary),
        "certainty": certainty(table, summary),
        "charts": charts,
        "cost": cells.cost_grid(table),
        "more": _more(table, summary, charts),
        "command": circumstances.command(scenario),
        "readiness": circumstances.readiness(scenario.readiness),
        "limits": circumstances.limits(scenario.limits),
        "how_often": circumstances.how_often(summary.run.info, table),
    }


def _more(
    table: ScenarioTable, summary: Summary, charts: list[Chart]
) -> tuple[tuple[str, cells.Grid], ...]:
    """List the tables of a scenario that belong to no chart."""
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
    behind = {chart.grid_title for chart in charts}
    return tuple((name, grid) for name, grid in tables if name not in behind)


def _boxes(summary: Summary) -> list[tuple[str, str]]:
    """List each arm of the run once, with its kind of box."""
    boxes = {}
    for row in (row for table in summary.tables for row in table.rows):
        box = wording.BACKENDS.get(row.backend, row.backend)
        if row.cache is CacheState.COLD:
            box += "; the image's files are evicted from the page cache before each trial"
        if row.repeats is not None:
            box += f"; the same as {row.repeats} once more, which shows this host's noise"
        if row.anchors is not None:
            box += f"; pinned, so that {row.anchors} can be followed from run to run"
        boxes[row.arm] = box
    return list(boxes.items())
