"""The chart of allocated bytes on disk: once for all instances, and for each instance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness.analysis.summary import ArmRow, ScenarioTable
from harness.report.charts import parts
from harness.report.charts.drawing import MARGIN_INCHES, PALETTE, Chart, add_panel, new_figure
from harness.report.text import tables, wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISK_LOOK = (
    ("shared by all instances, once", PALETTE["blue"], "----"),
    ("for each instance", PALETTE["orange"], "////"),
)
BAR_INCHES = 0.3
"""Of a row, below its text: the bar, and air."""


def disk_chart(table: ScenarioTable) -> Chart | None:
    """Draw what each arm allocates; returns None if nothing is known about any arm's disk."""
    rows = [row for row in table.rows if _amounts(row) is not None]
    if not any(sum(_amounts(row) or (0, 0)) for row in rows):
        return None
    figures = "; ".join(
        f"{row.arm}: {', '.join(filter(None, (_figures(row), _moved(row))))}" for row in rows
    )
    title = f"{table.scenario.name}: allocated on disk"
    return Chart(
        name=f"disk-{parts.slug(table.scenario.name)}",
        title=title,
        description=f"Horizontal bars, allocated bytes. {figures}.",
        caption="Allocated bytes, holes in files not counted. The first part is there once, "
        "however many instances there are; the second is what each instance adds, read just after "
        "it was ready. The smaller line says what was written of it, and read of the image, until "
        "then.",
        grid=tables.disk_grid(table),
        grid_title="On disk, part by part",
        draw=partial(_draw, rows, title),
    )


def _amounts(row: ArmRow) -> tuple[float, float] | None:
    """Return shared and exclusive bytes of an arm, as far as either is known."""
    if row.shared_bytes is None and row.exclusive is None:
        return None
    return row.shared_bytes or 0, row.exclusive.median if row.exclusive is not None else 0


def _figures(row: ArmRow) -> str:
    shared = "?" if row.shared_bytes is None else wording.size(row.shared_bytes)
    exclusive = "?" if row.exclusive is None else wording.size(row.exclusive.median)
    return f"{shared} shared + {exclusive} each"


def _moved(row: ArmRow) -> str:
    """Say what was written and read until ready, as far as it is known."""
    known = [
        f"{wording.size(row.metrics[metric].median)} {word}"
        for metric, word in (("disk-growth", "written"), ("image-read", "of the image read"))
        if metric in row.metrics and row.metrics[metric].is_reached
    ]
    return f"until ready: {wording.listed(known)}" if known else ""


def _draw(rows: Sequence[ArmRow], title: str, width: float) -> Figure:
    handles = [parts.patch(*look) for look in DISK_LOOK]
    panel_inches = width - 2 * MARGIN_INCHES
    texts = [parts.row_head(row.arm, _figures(row), _moved(row), panel_inches) for row in rows]
    head = parts.head_inches(title, handles, width)
    height = sum(text.inches + BAR_INCHES for text in texts)
    figure = new_figure(width, head + height + parts.AXIS_INCHES)
    parts.draw_head(figure, title, handles)
    axes = add_panel(figure, head, height)
    sizes = [_amounts(row) or (0, 0) for row in rows]
    end = max(map(sum, sizes)) * 1.02
    scale, unit = wording.size_unit(end)
    axes.set_xlim(0, end / scale)
    axes.set_xlabel(f"{unit} allocated", fontsize=8, labelpad=2)
    top = 0.0
    for text, amounts in zip(texts, sizes, strict=True):
        shown = parts.write_row(axes, top, text)
        top, before = shown + BAR_INCHES, 0.0
        for amount, (_, colour, hatch) in zip(amounts, DISK_LOOK, strict=True):
            parts.bar(axes, shown, before, amount / scale, colour, hatch, 0.18)
            before += amount / scale
    return figure
