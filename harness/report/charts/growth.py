"""Curves over the number of instances: footprint of all of them, and how soon one more is ready.

Every reading is a mark, every line a regression through them. Where it meets the left edge is what
is there once, however many instances there are; its slope is what one more instance costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.analysis.curves import GrowthCurve
from harness.analysis.summary import ScenarioTable
from harness.model.metrics import METRICS, Unit
from harness.report.charts import parts
from harness.report.charts.drawing import INK, MARGIN_INCHES, Chart, Told, add_axes, new_figure
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
GUTTER_INCHES = 0.35

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
class _Panel:
    """Curves of one metric that share a scale.

    Attributes:
        title: Of the panel.
        across: What the x axis counts.
        unit: Of the values.
        curves: One an arm.
        told: What each curve says, by arm.
    """

    title: str
    across: str
    unit: Unit
    curves: tuple[GrowthCurve, ...]
    told: tuple[str, ...]

    def labels(self, room: float) -> list[str]:
        """What each curve says, broken into lines that fit beside its sample."""
        return ["\n".join(parts.wrapped(told, TINY, room - SAMPLE_INCHES)) for told in self.told]

    def head_inches(self, room: float) -> float:
        """How much title and legend take in a panel that many inches wide."""
        lines = sum(label.count("\n") + 1 for label in self.labels(room))
        return HEAD_INCHES + LINE_INCHES * lines + 0.08

    def inches(self, room: float) -> float:
        """How high it is."""
        return self.head_inches(room) + PLOT_INCHES + parts.AXIS_INCHES + 0.08


def growth_chart(table: ScenarioTable) -> Chart | None:
    """Draw disk and memory of all living instances against their number.

    Returns:
        None if the scenario let no instances live together.
    """
    by_metric: dict[str, list[GrowthCurve]] = {}
    for curve in _in_order(table, table.growth):
        by_metric.setdefault(curve.metric, []).append(curve)
    panels = [
        _Panel(
            TITLES.get(metric, METRICS[metric].title),
            "instances alive",
            METRICS[metric].unit,
            tuple(curves),
            tuple(_footprint(curve) for curve in curves),
        )
        for metric, curves in by_metric.items()
    ]
    if not panels:
        return None
    told = Told(
        title=f"{table.scenario.name}: footprint of all instances together",
        description=_description(panels),
        caption="Each mark is one reading, each line a regression through them, never a total "
        "divided by a number. Where a line meets the left edge is what is shared and there once; "
        "its slope is what one more instance costs. The fan is the interval of the slope, and a "
        "✕ the instance that could not be started.",
        grid=_grid(panels, ("each [interval]", "once [interval]")),
        grid_title="Slopes and intercepts of the footprint",
    )
    name = f"growth-{parts.slug(table.scenario.name)}"
    # Unique memory grows as the proportional does: told, but no picture of its own.
    shown = [panel for panel in panels if panel.title != TITLES["uss"] or len(panels) == 1]
    return Chart(name, told, lambda width: _draw(table, shown, told.title, width))


def crowd_chart(table: ScenarioTable) -> Chart | None:
    """Draw time until ready against how many live already, and how many start together.

    Returns:
        None if every instance started alone.
    """
    panels = [
        _Panel(
            METRICS["ready"].title,
            across,
            Unit.NANOSECONDS,
            _in_order(table, curves),
            tuple(_slowing(curve, what) for curve in _in_order(table, curves)),
        )
        for across, what, curves in (
            ("instances alive already", "for each alive", table.start_curves),
            ("requested at the same time", "for each more at once", table.burst_curves),
        )
        if curves
    ]
    if not panels:
        return None
    told = Told(
        title=f"{table.scenario.name}: time until ready in a crowd",
        description=_description(panels),
        caption="Each mark is one start, each line a regression through them. A flat line is an "
        "arm whose start does not mind how many of its kind there are. The fan is the interval of "
        "the slope, and a ✕ the instance that could not be started.",
        grid=_grid(panels, ("for each more [interval]", "line at 0 [interval]")),
        grid_title="Slopes and intercepts of the time until ready",
    )
    name = f"crowd-{parts.slug(table.scenario.name)}"
    return Chart(name, told, lambda width: _draw(table, panels, told.title, width))


def _in_order(table: ScenarioTable, curves: Sequence[GrowthCurve]) -> tuple[GrowthCurve, ...]:
    """Put curves into the report's order of arms."""
    order = {row.arm: place for place, row in enumerate(table.rows)}
    return tuple(sorted(curves, key=lambda curve: order[curve.arm]))


def _spell(unit: Unit) -> Callable[[stats.Estimate | None], str]:
    return wording.duration_estimate if unit is Unit.NANOSECONDS else wording.size_estimate


def _footprint(curve: GrowthCurve) -> str:
    failed = _failed(curve)
    if curve.line is None:
        return f"{curve.arm}: no line{failed}"
    each, once = curve.line.slope, curve.line.intercept
    sign = "+" if once.median >= 0 else "\N{MINUS SIGN}"
    told = f"{wording.size_estimate(each)} each {sign} {wording.size(abs(once.median))} once"
    return f"{curve.arm}: {told}{failed}"


def _slowing(curve: GrowthCurve, what: str) -> str:
    failed = _failed(curve)
    if curve.line is None:
        return f"{curve.arm}: no line{failed}"
    sign = "+" if curve.line.slope.median >= 0 else ""
    return f"{curve.arm}: {sign}{wording.duration_estimate(curve.line.slope)} {what}{failed}"


def _failed(curve: GrowthCurve) -> str:
    return "" if curve.failed_at is None else f", ✕ at {curve.failed_at}"


def _description(panels: Sequence[_Panel]) -> str:
    told = (f"{panel.title} against {panel.across}: {'; '.join(panel.told)}" for panel in panels)
    return f"Marks with a line an arm. {'. '.join(told)}."


def _grid(panels: Sequence[_Panel], heads: tuple[str, str]) -> Grid:
    rows = []
    for panel in panels:
        spell = _spell(panel.unit)
        for curve in panel.curves:
            slope = spell(curve.line.slope) if curve.line is not None else wording.NONE
            start = spell(curve.line.intercept) if curve.line is not None else wording.NONE
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


def _draw(table: ScenarioTable, panels: Sequence[_Panel], title: str, width: float) -> Figure:
    looks = parts.looks(table)
    shown = [part for panel in panels for part in (panel, _magnified(panel)) if part is not None]
    columns = parts.columns_for(width, len(shown))
    lines = [shown[n : n + columns] for n in range(0, len(shown), columns)]
    room = (width - 2 * MARGIN_INCHES - (columns - 1) * GUTTER_INCHES) / columns
    heights = [max(panel.inches(room) for panel in line) for line in lines]
    head = parts.head_inches(title, (), width)
    figure = new_figure(width, head + sum(heights))
    parts.draw_head(figure, title, ())
    top = head
    for line, height in zip(lines, heights, strict=True):
        for number, panel in enumerate(line):
            left = MARGIN_INCHES + number * (room + GUTTER_INCHES)
            _draw_panel(figure, panel, looks, (left, top, room))
        top += height
    return figure


def _highest(curve: GrowthCurve) -> float:
    return max((value for _, value in curve.points), default=0.0)


def _magnified(panel: _Panel) -> _Panel | None:
    """Take the curves that would lie on the floor of a panel, if there are any."""
    highest = max(_highest(curve) for curve in panel.curves)
    low = [n for n, c in enumerate(panel.curves) if 0 < _highest(c) * TOO_LOW < highest]
    if not low:
        return None
    curves = tuple(panel.curves[n] for n in low)
    told = tuple(panel.told[n] for n in low)
    return _Panel(f"{panel.title}, magnified", panel.across, panel.unit, curves, told)


def _draw_panel(
    figure: Figure,
    panel: _Panel,
    looks: dict[str, parts.Look],
    place: tuple[float, float, float],
) -> None:
    left, top, room = place
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - (top + 0.2) / height, panel.title, va="baseline", **parts.BOLD)
    begin = top + panel.head_inches(room)
    axes = add_axes(figure, left + TICKS_INCHES, begin, room - TICKS_INCHES, PLOT_INCHES)
    handles = [
        parts.stroke(label, **_line_look(looks[curve.arm]))
        for curve, label in zip(panel.curves, panel.labels(room), strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left / width, 1 - (top + HEAD_INCHES) / height),
        fontsize=7.5,
        handlelength=2.4,
        borderaxespad=0.0,
        borderpad=0.0,
        labelspacing=0.4,
        handletextpad=0.5,
    )
    _draw_curves(axes, panel, looks)


def _line_look(look: parts.Look) -> dict[str, Any]:
    return {
        "color": look.colour,
        "linestyle": look.dash,
        "linewidth": 1.3,
        "marker": look.marker,
        "markersize": 3.6,
        "markerfacecolor": "none",
    }


def _draw_curves(axes: Axes, panel: _Panel, looks: dict[str, parts.Look]) -> None:
    highest = max(_highest(curve) for curve in panel.curves)
    lines = [curve.line for curve in panel.curves if curve.line is not None]
    highest = max(highest, *(line.intercept.median for line in lines), 0.0) or 1.0
    unit_of = wording.duration_unit if panel.unit is Unit.NANOSECONDS else wording.size_unit
    # The host's available memory may have risen meanwhile: what is below nothing is shown, too.
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

    axes.yaxis.set_visible(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {unit}" if value else "0")
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    axes.grid(axis="y", linewidth=0.5, alpha=0.18, color=INK)
    for place, curve in enumerate(panel.curves):
        _draw_curve(axes, curve, looks[curve.arm], scale)
        if curve.failed_at is not None:
            # At the top, but not one upon the other.
            start, end = axes.get_ylim()
            height = end - (end - start) * 0.09 * place
            cross: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.8}
            colour = looks[curve.arm].colour
            axes.plot([curve.failed_at], [height], color=colour, clip_on=False, **cross)


def _draw_curve(axes: Axes, curve: GrowthCurve, look: parts.Look, scale: float) -> None:
    import numpy as np

    points = curve.points
    if len(points) > parts.MOST_POINTS:
        places = np.linspace(0, len(points) - 1, parts.MOST_POINTS).round().astype(int)
        points = tuple(points[place] for place in places)
    xs = [instances for instances, _ in points]
    marks = {**_line_look(look), "linestyle": "none"}
    axes.plot(xs, [value / scale for _, value in points], clip_on=False, **marks)
    if curve.line is None:
        return
    ends = np.array([0.0, max(instances for instances, _ in curve.points)])
    middle = float(np.mean([instances for instances, _ in curve.points]))
    start, slope = curve.line.intercept.median / scale, curve.line.slope.median / scale
    line = {key: value for key, value in _line_look(look).items() if "marker" not in key}
    axes.plot(ends, start + slope * ends, **line)
    interval = curve.line.slope.interval
    if interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high):
        # The line turns about the middle of the readings, where it is known best.
        height = start + slope * middle
        low, high = (
            height + each / scale * (ends - middle) for each in (interval.low, interval.high)
        )
        axes.fill_between(ends, low, high, color=look.colour, alpha=0.18, linewidth=0)
