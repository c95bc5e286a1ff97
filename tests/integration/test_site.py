"""The site of a history in a real browser, from file://: clicked through, on every screen."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from harness.analysis.acknowledged import Acknowledgement
from harness.analysis.gather import gather
from harness.analysis.history import History
from harness.analysis.trends import Trends, trends_of
from harness.report.charts.trend import file_name
from harness.report.site import render_series, write_site
from tests.support.chromium import COLOURS, EXECUTABLE, PATIENCE_S, Browser, chromium
from tests.support.histories import commit, one_run, write_history, write_run

needs_chromium = pytest.mark.skipif(
    EXECUTABLE is None, reason="no chromium here: apt install chromium"
)

STEP, DISK_STEP, RUNS = 9, 13, 18
HOSTILE = "<script>document.title='owned'</script>"

SIDEWAYS = """(() => {
  const pushed = [...document.querySelectorAll("body *")].filter((element) =>
    !element.closest("svg") && !element.matches(".unseen, .skip, thead, thead *") &&
    element.getBoundingClientRect().right > innerWidth + 1);
  return { page: document.documentElement.scrollWidth, width: innerWidth,
           pushed: pushed.map((element) => element.outerHTML.slice(0, 120)) };
})()"""

CUT = """(() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    if (!svg.getClientRects().length) continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map((t) => [t, t.getBoundingClientRect()]);
    for (const [text, box] of texts) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
          || box.bottom > frame.bottom + 1) found.push("cut: " + text.textContent);
      for (const [other, there] of texts)
        if (text !== other && box.left < there.right - 1 && there.left < box.right - 1 &&
            box.top < there.bottom - 3 && there.top < box.bottom - 3)
          found.push(text.textContent + " / " + other.textContent);
    }
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Trends:
    root = tmp_path_factory.mktemp("runs")
    write_history(
        root,
        RUNS,
        lambda number: one_run(
            number,
            factor=1.5 if number >= STEP else 1.0,
            more_disk=4096 if number >= DISK_STEP else 0,
        ),
    )
    stranger = {"cpu_model": HOSTILE, "steelyard_revision": '"><img src=x>'}
    write_run(one_run(40, environment=stranger), root / "stranger")
    write_run(one_run(41), root / "damaged")
    (root / "damaged" / "run.json").write_text("{")
    meant = Acknowledgement("*/disk-shared@*", commit(DISK_STEP), "a new base image", "here:1")
    return trends_of(gather([root]), [meant])


@pytest.fixture(scope="module")
def site(found: Trends, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a site")  # with a space, as folders are
    write_site(found, folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    rule = "--host-resolver-rules=MAP * ~NOTFOUND"
    with chromium(tmp_path_factory.mktemp("profile"), rule) as opened:
        yield opened


def page_of(found: Trends, site: Path, metric: str) -> Path:
    """The page of the long series of a metric; the stranger's has a single point."""
    (name,) = [
        trend.series.id
        for trend in found.trends
        if trend.series.id.metric == metric and len(trend.series.points) == RUNS
    ]
    return site / "series" / f"{file_name(name)}.html"


def links(page: Path) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="([^"#][^"]*)"', page.read_text())]


def test_every_link_leads_to_a_page_and_every_page_is_linked(site: Path) -> None:
    pages = {path.resolve() for path in site.rglob("*.html")}
    linked = {(site / "index.html").resolve()}
    for page in pages:
        if page.parent.name == "runs":
            continue
        for link in links(page):
            assert urlsplit(link).scheme == ""
            target = (page.parent / unquote(link)).resolve()
            assert target in pages, f"{page.name} leads to {link}"
            linked.add(target)
    assert linked == pages
    assert {path.parent.name for path in pages} == {site.name, "series", "runs"}
    assert len(list((site / "runs").iterdir())) == RUNS + 1


def test_a_point_leads_to_its_run(site: Path, found: Trends) -> None:
    text = page_of(found, site, "ready").read_text()
    for number in range(RUNS):
        run = found.history.runs[number].run_id
        # Once in the table and once in each of the two drawings, and where a change names it.
        assert len(re.findall(f'href="../runs/{run}.html"', text)) >= 3
    assert "<script" not in text


def test_the_site_is_written_again_without_making_every_report_anew(
    found: Trends, site: Path
) -> None:
    report = next((site / "runs").iterdir())
    before = report.stat().st_mtime_ns
    report.write_text("kept")
    write_site(found, site)
    assert report.read_text() == "kept"
    os.utime(report, ns=(0, 0))
    write_site(found, site)
    assert report.stat().st_mtime_ns > before
    assert "<h1>" in report.read_text()


def follow(browser: Browser, expression: str) -> str:
    """Click the middle of an element as a hand does, and wait for the page that comes."""
    before = browser.run("location.href")
    spot = browser.run(
        f"(() => {{ const one = {expression}; one.scrollIntoView({{block: 'center'}});"
        " const box = one.getBoundingClientRect();"
        " return [box.left + box.width / 2, box.top + box.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1
        )
    deadline = time.monotonic() + PATIENCE_S
    while (page := browser.loaded()) in (None, before):
        assert time.monotonic() < deadline, f"no click on {expression} left {before}"
        time.sleep(0.02)
    return unquote(str(page))


@needs_chromium
def test_clicked_through(found: Trends, site: Path, browser: Browser) -> None:
    browser.show(site / "index.html", 1280)
    assert browser.run("document.title") == "What the box costs, run by run · Steelyard"
    assert "1 change for the worse is open" in browser.run("document.body.innerText")
    page = follow(browser, "document.querySelector('.short a')")
    assert "/series/hello_container_ready_" in page
    assert commit(STEP) in browser.run("document.querySelector('.answer').innerText")
    # A mark of the drawing, then the way back to all series, then a row of the table.
    mark = f"[...document.querySelectorAll('figure .wide svg a')][{RUNS - 1}]"
    report = follow(browser, mark)
    assert re.search(r"/runs/2026\d+T\d+Z-0000\w\w\.html$", report)
    assert browser.run("document.querySelector('h1').innerText") == "What the box costs: hello"
    browser.show(page_of(found, site, "ready"), 1280)
    report = follow(browser, "document.querySelector('#runs ~ .scroll tbody a')")
    assert report.endswith(f"-{RUNS - 1:06x}.html")
    browser.show(page_of(found, site, "disk-shared"), 1280)
    assert "a new base image" in browser.run("document.body.innerText")
    assert follow(browser, "document.querySelector('nav a')").endswith("/index.html")


@needs_chromium
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_cut_or_pushed_sideways(site: Path, browser: Browser, width: int) -> None:
    pages = [site / "index.html", *sorted((site / "series").iterdir())]
    for page in pages:
        browser.show(page, width)
        told = browser.run(SIDEWAYS)
        assert told["page"] == told["width"] == width, page.name
        if width <= 640:
            assert told["pushed"] == [], page.name
        assert browser.run(CUT) == [], page.name
        assert browser.requests == [page.as_uri()]


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_a_chart_of_a_wild_series_is_not_cut_or_crowded(
    found: Trends, tmp_path: Path, browser: Browser, width: int
) -> None:
    trend = next(one for one in found.trends if len(one.series.points) == RUNS)
    points = trend.series.points
    value = points[0].value
    levels = [value * 1.2 ** (number // 9) for number in range(120)]
    levels[33], levels[71], levels[77:79] = value * 900, value / 900, [math.inf] * 2
    wild = tuple(
        dataclasses.replace(
            points[number % RUNS],
            run=dataclasses.replace(points[number % RUNS].run, run_id=f"run-{number}"),
            commit="a-branch-with-a-long-name/" * 3 + str(number),
            value=level * (1 + 0.001 * (number % 7)),
        )
        for number, level in enumerate(levels)
    )
    name = dataclasses.replace(trend.series.id, arm="an arm with quite a long name " * 4)
    series = dataclasses.replace(trend.series, points=wild, id=name)
    (drawn,) = trends_of(History((), (series,))).trends
    assert len(drawn.changes) > 6
    page = tmp_path / "page.html"
    page.write_text(render_series(drawn, {}))
    browser.show(page, width)
    assert browser.run(CUT) == []
    assert browser.run("document.documentElement.scrollWidth") == width


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_contrast_in_light_and_dark(site: Path, browser: Browser, dark: bool) -> None:
    for page in (site / "index.html", *(site / "series").glob("hello_container_ready_*")):
        browser.show(page, 1280, dark=dark)
        for pair, text in browser.run(COLOURS).items():
            first, second = sorted(luminance(colour) for colour in pair.split(" on "))
            assert (second + 0.05) / (first + 0.05) >= 4.5, f"{page.name}: {text}"
        body = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (luminance(body) < 0.1) is dark


@needs_chromium
def test_the_keys_reach_every_link_once_and_a_listener_hears_the_chart(
    found: Trends, site: Path, browser: Browser
) -> None:
    browser.show(page_of(found, site, "ready"), 1280)
    reachable = browser.run(
        "[...document.querySelectorAll('a, .scroll')].filter((one) => one.tabIndex >= 0).length"
    )
    seen = []
    for _ in range(reachable):
        browser.press("Tab", 9)
        seen.append(browser.run("document.activeElement.closest('svg') ? 'svg' : "
                                "document.activeElement.tagName"))  # fmt: skip
    assert seen.count("A") > RUNS
    assert "svg" not in seen
    spoken = browser.spoken()
    (image,) = [node for node in spoken if node["role"] in ("image", "img")]
    assert image["name"] == "hello, container: time until ready"
    assert commit(STEP) in image["description"]
    assert all(node["name"] for node in spoken if node["role"] == "table")


@needs_chromium
def test_what_records_say_is_text_and_nothing_else(site: Path, browser: Browser) -> None:
    browser.show(site / "index.html", 1280)
    assert HOSTILE in browser.run("document.body.innerText")
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    notes = browser.run("document.querySelector('#notes').parentElement.innerText")
    assert "damaged" in notes
    assert "passed over" in notes
