"""Charts as data: reproducible, described, with every sample in them."""

from __future__ import annotations

import dataclasses
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import pytest

from harness.model import Outcome, Run
from harness.report.charts import charts_by_scenario, disk_chart, slug, start_chart
from harness.report.drawing import INK, PAPER, Chart
from harness.report.tables import summarise
from tests.support.synthetic import synthetic_run

SVG = "{http://www.w3.org/2000/svg}"


def charts(run: Run) -> list[Chart]:
    return [chart for found in charts_by_scenario(summarise(run)).values() for chart in found]


def root_of(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.svg)


def words(chart: Chart) -> str:
    return " ".join("".join(text.itertext()) for text in root_of(chart).iter(f"{SVG}text"))


@pytest.fixture(scope="module")
def ordinary() -> list[Chart]:
    return charts(synthetic_run(blocks=12, failure_rate=0.1))


def test_each_scenario_has_two_charts(ordinary: list[Chart]) -> None:
    assert [chart.name for chart in ordinary] == [
        "start-hello", "disk-hello", "start-python-http", "disk-python-http",
    ]  # fmt: skip


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Also with another hash seed and with a matplotlibrc of the user's."""
    code = (
        "from tests.unit.test_report_charts import digest; "
        "import matplotlib as mpl; mpl.rcParams.update({'font.size': 20, 'svg.fonttype': 'path'}); "
        "print(digest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONHASHSEED": "77",
            "PATH": "",
            "HOME": "/nonexistent",
            "MPLCONFIGDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout.strip() == digest()


def digest() -> str:
    found = charts(synthetic_run(blocks=7, failure_rate=0.2))
    return " ".join(f"{zlib.crc32(c.svg):x}/{zlib.crc32(c.png):x}" for c in found)


def test_a_file_is_titled_described_and_dateless(ordinary: list[Chart]) -> None:
    for chart in ordinary:
        root = root_of(chart)
        assert root.get("role") == "img"
        labels = (root.get("aria-labelledby") or "").split()
        by_id = {element.get("id"): element for element in root.iter() if element.get("id")}
        assert [by_id[label].text for label in labels] == [chart.title, chart.description]
        assert float((root.get("width") or "").removesuffix("pt")) > 500
        assert b"matplotlib.org" not in chart.svg
        assert b"<style" not in chart.svg
        assert b"dc:date" not in chart.svg


def test_identifiers_are_unique_across_a_whole_page(ordinary: list[Chart]) -> None:
    inline = "".join(c.inline_wide + c.inline_narrow for c in ordinary)
    identifiers = re.findall(r'\bid="([^"]+)"', inline)
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', inline)
    assert references
    assert {first or second for first, second in references} <= set(identifiers)


def test_inside_a_page_charts_take_the_pages_colours(ordinary: list[Chart]) -> None:
    for chart in ordinary:
        for inline in (chart.inline_wide, chart.inline_narrow):
            assert INK not in inline
            assert PAPER not in inline
            assert "currentColor" in inline
            assert "var(--paper)" in inline
            ET.fromstring(inline)


def circles(chart: Chart) -> int:
    """Count the points of all lines of markers, the legend's aside."""
    return chart.inline_wide.count("<use ") - ticks(chart)


def ticks(chart: Chart) -> int:
    return len(re.findall(r'id="[^"]*xtick_\d+"', chart.inline_wide))


@pytest.mark.parametrize("failure_rate", [0.0, 0.3])
def test_every_sample_is_drawn_and_every_failure_counted(failure_rate: float) -> None:
    run = synthetic_run(blocks=11, scenarios=("hello",), failure_rate=failure_rate)
    table = summarise(run).tables[0]
    chart = start_chart(run, table)
    assert chart is not None
    counted = [trial for trial in run.trials if trial.block >= 0]
    drawn = {row.arm: row.ok for row in table.rows}
    # Process and container are drawn twice: beside the VMs, and magnified.
    expected = sum(drawn.values()) + drawn["process"] + drawn["container"]
    legend = 1
    arrows = sum(
        (2 if row.arm in ("process", "container") else 1)
        for row in table.rows
        if row.ready and row.ready.is_reached and row.ready.interval
        and row.ready.interval.high == float("inf")
    )  # fmt: skip
    assert circles(chart) == expected + legend + arrows
    for row in table.rows:
        missed = row.failed + row.timeouts
        if missed:
            assert f"{missed} of {row.trials} failed" in words(chart)
    assert sum(t.outcome is not Outcome.OK for t in counted) == sum(
        row.failed + row.timeouts for row in table.rows
    )


def test_short_arms_are_magnified_and_by_how_much_is_said() -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",))
    chart = start_chart(run, summarise(run).tables[0])
    assert chart is not None
    found = re.search(r"process and container, magnified (\d+) ×", words(chart))
    assert found is not None
    assert 500 < int(found[1]) < 3000
    alike = synthetic_run(blocks=8, scenarios=("hello",), arms=("vm-micro", "vm-classic"))
    chart = start_chart(alike, summarise(alike).tables[0])
    assert chart is not None
    assert "magnified" not in words(chart)


def test_figures_in_the_picture_are_those_of_the_table() -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",))
    table = summarise(run).tables[0]
    start, disk = start_chart(run, table), disk_chart(table)
    assert start is not None
    assert disk is not None
    from harness.report import wording

    for row in table.rows:
        assert wording.duration_estimate(row.ready) in words(start)
        assert wording.duration_estimate(row.ready) in start.description
        assert row.shared_bytes is not None
        assert row.exclusive is not None
        figures = f"{wording.size(row.shared_bytes)} shared + {wording.size(row.exclusive.median)}"
        assert f"{figures} each" in words(disk)
        assert f"{row.arm}: {figures} each" in disk.description


def bar_width(chart: Chart, colour: str) -> float:
    """Sum the widths of the plain bars of a colour, in points."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*fill: {colour}', chart.svg.decode())
    total = 0.0
    for path in paths:
        xs = [float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", path)]
        total += max(xs) - min(xs)
    return total


def test_lengths_are_proportional_to_amounts() -> None:
    """Of one arm alone the plain first phase is 60 % of the axis if it is 60 % of the longest."""
    run = synthetic_run(blocks=5, scenarios=("hello",), arms=("container",), warmup_blocks=0)
    table = summarise(run).tables[0]
    chart = start_chart(run, table)
    assert chart is not None
    row = table.rows[0]
    isolated = next(e for m, e in row.milestones.items() if m == "isolated")
    longest = max(t.milestones_ns[m] for t in run.trials for m in t.milestones_ns if m == "ready")
    legend = 2.0 * 8  # a handle is two ems of eight points
    axes = (8.2 - 0.24) * 72
    measured = bar_width(chart, "#56b4e9") - legend
    assert measured / axes == pytest.approx(isolated.median / (longest * 1.02), rel=0.01)


def test_nothing_to_draw_draws_nothing() -> None:
    run = synthetic_run(blocks=0, warmup_blocks=0)
    info = dataclasses.replace(run.info, arms=())
    assert charts(Run(info, ())) == []


@pytest.mark.parametrize("name", ["$x^2$", "a<b&c", "été 🚀", "x" * 60, "-"])
def test_names_of_users_are_drawn_as_they_are(name: str) -> None:
    run = synthetic_run(blocks=2, scenarios=("hello",), arms=("container",))
    scenario = dataclasses.replace(run.info.scenarios[0], name=name)
    run = Run(
        dataclasses.replace(
            run.info,
            scenarios=(scenario,),
            arms=tuple(dataclasses.replace(r, scenario=name) for r in run.info.arms),
        ),
        tuple(dataclasses.replace(t, scenario=name) for t in run.trials),
    )
    for chart in charts(run):
        assert re.fullmatch(r"[a-z]+-[A-Za-z0-9-]+", chart.name)
        assert name in words(chart)


def test_slugs_are_fit_for_files() -> None:
    assert slug("python-http") == "python-http"
    assert slug("../été/x y") == "t-x-y"
    assert slug("…") == "scenario"


def test_a_png_is_large_enough_and_has_no_date(ordinary: list[Chart]) -> None:
    for chart in ordinary:
        assert chart.png.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", chart.png[16:24])
        assert width > 1200
        assert height > 300
        assert b"tEXt" not in chart.png
