"""The chart of an instance's memory, by every way of counting it, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.analysis.summary import ArmRow, ScenarioTable
from harness.report.charts import parts
from harness.report.charts.drawing import MARGIN_INCHES, PALETTE, Chart, add_axes, new_figure
from harness.report.text import wording
from harness.report.text.tables import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = (
    ("pss", "PSS"),
    ("cgroup-current", "cgroup, now"),
    ("cgroup-peak", "cgroup, most"),
    ("available-delta", "MemAvailable fell"),
)
"""(metric, how its bar is called), in order."""

OWN = ("unique to it (USS)", PALETTE["orange"], "////")
SHARE = ("its share of shared pages (PSS less USS)", PALETTE["blue"], "----")
WHOLE = ("counted as a whole", PALETTE["sky"], "")

NAME_INCHES = 0.26
BAR_INCHES = 0.19
AIR_INCHES = 0.14
LABEL_INCHES = 1.12
VALUE_INCHES = 1.35


@dataclass(frozen=True, slots=True)
class _Bar:
    """One way of counting an arm's memory; its pieces are (bytes, look)."""

    label: str
    pieces: tuple[tuple[float, tuple[str, str, str]], ...]
    value: str


def memory_chart(table: ScenarioTable) -> Chart | None:
    """Draw the memory of an instance just after ready; returns None if no arm's is known."""
    rows = [row for row in table.rows if row.trials]
    found = {row.arm: tuple(_bars(row)) for row in rows}
    bars = {
        arm: known
        for arm, known in found.items()
        if any(size for bar in known for size, _ in bar.pieces)
    }
    if not bars:
        return None
    title = f"{table.scenario.name}: memory of an instance, just after it was ready"
    return Chart(
        name=f"memory-{parts.slug(table.scenario.name)}",
        title=title,
        description=_description(bars),
        caption="Medians. PSS divides pages that several processes map among them, and is cut into "
        "what this instance alone has and its share of the rest. What a cgroup is charged includes "
        "the page cache that its processes filled first. The last is by how much the host's "
        "available memory fell, with whatever else happened on it meanwhile. No figure among them "
        "is the true one; a virtual machine's are those of its QEMU.",
        grid=_grid(rows),
        grid_title="Memory, medians, [interval]",
        draw=partial(_draw, bars, title),
    )


def _known(row: ArmRow, metric: str) -> float | None:
    """Return a metric's median; None where it is not known or most trials failed before it."""
    found = row.metrics.get(metric)
    return found.median if found is not None and found.is_reached else None


def _bars(row: ArmRow) -> Iterator[_Bar]:
    """Make a bar for each way in which the arm's memory is known."""
    for metric, label in WAYS:
        if (whole := _known(row, metric)) is not None:
            yield _bar(row, metric, label, whole)


def _bar(row: ArmRow, metric: str, label: str, whole: float) -> _Bar:
    spelled = wording.size(whole)
    own = _known(row, "uss") if metric == "pss" else None
    if own is None:
        # Memory that was freed meanwhile makes the fall negative: no bar is that short.
        return _Bar(label, ((max(whole, 0.0), WHOLE),), spelled)
    pieces = ((own, OWN), (max(whole - own, 0.0), SHARE))
    return _Bar(label, pieces, f"{spelled}, {wording.size(own)} own")


def _description(bars: Mapping[str, Sequence[_Bar]]) -> str:
    arms = (
        f"{arm}: {', '.join(f'{bar.label} {bar.value}' for bar in found)}"
        for arm, found in bars.items()
    )
    return f"Horizontal bars, a few an arm. {'. '.join(arms)}."


def _grid(rows: Sequence[ArmRow]) -> Grid:
    """Lay out every way, with whose memory it is, or why it is not known."""
    cells = []
    for row in rows:
        for metric in ("uss", *(way for way, _ in WAYS)):
            found = row.metrics.get(metric)
            reason = row.missing.get(metric, "")
            if found is None and not reason:
                continue
            value = wording.size_estimate(found) if found is not None else wording.NONE
            cells.append((row.arm, metric, value, row.scopes.get(metric) or reason))
    return Grid(("arm", "counted as", "median [interval]", "of what, or why not"), tuple(cells))


def _draw(bars: Mapping[str, Sequence[_Bar]], title: str, width: float) -> Figure:
    drawn = {look for found in bars.values() for bar in found for _, look in bar.pieces}
    handles = [parts.patch(*look) for look in (OWN, SHARE, WHOLE) if look in drawn]
    tall = {arm: NAME_INCHES + len(found) * BAR_INCHES + AIR_INCHES for arm, found in bars.items()}
    head, height = parts.head_inches(title, handles, width), sum(tall.values())
    figure = new_figure(width, head + height + parts.AXIS_INCHES)
    parts.draw_head(figure, title, handles)
    room = width - 2 * MARGIN_INCHES - LABEL_INCHES
    axes = add_axes(figure, MARGIN_INCHES + LABEL_INCHES, head, room, height)
    lengths = (sum(size for size, _ in bar.pieces) for found in bars.values() for bar in found)
    longest = max(lengths, default=0.0) or 1.0
    scale, unit = wording.size_unit(longest)
    axes.set_xlim(0, longest / scale / (1 - VALUE_INCHES / room))
    axes.locator_params(axis="x", nbins=4 if parts.is_narrow(width) else 8)
    axes.set_xlabel(unit, fontsize=8, labelpad=2)
    side = axes.get_yaxis_transform()
    top = 0.0
    for arm, found in bars.items():
        at = (-LABEL_INCHES / room, top + 0.19)
        axes.text(*at, arm, va="bottom", transform=side, bbox=parts.BACKGROUND, **parts.BOLD)
        for place, bar in enumerate(found):
            bottom = top + NAME_INCHES + place * BAR_INCHES
            middle = bottom + 0.07
            label: dict[str, Any] = {"ha": "right", "va": "center_baseline", **parts.SMALL}
            axes.text(-0.06 / room, middle, bar.label, transform=side, **label)
            before = 0.0
            for amount, (_, colour, hatch) in bar.pieces:
                parts.bar(axes, bottom, before, amount / scale, colour, hatch, 0.14)
                before += amount / scale
            end = before + axes.get_xlim()[1] * 0.06 / room
            look: dict[str, Any] = {"va": "center_baseline", **parts.SMALL}
            axes.text(end, middle, bar.value, bbox=parts.BACKGROUND, **look)
        top += tall[arm]
    return figure
