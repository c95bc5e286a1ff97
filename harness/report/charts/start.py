"""Time until ready: a bar of phases for each arm, and under it every trial as a point.

The axis is linear and begins at zero, so that a bar twice as long is twice as much. Where some arms
are too short to be seen beside the others, a second panel magnifies them and says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.analysis.summary import MARKS, ArmRow, ScenarioTable
from harness.model import Milestone, units
from harness.report.charts import parts
from harness.report.charts.drawing import (
    ALARM,
    MARGIN_INCHES,
    PALETTE,
    Chart,
    add_panel,
    new_figure,
)
from harness.report.charts.samples import Samples
from harness.report.text import tables, wording
from harness.report.text.answer import UPPER_BOUND

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOO_SHORT = 10
"""An arm this many times shorter than the longest is magnified in a panel of its own."""

PHASE_LOOK = {
    Milestone.ISOLATED: (PALETTE["sky"], ""),
    Milestone.KERNEL: (PALETTE["orange"], "////"),
    Milestone.USERSPACE: (PALETTE["blue"], "----"),
    Milestone.STARTED: (PALETTE["purple"], "\\\\\\\\"),
    Milestone.READY: (PALETTE["green"], "xxxx"),
}
"""Colour and hatch of the phase that ends with a milestone: each alone identifies it."""

SHOWN_INCHES = 0.44
"""Of a row, below its text: bar, interval, points, and air."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """The drawing of one arm.

    Attributes:
        row: Its values.
        boundaries: (milestone, median in ns) in order, as far as most trials got.
        samples: Of `ready`.
        points: Samples that are drawn, ns.
        figures: At the right above the bar.
        note: Under the figures.
    """

    row: ArmRow
    boundaries: tuple[tuple[Milestone, float], ...]
    samples: Samples
    points: tuple[float, ...]
    figures: str
    note: str

    @property
    def extent(self) -> float:
        """Return its right end in ns."""
        return max((*self.points, *(at for _, at in self.boundaries)), default=0.0)

    def head(self, width: float) -> parts.RowHead:
        inches = width - 2 * MARGIN_INCHES
        return parts.row_head(self.row.arm, self.figures, self.note, inches)


def start_chart(table: ScenarioTable, samples: dict[str, Samples]) -> Chart | None:
    """Draw time until ready, from the samples of each arm.

    Phases end at the medians of their milestones, so a bar ends at the median of `ready`. Returns
    None if no trial reached any milestone.
    """
    lanes = _lanes(table, samples)
    if not any(lane.extent for lane in lanes):
        return None
    caption = (
        "Each bar is divided at the medians of the milestones and ends at the median of ready. "
        "Below it, each circle is one trial, and the thick line is the interval in which the "
        "median lies. Scales begin at zero."
    )
    if table.reference:
        caption += f" A figure with × compares with {table.reference}, within blocks."
    title = f"{table.scenario.name}: time from request until ready"
    return Chart(
        name=f"start-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(lanes),
        caption=caption,
        grid=tables.start_grid(table),
        grid_title=f"Median time since the request, [interval], × {table.reference}",
        draw=partial(_draw, lanes, title),
    )


def _lanes(table: ScenarioTable, samples: dict[str, Samples]) -> list[_Lane]:
    lanes = []
    for row in table.rows:
        if not row.trials:
            continue
        boundaries: list[tuple[Milestone, float]] = []
        for milestone in (*MARKS, Milestone.READY):
            found = row.milestones.get(milestone)
            if found is not None and found.is_reached:
                # Marks that were lost in some trials could put a median before the one before it.
                floor = boundaries[-1][1] if boundaries else 0.0
                boundaries.append((milestone, max(found.median, floor)))
        taken = samples[row.arm]
        is_compared = row.ratio is not None and row.ratio.estimate.is_reached
        note = UPPER_BOUND if is_compared and table.is_upper_bound(row) else ""
        points, figures = parts.thinned(taken.values), parts.ready_figures(table, row)
        lanes.append(_Lane(row, tuple(boundaries), taken, points, figures, note))
    return lanes


def _description(lanes: Sequence[_Lane]) -> str:
    arms = []
    for lane in lanes:
        phases, before = [], 0.0
        for milestone, at in lane.boundaries:
            phases.append(f"{wording.PHASES[milestone]} {wording.duration(at - before)}")
            before = at
        missed = lane.samples.missed
        failed = f"; {units.count(missed, 'trial')} failed" if missed else ""
        bound = f"; {lane.note}" if lane.note else ""
        arms.append(f"{lane.row.arm}: ready {lane.figures} ({', '.join(phases)}{failed}{bound})")
    return f"Horizontal bars, one an arm, divided into phases. {'. '.join(arms)}."


def _draw(lanes: Sequence[_Lane], title: str, width: float) -> Figure:
    longest = max(lane.extent for lane in lanes)
    short = [lane for lane in lanes if 0 < lane.extent * TOO_SHORT < longest]
    handles = _legend(lanes)
    head = parts.head_inches(title, handles, width)
    panel = sum(lane.head(width).inches + SHOWN_INCHES for lane in lanes)
    small = sum(lane.head(width).inches + SHOWN_INCHES for lane in short)
    second = _magnified_title(lanes, short, width)
    title_inches = parts.TITLE_INCHES + parts.LINE_INCHES * (len(second) - 1)
    magnified = title_inches + small + parts.AXIS_INCHES if short else 0.0
    figure = new_figure(width, head + panel + parts.AXIS_INCHES + magnified)
    parts.draw_head(figure, title, handles)
    _draw_lanes(add_panel(figure, head, panel), width, lanes, magnified=short)
    if short:
        top = head + panel + parts.AXIS_INCHES + title_inches
        lower = add_panel(figure, top, small)
        lower.set_title("\n".join(second), loc="left", pad=7, **parts.BOLD)
        _draw_lanes(lower, width, short)
    return figure


def _magnified_title(lanes: Sequence[_Lane], short: Sequence[_Lane], width: float) -> list[str]:
    """Say which arms are magnified and how much, in lines that fit."""
    if not short:
        return []
    factor = max(lane.extent for lane in lanes) / max(lane.extent for lane in short)
    names = wording.listed([lane.row.arm for lane in short])
    title = f"{names}, magnified {factor:.0f} ×"
    return parts.wrapped(title, parts.BOLD, width - 2 * MARGIN_INCHES)


def _draw_lanes(
    axes: Axes, width: float, lanes: Sequence[_Lane], magnified: Sequence[_Lane] = ()
) -> None:
    end = max(lane.extent for lane in lanes) * 1.02
    scale, unit = wording.duration_unit(end)
    axes.set_xlim(0, end / scale)
    axes.set_xlabel(f"{parts.UNIT_NAMES[unit]} since the request", fontsize=8, labelpad=2)
    top = 0.0
    for lane in lanes:
        shown = parts.write_row(axes, top, lane.head(width))
        before = 0.0
        for milestone, at in lane.boundaries:
            colour, hatch = PHASE_LOOK[milestone]
            parts.bar(axes, shown, before / scale, (at - before) / scale, colour, hatch, 0.135)
            _label(axes, shown, before / scale, at / scale, wording.duration(at - before))
            before = at
        _draw_samples(axes, shown, lane, scale)
        if lane.row.ready is not None and lane.row.ready.is_reached:
            parts.draw_interval(axes, lane.row.ready, scale, shown + 0.19, 0.034)
        if lane in magnified:
            left = axes.get_xlim()[1] * 0.015 + lane.extent / scale
            axes.text(left, shown + 0.0675, "magnified below", va="center", **parts.NOTE)
        top = shown + SHOWN_INCHES


def _draw_samples(axes: Axes, shown: float, lane: _Lane, scale: float) -> None:
    """Draw trials as circles, and count those that have no place on the axis."""
    heights = [shown + 0.245 + 0.12 * ((i * parts.GOLDEN) % 1) for i in range(len(lane.points))]
    parts.draw_rings(axes, [point / scale for point in lane.points], heights)
    if lane.samples.missed:
        end = axes.get_xlim()[1]
        middle = sorted(lane.points)[len(lane.points) // 2] / scale if lane.points else 0.0
        at, side = (0.0, "left") if middle > end / 2 else (end, "right")  # where no circles are
        text = parts.missed_text(lane.samples.missed, lane.samples.count)
        axes.text(at, shown + 0.305, text, color=ALARM, ha=side, va="center", **parts.SMALL_BOLD)


def _label(axes: Axes, shown: float, left: float, right: float, text: str) -> None:
    """Write a phase's duration into its piece of the bar, where it fits."""
    inches = (right - left) / axes.get_xlim()[1] * axes.bbox.width / axes.figure.dpi
    if inches > 0.075 * len(text) + 0.1:
        font: dict[str, Any] = {"fontsize": 7.5, "ha": "center", "va": "center_baseline"}
        middle = (left + right) / 2
        axes.text(middle, shown + 0.0675, text, bbox=parts.BACKGROUND, **font)


def _legend(lanes: Sequence[_Lane]) -> list[Artist]:
    seen = {milestone for lane in lanes for milestone, _ in lane.boundaries}
    handles = [
        parts.patch(wording.PHASES[milestone], colour, hatch)
        for milestone, (colour, hatch) in PHASE_LOOK.items()
        if milestone in seen
    ]
    most = max(len(lane.samples.values) for lane in lanes)
    return [
        *handles,
        parts.ring(parts.drawn_of(most) or "one trial"),
        parts.stroke("median and its interval"),
    ]
