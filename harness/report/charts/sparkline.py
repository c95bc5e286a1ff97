"""A series as a line of a word's size, for a table: an SVG element, drawn from nothing but itself.

The dot is where the series stands now. Its values are in the title, which a pointer shows and a
screen reader reads.
"""

from __future__ import annotations

import math
from html import escape
from statistics import median

from harness.analysis.judgement import Verdict
from harness.analysis.trends import Trend
from harness.model import units
from harness.model.metrics import Unit
from harness.report.text import wording

WIDTH, HEIGHT = 120.0, 26.0
MOST_POINTS = 120
"""Of a longer series the newest are drawn: more would be one grey bar."""
_MARGIN = 3.5
_FAR = 8
"""So many deviations from the median a point is drawn at the edge: it would flatten all others."""
_COLOURS = {Verdict.WORSE: "var(--alarm)", Verdict.CANNOT_TELL: "var(--unsure)"}


def sparkline(trend: Trend) -> str:
    """Draw the newest points of a series."""
    unit = trend.series.id.quantity.unit
    values = trend.series.values[-MOST_POINTS:]
    places = _places(values)
    step = (WIDTH - 2 * _MARGIN) / max(len(values) - 1, 1)
    marks = [(_MARGIN + step * number, place) for number, place in enumerate(places)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
    colour = "currentColor" if trend.is_shown_only else _COLOURS.get(trend.verdict, "var(--line-1)")
    reached = [value for value in values if math.isfinite(value)]
    said = f"{units.count(len(values), 'run')}: {_span(reached, unit)}"
    said += f", newest {wording.amount(values[-1], unit)}"
    return (
        f'<svg class="spark" role="img" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" '
        f'height="{HEIGHT:g}"><title>{escape(said)}</title>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity=".6"/>'
        f'<circle cx="{marks[-1][0]:.1f}" cy="{marks[-1][1]:.1f}" r="3" fill="{colour}"/></svg>'
    )


def _span(reached: list[float], unit: Unit) -> str:
    if not reached:
        return "never reached"
    low, high = (wording.amount(end, unit) for end in (min(reached), max(reached)))
    return low if low == high else f"{low} to {high}"


def _places(values: tuple[float, ...]) -> list[float]:
    """Heights from the top; what was not reached is at the top, a far outlier at its edge."""
    reached = [value for value in values if math.isfinite(value)]
    middle = median(reached) if reached else 0.0
    spread = _FAR * 1.4826 * median(abs(value - middle) for value in reached) if reached else 0.0
    # Half of all values on another level are no outliers: then the spread is wide enough.
    low = max(min(reached, default=0.0), middle - spread) if spread else min(reached, default=0.0)
    high = min(max(reached, default=0.0), middle + spread) if spread else max(reached, default=0.0)
    inner = HEIGHT - 2 * _MARGIN
    if high <= low:
        return [_MARGIN if math.isinf(value) else HEIGHT / 2 for value in values]
    return [
        _MARGIN + inner * (1 - (min(max(value, low), high) - low) / (high - low))
        for value in values
    ]
