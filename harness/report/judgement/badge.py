"""A badge: an SVG image of the verdict, drawn from nothing but itself."""

from __future__ import annotations

from xml.sax.saxutils import escape

from harness.analysis.judgement import ExitCode, Judgement
from harness.report.judgement.words import HEADLINES

_COLOURS = {
    # Dark enough for white text: contrast of 4.5 and more (WCAG 2.1, 1.4.3).
    ExitCode.FINE: "#2b7a3d",
    ExitCode.REGRESSED: "#b3261e",
    ExitCode.USAGE: "#595959",
    ExitCode.CANNOT_TELL: "#8a5a00",
}
_LEFT = "steelyard"
_CHARACTER, _PADDING, _HEIGHT = 6.6, 8, 20


def render(judgement: Judgement) -> str:
    """See `harness.report.judgement.render`."""
    right, colour = HEADLINES[judgement.exit_code], _COLOURS[judgement.exit_code]
    left_width, right_width = (
        round(len(text) * _CHARACTER + 2 * _PADDING) for text in (_LEFT, right)
    )
    width = left_width + right_width
    title = escape(f"{_LEFT}: {right}")
    size = f'width="{width}" height="{_HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>{title}</title>
<clipPath id="r"><rect {size} rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left_width}" height="{_HEIGHT}" fill="#444"/>
<rect x="{left_width}" width="{right_width}" height="{_HEIGHT}" fill="{colour}"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{left_width / 2:g}" y="14" textLength="{left_width - 2 * _PADDING}">{_LEFT}</text>
<text x="{left_width + right_width / 2:g}" y="14" \
textLength="{right_width - 2 * _PADDING}">{right}</text>
</g>
</svg>
"""
