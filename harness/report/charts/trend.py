"""The chart of a series: the median of every run with its interval, the levels, the changes.

Runs are evenly spaced in the order of time: a reader looks for commits, not for weeks.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness.analysis.history import Point, Series, SeriesId
from harness.analysis.trend_words import change_in_words, size_of
from harness.analysis.trends import SeriesChange, State, Trend
from harness.model import units
from harness.model.metrics import Unit
from harness.model.units import SCALES, unit_of
from harness.report.charts import parts
from harness.report.charts.drawing import (
    ALARM,
    INK,
    LINES,
    MARGIN_INCHES,
    Chart,
    add_axes,
    new_figure,
    show_y_axis,
)
from harness.report.text import wording
from harness.report.text.tables import Grid
from harness.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Link = Callable[[Point], str | None]
"""Returns the link from the page to the report of a point's run; None: there is no report."""

MOST_LISTED = 6
"""No more changes than these, the newest, are written above the chart; the table has all."""
PLOT_INCHES = 2.3
SIGNS_INCHES = 0.5
"""Above the plot, for the numbers of the changes."""
_NEAR_INCHES = 0.16
_LEFT_INCHES = 0.62
_FAR = 8
"""So many deviations from its level a point is drawn at the edge: it would flatten all others."""
_HASH = re.compile(r"[0-9a-f]{7,40}")
_HASH_DIGITS, _MOST_OF_NAME = 7, 10
"""Of a commit under the axis: as short as Git abbreviates; of another name."""
_REACH = 7
"""Around a mark its values are shown, in points: more than the mark itself, for the hand."""


def file_name(name: SeriesId) -> str:
    """Name a series' files; no two series have the same."""
    words = [name.scenario, name.arm, name.metric, name.setting]
    words += ["anchor", name.anchor] if name.anchor else []
    slugs = [parts.slug(word)[:60] for word in words]
    if slugs != words:
        slugs.append(hashlib.sha256(str(name).encode(errors="surrogateescape")).hexdigest()[:8])
    return "_".join(slugs)


def trend_chart(trend: Trend, link: Link | None = None) -> Chart:
    """Draw a series with its changes; in a page its points are links."""
    name, count = trend.series.id, len(trend.series.points)
    changes = [_change(trend, number) for number in range(len(trend.changes))]
    described = ". ".join(changes) or f"Changes: {change_in_words(trend)}"
    title = f"{name.scenario}, {name.arm}: {name.quantity.title}"
    return Chart(
        name=f"trend-{file_name(name)}",
        title=title,
        description=f"{units.count(count, 'run')} in the order of time. {described}.",
        caption="Each mark is the median of one run with its 95 % interval, in the order of time. "
        "A heavy line is the level between two changes; a dashed line is where a change begins. A "
        "filled triangle at the edge is a median beyond it, an open one an interval that goes on "
        "there; a ✕ at the top is a run in which most trials failed. Pointing at a mark shows its "
        "values.",
        grid=points_grid(trend.series),
        grid_title="Every run",
        draw=partial(_draw, trend, title),
        finish=partial(_with_values, trend.series, link),
    )


def points_grid(series: Series) -> Grid:
    """Lay out the points, the newest first."""
    return Grid(
        ("run", "commit", "median [95 %]", "blocks"),
        tuple(
            (
                f"{point.run.at:%Y-%m-%d %H:%M}",
                point.commit or wording.NONE,
                figure_of(series, point),
                str(point.count),
            )
            for point in reversed(series.points)
        ),
    )


def figure_of(series: Series, point: Point) -> str:
    """Spell a point's median with its interval."""
    estimate = Estimate(point.value, point.interval, point.count)
    return wording.amount_estimate(estimate, series.id.quantity.unit)


def _change(trend: Trend, number: int) -> str:
    change, unit = trend.changes[number], trend.series.id.quantity.unit
    before = wording.amount(change.found.before, unit)
    levels = f"{before} to {wording.amount(change.found.after, unit)}"
    size = size_of(trend.series, change)
    return f"{number + 1}: {size} with {change.first.label}, {levels}, {change.state}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """The y axis: its ends in the metric's unit, and the unit that it is written in."""

    low: float
    high: float
    unit: float
    name: str

    def place(self, value: float) -> float:
        """Return the place of a value on the axis, at most its edge."""
        return min(max(value, self.low), self.high) / self.unit


def _scale_of(trend: Trend) -> _Scale:
    points = trend.series.points
    values = [value for value in trend.series.values if math.isfinite(value)]
    if not values:
        return _Scale(0.0, 1.0, 1.0, "")
    residuals = sorted(
        abs(value - level)
        for begin, end, level in _levels(trend)
        for value in trend.series.values[begin:end]
        if math.isfinite(value) and math.isfinite(level)
    )
    spread = _FAR * 1.4826 * residuals[len(residuals) // 2] if residuals else 0.0
    levels = [level for _, _, level in _levels(trend) if math.isfinite(level)] or values
    intervals = [
        point.interval for point in points if point.interval and math.isfinite(point.value)
    ]
    lows = [*values, *(one.low for one in intervals if math.isfinite(one.low))]
    highs = [*values, *(one.high for one in intervals if math.isfinite(one.high))]
    low = max(min(lows), min(levels) - spread) if spread else min(lows)
    high = min(max(highs), max(levels) + spread) if spread else max(highs)
    air = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    unit = trend.series.id.quantity.unit
    if unit not in SCALES:
        return _Scale(low - air, high + air, 1.0, "×" if unit is Unit.RATIO else "")
    return _Scale(low - air, high + air, *unit_of(max(abs(high), abs(low)), SCALES[unit]))


def _levels(trend: Trend) -> list[tuple[int, int, float]]:
    """List first point, the one after the last, and level of each stretch without a change."""
    values = trend.series.values
    borders = [0, *(change.found.index for change in trend.changes), len(values)]
    return [(begin, end, median(values[begin:end])) for begin, end in pairwise(borders)]


def _draw(trend: Trend, title: str, width: float) -> Figure:
    lines = _change_lines(trend, width)
    first = parts.head_inches(title, (), width)
    head = first + parts.LINE_INCHES * len(lines) + SIGNS_INCHES
    height = head + PLOT_INCHES + parts.AXIS_INCHES + parts.LINE_INCHES
    figure = new_figure(width, height)
    parts.draw_head(figure, title, ())
    for number, line in enumerate(lines):
        top = 1 - (first + parts.LINE_INCHES * number) / height
        figure.text(MARGIN_INCHES / width, top, line, va="top", **parts.SMALL)
    inches = width - MARGIN_INCHES * 2 - _LEFT_INCHES
    axes = add_axes(figure, MARGIN_INCHES + _LEFT_INCHES, head, inches, PLOT_INCHES)
    scale = _scale_of(trend)
    _lay_axes(axes, trend.series, scale, width)
    for begin, end, level in _levels(trend):
        if math.isfinite(level):
            levels = [scale.place(level)] * 2
            axes.plot([begin - 0.5, end - 0.5], levels, color=INK, linewidth=1.8, alpha=0.75)
    _draw_points(axes, trend.series, scale)
    _draw_signs(axes, trend.changes, inches / max(len(trend.series.points), 1))
    return figure


def _change_lines(trend: Trend, width: float) -> list[str]:
    first = max(len(trend.changes) - MOST_LISTED, 0)
    texts = [_change(trend, number) for number in range(first, len(trend.changes))]
    if first:
        texts.insert(0, f"{units.count(first, 'earlier change')}: see the table")
    if not trend.changes:
        texts = [f"changes: {change_in_words(trend)}"]
    inches = width - 2 * MARGIN_INCHES
    return [line for text in texts for line in parts.wrapped(text, parts.SMALL, inches)]


def _lay_axes(axes: Axes, series: Series, scale: _Scale, width: float) -> None:
    from matplotlib.ticker import MaxNLocator

    count = len(series.points)
    axes.set_xlim(-0.6, count - 0.4)
    axes.set_ylim(scale.low / scale.unit, scale.high / scale.unit)
    show_y_axis(axes)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {scale.name}".rstrip())
    axes.grid(visible=False, axis="x")
    most = 3 if parts.is_narrow(width) else 6
    step = max((count - 1) / (most - 1), 1)
    ticks = sorted({round(step * place) for place in range(most) if step * place < count - 0.5})
    axes.set_xticks(ticks, _tick_labels([series.points[tick] for tick in ticks], series))
    for tick, label in zip(ticks, axes.get_xticklabels(), strict=True):
        # The outermost would be cut off at the edge of the drawing.
        if tick == count - 1 and count > 1:
            label.set_horizontalalignment("right")


def _tick_labels(points: Sequence[Point], series: Series) -> list[str]:
    """Word the places under the axis so that runs of one day differ: by commit, or time of day."""
    days = {point.run.at.date() for point in series.points}
    has_several_a_day = len(days) < len(series.points)
    commits = [_short(point.commit) for point in points]
    if "" in commits or len(set(commits)) < len(commits):
        commits = [f"{point.run.at:%H:%M}" if has_several_a_day else "" for point in points]
    return [
        f"{point.run.at:%Y-%m-%d}\n{commit}".rstrip()
        for point, commit in zip(points, commits, strict=True)
    ]


def _short(commit: str | None) -> str:
    if commit is None or _HASH.fullmatch(commit):
        return (commit or "")[:_HASH_DIGITS]
    return commit if len(commit) <= _MOST_OF_NAME else f"{commit[: _MOST_OF_NAME - 1]}…"


def _draw_points(axes: Axes, series: Series, scale: _Scale) -> None:
    from matplotlib.collections import LineCollection

    intervals = [
        (place, point.interval)
        for place, point in enumerate(series.points)
        if point.interval is not None and math.isfinite(point.value)
    ]
    whiskers = [
        [(place, scale.place(interval.low)), (place, scale.place(interval.high))]
        for place, interval in intervals
    ]
    axes.add_collection(LineCollection(whiskers, colors=LINES[0], linewidths=0.7, alpha=0.6))
    beyond = {
        "^": [place for place, interval in intervals if interval.high > scale.high],
        "v": [place for place, interval in intervals if interval.low < scale.low],
    }
    for marker, places in beyond.items():
        if not places:
            continue
        edge = (scale.high if marker == "^" else scale.low) / scale.unit
        style: dict[str, Any] = {"facecolors": "none", "edgecolors": LINES[0], "linewidths": 0.7}
        axes.scatter(places, [edge] * len(places), s=22, marker=marker, clip_on=False, **style)
    kinds: dict[str, list[int]] = {}
    for place, value in enumerate(series.values):
        kinds.setdefault(_marker(value, scale), []).append(place)
    for marker, places in kinds.items():
        failed = marker == "x"
        marks = axes.scatter(
            places,
            [scale.place(series.values[place]) for place in places],
            s=26 if failed else 15,
            marker=marker,
            linewidths=1.6 if failed else 0.0,
            color=ALARM if failed else LINES[0],
            clip_on=False,
            zorder=3,
        )
        # matplotlib knows links and no titles: `_with_values` makes the one of the other.
        marks.set_urls([f"mark:{place}" for place in places])


_MARK = re.compile(r'<a xlink:href="mark:(\d+)"([^>]*)>\s*(.*?)\s*</a>', re.DOTALL)


def _with_values(series: Series, link: Link | None, text: str) -> str:
    """Give each mark its values as a title, a target of a finger's size, and its report's link."""

    def mark(found: re.Match[str]) -> str:
        place, attributes, drawn = found.groups()
        point = series.points[int(place)]
        x, y = _centre(drawn)
        reach = f'<circle cx="{x:g}" cy="{y:g}" r="{_REACH}" fill="none" pointer-events="all"/>'
        inner = f"<title>{escape(_hover(series, point))}</title>\n{drawn}\n{reach}"
        target = link(point) if link is not None else None
        if target is None:
            return f"<g>{inner}</g>"
        return f'<a xlink:href="{escape(target)}"{attributes}>{inner}</a>'

    return _MARK.sub(mark, text)


def _centre(drawn: str) -> tuple[float, float]:
    """Find where matplotlib has drawn a mark: a `use` at a place, or a path of its own."""
    if placed := re.search(r'\bx="([^"]+)" y="([^"]+)"', drawn):
        return float(placed[1]), float(placed[2])
    corners = re.findall(r"[ML] (\S+) (\S+)", drawn)
    x, y = (fmean(map(float, ends)) for ends in zip(*corners, strict=True))
    return x, y


def _hover(series: Series, point: Point) -> str:
    commit = f", {point.commit}" if point.commit else ""
    return (
        f"{figure_of(series, point)}, {units.count(point.count, 'block')}\n"
        f"{point.run.at:%Y-%m-%d %H:%M}{commit}\n{point.run.run_id}"
    )


def _marker(value: float, scale: _Scale) -> str:
    if not math.isfinite(value):
        return "x"
    if value > scale.high:
        return "^"
    return "v" if value < scale.low else "o"


def _draw_signs(axes: Axes, changes: Sequence[SeriesChange], inches: float) -> None:
    """Number the changes above the plot; those that are near one another at several heights."""
    low, high = axes.get_ylim()
    row, last = 0, -math.inf
    for number, change in enumerate(changes, 1):
        place = change.found.index - 0.5
        row = (row + 1) % 3 if (place - last) * inches < _NEAR_INCHES else 0
        last = place
        colour = ALARM if change.state is State.OPEN else INK
        top = high + (high - low) * (0.03 + 0.065 * row)
        dashes: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 2)), "clip_on": False}
        axes.plot([place] * 2, [low, top], color=colour, **dashes)
        font = parts.SMALL_BOLD if change.state is State.OPEN else parts.SMALL
        axes.text(place, top, str(number), ha="center", va="bottom", color=colour, **font)
