"""How the times until ready are distributed: every trial as a point, and their ECDF.

A panel an arm, each with a scale of its own, since a container's spread would be less than a line's
width on the scale of a virtual machine. The empirical cumulative distribution function (ECDF) says
for each time what share of all trials was ready by then; failed ones never are, so with failures
it ends below 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.analysis.summary import ArmRow, ScenarioTable
from harness.model import units
from harness.report.charts import parts
from harness.report.charts.drawing import (
    ALARM,
    INK,
    LINES,
    MARGIN_INCHES,
    Chart,
    Told,
    add_axes,
    new_figure,
)
from harness.report.charts.samples import Samples
from harness.report.text import tables, wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.charts.samples import Flags

CURVE_INCHES = 0.72
STRIP_INCHES = 0.24
TEXT_INCHES = 0.44
PANEL_INCHES = TEXT_INCHES + CURVE_INCHES + STRIP_INCHES + parts.AXIS_INCHES
GUTTER_INCHES = 0.3
PERCENT_INCHES = 0.36
"""At the left of a panel, for the percentages."""

TOO_WIDE = 20
"""A panel whose slowest trial is this many times its fastest has a logarithmic scale."""

MOST_STEPS = 500
"""No more steps than these are drawn of a curve."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """What is drawn for one arm.

    Attributes:
        row: Its figures.
        trials: How many it rests on.
        curve: (time in ns, share of all trials ready by then), at most `MOST_STEPS`, rising.
        points: Those drawn as circles, ns.
        outliers: Those drawn as crosses, ns.
        missed: How many trials failed.
        figures: Quantiles, spelled.
    """

    row: ArmRow
    trials: int
    curve: tuple[tuple[float, float], ...]
    points: tuple[float, ...]
    outliers: tuple[float, ...]
    missed: int
    figures: str


def distribution_chart(table: ScenarioTable, samples: dict[str, Samples]) -> Chart | None:
    """Draw the distribution of `ready`.

    Args:
        table: The scenario.
        samples: Arm name to its samples.

    Returns:
        None if no arm has two trials that went well: a single one is no distribution.
    """
    shown = [row for row in table.rows if len(samples[row.arm].values) > 1]
    panels = [_panel(row, samples[row.arm]) for row in shown]
    if not panels:
        return None
    told = Told(
        title=f"{table.scenario.name}: distribution of the time until ready",
        description=_description(panels),
        caption="Each curve says what share of an arm's trials was ready by a given time; each "
        "circle is one trial, a cross one far from the others, and none is left out. The thick "
        "line is the interval of the median. Every arm has a scale of its own, which does not "
        "begin at zero. Failed trials are never ready: with them a curve ends below 100 %.",
        grid=tables.quantile_grid(table),
        grid_title="Distribution of ready, and how trials ended",
    )
    name = f"distribution-{parts.slug(table.scenario.name)}"
    return Chart(name, told, lambda width: _draw(panels, told.title, width))


def _panel(row: ArmRow, samples: Samples) -> _Panel:
    outside = _outliers(row, samples)
    quantiles = (
        f"{name} {wording.quantile(value)}"
        for name, value in (
            ("p50", _median(row)),
            ("p90", row.ready_p90_ns),
            ("p99", row.ready_p99_ns),
        )
        if value is not None
    )
    return _Panel(
        row,
        samples.count,
        _curve(samples),
        parts.thinned(samples.values[~outside]),
        parts.thinned(samples.values[outside]),
        samples.missed,
        " · ".join(quantiles),
    )


def _outliers(row: ArmRow, samples: Samples) -> Flags:
    """Say of each value whether it is far from the others."""
    import numpy as np

    far = row.shape.outliers if row.shape is not None else ()
    return np.isin(np.arange(len(samples.values)), np.asarray(far, int))


def _median(row: ArmRow) -> float | None:
    return row.ready.median if row.ready is not None else None


def _curve(samples: Samples) -> tuple[tuple[float, float], ...]:
    """The ECDF over all trials, failed ones included, at no more than `MOST_STEPS` of its steps."""
    import numpy as np

    ordered = np.sort(samples.values)
    count = min(len(ordered), MOST_STEPS)
    places = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    return tuple((float(ordered[place]), (int(place) + 1) / samples.count) for place in places)


def _description(panels: Sequence[_Panel]) -> str:
    told = []
    for panel in panels:
        first, last = panel.curve[0][0], panel.curve[-1][0]
        told.append(
            f"{panel.row.arm}: {units.count(panel.trials, 'trial')}, "
            f"from {wording.duration(first)} to {wording.duration(last)}, {panel.figures}"
            + (f", {units.count(len(panel.outliers), 'outlier')}" if panel.outliers else "")
            + (f", {panel.missed} failed" if panel.missed else "")
        )
    return f"A rising curve an arm, with every trial as a point below it. {'. '.join(told)}."


def _draw(panels: Sequence[_Panel], title: str, width: float) -> Figure:
    most = max(len(panel.points) + len(panel.outliers) for panel in panels)
    largest = max(panel.trials for panel in panels)
    handles = [
        parts.stroke("share of trials ready by then", color=LINES[0], linewidth=1.4),
        parts.ring(parts.drawn_of(largest) if most < largest else "one trial"),
        parts.stroke("interval of the median"),
    ]
    if any(panel.outliers for panel in panels):
        cross: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 5}
        handles.append(parts.stroke("outlier", color=ALARM, **cross))
    columns = parts.columns_for(width, len(panels))
    lines = math.ceil(len(panels) / columns)
    head = parts.head_inches(title, handles, width)
    figure = new_figure(width, head + lines * PANEL_INCHES)
    parts.draw_head(figure, title, handles)
    room = (width - 2 * MARGIN_INCHES - (columns - 1) * GUTTER_INCHES) / columns
    for number, panel in enumerate(panels):
        left = MARGIN_INCHES + number % columns * (room + GUTTER_INCHES)
        top = head + number // columns * PANEL_INCHES
        _write_head(figure, panel, left, top, room)
        axes = add_axes(
            figure,
            left + PERCENT_INCHES,
            top + TEXT_INCHES,
            room - PERCENT_INCHES,
            CURVE_INCHES + STRIP_INCHES,
        )
        _draw_panel(axes, panel)
    return figure


def _write_head(figure: Figure, panel: _Panel, left: float, top: float, room: float) -> None:
    parts.write_panel_head(figure, left, top, panel.row.arm, panel.figures)
    if panel.missed:
        text = parts.missed_text(panel.missed, panel.trials)
        width, height = figure.get_size_inches()
        place = ((left + room) / width, 1 - (top + 0.2) / height)
        figure.text(*place, text, ha="right", color=ALARM, **parts.SMALL_BOLD)


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    first, last = panel.curve[0][0], panel.curve[-1][0]
    scale, unit = wording.duration_unit(last)
    _set_scale(axes, first / scale, last / scale)
    logarithmic = ", logarithmic" if axes.get_xscale() == "log" else ""
    label = f"{parts.UNIT_NAMES[unit]} since the request{logarithmic}"
    axes.set_xlabel(label, fontsize=8, labelpad=2)
    axes.yaxis.set_visible(True)
    axes.set_yticks([CURVE_INCHES * (1 - share) for share in (0, 0.5, 0.9)])
    axes.set_yticklabels(["0 %", "50 %", "90 %"], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.5, alpha=0.18, color=INK)
    start, end = axes.get_xlim()
    xs, heights = [start], [CURVE_INCHES]
    for at, share in panel.curve:
        xs.append(at / scale)
        heights.append(CURVE_INCHES * (1 - share))
    xs.append(end)
    heights.append(heights[-1])
    axes.step(xs, heights, where="post", color=LINES[0], linewidth=1.4)
    spread = [
        CURVE_INCHES + 0.05 + (STRIP_INCHES - 0.07) * ((n * parts.GOLDEN) % 1)
        for n in range(len(panel.points))
    ]
    parts.draw_rings(axes, [point / scale for point in panel.points], spread)
    if panel.outliers:
        axes.plot(
            [outlier / scale for outlier in panel.outliers],
            [CURVE_INCHES + STRIP_INCHES / 2] * len(panel.outliers),
            linestyle="none",
            marker="x",
            markersize=5,
            color=ALARM,
            clip_on=False,
        )
    if panel.row.ready is not None and panel.row.ready.is_reached:
        parts.draw_interval(axes, panel.row.ready, scale, CURVE_INCHES / 2, 0.05)


def _set_scale(axes: Axes, first: float, last: float) -> None:
    """Fit the axis to the samples, with room at both ends."""
    if first > 0 and last > TOO_WIDE * first:
        room = (last / first) ** 0.03
        parts.set_log_scale(axes, first / room, last * room)
        return
    room = (last - first) * 0.03 or last * 0.01 or 1.0
    axes.set_xlim(max(first - room, 0), last + room)
    axes.locator_params(axis="x", nbins=5)
