"""`summary.md`: for a pull request. The answer first, the rest folded away."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.analysis.summary import ScenarioTable, Summary
from harness.model import units
from harness.report.charts.drawing import Chart
from harness.report.judgement.markdown import comparison
from harness.report.text import circumstances, wording
from harness.report.text.answer import BOUND_MEANS, answer
from harness.report.text.screen import certainty
from harness.report.text.tables import (
    Grid,
    effort_grid,
    footprint_grid,
    growth_grid,
    memory_grid,
    noise_grid,
    start_grid,
)


def render_markdown(summary: Summary, charts: Mapping[str, list[Chart]]) -> str:
    """Write the summary as GitHub-flavoured Markdown.

    The charts of a scenario, by its name, lie in `charts/` beside the file.
    """
    title = wording.listed([table.scenario.name for table in summary.tables]) or "an empty run"
    blocks = [f"# Steelyard: {_text(title)}"]
    if summary.judgement is not None:
        blocks = comparison(summary.judgement)
    for table in summary.tables:
        blocks += _scenario(table, summary, charts.get(table.scenario.name, []))
    blocks += _warnings(summary)
    blocks += _circumstances(summary)
    return "\n\n".join(blocks) + "\n"


def _scenario(table: ScenarioTable, summary: Summary, charts: list[Chart]) -> list[str]:
    found = answer(table, summary)
    pictures = [f"![{_text(chart.description)}](charts/{chart.name}.svg)" for chart in charts]
    blocks = [
        f"## {_text(table.scenario.name)}",
        _emphasised(table.scenario.question),
    ]
    folded = [_bullets(found.findings)]
    if summary.judgement is None:  # whose own words are the answer
        blocks += [_grid(Grid(("", found.badge), found.rows)), _text(certainty(table, summary))]
        folded.insert(0, _bullets(found.certainty))
    blocks += pictures[:1]
    if table.trials:
        folded.append(_grid(start_grid(table)))
        bound = any(table.is_upper_bound(row) and row.ratio is not None for row in table.shown)
        folded.append(
            "Medians since the request; brackets are intervals of the median; `ready` is compared."
            + (f" ≤: {BOUND_MEANS}." if bound else "")
        )
    grids = (footprint_grid, memory_grid, effort_grid, growth_grid, noise_grid)
    folded += [*(_grid(each(table)) for each in grids), *pictures[1:]]
    blocks.append(_folded("How sure that is, arm by arm, all figures", folded))
    errors = [
        f"{row.arm}, {units.count(number, 'trial')}: {error}"
        for row in table.shown
        for error, number in row.errors
    ]
    if errors:
        blocks.append(_folded("Failed trials", [_bullets(errors)]))
    return [block for block in blocks if block]


def _emphasised(text: str) -> str:
    return f"_{_text(text)}_" if text else ""


def _warnings(summary: Summary) -> list[str]:
    lines = []
    for warning in summary.diagnostics:
        lines.append(f"- `{warning.code}`: {_text(warning.remedy)}.")
        lines += [f"  - {_text(occurrence)}" for occurrence in warning.occurrences]
    title = f"Warnings ({len(summary.diagnostics)})"
    return [_folded(title, ["\n".join(lines)])] if lines else []


def _circumstances(summary: Summary) -> list[str]:
    info = summary.run.info
    host = Grid(("fact", "value"), tuple(circumstances.environment(info)))
    ran = [
        f"{table.scenario.name}: {circumstances.command(table.scenario)} in image "
        f"{table.scenario.image}, {circumstances.limits(table.scenario.limits)}. "
        f"{circumstances.readiness(table.scenario.readiness)} "
        f"{circumstances.how_often(info, table)}"
        for table in summary.tables
    ]
    return [
        _folded("What was run, where, how often", [_bullets(ran), _grid(host)]),
        f"Run `{info.run_id}`, {_text(circumstances.when(info))}. Repeat it with:",
        _fenced(circumstances.repeat_command(info)),
    ]


def _folded(title: str, blocks: list[str]) -> str:
    inside = "\n\n".join(block for block in blocks if block)
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def _bullets(sentences: tuple[str, ...] | list[str]) -> str:
    return "\n".join(f"- {_text(sentence)}" for sentence in sentences)


def _grid(grid: Grid) -> str:
    if not grid.rows:
        return ""
    lines = [
        _line([_text(head) for head in grid.head]),
        _line([":--", *["--:" if len(grid.head) > 2 else ":--"] * (len(grid.head) - 1)]),
        *(_line([_text(cell) for cell in row]) for row in grid.rows),
    ]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Escape what Markdown, a table or HTML would take for its own: the text is the user's."""
    flat = " ".join(text.split())
    escaped = re.sub(r"([\\`*_|\[\]~#!])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(text: str) -> str:
    """Fence a command so that no run of backticks in it can end the fence."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
