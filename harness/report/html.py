"""`report.html`: one file, no script, nothing fetched; light and dark, phone, desktop and paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness import stats
from harness.report import cells, circumstances, wording
from harness.report.drawing import Chart
from harness.report.tables import ScenarioTable, Summary
from harness.report.verdict import Verdict, verdict

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Section:
    """Everything that the page says about one scenario.

    Attributes:
        anchor: Its identifier in the page.
        table: The figures.
        verdict: The answer.
        badge: How sure, in a few words beside the answer.
        charts: In order.
        start, cost, disk, quantiles, trials: The tables behind the charts.
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
    start: cells.Grid
    cost: cells.Grid
    disk: cells.Grid
    quantiles: cells.Grid
    trials: cells.Grid
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
    jinja.filters["counted"] = wording.count
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
        badge=_badge(table, found),
        charts=tuple(charts.get(scenario.name, [])),
        start=cells.start_grid(table),
        cost=cells.cost_grid(table),
        disk=cells.disk_grid(table),
        quantiles=cells.quantile_grid(table),
        trials=cells.trial_grid(table, summary.run.trials),
        command=circumstances.command(scenario),
        readiness=circumstances.readiness(scenario.readiness),
        limits=circumstances.limits(scenario.limits),
        how_often=circumstances.how_often(summary.run.info, table),
    )


def _boxes(summary: Summary) -> list[tuple[str, str]]:
    """List each arm of the run once, and what kind of box it is."""
    rows = {row.arm: row for table in summary.tables for row in table.rows}
    return [(r.arm, wording.BACKENDS.get(r.backend, r.backend)) for r in rows.values()]


def _bound(sentence: str) -> str:
    """Bind figures to their units and brackets, so that no line breaks between them."""
    return re.sub(
        r"(?<=[\d×]) (?=(?:[nµm]?s|[kMG]?B|%|×|\[)(?!\w))", "\N{NO-BREAK SPACE}", sentence
    )


def _badge(table: ScenarioTable, found: Verdict) -> str:
    blocks = wording.count(table.complete_blocks, "block")
    if found.is_sure:
        return f"95 % intervals from {blocks}"
    if not table.trials:
        return "no trial"
    if table.complete_blocks < stats.FEWEST_FOR_LEVEL:
        return f"not sure: {blocks} only"
    return "not sure: too many trials failed"


def _title(summary: Summary) -> str:
    names = wording.listed([table.scenario.name for table in summary.tables])
    return f"What the box costs: {names}" if names else "What the box costs"
