"""The two charts of a scenario: how long until ready, phase by phase, and what it takes on disk.

Both axes are linear and begin at zero, so that a bar twice as long is twice as much. Where some
arms are too short to be seen beside the others, a second panel magnifies them and says how much.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.model import Milestone, Run
from harness.report import wording
from harness.report.drawing import (
    ALARM,
    INK,
    MARGIN_INCHES,
    NARROW_INCHES,
    PALETTE,
    PAPER,
    Chart,
    add_panel,
    make_chart,
    new_figure,
)
from harness.report.frame import durations, trials_frame
from harness.report.tables import MARKS, ArmRow, ScenarioTable, Summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOO_SHORT = 10
"""An arm this many times shorter than the longest is magnified in a panel of its own."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, spread points evenly: a jitter that is the same each time."""

PHASE_LOOK = {
    Milestone.ISOLATED: (PALETTE["sky"], ""),
    Milestone.KERNEL: (PALETTE["orange"], "////"),
    Milestone.USERSPACE: (PALETTE["blue"], "----"),
    Milestone.STARTED: (PALETTE["purple"], "\\\\\\\\"),
    Milestone.READY: (PALETTE["green"], "xxxx"),
}
"""Colour and hatch of the phase that ends with a milestone: either alone tells them apart."""

ROW_INCHES = 0.68
AXIS_INCHES = 0.42
TITLE_INCHES = 0.42

BOLD: Mapping[str, Any] = {"fontsize": 9.5, "fontweight": "bold"}
SMALL_BOLD: Mapping[str, Any] = {"fontsize": 8, "fontweight": "bold"}
BACKGROUND: dict[str, Any] = {
    "boxstyle": "square,pad=0.15",
    "facecolor": PAPER,
    "edgecolor": "none",
}
"""Behind text that lies on a hatch or on a grid line."""

UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True, slots=True)
class _Lane:
    """What is drawn for one arm.

    Attributes:
        row: Its figures.
        boundaries: (milestone, median in ns) in order, as far as most trials got.
        samples: Time to ready of each trial that was, in ns, in the order of blocks.
        missed: How many trials failed or were not ready in time.
    """

    row: ArmRow
    boundaries: tuple[tuple[Milestone, float], ...]
    samples: tuple[float, ...]
    missed: int

    @property
    def extent(self) -> float:
        """How far to the right it reaches, in ns."""
        return max((*self.samples, *(at for _, at in self.boundaries)), default=0.0)


def charts_by_scenario(summary: Summary) -> dict[str, list[Chart]]:
    """Draw all charts of a run: scenario name to those that have something to show."""
    found = {}
    for table in summary.tables:
        both = (start_chart(summary.run, table), disk_chart(table))
        found[table.scenario.name] = [chart for chart in both if chart is not None]
    return found


def start_chart(run: Run, table: ScenarioTable) -> Chart | None:
    """Draw time until ready: a bar of phases for each arm, and under it every trial as a point.

    Phases end at the medians of their milestones, so a bar ends at the median of `ready`.

    Returns:
        None if no trial got anywhere, so that there is nothing to draw.
    """
    lanes = _lanes(table, trials_frame(run))
    if not any(lane.extent for lane in lanes):
        return None
    title = f"{table.scenario.name}: time from request until ready"
    return make_chart(
        f"start-{slug(table.scenario.name)}",
        title,
        _start_description(lanes),
        lambda width: _draw_start(lanes, title, table.reference or "", width),
    )


def disk_chart(table: ScenarioTable) -> Chart | None:
    """Draw what an arm allocates: once for all instances, and for each instance.

    Returns:
        None if nothing is known about any arm's disk.
    """
    rows = [row for row in table.rows if _disk(row) is not None]
    if not any(sum(_disk(row) or (0, 0)) for row in rows):
        return None
    told = [f"{row.arm}: {_disk_figures(row)}" for row in rows]
    title = f"{table.scenario.name}: allocated on disk"
    return make_chart(
        f"disk-{slug(table.scenario.name)}",
        title,
        f"Horizontal bars, allocated bytes. {'; '.join(told)}.",
        lambda width: _draw_disk(rows, title, width),
    )


def slug(name: str) -> str:
    """Make a name fit for files and identifiers."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "scenario"


# -- Start ----------------------------------------------------------------------------------------


def _lanes(table: ScenarioTable, frame: pd.DataFrame) -> list[_Lane]:
    counted = frame[(frame["scenario"] == table.scenario.name) & frame["counted"].astype(bool)]
    lanes = []
    for row in table.rows:
        if not row.trials:
            continue
        ready = durations(counted[counted["arm"] == row.arm], "ready_ns").values()
        boundaries: list[tuple[Milestone, float]] = []
        for milestone in (*MARKS, Milestone.READY):
            found = row.milestones.get(milestone)
            if found is not None and found.is_reached:
                # Marks that were lost in some trials could put a median before its forerunner's.
                floor = boundaries[-1][1] if boundaries else 0.0
                boundaries.append((milestone, max(found.median, floor)))
        samples = tuple(value for value in ready if math.isfinite(value))
        lanes.append(_Lane(row, tuple(boundaries), samples, len(ready) - len(samples)))
    return lanes


def _short(lanes: Sequence[_Lane]) -> list[_Lane]:
    """List the lanes too short to be seen beside the longest; none if all are alike."""
    longest = max(lane.extent for lane in lanes)
    return [lane for lane in lanes if 0 < lane.extent * TOO_SHORT < longest]


def _start_description(lanes: Sequence[_Lane]) -> str:
    told = []
    for lane in lanes:
        phases, before = [], 0.0
        for milestone, at in lane.boundaries:
            phases.append(f"{wording.PHASES[milestone]} {wording.duration(at - before)}")
            before = at
        missed = f"; {wording.count(lane.missed, 'trial')} failed" if lane.missed else ""
        ready = wording.duration_estimate(lane.row.ready)
        told.append(f"{lane.row.arm}: ready {ready} ({', '.join(phases)}{missed})")
    return f"Horizontal bars, one an arm, divided into phases. {'. '.join(told)}."


def _draw_start(lanes: Sequence[_Lane], title: str, reference: str, width: float) -> Figure:
    short = _short(lanes)
    handles = _start_legend(lanes)
    head = _head_inches(handles, width)
    panel = len(lanes) * ROW_INCHES
    magnified = TITLE_INCHES + len(short) * ROW_INCHES + AXIS_INCHES if short else 0.0
    figure = new_figure(width, head + panel + AXIS_INCHES + magnified)
    _draw_head(figure, title, handles)
    upper = add_panel(figure, head, panel)
    _draw_lanes(upper, lanes, reference, magnified=short)
    if short:
        top = head + panel + AXIS_INCHES + TITLE_INCHES
        lower = add_panel(figure, top, len(short) * ROW_INCHES)
        factor = max(lane.extent for lane in lanes) / max(lane.extent for lane in short)
        names = wording.listed([lane.row.arm for lane in short])
        lower.set_title(f"{names}, magnified {factor:.0f} ×", loc="left", pad=7, **BOLD)
        _draw_lanes(lower, short, reference)
    return figure


def _draw_lanes(
    axes: Axes, lanes: Sequence[_Lane], reference: str, magnified: Sequence[_Lane] = ()
) -> None:
    end = max(lane.extent for lane in lanes) * 1.02
    scale, unit = wording.duration_unit(end)
    axes.set_xlim(0, end / scale)
    axes.set_ylim(len(lanes), 0)
    axes.set_xlabel(f"{UNIT_NAMES[unit]} since the request", fontsize=8, labelpad=2)
    for place, lane in enumerate(lanes):
        _write_row(axes, place, lane.row.arm, _start_figures(lane, reference))
        before = 0.0
        for milestone, at in lane.boundaries:
            colour, hatch = PHASE_LOOK[milestone]
            _bar(axes, place, before / scale, (at - before) / scale, colour, hatch)
            _label(axes, place, before / scale, at / scale, wording.duration(at - before))
            before = at
        _draw_samples(axes, place, lane, scale)
        _draw_interval(axes, place, lane, scale)
        if lane in magnified:
            left = axes.get_xlim()[1] * 0.015 + lane.extent / scale
            note = {"fontsize": 8, "style": "italic", "va": "center"}
            axes.text(left, place + 0.45, "magnified below", note)


def _start_figures(lane: _Lane, reference: str) -> str:
    told = wording.duration_estimate(lane.row.ready)
    if lane.row.ratio is not None and lane.row.ratio.estimate.is_reached:
        told += f" · {wording.times(lane.row.ratio.estimate.median)} {reference}"
    return told


def _draw_samples(axes: Axes, place: int, lane: _Lane, scale: float) -> None:
    """Draw every trial as a circle, and count those that have no place on the axis."""
    heights = [place + 0.71 + 0.18 * ((i * GOLDEN) % 1) for i in range(len(lane.samples))]
    axes.plot(
        [sample / scale for sample in lane.samples],
        heights,
        linestyle="none",
        marker="o",
        markersize=3.2,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=0.7,
        alpha=0.75,
        clip_on=False,
    )
    if lane.missed:
        end = axes.get_xlim()[1]
        middle = sorted(lane.samples)[len(lane.samples) // 2] / scale if lane.samples else 0.0
        at, side = (0.0, "left") if middle > end / 2 else (end, "right")  # where no circles are
        text = f"✕ {lane.missed} of {lane.row.trials} failed"
        axes.text(at, place + 0.80, text, color=ALARM, ha=side, va="center", **SMALL_BOLD)


def _draw_interval(axes: Axes, place: int, lane: _Lane, scale: float) -> None:
    """Draw the median as a tick on the bar of its interval; an open end runs into an arrow."""
    ready = lane.row.ready
    if ready is None or not ready.is_reached or ready.interval is None:
        return
    end, height = axes.get_xlim()[1], place + 0.635
    low, high = (min(max(e / scale, 0), end) for e in (ready.interval.low, ready.interval.high))
    axes.plot([low, high], [height] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot([ready.median / scale] * 2, [height - 0.05, height + 0.05], color=INK, linewidth=1)
    if math.isinf(ready.interval.high):
        axes.plot([end], [height], color=INK, marker=">", markersize=5, clip_on=False)


def _phases(lanes: Sequence[_Lane]) -> list[Milestone]:
    seen = {milestone for lane in lanes for milestone, _ in lane.boundaries}
    return [milestone for milestone in PHASE_LOOK if milestone in seen]


def _start_legend(lanes: Sequence[_Lane]) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = []
    for milestone in _phases(lanes):
        colour, hatch = PHASE_LOOK[milestone]
        label = wording.PHASES[milestone]
        handles.append(Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, label=label))
    circle = Line2D([], [], color=INK, marker="o", markersize=3.6, label="one trial")
    circle.set_markerfacecolor("none")
    circle.set_linestyle("none")
    line = Line2D([], [], color=INK, linewidth=2.2, label="median and its interval")
    return [*handles, circle, line]


# -- Disk -----------------------------------------------------------------------------------------


def _disk(row: ArmRow) -> tuple[float, float] | None:
    """Shared and exclusive bytes of an arm, as far as either is known."""
    if row.shared_bytes is None and row.exclusive is None:
        return None
    return row.shared_bytes or 0, row.exclusive.median if row.exclusive is not None else 0


def _disk_figures(row: ArmRow) -> str:
    shared = "?" if row.shared_bytes is None else wording.size(row.shared_bytes)
    exclusive = "?" if row.exclusive is None else wording.size(row.exclusive.median)
    return f"{shared} shared + {exclusive} each"


DISK_LOOK = (
    ("shared by all instances, once", PALETTE["blue"], "----"),
    ("for each instance", PALETTE["orange"], "////"),
)


def _draw_disk(rows: Sequence[ArmRow], title: str, width: float) -> Figure:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, label=label)
        for label, colour, hatch in DISK_LOOK
    ]
    head, height = _head_inches(handles, width), len(rows) * ROW_INCHES * 0.8
    figure = new_figure(width, head + height + AXIS_INCHES)
    _draw_head(figure, title, handles)
    axes = add_panel(figure, head, height)
    sizes = [_disk(row) or (0, 0) for row in rows]
    end = max(map(sum, sizes)) * 1.02
    scale, unit = wording.size_unit(end)
    axes.set_xlim(0, end / scale)
    axes.set_ylim(len(rows), 0)
    axes.set_xlabel(f"{unit} allocated", fontsize=8, labelpad=2)
    for place, (row, amounts) in enumerate(zip(rows, sizes, strict=True)):
        _write_row(axes, place, row.arm, _disk_figures(row))
        before = 0.0
        for amount, (_, colour, hatch) in zip(amounts, DISK_LOOK, strict=True):
            _bar(axes, place, before, amount / scale, colour, hatch, height=0.34)
            before += amount / scale
    return figure


# -- Both -----------------------------------------------------------------------------------------


def _head_inches(handles: Sequence[Artist], width: float) -> float:
    return TITLE_INCHES + 0.2 * math.ceil(len(handles) / _columns(handles, width)) + 0.1


def _columns(handles: Sequence[Artist], width: float) -> int:
    return 1 if width <= NARROW_INCHES else min(3, len(handles))


def _draw_head(figure: Figure, title: str, handles: Sequence[Artist]) -> None:
    """Write the title, and the legend under it, above the panels instead of over the data."""
    width, height = figure.get_size_inches()
    figure.text(MARGIN_INCHES / width, 1 - 0.1 / height, title, va="top", **BOLD)
    figure.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(MARGIN_INCHES / width, 1 - TITLE_INCHES / height),
        ncols=_columns(handles, width),
        fontsize=8,
        handlelength=2.0,
        handleheight=1.0,
        columnspacing=1.6,
        borderaxespad=0.0,
        borderpad=0.0,
        labelspacing=0.45,
    )


def _write_row(axes: Axes, place: int, name: str, figures: str) -> None:
    """Write the arm's name and figures above its bar, at both ends: they fit at every width."""
    right = axes.get_xlim()[1]
    axes.text(0, place + 0.28, name, va="bottom", bbox=BACKGROUND, **BOLD)
    axes.text(right, place + 0.28, figures, ha="right", va="bottom", bbox=BACKGROUND)


def _bar(
    axes: Axes, place: int, left: float, length: float, colour: str, hatch: str, height: float = 0.2
) -> None:
    # The edge in the paper's colour parts the phases; on a sliver it would hide the bar itself.
    is_sliver = length < axes.get_xlim()[1] / 300
    axes.barh(
        place + 0.35,
        length,
        left=left,
        height=height,
        align="edge",
        facecolor=colour,
        hatch="" if is_sliver else hatch,
        edgecolor=PAPER,
        linewidth=0 if is_sliver else 0.6,
    )


def _label(axes: Axes, place: int, left: float, right: float, text: str) -> None:
    """Write a phase's duration into its piece of the bar, where there is room for it."""
    inches = axes.bbox.width / axes.figure.dpi
    room = (right - left) / axes.get_xlim()[1] * inches
    if room > 0.075 * len(text) + 0.1:
        middle = (left + right) / 2
        axes.text(
            middle,
            place + 0.45,
            text,
            fontsize=7.5,
            ha="center",
            va="center_baseline",
            bbox=BACKGROUND,
        )
