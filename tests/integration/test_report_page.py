"""The report in a real browser: phone and desktop, light and dark, nothing cut, nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from harness.report import write_report
from tests.support.synthetic import synthetic_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--allow-file-access-from-files", "--virtual-time-budget=4000",
)  # fmt: skip

# The report stands in a frame of the width under test; this page around it measures it.
WRAPPER = """<!DOCTYPE html>
<body style="margin:0">
<iframe id="frame" src="report.html" style="border:0;width:%dpx;height:900px"></iframe>
<pre id="told"></pre><script>
document.getElementById("frame").onload = (event) => {
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const shown = (selector) => [...page.querySelectorAll(selector)].filter(
    (element) => view.getComputedStyle(element).display !== "none").length;
  const all = [...page.querySelectorAll("figure svg")];
  const charts = all.filter((svg) => svg.getClientRects().length);
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
  const style = view.getComputedStyle(page.body);
  document.getElementById("told").textContent = JSON.stringify({
    scroll: page.documentElement.scrollWidth, width: page.documentElement.clientWidth,
    wide: shown("figure .wide"), narrow: shown("figure .narrow"), charts: charts.length,
    count, cut, small, crowded, paper: style.backgroundColor, ink: style.color,
    fetched: view.performance.getEntriesByType("resource").map((entry) => entry.name),
  });
};
</script>"""


def run_chromium(profile: Path, *arguments: str) -> str:
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def measure(directory: Path, profile: Path, width: int, *arguments: str) -> dict[str, Any]:
    wrapper = directory / f"wrapper-{width}.html"
    wrapper.write_text(WRAPPER % width)
    dom = run_chromium(profile, *arguments, "--dump-dom", wrapper.as_uri())
    found = re.search(r'<pre id="told">(.+?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One report of a good run, one of a bad one."""
    good, bad = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("bad")
    write_report(synthetic_run(blocks=20), good)
    write_report(synthetic_run(blocks=8, failure_rate=0.25, interrupted=True), bad)
    return {"good": good, "bad": bad}


@pytest.mark.parametrize("kind", ["good", "bad"])
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_cut_crowded_or_too_small(
    reports: dict[str, Path], tmp_path: Path, kind: str, width: int
) -> None:
    told = measure(reports[kind], tmp_path / "profile", width)
    assert told["scroll"] <= told["width"] == width
    assert told["charts"] == 4
    assert (told["wide"], told["narrow"]) == ((0, 4) if width <= 640 else (4, 0))
    assert told["count"] > 100
    assert told["cut"] == []
    assert told["small"] == []
    assert told["crowded"] == []
    assert told["fetched"] == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("setting", "is_dark"), [(0, True), (1, False)])
def test_light_and_dark_follow_the_reader(
    reports: dict[str, Path], tmp_path: Path, setting: int, is_dark: bool
) -> None:
    scheme = f"--blink-settings=preferredColorScheme={setting}"
    told = measure(reports["good"], tmp_path / "profile", 1280, scheme)
    paper, ink = luminance(told["paper"]), luminance(told["ink"])
    assert (paper < ink) is is_dark
    contrast = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
    assert contrast > 7  # WCAG 2.1, AAA


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that only takes down what is asked of it."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                asked.append(connection.recv(4096))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_paper_takes_it_without_asking_anyone(
    reports: dict[str, Path], tmp_path: Path, proxy: tuple[str, list[bytes]]
) -> None:
    address, asked = proxy
    pdf = tmp_path / "report.pdf"
    report = (reports["bad"] / "report.html").as_uri()
    # The page is printed with every name resolving to nowhere but this proxy.
    run_chromium(tmp_path / "profile", f"--proxy-server={address}", f"--print-to-pdf={pdf}", report)
    assert pdf.read_bytes().startswith(b"%PDF-")
    hosts = [request for request in asked if b"google" not in request and b"gvt1" not in request]
    assert hosts == []


def test_the_chart_files_are_pictures_on_their_own(
    reports: dict[str, Path], tmp_path: Path
) -> None:
    for svg in sorted((reports["good"] / "charts").glob("*.svg")):
        picture = tmp_path / f"{svg.stem}.png"
        run_chromium(
            tmp_path / "profile", "--window-size=800,700", f"--screenshot={picture}", svg.as_uri()
        )
        from PIL import Image

        with Image.open(picture) as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
        assert (0x00, 0x72, 0xB2) in colours  # the palette's blue: a phase, and the shared bytes
        assert (0xFF, 0xFF, 0xFE) in colours  # the paper
