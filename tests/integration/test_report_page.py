"""The report in a real browser: phone, desktop and paper, light and dark, by eye, ear and keys."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report import write_report
from tests.support.chromium import COLOURS, EXECUTABLE, Browser, chromium
from tests.support.synthetic import synthetic_run, synthetic_scale_run

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium here: apt install chromium")

TAB, ENTER, SHORTEST_CONTRAST = 9, 13, 4.5

# Everything that a reader could open is open, so that nothing is measured less than it shows.
OPEN = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"

CHARTS = """(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter(
    (element) => getComputedStyle(element).display !== "none").length;
  const charts = [...document.querySelectorAll("figure svg")].filter(
    (svg) => svg.getClientRects().length);
  const cut = [], small = [], crowded = [];
  let count = 0;
  for (const svg of charts) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(
      (text) => [text, text.getBoundingClientRect()]);
    count += texts.length;
    for (const [text, box] of texts) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.bottom > frame.bottom + 1 || box.top < frame.top - 1) cut.push(text.textContent);
      if (box.height < 9) small.push(text.textContent);
      for (const [other, there] of texts) {
        if (text !== other && box.left < there.right - 1 && there.left < box.right - 1 &&
            box.top < there.bottom - 3 && there.top < box.bottom - 3)
          crowded.push(text.textContent + " / " + other.textContent);
      }
    }
  }
  return { charts: charts.length, wide: shown("figure .wide"), narrow: shown("figure .narrow"),
           count, cut, small, crowded };
})()"""

SIDEWAYS = """(() => {
  const pushed = [...document.querySelectorAll("body *")].filter((element) =>
    !element.closest("svg") && !element.matches(".unseen, .skip, thead, thead *") &&
    (element.scrollWidth > element.clientWidth + 1
       && getComputedStyle(element).overflowX !== "visible"
     || element.getBoundingClientRect().right > innerWidth + 1));
  return { page: document.documentElement.scrollWidth, width: innerWidth,
           pushed: pushed.map((element) => element.outerHTML.slice(0, 120)) };
})()"""


def long_names() -> Any:
    """A run whose arms have the longest names there are, and whose paths have no space in them."""
    run = synthetic_run(blocks=12, scenarios=("hello",), cold=True, again="vm-classic")
    path = "/srv/" + "a-long-directory-without-a-space/" * 8
    scenario = dataclasses.replace(run.info.scenarios[0], path=path, image=path.strip("/"))
    records = [
        dataclasses.replace(record, facts={**record.facts, "rootfs": path})
        for record in run.info.arms
    ]
    info = dataclasses.replace(
        run.info,
        scenarios=(scenario,),
        arms=tuple(records),
        command=("steelyard", "run", path),
        environment={**run.info.environment, "python": path},
    )
    return dataclasses.replace(run, info=info)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a good run, a bad one, one with long names, and one of many instances."""
    runs = {
        "good": synthetic_run(blocks=20, scenarios=("python-http",), again="container"),
        "bad": synthetic_run(blocks=8, scenarios=("hello",), failure_rate=0.25, interrupted=True),
        "long": long_names(),
        "scale": synthetic_scale_run(arms=("container", "vm-micro", "vm-classic"), full_at=5),
    }
    found = {}
    for kind, run in runs.items():
        directory = tmp_path_factory.mktemp(kind)
        write_report(run, directory)
        found[kind] = directory / "report.html"
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # Every name resolves to nothing: whatever the page asked for would be seen and would fail.
    rule = "--host-resolver-rules=MAP * ~NOTFOUND"
    with chromium(tmp_path_factory.mktemp("profile"), rule) as found:
        yield found


EXPECTED = {"good": 5, "bad": 5, "long": 5, "scale": 6}


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", EXPECTED)
def test_nothing_is_cut_crowded_or_pushed_sideways(
    reports: dict[str, Path], browser: Browser, kind: str, width: int
) -> None:
    browser.show(reports[kind], width)
    browser.run(OPEN)
    told = browser.run(CHARTS)
    assert told["charts"] == EXPECTED[kind]
    assert (told["wide"] == 0) is (told["narrow"] > 0) is (width <= 640)
    assert told["count"] > 80
    assert told["cut"] == []
    assert told["small"] == []
    assert told["crowded"] == []
    sideways = browser.run(SIDEWAYS)
    assert sideways["page"] == sideways["width"] == width
    if width == 360:
        assert sideways["pushed"] == []
    assert browser.requests == [reports[kind].as_uri()]


def test_the_widths_between_are_sound(reports: dict[str, Path], browser: Browser) -> None:
    for width in (320, 390, 641, 768):
        browser.show(reports["good"], width)
        browser.run(OPEN)
        told = browser.run(SIDEWAYS)
        assert told["page"] == told["width"] == width
        assert browser.run(CHARTS)["cut"] == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(pair: str) -> float:
    first, second = sorted(luminance(colour) for colour in pair.split(" on "))
    return (second + 0.05) / (first + 0.05)


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_contrast(
    reports: dict[str, Path], browser: Browser, dark: bool, media: str
) -> None:
    browser.show(reports["bad"], 1280, dark=dark, media=media)
    browser.run(OPEN)
    pairs = browser.run(COLOURS)
    assert len(pairs) > 4
    weak = {f"{pair}: {text}" for pair, text in pairs.items() if contrast(pair) < SHORTEST_CONTRAST}
    assert weak == set()
    assert any("failed" in text for text in pairs.values())
    body = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(body) < 0.1) is (dark and media == "screen")


@pytest.mark.parametrize("dark", [False, True])
def test_charts_follow_the_theme(reports: dict[str, Path], browser: Browser, dark: bool) -> None:
    """As pixels: the page's ground lies behind every chart, and no chart brings its own."""
    browser.show(reports["scale"], 1280, dark=dark)
    from PIL import Image

    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    ground = tuple(int(part) for part in re.findall(r"\d+", paper)[:3])
    with Image.open(io.BytesIO(browser.picture(whole=True))) as image:
        pixels = image.convert("RGB")
        boxes = browser.run(
            "[...document.querySelectorAll('figure .wide svg')].map((svg) => {"
            " const box = svg.getBoundingClientRect();"
            " return [box.left, box.top + scrollY, box.right, box.bottom + scrollY]; })"
        )
        for box in boxes:
            found = pixels.crop(tuple(map(int, box))).getcolors(1 << 24) or []
            colours = {colour: number for number, colour in found}
            area = sum(colours.values())
            assert colours[ground] > area / 2
            assert colours.get((255, 255, 255) if dark else (20, 23, 26), 0) < area / 50


def test_keys_alone_reach_everything_and_show_where_they_are(
    reports: dict[str, Path], browser: Browser
) -> None:
    browser.show(reports["good"], 1280)
    browser.press("Tab", TAB)
    first = browser.run("document.activeElement.getAttribute('href')")
    assert first == "#main"
    box = browser.run(
        "(() => { const box = document.activeElement.getBoundingClientRect();"
        " return [box.left, box.top, box.width]; })()"
    )
    assert box[0] >= 0
    assert box[1] >= 0
    assert box[2] > 50
    browser.press("Enter", ENTER)
    assert browser.run("document.activeElement.id") == "main"
    reachable = browser.run(
        "[...document.querySelectorAll('main summary, main a, main .scroll')].filter("
        " (one) => one.checkVisibility()).length"
    )
    seen, unmarked = [], []
    for _ in range(reachable + 1):
        browser.press("Tab", TAB)
        tag, style, width = browser.run(
            "(() => { const style = getComputedStyle(document.activeElement);"
            " return [document.activeElement.tagName, style.outlineStyle,"
            " parseFloat(style.outlineWidth)]; })()"
        )
        seen.append(tag)
        if style == "none" or width < 2:
            unmarked.append(tag)
    # One more is the page's end: nothing is left out, and nothing holds the keys fast.
    assert seen[-1] == "BODY"
    assert seen.count("BODY") == 1
    assert unmarked == ["BODY"]
    assert seen.count("SUMMARY") >= EXPECTED["good"]
    browser.run("[...document.querySelectorAll('summary')].find("
                "(one) => !one.parentElement.open).focus()")  # fmt: skip
    browser.press("Enter", ENTER)
    assert browser.run("document.activeElement.parentElement.open") is True


@pytest.mark.parametrize("width", [360, 1280])
def test_a_listener_gets_charts_by_name_and_tables_as_tables(
    reports: dict[str, Path], browser: Browser, width: int
) -> None:
    """On a phone tables look like lists, and must still be told as tables."""
    browser.show(reports["scale"], width)
    browser.run(OPEN)
    spoken = browser.spoken()
    images = [node for node in spoken if node["role"] in ("image", "img")]
    assert len(images) == EXPECTED["scale"]
    for image in images:
        assert image["name"].startswith("hello: ")
        assert len(image["description"]) > 80
    tables = [node for node in spoken if node["role"] == "table"]
    assert len(tables) > EXPECTED["scale"]
    assert all(table["name"] for table in tables)
    roles = [node["role"] for node in spoken]
    assert roles.count("rowheader") > len(tables)
    assert roles.count("columnheader") > 2 * len(tables)
    assert roles.count("main") == 1
    assert all(node["name"] for node in spoken if node["role"] in ("region", "navigation"))


@pytest.mark.parametrize("kind", EXPECTED)
def test_headings_leave_no_level_out(reports: dict[str, Path], browser: Browser, kind: str) -> None:
    browser.show(reports[kind], 1280)
    levels = browser.run(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5')].map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.run("document.documentElement.lang") == "en"


def test_paper_takes_it_with_the_tables_behind_the_charts(
    reports: dict[str, Path], browser: Browser
) -> None:
    browser.show(reports["scale"], 794, media="print")
    hidden = browser.run(
        "[...document.querySelectorAll('details.data table')].filter("
        " (table) => !table.checkVisibility({contentVisibilityAuto: true})).length"
    )
    assert hidden == 0
    told = browser.run(SIDEWAYS)
    assert told["page"] <= told["width"]
    assert browser.run(CHARTS)["narrow"] == 0
    assert browser.pdf().startswith(b"%PDF-")
    assert browser.requests == [reports["scale"].as_uri()]


def test_the_chart_files_are_pictures_on_their_own(
    reports: dict[str, Path], browser: Browser
) -> None:
    from PIL import Image

    files = sorted((reports["good"].parent / "charts").glob("*.svg"))
    assert len(files) == EXPECTED["good"]
    for svg in files:
        browser.show(svg, 800)
        with Image.open(io.BytesIO(browser.picture())) as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
        assert (0x1B, 0x1F, 0x23) in colours, svg.name  # the ink
        assert (0xFF, 0xFF, 0xFE) in colours, svg.name  # the paper
