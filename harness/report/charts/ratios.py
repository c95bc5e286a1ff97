"""The ratio forest: every arm against the reference, with intervals, metric by metric.

The axis is logarithmic, because twice and half are as far from the line at 1. Where it is known how
much an arm differs from itself on this host (an A/A comparison), that is a band around the line: a
ratio within it is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness import stats
from harness.analysis.summary import ScenarioTable
from harness.model.metrics import METRICS
from harness.report.charts import parts
from harness.report.charts.drawing import INK, LINES, Chart, add_axes
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
FARTHEST = 1e6
"""No axis reaches farther from 1 than this: what does is an arrow."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One arm's ratio to the reference, and a note under its figures."""

    arm: str
    comparison: stats.Comparison
    note: str

    def head(self, inches: float) -> parts.RowHead:
        return parts.row_head(self.arm, wording.ratio(self.comparison), self.note, inches)


@dataclass(frozen=True, slots=True)
class _RatioPanel:
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

    def axes_inches(self, inches: float) -> float:
        """Return the height of its axes in a panel that many inches wide."""
        return sum(line.head(inches).inches + ROW_INCHES for line in self.lines)

    @property
    def noise(self) -> str:
        if self.floor is None:
            return "noise floor not known"
        spelled = f"noise floor ± {_percent(self.floor)}"
        if self.detectable is not None and math.isfinite(self.detectable):
            spelled += f", detectable {_percent(self.detectable)}"
        return spelled


def ratio_chart(table: ScenarioTable) -> Chart | None:
    """Draw the ratios to the reference; returns None if nothing can be compared."""
    panels = [panel for panel in (_panel(table, metric) for metric in SHOWN) if panel is not None]
    if not panels:
        return None
    title = f"{table.scenario.name}: how many times {table.reference}"
    return Chart(
        name=f"ratios-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(panels, table.reference or ""),
        caption=f"Ratios to {table.reference} within blocks: the dot is their median, the line its "
        f"interval. The line at 1 is {table.reference} itself; a line that crosses it may be no "
        "difference at all. The band around it, where this host's noise is known, is how far an "
        "arm is from itself in single pairs. Scales are logarithmic.",
        grid=_grid(panels, table.reference or ""),
        grid_title=f"Ratios to {table.reference}, [interval]",
        draw=partial(_draw, panels, title),
    )


def _panel(table: ScenarioTable, metric: str) -> _RatioPanel | None:
    lines = []
    for row in table.rows:
        comparison = row.ratios.get(metric)
        if comparison is not None and not row.is_reference:
            is_bound = metric not in EXEMPT and table.is_upper_bound(row)
            lines.append(_Line(row.arm, comparison, UPPER_BOUND if is_bound else ""))
    # A ratio of zero, as of an arm that writes nothing, has no place on a logarithmic axis.
    if not any(0 < line.comparison.estimate.median < math.inf for line in lines):
        return None
    known = [noise for noise in table.noise if noise.metric == metric]
    # Two arms were compared with themselves: the noisier one is what a ratio must get out of.
    noise = max(known, key=lambda one: one.floor, default=None)
    return _RatioPanel(
        METRICS[metric].title,
        tuple(lines),
        noise.floor if noise is not None else None,
        noise.detectable_with(table.blocks or noise.blocks) if noise is not None else None,
    )


def _percent(share: float) -> str:
    percent = abs(share) * 100  # a floor of 0 may be -0
    return f"{percent:.2g} %" if percent < 100 else f"{percent:.0f} %"


def _description(panels: Sequence[_RatioPanel], reference: str) -> str:
    metrics = []
    for panel in panels:
        lines = "; ".join(
            f"{line.arm} {wording.ratio(line.comparison)}{f' ({line.note})' if line.note else ''}"
            for line in panel.lines
        )
        metrics.append(f"{panel.title} ({panel.noise}): {lines}")
    return f"Dots with intervals on a scale of ratios to {reference}. {'. '.join(metrics)}."


def _grid(panels: Sequence[_RatioPanel], reference: str) -> Grid:
    rows = tuple(
        (line.arm, panel.title, wording.ratio(line.comparison), line.note or wording.NONE)
        for panel in panels
        for line in panel.lines
    )
    return Grid(("arm", "of what", f"times {reference} [interval]", "to be read as"), rows)


def _draw(panels: Sequence[_RatioPanel], title: str, width: float) -> Figure:
    handles = [
        parts.stroke("median and its interval", marker="o", markersize=4),
        parts.stroke("no difference", linewidth=1, linestyle="--"),
    ]
    if any(panel.floor is not None for panel in panels):
        handles.append(parts.band("noise of this host", LINES[5]))
    around = TEXT_INCHES + parts.AXIS_INCHES
    figure, places = parts.lay_panels(
        title, handles, width, panels, lambda panel, inches: around + panel.axes_inches(inches)
    )
    for panel, left, top, inches in places:
        parts.write_panel_head(figure, left, top, panel.title, panel.noise)
        axes = add_axes(figure, left, top + TEXT_INCHES, inches, panel.axes_inches(inches))
        _draw_panel(axes, panel, inches)
    return figure


def _draw_panel(axes: Axes, panel: _RatioPanel, inches: float) -> None:
    parts.set_log_scale(axes, *_ends(panel))
    axes.set_xlabel("times, logarithmic", fontsize=8, labelpad=2)
    start, end = axes.get_xlim()
    if panel.floor is not None:
        low, high = max(1 / (1 + panel.floor), start), min(1 + panel.floor, end)
        axes.axvspan(low, high, color=LINES[5], alpha=0.3, linewidth=0)
    axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    top = 0.0
    for line in panel.lines:
        shown = parts.write_row(axes, top, line.head(inches))
        found, height = line.comparison.estimate, shown + 0.1
        parts.draw_interval(axes, found, 1.0, height, 0.05)
        if found.is_reached and start <= found.median <= end:
            axes.plot([found.median], [height], color=INK, marker="o", markersize=4)
        elif found.median > 0:
            axes.plot([end], [height], color=INK, marker=">", markersize=5, clip_on=False)
        top = shown + ROW_INCHES


def _ends(panel: _RatioPanel) -> tuple[float, float]:
    """Choose the axis' ends so that 1, the noise and every finite end of an interval are on it."""
    places = [1.0]
    if panel.floor is not None:
        places += [1 + panel.floor, 1 / (1 + panel.floor)]
    for line in panel.lines:
        found = line.comparison.estimate
        ends = (found.interval.low, found.interval.high) if found.interval is not None else ()
        places += [place for place in (found.median, *ends) if 0 < place < math.inf]
    low, high = max(min(places), 1 / FARTHEST), min(max(places), FARTHEST)
    margin = max((high / low) ** 0.06, 1.01)
    return low / margin, high * margin
