"""Figures as pages need them: one look for all, byte-reproducible SVG and PNG, in light and dark.

A figure is drawn with two stand-in colours, ink and paper. In a file they are what they are; inside
a page the ink becomes the text's colour and the paper the page's, so a chart follows the theme of
the page around it. matplotlib is used without pyplot, so nothing global is touched.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f23"
PAPER = "#fffffe"
ALARM = "#d55e00"
"""For failures: vermilion of the palette below."""

PALETTE = {
    "sky": "#56b4e9",
    "orange": "#e69f00",
    "blue": "#0072b2",
    "purple": "#cc79a7",
    "green": "#009e73",
}
"""Told apart with every common colour vision: Okabe & Ito, *Color Universal Design*, 2008."""

WIDE_INCHES = 8.2
NARROW_INCHES = 3.9
MARGIN_INCHES = 0.12
PNG_DPI = 160

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


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready for files and pages.

    Attributes:
        name: Of the files, without suffix.
        title: What it shows, one line.
        description: What can be seen in it, for those who cannot see it.
        svg: A file of its own, on white.
        png: The same, as pixels.
        inline_wide: SVG element for a page, with identifiers no other chart has.
        inline_narrow: The same content laid out for a phone.
    """

    name: str
    title: str
    description: str
    svg: bytes
    png: bytes
    inline_wide: str
    inline_narrow: str


def make_chart(name: str, title: str, description: str, draw: Callable[[float], Figure]) -> Chart:
    """Draw a figure at both widths and turn it into everything that files and pages need.

    Args:
        name: Of the files, and the prefix of all identifiers.
        title: One line.
        description: A few sentences.
        draw: Makes the figure for a width in inches.
    """
    with style(), warnings.catch_warnings():
        # A name in a script that the font lacks: right in the SVG, boxes in the PNG, no alarm.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        wide, narrow = draw(WIDE_INCHES), draw(NARROW_INCHES)
        wide_svg, narrow_svg = _svg(wide), _svg(narrow)
        pixels = io.BytesIO()
        wide.savefig(pixels, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return Chart(
        name=name,
        title=title,
        description=description,
        svg=_document(wide_svg, name, title, description),
        png=pixels.getvalue(),
        inline_wide=_inline(wide_svg, f"{name}-wide", title, description),
        inline_narrow=_inline(narrow_svg, f"{name}-narrow", title, description),
    )


@contextmanager
def style() -> Iterator[None]:
    """Put the look in force, above matplotlib's defaults and below nobody's own settings."""
    import matplotlib as mpl

    with mpl.rc_context():
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


def add_panel(figure: Figure, top: float, height: float) -> Axes:
    """Add axes across the figure; `top` and `height` in inches from the figure's top edge."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes(
        (
            MARGIN_INCHES / width,
            1 - (top + height) / total,
            1 - 2 * MARGIN_INCHES / width,
            height / total,
        )
    )
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=3, width=0.6, labelsize=8)
    axes.grid(axis="x", linewidth=0.5, alpha=0.18, color=INK)
    axes.set_axisbelow(True)
    return axes


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
    return re.sub(r"[ \t]+\n", "\n", text)


def _document(text: str, name: str, title: str, description: str) -> bytes:
    """Make an SVG file: it keeps its size, which is what an image has without a page."""
    text = _described(text, name, title, description)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode()


def _inline(text: str, prefix: str, title: str, description: str) -> str:
    """Make an element for a page: as wide as its place, in the page's colours, its ids its own."""
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    for attribute in ("width", "height"):
        text = re.sub(rf'(<svg\b[^>]*?) {attribute}="[^"]*"', r"\1", text, count=1)
    return _described(text, prefix, title, description)


def _described(text: str, prefix: str, title: str, description: str) -> str:
    """Give an SVG a role, a name and a description for those who listen to it."""
    heading = (
        f'<title id="{prefix}-title">{escape(title)}</title>\n'
        f'<desc id="{prefix}-description">{escape(description)}</desc>'
    )
    attributes = (
        f'role="img" aria-labelledby="{prefix}-title {prefix}-description" '
        'style="stroke-linejoin: round; stroke-linecap: butt"'
    )
    return re.sub(
        r"<svg\b([^>]*)>", lambda found: f"<svg{found[1]} {attributes}>\n{heading}", text, count=1
    )
