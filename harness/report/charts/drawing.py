"""Figures as pages need them: one look for all, byte-reproducible SVG and PNG, in light and dark.

A figure is drawn with stand-in colours. In a file they are what they are; inside a page the ink
becomes the text's colour, the paper the page's, and every other one of `THEMED` a variable that the
page sets for light and for dark, so a chart follows the theme of the page around it. matplotlib is
used without pyplot, so nothing global is touched.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.report.text.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f23"
PAPER = "#fffffe"
ALARM = "#b34701"
"""For failures and outliers."""

LINES = ("#0067a3", "#b34700", "#00704f", "#8f3d78", "#7a5b00", "#555f68")
"""For one arm each: the palette below, darkened until a thin line or a word is read on white."""

THEMED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        ALARM: ("alarm", "#ff9a5c"),
        LINES[0]: ("line-1", "#6db7ef"),
        LINES[1]: ("line-2", "#ff9a5c"),
        LINES[2]: ("line-3", "#4fcf9f"),
        LINES[3]: ("line-4", "#e79bcb"),
        LINES[4]: ("line-5", "#e3bb3d"),
        LINES[5]: ("line-6", "#b5bec6"),
    }
)
"""Stand-in, which is also the colour on white -> the page's variable, the colour in the dark."""

PALETTE = {
    "sky": "#56b4e9",
    "orange": "#e69f00",
    "blue": "#0072b2",
    "purple": "#cc79a7",
    "green": "#009e73",
}
"""Distinct with every common colour vision: Okabe & Ito, *Color Universal Design*, 2008."""

WIDE_INCHES = 8.2
NARROW_INCHES = 3.9
MARGIN_INCHES = 0.12
PNG_DPI = 150

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same measures everywhere
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",  # text stays text: it can be read out, found, and copied
    "svg.hashsalt": "steelyard",
    "path.simplify": False,
    "text.parse_math": False,  # names are the user's, and a dollar sign is one
}


@dataclass(frozen=True)
class Chart:
    """A chart, drawn when it is first asked for: a page needs no pixels, and pixels no page.

    Attributes:
        name: Of the files, without suffix, and the prefix of all identifiers.
        title: One line.
        description: The picture in a few sentences, for those who cannot see it.
        caption: How to read it, a few sentences.
        grid: The figures that it draws.
        grid_title: Stands above them.
        draw: Makes the figure for a width in inches.
        finish: Is applied to the SVG, for what matplotlib cannot draw.
    """

    name: str
    title: str
    description: str
    caption: str
    grid: Grid
    grid_title: str
    draw: Callable[[float], Figure] = field(repr=False, compare=False)
    finish: Callable[[str], str] = field(default=str, repr=False, compare=False)

    @cached_property
    def svg(self) -> bytes:
        """A file of its own, on white; it keeps its size, which an image without a page needs."""
        text = _described(self._wide_svg, self.name, self.title, self.description)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode()

    @cached_property
    def png(self) -> bytes:
        """The same, as pixels."""
        pixels = io.BytesIO()
        with style():
            as_png: dict[str, Any] = {"metadata": {"Software": None}, "format": "png"}
            self._wide.savefig(pixels, dpi=PNG_DPI, pil_kwargs={"compress_level": 4}, **as_png)
        return pixels.getvalue()

    @cached_property
    def inline_wide(self) -> str:
        """SVG element for a page, with identifiers no other chart has."""
        return _inline(self._wide_svg, f"{self.name}-wide", self.title, self.description)

    @cached_property
    def inline_narrow(self) -> str:
        """The same content laid out for a phone."""
        with style():
            text = self.finish(_svg(self.draw(NARROW_INCHES)))
        return _inline(text, f"{self.name}-narrow", self.title, self.description)

    @cached_property
    def _wide(self) -> Figure:
        with style():
            return self.draw(WIDE_INCHES)

    @cached_property
    def _wide_svg(self) -> str:
        with style():
            return self.finish(_svg(self._wide))


@contextmanager
def style() -> Iterator[None]:
    """Apply the look to matplotlib's defaults; a user's own settings do not count."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks: right in the SVG, boxes in the PNG, no warning.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        mpl.rcdefaults()
        settings: Any = mpl.rcParams  # its keys are typed by name, and differ between versions
        settings.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of that many inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def show_y_axis(axes: Axes) -> None:
    """Show an axis of numbers at the left, with faint lines across."""
    axes.yaxis.set_visible(True)
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    axes.grid(axis="y", linewidth=0.5, alpha=0.18, color=INK)


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches from the figure's left and top edges.

    Their heights are inches, too, from the top down, so that rows of text and marks keep their
    distances whatever the number of rows.
    """
    whole, total = figure.get_size_inches()
    axes = figure.add_axes(
        (left / whole, 1 - (top + height) / total, width / whole, height / total)
    )
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_ylim(height, 0)
    axes.yaxis.set_visible(False)
    axes.tick_params(axis="x", length=3, width=0.6, labelsize=8)
    axes.grid(axis="x", linewidth=0.5, alpha=0.18, color=INK)
    axes.set_axisbelow(True)
    return axes


def add_panel(figure: Figure, top: float, height: float) -> Axes:
    """Add axes across the figure; `top` and `height` in inches from the figure's top edge."""
    width = figure.get_size_inches()[0]
    return add_axes(figure, MARGIN_INCHES, top, width - 2 * MARGIN_INCHES, height)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # A style element would reach beyond its chart, into the page; the same rule as an attribute
    # of the root is inherited by all that is in it.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    fallback = "'DejaVu Sans', Verdana, system-ui, sans-serif"
    text = text.replace("'DejaVu Sans'", fallback)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return _MARKS.sub(_styled_once, text)


_MARKS = re.compile(r'<g>\n((?:\s*<use [^>]* style="[^"]*"/>\n){2,})')


def _styled_once(found: re.Match[str]) -> str:
    """Style a group of marks once, instead of each of hundreds."""
    styles = set(re.findall(r' style="([^"]*)"', found[1]))
    if len(styles) > 1:
        return found[0]
    marks = re.sub(r' style="[^"]*"', "", found[1])
    return f'<g style="{styles.pop()}">\n{marks}'


def _inline(text: str, prefix: str, title: str, description: str) -> str:
    """Make an element for a page: as wide as its place, in the page's colours, its ids its own."""
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    for stand_in, (variable, _) in THEMED.items():
        text = text.replace(stand_in, f"var(--{variable})")
    for attribute in ("width", "height"):
        text = re.sub(rf'(<svg\b[^>]*?) {attribute}="[^"]*"', r"\1", text, count=1)
    return _described(text, prefix, title, description)


def _described(text: str, prefix: str, title: str, description: str) -> str:
    """Give an SVG a role, a name and a description for screen readers."""
    heading = (
        f'<title id="{prefix}-title">{escape(title)}</title>\n'
        f'<desc id="{prefix}-description">{escape(description)}</desc>'
    )
    attributes = (
        f'role="img" aria-labelledby="{prefix}-title" aria-describedby="{prefix}-description" '
        'style="stroke-linejoin: round; stroke-linecap: butt"'
    )
    return re.sub(
        r"<svg\b([^>]*)>", lambda found: f"<svg{found[1]} {attributes}>\n{heading}", text, count=1
    )
