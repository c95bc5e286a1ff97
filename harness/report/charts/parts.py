"""Parts of several charts: heads, rows, bars, marks, and the style of each arm."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

from harness import stats
from harness.analysis.summary import ArmRow, ScenarioTable
from harness.report.charts.drawing import (
    INK,
    LINES,
    MARGIN_INCHES,
    NARROW_INCHES,
    PAPER,
    new_figure,
)
from harness.report.text import wording

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.records.dataset import Floats

Panel = TypeVar("Panel")

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, spread points evenly: a jitter that is the same each time."""

MOST_POINTS = 400
"""No more points than these are drawn for an arm: more cannot be distinguished, and a page of a
million trials must still open on a phone."""

TITLE_INCHES = 0.42
AXIS_INCHES = 0.42
LINE_INCHES = 0.155

BOLD: Mapping[str, Any] = {"fontsize": 9.5, "fontweight": "bold"}
SMALL_BOLD: Mapping[str, Any] = {"fontsize": 8, "fontweight": "bold"}
SMALL: Mapping[str, Any] = {"fontsize": 8}
NOTE: Mapping[str, Any] = {"fontsize": 8, "style": "italic"}
BACKGROUND: dict[str, Any] = {
    "boxstyle": "square,pad=0.15",
    "facecolor": PAPER,
    "edgecolor": "none",
}
"""Behind text that lies on a hatch or on a grid line."""

UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds"}

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, slots=True)
class ArmStyle:
    """The colour of one arm in every chart of lines, and matplotlib's names of marker and dash."""

    colour: str
    marker: str
    dash: Any


def arm_styles(table: ScenarioTable) -> dict[str, ArmStyle]:
    """Give each arm of a scenario its style; the marker alone identifies it."""
    styles = zip(cycle(LINES), cycle(_MARKERS), cycle(_DASHES), strict=False)
    return {row.arm: ArmStyle(*style) for row, style in zip(table.rows, styles, strict=False)}


def slug(name: str) -> str:
    """Make a name fit for files and identifiers."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "scenario"


def is_narrow(width: float) -> bool:
    """Whether a figure of that many inches is the one for phones."""
    return width <= NARROW_INCHES


def thinned(values: Floats, most: int = MOST_POINTS) -> tuple[float, ...]:
    """Choose at most `most` of the values, evenly by rank, the smallest and the largest included.

    Up to the bound all are kept, in their order; beyond it they come sorted.
    """
    import numpy as np

    if len(values) > most:
        places = np.linspace(0, len(values) - 1, most).round().astype(int)
        values = np.sort(values)[places]
    return tuple(map(float, values))


def drawn_of(count: int) -> str:
    """Say that not every sample is a point, where that is so."""
    if count <= MOST_POINTS:
        return ""
    return f"{MOST_POINTS} of {count:,} trials drawn, evenly by rank"


def head_inches(title: str, handles: Sequence[Artist], width: float) -> float:
    """Return the height of title and legend."""
    lines = math.ceil(len(handles) / _columns(handles, width))
    return _title_inches(title, width) + 0.2 * lines + (0.1 if handles else 0)


def _title_inches(title: str, width: float) -> float:
    more = len(wrapped(title, BOLD, width - 2 * MARGIN_INCHES)) - 1
    return TITLE_INCHES + LINE_INCHES * more


def draw_head(figure: Figure, title: str, handles: Sequence[Artist]) -> None:
    """Write the title, and the legend under it, above the panels instead of over the data."""
    width, height = figure.get_size_inches()
    for number, line in enumerate(wrapped(title, BOLD, width - 2 * MARGIN_INCHES)):
        top = 1 - (0.1 + LINE_INCHES * number) / height
        figure.text(MARGIN_INCHES / width, top, line, va="top", **BOLD)
    if handles:
        place = MARGIN_INCHES / width, 1 - _title_inches(title, width) / height
        spaces: dict[str, Any] = {"handlelength": 2.0, "handleheight": 1.0, "columnspacing": 1.6}
        columns = _columns(handles, width)
        draw_legend(figure, handles, place, 8, ncols=columns, labelspacing=0.45, **spaces)


def draw_legend(
    figure: Figure,
    handles: Sequence[Artist],
    place: tuple[float, float],
    fontsize: float,
    **layout: Any,
) -> None:
    """Draw a legend without a frame; its upper left corner is at a place in the figure."""
    edges: dict[str, Any] = {"loc": "upper left", "borderaxespad": 0.0, "borderpad": 0.0}
    figure.legend(handles=list(handles), bbox_to_anchor=place, fontsize=fontsize, **edges, **layout)


def _columns(handles: Sequence[Artist], width: float) -> int:
    return 1 if is_narrow(width) else max(1, min(3, len(handles)))


def patch(label: str, colour: str, hatch: str) -> Artist:
    """Make the legend's entry for a bar."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, label=label)


def ring(label: str) -> Artist:
    """Make the legend's entry for single trials."""
    circle: dict[str, Any] = {"marker": "o", "markersize": 3.6, "markerfacecolor": "none"}
    return stroke(label, linestyle="none", **circle)


def stroke(label: str, **look: Any) -> Artist:
    """Make the legend's entry for a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"color": INK, "linewidth": 2.2, **look})


def band(label: str, colour: str) -> Artist:
    """Make the legend's entry for a band."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, alpha=0.3, linewidth=0, label=label)


def lay_panels(
    title: str,
    handles: Sequence[Artist],
    width: float,
    panels: Sequence[Panel],
    inches_of: Callable[[Panel, float], float],
    gutter_inches: float = 0.35,
) -> tuple[Figure, list[tuple[Panel, float, float, float]]]:
    """Make a figure with its head, and find the place of each panel: one or two in a line.

    Args:
        title: Of the figure.
        handles: Of its legend.
        width: Of the figure, inches.
        panels: In order.
        inches_of: Height in inches of a panel that is so many inches wide.
        gutter_inches: Between two panels.

    Returns:
        The figure, and (panel, left, top, width) each, in inches from the figure's corner.
    """
    columns = 1 if is_narrow(width) or len(panels) == 1 else 2
    inches = (width - 2 * MARGIN_INCHES - (columns - 1) * gutter_inches) / columns
    lines = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    heights = [max(inches_of(panel, inches) for panel in line) for line in lines]
    head = head_inches(title, handles, width)
    places = [
        (panel, MARGIN_INCHES + number * (inches + gutter_inches), head + sum(heights[:n]), inches)
        for n, line in enumerate(lines)
        for number, panel in enumerate(line)
    ]
    figure = new_figure(width, head + sum(heights))
    draw_head(figure, title, handles)
    return figure, places


def write_panel_head(figure: Figure, left: float, top: float, title: str, second: str) -> None:
    """Write a panel's title and a line under it, at a place in inches; it takes 0.44 inches."""
    width, height = figure.get_size_inches()
    place = left / width
    figure.text(place, 1 - (top + 0.2) / height, title, va="baseline", **BOLD)
    figure.text(place, 1 - (top + 0.36) / height, second, va="baseline", **SMALL)


@dataclass(frozen=True, slots=True)
class RowHead:
    """The text of a row: an arm's name at the left, and lines at the right of and below it."""

    name: str
    right: tuple[tuple[str, Mapping[str, Any]], ...]

    @property
    def inches(self) -> float:
        """Height."""
        return 0.085 + LINE_INCHES * len(self.right)


def row_head(name: str, figures: str, note: str, inches: float) -> RowHead:
    """Lay out a row's text: figures beside the arm's name where both fit, else under it.

    Args:
        name: Of the arm.
        figures: Its values.
        note: How to read them; empty for nothing.
        inches: Width of the row.
    """
    lines: list[tuple[str, Mapping[str, Any]]] = [(figures, {}), (note, NOTE)]
    if text_inches(name, BOLD) + text_inches(figures, {}) + 0.15 > inches:
        lines.insert(0, ("", {}))
    return RowHead(name, tuple(line for n, line in enumerate(lines) if line[0] or n == 0))


def write_row(axes: Axes, top: float, head: RowHead) -> float:
    """Write a row's text into axes whose heights are inches from the top; returns its end."""
    left, right = axes.get_xlim()
    axes.text(left, top + 0.19, head.name, va="bottom", bbox=BACKGROUND, **BOLD)
    for number, (line, font) in enumerate(head.right):
        height = top + 0.19 + LINE_INCHES * number
        if line:
            axes.text(right, height, line, ha="right", va="bottom", bbox=BACKGROUND, **font)
    return top + head.inches


def text_inches(text: str, font: Mapping[str, Any]) -> float:
    """Return the width of a line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    look = FontProperties(
        family="DejaVu Sans",
        size=font.get("fontsize", 9),
        weight=font.get("fontweight", "normal"),
        style=font.get("style", "normal"),
    )
    width, _, _ = text_to_path.get_text_width_height_descent(text, look, ismath=False)
    return float(width) / 72


def wrapped(text: str, font: Mapping[str, Any], inches: float) -> list[str]:
    """Break a text into lines that fit into so many inches, at spaces where there are any."""
    wide = text_inches(text, font)
    if wide <= inches:
        return [text]
    return textwrap.wrap(text, max(int(len(text) * inches / wide * 0.97), 8))


def bar(
    axes: Axes, bottom: float, left: float, length: float, colour: str, hatch: str, height: float
) -> None:
    """Draw a bar with an outline that is seen on any paper, whatever its filling."""
    from matplotlib.patches import Rectangle

    # On a sliver the outline and the hatch in the paper's colour would hide the bar itself.
    is_sliver = length < axes.get_xlim()[1] / 300
    where: Any = ((left, bottom), length, height)
    pattern = "" if is_sliver else hatch
    filling = Rectangle(*where, facecolor=colour, hatch=pattern, edgecolor=PAPER, linewidth=0)
    axes.add_patch(filling)
    if not is_sliver:
        axes.add_patch(Rectangle(*where, facecolor="none", edgecolor=INK, linewidth=0.6))


def draw_rings(axes: Axes, xs: Sequence[float], heights: Sequence[float]) -> None:
    """Draw single trials."""
    circle: dict[str, Any] = {"marker": "o", "markersize": 3.2, "markerfacecolor": "none"}
    edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.7, "alpha": 0.75}
    axes.plot(xs, heights, linestyle="none", clip_on=False, **circle, **edge)


def draw_interval(
    axes: Axes, found: stats.Estimate, scale: float, height: float, tick: float
) -> None:
    """Draw a median as a tick on the line of its interval; an open end runs into an arrow.

    Args:
        axes: Drawn into.
        found: The median.
        scale: The axis' unit.
        height: Of the line.
        tick: Half the length of the tick.
    """
    start, end = axes.get_xlim()
    middle = found.median / scale
    if found.interval is not None:
        ends = (found.interval.low / scale, found.interval.high / scale)
        low, high = (min(max(e, start), end) for e in ends)
        axes.plot([low, high], [height] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
        if ends[1] > end:
            axes.plot([end], [height], color=INK, marker=">", markersize=5, clip_on=False)
        if ends[0] < start:
            axes.plot([start], [height], color=INK, marker="<", markersize=5, clip_on=False)
    if math.isfinite(middle):
        axes.plot([middle] * 2, [height - tick, height + tick], color=INK, linewidth=1)


def missed_text(missed: int, trials: int) -> str:
    """Say how many trials failed: `✕ 3 of 20 failed`."""
    return f"✕ {missed:,} of {trials:,} failed"


def ready_figures(table: ScenarioTable, row: ArmRow) -> str:
    """Spell `ready` with its interval and its ratio to the reference."""
    spelled = wording.duration_estimate(row.ready)
    if row.ratio is not None and row.ratio.estimate.is_reached:
        spelled += f" · {wording.times(row.ratio.estimate.median)} {table.reference or ''}"
    return spelled


def set_log_scale(axes: Axes, low: float, high: float, most: int = 6) -> None:
    """Make the x axis logarithmic, with plain numbers at no more than `most` places."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = log_ticks(low, high, most)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round places on a logarithmic axis: the densest choice of no more than `most`."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [m * 10.0**e for e in exponents if e % step == 0 for m in multiples]
        for step, multiples in _DECADES
    ]
    if high < 10 * low:  # within a decade even steps are rounder
        first = math.floor(math.log10(high - low)) + 1
        for step in (m * 10.0**e for e in range(first, first - 3, -1) for m in (5, 2, 1)):
            places = range(math.ceil(low / step), math.floor(high / step) + 1)
            choices.append([place * step for place in places])
    found: list[float] = []
    for choice in choices:
        inside = [float(f"{tick:.6g}") for tick in choice if low <= tick <= high]
        if len(found) <= len(inside) <= most:
            found = inside
    return found


_DECADES: tuple[tuple[int, tuple[float, ...]], ...] = (
    *((step, (1.0,)) for step in (12, 6, 4, 3, 2, 1)),
    (1, (1.0, 3.0)),
    (1, (1.0, 2.0, 5.0)),
)
"""(of how many decades one, its multiples), ever denser."""
