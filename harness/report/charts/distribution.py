"""The chart of the times until ready: every trial as a point, and their ECDF.

A panel an arm, each with a scale of its own, since a container's spread would be less than a line's
width on the scale of a virtual machine. The empirical cumulative distribution function (ECDF) says
for each time what share of all trials was ready by then; failed ones never are, so with failures
it ends below 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.analysis.summary import ArmRow, ScenarioTable
from harness.model import units
from harness.report.charts import parts
from harness.report.charts.drawing import ALARM, LINES, Chart, add_axes, show_y_axis
from harness.report.charts.samples import Samples
from harness.report.text import tables, wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_INCHES = 0.72
STRIP_INCHES = 0.24
TEXT_INCHES = 0.44
PANEL_INCHES = TEXT_INCHES + CURVE_INCHES + STRIP_INCHES + parts.AXIS_INCHES
CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 5}
PERCENT_INCHES = 0.36
"""At the left of a panel, for the percentages."""

TOO_WIDE = 20
"""A panel whose slowest trial is this many times its fastest has a logarithmic scale."""

MOST_STEPS = 500
"""No more steps than these are drawn of a curve."""


@dataclass(frozen=True, slots=True)
class _ArmPanel:
    """The drawing of one arm.

    Attributes:
        row: Its figures.
        samples: All its trials.
        curve: (time in ns, share of all trials ready by then), at most `MOST_STEPS`, rising.
        points: Drawn as circles, ns.
        outliers: Drawn as crosses, ns.
        quantiles: Spelled.
    """

    row: ArmRow
    samples: Samples
    curve: tuple[tuple[float, float], ...]
    points: tuple[float, ...]
    outliers: tuple[float, ...]
    quantiles: str


def distribution_chart(table: ScenarioTable, samples: dict[str, Samples]) -> Chart | None:
    """Draw the distribution of `ready` from the samples of each arm.

    Returns None if no arm has two trials that went well: a single one is no distribution.
    """
    shown = [row for row in table.rows if len(samples[row.arm].values) > 1]
    panels = [_panel(row, samples[row.arm]) for row in shown]
    if not panels:
        return None
    title = f"{table.scenario.name}: distribution of the time until ready"
    return Chart(
        name=f"distribution-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(panels),
        caption="Each curve says what share of an arm's trials was ready by a given time; each "
        "circle is one trial, a cross one far from the others, and none is left out. The thick "
        "line is the interval of the median. Every arm has a scale of its own, which does not "
        "begin at zero. Failed trials are never ready: with them a curve ends below 100 %.",
        grid=tables.quantile_grid(table),
        grid_title="Distribution of ready, and how trials ended",
        draw=partial(_draw, panels, title),
    )


def _panel(row: ArmRow, samples: Samples) -> _ArmPanel:
    import numpy as np

    far = row.shape.outliers if row.shape is not None else ()
    outside = np.isin(np.arange(len(samples.values)), np.asarray(far, int))
    median = row.ready.median if row.ready is not None else None
    quantiles = (("p50", median), ("p90", row.ready_p90_ns), ("p99", row.ready_p99_ns))
    spelled = (f"{name} {wording.quantile(ns)}" for name, ns in quantiles if ns is not None)
    return _ArmPanel(
        row,
        samples,
        _curve(samples),
        parts.thinned(samples.values[~outside]),
        parts.thinned(samples.values[outside]),
        " · ".join(spelled),
    )


def _curve(samples: Samples) -> tuple[tuple[float, float], ...]:
    """Make the ECDF over all trials, failed ones included, of at most `MOST_STEPS` steps."""
    import numpy as np

    ordered = np.sort(samples.values)
    count = min(len(ordered), MOST_STEPS)
    places = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    return tuple((float(ordered[place]), (int(place) + 1) / samples.count) for place in places)


def _description(panels: Sequence[_ArmPanel]) -> str:
    arms = []
    for panel in panels:
        first, last = panel.curve[0][0], panel.curve[-1][0]
        arms.append(
            f"{panel.row.arm}: {units.count(panel.samples.count, 'trial')}, "
            f"from {wording.duration(first)} to {wording.duration(last)}, {panel.quantiles}"
            + (f", {units.count(len(panel.outliers), 'outlier')}" if panel.outliers else "")
            + (f", {panel.samples.missed} failed" if panel.samples.missed else "")
        )
    return f"A rising curve an arm, with every trial as a point below it. {'. '.join(arms)}."


def _draw(panels: Sequence[_ArmPanel], title: str, width: float) -> Figure:
    most = max(len(panel.points) + len(panel.outliers) for panel in panels)
    largest = max(panel.samples.count for panel in panels)
    handles = [
        parts.stroke("share of trials ready by then", color=LINES[0], linewidth=1.4),
        parts.ring(parts.drawn_of(largest) if most < largest else "one trial"),
        parts.stroke("interval of the median"),
    ]
    if any(panel.outliers for panel in panels):
        handles.append(parts.stroke("outlier", color=ALARM, **CROSS))
    figure, places = parts.lay_panels(
        title, handles, width, panels, lambda *_: PANEL_INCHES, gutter_inches=0.3
    )
    for panel, left, top, inches in places:
        parts.write_panel_head(figure, left, top, panel.row.arm, panel.quantiles)
        if panel.samples.missed:
            text = parts.missed_text(panel.samples.missed, panel.samples.count)
            place = (left + inches) / width, 1 - (top + 0.2) / figure.get_size_inches()[1]
            figure.text(*place, text, ha="right", color=ALARM, **parts.SMALL_BOLD)
        begin = left + PERCENT_INCHES, top + TEXT_INCHES
        size = inches - PERCENT_INCHES, CURVE_INCHES + STRIP_INCHES
        _draw_panel(add_axes(figure, *begin, *size), panel)
    return figure


def _draw_panel(axes: Axes, panel: _ArmPanel) -> None:
    first, last = panel.curve[0][0], panel.curve[-1][0]
    scale, unit = wording.duration_unit(last)
    _set_scale(axes, first / scale, last / scale)
    logarithmic = ", logarithmic" if axes.get_xscale() == "log" else ""
    label = f"{parts.UNIT_NAMES[unit]} since the request{logarithmic}"
    axes.set_xlabel(label, fontsize=8, labelpad=2)
    show_y_axis(axes)
    axes.set_yticks([CURVE_INCHES * (1 - share) for share in (0, 0.5, 0.9)])
    axes.set_yticklabels(["0 %", "50 %", "90 %"])
    start, end = axes.get_xlim()
    xs = [start, *(at / scale for at, _ in panel.curve), end]
    heights = [CURVE_INCHES, *(CURVE_INCHES * (1 - share) for _, share in panel.curve)]
    heights.append(heights[-1])
    axes.step(xs, heights, where="post", color=LINES[0], linewidth=1.4)
    spread = [
        CURVE_INCHES + 0.05 + (STRIP_INCHES - 0.07) * ((n * parts.GOLDEN) % 1)
        for n in range(len(panel.points))
    ]
    parts.draw_rings(axes, [point / scale for point in panel.points], spread)
    if panel.outliers:
        outliers = [outlier / scale for outlier in panel.outliers]
        heights = [CURVE_INCHES + STRIP_INCHES / 2] * len(outliers)
        axes.plot(outliers, heights, color=ALARM, clip_on=False, **CROSS)
    if panel.row.ready is not None and panel.row.ready.is_reached:
        parts.draw_interval(axes, panel.row.ready, scale, CURVE_INCHES / 2, 0.05)


def _set_scale(axes: Axes, first: float, last: float) -> None:
    """Fit the axis to the samples, with a margin at both ends."""
    if first > 0 and last > TOO_WIDE * first:
        factor = (last / first) ** 0.03
        parts.set_log_scale(axes, first / factor, last * factor)
        return
    margin = (last - first) * 0.03 or last * 0.01 or 1.0
    axes.set_xlim(max(first - margin, 0), last + margin)
    axes.locator_params(axis="x", nbins=5)
