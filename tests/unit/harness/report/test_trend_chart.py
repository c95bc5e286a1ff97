"""The chart of a series, and its line in a table: nothing is cut silently, marks say values."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from datetime import timedelta
from xml.etree import ElementTree as ET

from harness.analysis.history import History, Point, RunRef, Series, SeriesId
from harness.analysis.trends import Trend, trends_of
from harness.report.charts.sparkline import HEIGHT, sparkline
from harness.report.charts.trend import trend_chart
from harness.report.site import render_index
from harness.stats import Interval, Method
from tests.support.histories import START, commit

SVG = "{http://www.w3.org/2000/svg}"


def series_of(values: Sequence[float], *, hours: int = 24, anchor: str = "") -> Series:
    """A series of runs so many hours apart, each with an interval of 2 % to either side."""
    points = tuple(
        Point(
            RunRef(f"run-{number}", START + timedelta(hours=hours * number), None, 8, ended=True),
            commit(number),
            value,
            Interval(value * 0.98, value * 1.02, 0.95, Method.INTERPOLATED),
            8,
            is_exact=False,
        )
        for number, value in enumerate(values)
    )
    return Series(SeriesId("hello", "container", "ready", "host", anchor), "a host", points)


def trend_of(series: Series) -> Trend:
    (trend,) = trends_of(History((), (series,))).trends
    return trend


def wavy(count: int, level: float = 3e6) -> list[float]:
    return [level * (1 + 0.01 * math.sin(7.3 * number)) for number in range(count)]


def texts(drawing: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing)


def open_marks(drawing: str) -> int:
    """The marks of intervals that go on beyond the edge: outlines without a filling."""
    found = re.findall(
        r'<g id="[^"]*PathCollection_\d+">.*?</g>\s*(?=<g id|</g>)', drawing, re.DOTALL
    )
    return sum(len(re.findall(r"<use |<path d", one)) - one.count("<defs>") for one in found
               if "mark" not in one and "fill: none" in one and "<title>" not in one)  # fmt: skip


def test_an_interval_that_fits_is_whole_and_one_that_does_not_has_a_mark() -> None:
    series = series_of(wavy(20))
    assert open_marks(trend_chart(trend_of(series)).inline_wide) == 0
    wide = list(series.points)
    wide[4] = dataclasses.replace(wide[4], interval=Interval(2.9e6, 9e9, 0.95, Method.RANGE))
    wide[9] = dataclasses.replace(wide[9], interval=Interval(2.9e6, math.inf, 0.95, Method.RANGE))
    wide[12] = dataclasses.replace(wide[12], interval=Interval(1.0, 3.1e6, 0.95, Method.RANGE))
    chart = trend_chart(trend_of(dataclasses.replace(series, points=tuple(wide))))
    assert open_marks(chart.inline_wide) == 3
    assert "an open one an interval that goes on there" in chart.caption


def test_every_mark_says_its_values_and_leads_to_its_report() -> None:
    series = series_of([*wavy(20), math.inf])
    linked = trend_chart(trend_of(series), lambda point: f"../runs/{point.run.run_id}.html")
    for drawing in (linked.inline_wide, linked.inline_narrow, trend_chart(trend_of(series)).svg):
        text = drawing if isinstance(drawing, str) else drawing.decode()
        ET.fromstring(text)
        titles = re.findall(r"<title>([^<]*)</title>", text)
        assert len(titles) == 21
        assert titles[0] == f"3.00 ms [2.94–3.06], 8 blocks\n2026-03-01 06:00, {commit(0)}\nrun-0"
        assert sum("not reached" in title for title in titles) == 1
        assert text.count('pointer-events="all"') == 21
        assert "mark:" not in text
    links = re.findall(r'<a xlink:href="\.\./runs/(run-\d+)\.html"', linked.inline_wide)
    assert sorted(links) == sorted(point.run.run_id for point in series.points)
    assert "<a " not in trend_chart(trend_of(series)).inline_wide


def test_ticks_tell_runs_apart() -> None:
    drawing = trend_chart(trend_of(series_of(wavy(20), hours=1))).inline_wide
    assert commit(0)[:7] in texts(drawing)
    assert commit(19)[:7] in texts(drawing)
    series = series_of(wavy(20), hours=1)
    nameless = tuple(dataclasses.replace(point, commit=None) for point in series.points)
    drawing = trend_chart(trend_of(dataclasses.replace(series, points=nameless))).inline_wide
    assert {"06:00", "01:00"} <= set(texts(drawing))
    same = tuple(dataclasses.replace(point, commit="abcdef0") for point in series.points)
    drawing = trend_chart(trend_of(dataclasses.replace(series, points=same))).inline_wide
    assert "06:00" in texts(drawing)
    long = (dataclasses.replace(one, commit=f"{n}-a-long-branch") for n, one in enumerate(nameless))
    drawing = trend_chart(trend_of(dataclasses.replace(series, points=tuple(long)))).inline_wide
    assert "0-a-long-…" in texts(drawing)


def test_a_ratio_has_an_axis_of_multiples() -> None:
    ratios = trend_of(series_of(wavy(20, 1.04), anchor="0a1b2c3d4e5f"))
    chart = trend_chart(ratios)
    assert chart.title == "hello, container: time until ready, × the anchor's"
    assert any(re.fullmatch(r"1\.0\d* ×", text) for text in texts(chart.inline_wide))
    assert chart.grid.rows[-1][2] == "1.04 × [1.02–1.06]"


def test_a_line_in_a_table_shows_where_a_series_went() -> None:
    trend = trend_of(series_of([*wavy(20), 6e6, 6e6, 6e6]))
    drawing = ET.fromstring(sparkline(trend))
    (title,) = drawing.iter("title")
    assert title.text == "23 runs: 2.97 ms to 6.00 ms, newest 6.00 ms"
    (line,) = drawing.iter("polyline")
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert len(heights) == 23
    assert max(heights[20:]) < min(heights[:20]), "higher values are further up"
    assert all(0 < height < HEIGHT for height in heights)
    (dot,) = drawing.iter("circle")
    assert dot.attrib["fill"] == "var(--alarm)"
    for values in ([5.0], [0.0] * 3, [math.inf] * 2, [1.0, math.inf]):
        ET.fromstring(sparkline(trend_of(series_of(values))))


def test_the_index_is_green_only_where_all_is_judged_and_nothing_open() -> None:
    def badge(*series: Series) -> tuple[str, str]:
        page = render_index(trends_of(History((), series)))
        (colour,) = re.findall(r'class="badge (\w+)"', page)
        (answer,) = re.findall(r'class="answer">([^<]*)<', page)
        return colour, answer

    assert badge(series_of(wavy(30))) == ("sure", "No change for the worse is open.")
    assert badge(series_of(wavy(7))) == (
        "unsure",
        "1 of 1 series cannot be judged yet (7 of 13 runs).",
    )
    assert badge(series_of([*wavy(30), 6e6]))[0] == "unsure"
    assert badge(series_of([*wavy(30), 6e6, 6e6])) == ("bad", "1 change for the worse is open.")
    assert badge() == ("unsure", "There is no series to judge.")
