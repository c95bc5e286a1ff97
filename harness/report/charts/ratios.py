"""The ratio forest: every arm against the reference, with intervals, metric by metric.

The axis is logarithmic, because twice and half are as far from the line at 1. Where it is known how
much an arm differs from itself on this host (an A/A comparison), that is a band around the line: a
ratio within it is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.analysis.summary import ArmRow, ScenarioTable
from harness.model.metrics import METRICS
from harness.report.charts import parts
from harness.report.charts.drawing import (
    INK,
    LINES,
    MARGIN_INCHES,
    Chart,
    Told,
    add_axes,
    new_figure,
)
from harness.report.text import wording
from harness.report.text.answer import UPPER_BOUND
from harness.report.text.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("ready", "cpu", "pss", "cgroup-peak", "disk")
"""The metrics that have a panel, as far as their ratios are known: one of each kind of cost."""

EXEMPT = frozenset({"disk", "disk-growth", "disk-shared", "left-behind"})
"""Metrics that are the same whether the processor is emulated or not."""

ROW_INCHES = 0.26
"""Of a row, below its text: the mark, and air."""
TEXT_INCHES = 0.46
GUTTER_INCHES = 0.35

FARTHEST = 1e6
"""No axis reaches farther from 1 than this: what does is an arrow."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One arm's ratio.

    Attributes:
        arm: Its name.
        comparison: With the reference.
        note: Under the figures.
    """

    arm: str
    comparison: stats.Comparison
    note: str

    def head(self, room: float) -> parts.RowHead:
        """The text above its mark, in a panel of that many inches."""
        return parts.row_head(self.arm, wording.ratio(self.comparison), self.note, room)


@dataclass(frozen=True, slots=True)
class _Panel:
    """One metric.

    Attributes:
        title: Of the metric.
        lines: One an arm, in the order of the report.
        floor: Relative difference that an arm shows against itself, or None if it is not known.
        detectable: Smallest difference that as many blocks find, or None.
    """

    title: str
    lines: tuple[_Line, ...]
    floor: float | None
    detectable: float | None

    def shown_inches(self, room: float) -> float:
        """How high its axes are in a panel that many inches wide."""
        return sum(line.head(room).inches + ROW_INCHES for line in self.lines)

    @property
    def noise(self) -> str:
        """What is known of the noise, spelled."""
        if self.floor is None:
            return "noise floor not known"
        told = f"noise floor ± {_percent(self.floor)}"
        if self.detectable is not None and math.isfinite(self.detectable):
            told += f", detectable {_percent(self.detectable)}"
        return told


def ratio_chart(table: ScenarioTable) -> Chart | None:
    """Draw the ratios to the reference.

    Returns:
        None if nothing can be compared.
    """
    panels = [panel for panel in (_panel(table, metric) for metric in SHOWN) if panel is not None]
    if not panels:
        return None
    told = Told(
        title=f"{table.scenario.name}: how many times {table.reference}",
        description=_description(panels, table.reference or ""),
        caption=f"Ratios to {table.reference} within blocks: the dot is their median, the line its "
        f"interval. The line at 1 is {table.reference} itself; a line that crosses it may be no "
        "difference at all. The band around it, where this host's noise is known, is how far an "
        "arm is from itself in single pairs. Scales are logarithmic.",
        grid=_grid(panels, table.reference or ""),
        grid_title=f"Ratios to {table.reference}, [interval]",
    )
    name = f"ratios-{parts.slug(table.scenario.name)}"
    return Chart(name, told, lambda width: _draw(panels, told.title, width))


def _panel(table: ScenarioTable, metric: str) -> _Panel | None:
    lines = []
    for row in table.rows:
        comparison = row.ratios.get(metric)
        if comparison is not None and not row.is_reference:
            note = UPPER_BOUND if _is_bound(table, row, metric) else ""
            lines.append(_Line(row.arm, comparison, note))
    # Of a ratio of zero, as of an arm that writes nothing, there is no place to be drawn at.
    if not any(0 < line.comparison.estimate.median < math.inf for line in lines):
        return None
    known = [noise for noise in table.noise if noise.metric == metric]
    # Two arms were compared with themselves: the noisier one is what a ratio must get out of.
    noise = max(known, key=lambda one: one.floor, default=None)
    return _Panel(
        METRICS[metric].title,
        tuple(lines),
        noise.floor if noise is not None else None,
        noise.detectable_with(table.blocks or noise.blocks) if noise is not None else None,
    )


def _is_bound(table: ScenarioTable, row: ArmRow, metric: str) -> bool:
    return metric not in EXEMPT and table.is_upper_bound(row)


def _percent(share: float) -> str:
    share = abs(share)  # a floor of nothing may come with a minus
    return f"{share * 100:.2g} %" if share < 1 else f"{share * 100:.0f} %"


def _description(panels: Sequence[_Panel], reference: str) -> str:
    told = []
    for panel in panels:
        lines = "; ".join(
            f"{line.arm} {wording.ratio(line.comparison)}{f' ({line.note})' if line.note else ''}"
            for line in panel.lines
        )
        told.append(f"{panel.title} ({panel.noise}): {lines}")
    return f"Dots with intervals on a scale of ratios to {reference}. {'. '.join(told)}."


def _grid(panels: Sequence[_Panel], reference: str) -> Grid:
    rows = tuple(
        (line.arm, panel.title, wording.ratio(line.comparison), line.note or wording.NONE)
        for panel in panels
        for line in panel.lines
    )
    return Grid(("arm", "of what", f"times {reference} [interval]", "to be read as"), rows)


def _draw(panels: Sequence[_Panel], title: str, width: float) -> Figure:
    handles = [
        parts.stroke("median and its interval", marker="o", markersize=4),
        parts.stroke("no difference", linewidth=1, linestyle="--"),
    ]
    if any(panel.floor is not None for panel in panels):
        handles.append(parts.band("noise of this host", LINES[5]))
    columns = parts.columns_for(width, len(panels))
    room = (width - 2 * MARGIN_INCHES - (columns - 1) * GUTTER_INCHES) / columns
    lines = [panels[n : n + columns] for n in range(0, len(panels), columns)]
    around = TEXT_INCHES + parts.AXIS_INCHES
    heights = [around + max(panel.shown_inches(room) for panel in line) for line in lines]
    head = parts.head_inches(title, handles, width)
    figure = new_figure(width, head + sum(heights))
    parts.draw_head(figure, title, handles)
    top = head
    for line, height in zip(lines, heights, strict=True):
        for number, panel in enumerate(line):
            left = MARGIN_INCHES + number * (room + GUTTER_INCHES)
            parts.write_panel_head(figure, left, top, panel.title, panel.noise)
            shown = panel.shown_inches(room)
            _draw_panel(add_axes(figure, left, top + TEXT_INCHES, room, shown), panel, room)
        top += height
    return figure


def _draw_panel(axes: Axes, panel: _Panel, room: float) -> None:
    parts.set_log_scale(axes, *_ends(panel))
    axes.set_xlabel("times, logarithmic", fontsize=8, labelpad=2)
    start, end = axes.get_xlim()
    if panel.floor is not None:
        low, high = max(1 / (1 + panel.floor), start), min(1 + panel.floor, end)
        axes.axvspan(low, high, color=LINES[5], alpha=0.3, linewidth=0)
    axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    top = 0.0
    for line in panel.lines:
        shown = parts.write_row(axes, top, line.head(room))
        found, height = line.comparison.estimate, shown + 0.1
        parts.draw_interval(axes, found, 1.0, height, 0.05)
        if found.is_reached and start <= found.median <= end:
            axes.plot([found.median], [height], color=INK, marker="o", markersize=4)
        elif found.median > 0:
            axes.plot([end], [height], color=INK, marker=">", markersize=5, clip_on=False)
        top = shown + ROW_INCHES


def _ends(panel: _Panel) -> tuple[float, float]:
    """Choose the axis' ends so that 1, the noise and every finite end of an interval are on it."""
    places = [1.0]
    if panel.floor is not None:
        places += [1 + panel.floor, 1 / (1 + panel.floor)]
    for line in panel.lines:
        found = line.comparison.estimate
        ends = (found.interval.low, found.interval.high) if found.interval is not None else ()
        places += [place for place in (found.median, *ends) if 0 < place < math.inf]
    low, high = max(min(places), 1 / FARTHEST), min(max(places), FARTHEST)
    room = max((high / low) ** 0.06, 1.01)
    return low / room, high * room
