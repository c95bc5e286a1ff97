"""Curves over the number of instances: footprint of all of them, and how soon one more is ready.

Every reading is a mark, every line a regression through them. Where it meets the left edge is what
is there once, however many instances there are; its slope is what one more instance costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.analysis.curves import GrowthCurve
from harness.analysis.summary import ScenarioTable
from harness.model.metrics import METRICS, Unit
from harness.report.charts import parts
from harness.report.charts.drawing import INK, Chart, add_axes, show_y_axis
from harness.report.text import wording
from harness.report.text.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT_INCHES = 1.55
TICKS_INCHES = 0.56
"""At the left of a panel, for the numbers of its axis."""
HEAD_INCHES = 0.3
LINE_INCHES = 0.175
SAMPLE_INCHES = 0.4
"""Beside a curve's text: a piece of its line."""
TINY: Mapping[str, Any] = {"fontsize": 7.5}
TITLES = {
    "disk": "disk",
    "pss": "memory (PSS)",
    "uss": "memory (USS)",
    "cgroup-current": "memory (cgroup)",
    "available-delta": "memory (fall of MemAvailable)",
}
"""Of all instances together, where a metric's own title speaks of each."""

TOO_LOW = 10
"""Curves this many times lower than the highest are magnified in a panel of their own."""


@dataclass(frozen=True, slots=True)
class _CurvePanel:
    """Curves of one metric that share a scale.

    Attributes:
        title: Of the panel.
        across: Name of the x axis.
        unit: Of the values.
        curves: One an arm.
        labels: Of the curves: arm, slope and intercept.
    """

    title: str
    across: str
    unit: Unit
    curves: tuple[GrowthCurve, ...]
    labels: tuple[str, ...]

    def wrapped_labels(self, width: float) -> list[str]:
        """Break the labels into lines that fit beside the samples of the curves."""
        inches = width - SAMPLE_INCHES
        return ["\n".join(parts.wrapped(label, TINY, inches)) for label in self.labels]

    def head_inches(self, width: float) -> float:
        """Return the height of title and legend in a panel that many inches wide."""
        lines = sum(label.count("\n") + 1 for label in self.wrapped_labels(width))
        return HEAD_INCHES + LINE_INCHES * lines + 0.08

    def inches(self, width: float) -> float:
        return self.head_inches(width) + PLOT_INCHES + parts.AXIS_INCHES + 0.08


def growth_chart(table: ScenarioTable) -> Chart | None:
    """Draw disk and memory of all living instances against their number.

    Returns None if the scenario let no instances live together.
    """
    by_metric: dict[str, list[GrowthCurve]] = {}
    for curve in _in_order(table, table.growth):
        by_metric.setdefault(curve.metric, []).append(curve)
    panels = [
        _CurvePanel(
            TITLES.get(metric, METRICS[metric].title),
            "instances alive",
            METRICS[metric].unit,
            tuple(curves),
            tuple(map(_label, curves)),
        )
        for metric, curves in by_metric.items()
    ]
    if not panels:
        return None
    title = f"{table.scenario.name}: footprint of all instances together"
    # Unique memory grows as the proportional does: in words, but no picture of its own.
    shown = [panel for panel in panels if panel.title != TITLES["uss"] or len(panels) == 1]
    return Chart(
        name=f"growth-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(panels),
        caption="Each mark is one reading, each line a regression through them, never a total "
        "divided by a number. Where a line meets the left edge is what is shared and there once; "
        "its slope is what one more instance costs. The fan is the interval of the slope, and a "
        "✕ the instance that could not be started.",
        grid=_grid(panels, ("each [interval]", "once [interval]")),
        grid_title="Slopes and intercepts of the footprint",
        draw=partial(_draw, table, shown, title),
    )


def crowd_chart(table: ScenarioTable) -> Chart | None:
    """Draw time until ready against the instances alive already, and those of a burst.

    Returns None if every instance started alone.
    """
    panels = [
        _CurvePanel(
            METRICS["ready"].title,
            across,
            Unit.NANOSECONDS,
            _in_order(table, curves),
            tuple(_label(curve, slowing) for curve in _in_order(table, curves)),
        )
        for across, slowing, curves in (
            ("instances alive already", "for each alive", table.start_curves),
            ("requested at the same time", "for each more at once", table.burst_curves),
        )
        if curves
    ]
    if not panels:
        return None
    title = f"{table.scenario.name}: time until ready in a crowd"
    return Chart(
        name=f"crowd-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(panels),
        caption="Each mark is one start, each line a regression through them. A flat line is an "
        "arm whose start does not mind how many of its kind there are. The fan is the interval of "
        "the slope, and a ✕ the instance that could not be started.",
        grid=_grid(panels, ("for each more [interval]", "line at 0 [interval]")),
        grid_title="Slopes and intercepts of the time until ready",
        draw=partial(_draw, table, panels, title),
    )


def _in_order(table: ScenarioTable, curves: Sequence[GrowthCurve]) -> tuple[GrowthCurve, ...]:
    """Put curves into the report's order of arms."""
    order = {row.arm: place for place, row in enumerate(table.rows)}
    return tuple(sorted(curves, key=lambda curve: order[curve.arm]))


def _label(curve: GrowthCurve, slowing: str = "") -> str:
    """Describe a curve of the footprint, or one of the slowing for each of something."""
    line = "no line"
    if curve.line is not None and slowing:
        sign = "+" if curve.line.slope.median >= 0 else ""
        line = f"{sign}{wording.duration_estimate(curve.line.slope)} {slowing}"
    elif curve.line is not None:
        once = curve.line.intercept.median
        sign = "+" if once >= 0 else "\N{MINUS SIGN}"
        each = wording.size_estimate(curve.line.slope)
        line = f"{each} each {sign} {wording.size(abs(once))} once"
    failed = "" if curve.failed_at is None else f", ✕ at {curve.failed_at}"
    return f"{curve.arm}: {line}{failed}"


def _description(panels: Sequence[_CurvePanel]) -> str:
    lines = (f"{panel.title} against {panel.across}: {'; '.join(panel.labels)}" for panel in panels)
    return f"Marks with a line an arm. {'. '.join(lines)}."


def _grid(panels: Sequence[_CurvePanel], heads: tuple[str, str]) -> Grid:
    rows = []
    for panel in panels:
        for curve in panel.curves:
            line = (curve.line.slope, curve.line.intercept) if curve.line else (None, None)
            slope, start = (wording.amount_estimate(value, panel.unit) for value in line)
            numbers = [instances for instances, _ in curve.points]
            rows.append(
                (
                    curve.arm,
                    panel.across if panel.unit is Unit.NANOSECONDS else panel.title,
                    slope,
                    start,
                    f"{len(curve.points)} at {min(numbers)} to {max(numbers)}",
                    wording.NONE if curve.failed_at is None else str(curve.failed_at),
                )
            )
    return Grid(("arm", "of what", *heads, "readings", "failed at"), tuple(rows))


def _draw(table: ScenarioTable, panels: Sequence[_CurvePanel], title: str, width: float) -> Figure:
    styles = parts.arm_styles(table)
    shown = [part for panel in panels for part in (panel, _magnified(panel)) if part is not None]
    figure, places = parts.lay_panels(title, (), width, shown, _CurvePanel.inches)
    for panel, *place in places:
        _draw_panel(figure, panel, styles, *place)
    return figure


def _highest(curve: GrowthCurve) -> float:
    return max((value for _, value in curve.points), default=0.0)


def _magnified(panel: _CurvePanel) -> _CurvePanel | None:
    """Take the curves that would lie on the floor of a panel, if there are any."""
    highest = max(_highest(curve) for curve in panel.curves)
    low = [n for n, c in enumerate(panel.curves) if 0 < _highest(c) * TOO_LOW < highest]
    if not low:
        return None
    curves = tuple(panel.curves[n] for n in low)
    labels = tuple(panel.labels[n] for n in low)
    return _CurvePanel(f"{panel.title}, magnified", panel.across, panel.unit, curves, labels)


def _draw_panel(
    figure: Figure,
    panel: _CurvePanel,
    styles: dict[str, parts.ArmStyle],
    left: float,
    top: float,
    inches: float,
) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - (top + 0.2) / height, panel.title, va="baseline", **parts.BOLD)
    begin = top + panel.head_inches(inches)
    axes = add_axes(figure, left + TICKS_INCHES, begin, inches - TICKS_INCHES, PLOT_INCHES)
    handles = [
        parts.stroke(label, **_line(styles[curve.arm]), **_marks(styles[curve.arm]))
        for curve, label in zip(panel.curves, panel.wrapped_labels(inches), strict=True)
    ]
    place = left / width, 1 - (top + HEAD_INCHES) / height
    spaces: dict[str, Any] = {"handlelength": 2.4, "handletextpad": 0.5, "labelspacing": 0.4}
    parts.draw_legend(figure, handles, place, fontsize=7.5, **spaces)
    _draw_curves(axes, panel, styles)


def _line(style: parts.ArmStyle) -> dict[str, Any]:
    return {"color": style.colour, "linestyle": style.dash, "linewidth": 1.3}


def _marks(style: parts.ArmStyle) -> dict[str, Any]:
    return {"marker": style.marker, "markersize": 3.6, "markerfacecolor": "none"}


def _draw_curves(axes: Axes, panel: _CurvePanel, styles: dict[str, parts.ArmStyle]) -> None:
    highest = max(_highest(curve) for curve in panel.curves)
    lines = [curve.line for curve in panel.curves if curve.line is not None]
    highest = max(highest, *(line.intercept.median for line in lines), 0.0) or 1.0
    unit_of = wording.duration_unit if panel.unit is Unit.NANOSECONDS else wording.size_unit
    # The host's available memory may have risen meanwhile: negative values are shown, too.
    values = (value for curve in panel.curves for _, value in curve.points)
    lowest = min(*values, *(line.intercept.median for line in lines), 0.0)
    scale, unit = unit_of(max(highest, -lowest))
    last = max(max((n for n, _ in curve.points), default=1) for curve in panel.curves)
    last = max(last, *(curve.failed_at or 0 for curve in panel.curves))
    axes.set_xlim(0, last * 1.04)
    air = (highest - lowest) / scale * 0.06
    axes.set_ylim(lowest / scale - (air if lowest < 0 else 0), highest / scale + air)
    if lowest < 0:
        axes.axhline(0, color=INK, linewidth=0.6)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.set_xlabel(panel.across, fontsize=8, labelpad=2)
    from matplotlib.ticker import MaxNLocator

    show_y_axis(axes)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {unit}" if value else "0")
    for place, curve in enumerate(panel.curves):
        _draw_curve(axes, curve, styles[curve.arm], scale)
        if curve.failed_at is not None:
            # At the top, and none covers another.
            start, end = axes.get_ylim()
            height = end - (end - start) * 0.09 * place
            cross: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.8}
            colour = styles[curve.arm].colour
            axes.plot([curve.failed_at], [height], color=colour, clip_on=False, **cross)


def _draw_curve(axes: Axes, curve: GrowthCurve, style: parts.ArmStyle, scale: float) -> None:
    import numpy as np

    points = curve.points
    if len(points) > parts.MOST_POINTS:
        places = np.linspace(0, len(points) - 1, parts.MOST_POINTS).round().astype(int)
        points = tuple(points[place] for place in places)
    xs = [instances for instances, _ in points]
    marks = {**_line(style), **_marks(style), "linestyle": "none"}
    axes.plot(xs, [value / scale for _, value in points], clip_on=False, **marks)
    if curve.line is None:
        return
    numbers = [instances for instances, _ in curve.points]
    middle = float(np.mean(numbers))
    # The line turns about the middle of the readings, where it is known best.
    height = float(np.mean([value for _, value in curve.points])) / scale
    slope = curve.line.slope.median / scale
    first = min(numbers)
    measured = np.array([first, max(numbers)], float)
    axes.plot(measured, height + slope * (measured - middle), **_line(style))
    # To the left edge nothing was measured: it is thought on, as far as it has a meaning.
    edge = np.array([0.0, first])
    beyond = height + slope * (edge - middle)
    if curve.line.intercept.median >= 0 and beyond[0] < 0 < slope:
        edge, beyond = np.array([middle - height / slope, first]), np.array([0.0, beyond[1]])
    axes.plot(edge, beyond, **{**_line(style), "linestyle": ":"})
    interval = curve.line.slope.interval
    if interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high):
        low, high = (
            height + each / scale * (measured - middle) for each in (interval.low, interval.high)
        )
        axes.fill_between(measured, low, high, color=style.colour, alpha=0.18, linewidth=0)
