"""Charts as data: reproducible, described, with every sample in them."""

from __future__ import annotations

import dataclasses
import re
import struct
import xml.etree.ElementTree as ET

import pytest

from harness.analysis.summary import ScenarioTable, Summary, summarise
from harness.model import Milestone, Outcome, units
from harness.model.metrics import METRICS
from harness.records import Run
from harness.report.charts import charts_by_scenario
from harness.report.charts.distribution import MOST_STEPS, distribution_chart
from harness.report.charts.drawing import INK, PALETTE, PAPER, THEMED, Chart
from harness.report.charts.growth import crowd_chart, growth_chart
from harness.report.charts.parts import (
    MOST_POINTS,
    log_ticks,
    row_head,
    slug,
    text_inches,
    thinned,
    wrapped,
)
from harness.report.charts.ratios import SHOWN, ratio_chart
from harness.report.charts.samples import samples_of
from harness.report.text import wording
from harness.report.text.answer import UPPER_BOUND
from tests.support.synthetic import synthetic_run, synthetic_scale_run

SVG = "{http://www.w3.org/2000/svg}"


def charts(run: Run) -> list[Chart]:
    return [chart for found in charts_by_scenario(summarise(run)).values() for chart in found]


def root_of(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.svg)


def words(chart: Chart) -> str:
    return " ".join("".join(text.itertext()) for text in root_of(chart).iter(f"{SVG}text"))


def chart_of(run: Run, kind: str) -> Chart:
    """The chart of a kind of the run's first scenario."""
    return next(chart for chart in charts(run) if chart.name.startswith(kind))


@pytest.fixture(scope="module")
def ordinary() -> list[Chart]:
    return charts(synthetic_run(blocks=12, failure_rate=0.1))


def test_each_scenario_has_its_charts(ordinary: list[Chart]) -> None:
    kinds = ("start", "ratios", "distribution", "disk", "memory")
    expected = [f"{kind}-{name}" for name in ("hello", "python-http") for kind in kinds]
    assert [chart.name for chart in ordinary] == expected


def test_a_scale_scenario_shows_its_curves_first() -> None:
    names = [chart.name for chart in charts(synthetic_scale_run())]
    assert names[:2] == ["growth-hello", "crowd-hello"]


def test_every_chart_has_its_figures_as_a_table_and_says_how_to_read_it(
    ordinary: list[Chart],
) -> None:
    for chart in [*ordinary, *charts(synthetic_scale_run())]:
        assert chart.grid.rows, chart.name
        assert {len(row) for row in chart.grid.rows} == {len(chart.grid.head)}
        assert chart.grid_title
        assert chart.caption.endswith(".")
        assert chart.description.endswith(".")


def test_a_file_is_titled_described_and_dateless(ordinary: list[Chart]) -> None:
    for chart in ordinary:
        root = root_of(chart)
        assert root.get("role") == "img"
        labels = [root.get("aria-labelledby") or "", root.get("aria-describedby") or ""]
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
            for stand_in in THEMED:
                assert stand_in not in inline
            ET.fromstring(inline)


def drawn(inline: str) -> int:
    """Count the marks of all lines of markers."""
    ticks = len(re.findall(r'id="[^"]*xtick_\d+"', inline))
    return inline.count("<use ") - ticks


@pytest.mark.parametrize("failure_rate", [0.0, 0.3])
def test_every_sample_is_drawn_and_every_failure_counted(failure_rate: float) -> None:
    run = synthetic_run(blocks=11, scenarios=("hello",), failure_rate=failure_rate)
    table = summarise(run).tables[0]
    chart = chart_of(run, "start")
    counted = [trial for trial in run.trials if trial.block >= 0]
    ok = {row.arm: row.ok for row in table.rows}
    # Process and container are drawn twice: beside the VMs, and magnified.
    expected = sum(ok.values()) + ok["process"] + ok["container"]
    legend = 1
    arrows = sum(
        (2 if row.arm in ("process", "container") else 1)
        for row in table.rows
        if row.ready and row.ready.is_reached and row.ready.interval
        and row.ready.interval.high == float("inf")
    )  # fmt: skip
    assert drawn(chart.inline_wide) == expected + legend + arrows
    for row in table.rows:
        missed = row.failed + row.timeouts
        if missed:
            assert f"{missed} of {row.trials} failed" in words(chart)
            assert f"{missed} of {row.trials} failed" in words(chart_of(run, "distribution"))
    assert sum(t.outcome is not Outcome.OK for t in counted) == sum(
        row.failed + row.timeouts for row in table.rows
    )


def test_the_distribution_shows_every_sample_and_outliers_as_crosses() -> None:
    run = synthetic_run(blocks=30, scenarios=("hello",), arms=("container", "vm-micro"), seed=4)
    slow = next(trial for trial in run.trials if trial.block == 7 and trial.arm == "container")
    late = {**slow.milestones_ns, Milestone.READY: 9 * slow.milestones_ns[Milestone.READY]}
    trials = (dataclasses.replace(t, milestones_ns=late) if t is slow else t for t in run.trials)
    summary = summarise(dataclasses.replace(run, trials=tuple(trials)))
    table = summary.tables[0]
    outliers = sum(len(row.shape.outliers) for row in table.rows if row.shape is not None)
    assert outliers >= 1
    chart = distribution_chart(table, samples_of(table, summary.run))
    assert chart is not None
    legend = 2
    assert drawn(chart.inline_wide) == drawn(chart.inline_narrow) == 60 + legend
    assert units.count(outliers, "outlier") in chart.description
    for row in table.rows:
        assert f"p50 {wording.duration(row.ready.median if row.ready else 0)}" in words(chart)


def curve_heights(chart: Chart) -> list[list[float]]:
    """Heights of the curves' steps above their lower ends, as shares of the axis to 100 %."""
    found = []
    for path in re.findall(r'<path d="([^"]+)"[^>]*stroke: #0067a3', chart.svg.decode()):
        ys = [float(y) for y in re.findall(r"[ML] -?[\d.]+ (-?[\d.]+)", path)]
        if len(ys) > 4:
            found.append([(ys[0] - y) / (0.72 * 72) for y in ys])
    return found


def test_a_curve_counts_failed_trials_as_never_ready() -> None:
    run = synthetic_run(blocks=40, scenarios=("hello",), arms=("container",), failure_rate=0.25)
    row = summarise(run).tables[0].rows[0]
    assert 0 < row.ok < row.trials == 40
    (heights,) = curve_heights(chart_of(run, "distribution"))
    assert heights == sorted(heights)
    assert heights[-1] == pytest.approx(row.ok / row.trials, abs=0.01)
    assert len(set(heights)) == row.ok + 1


def test_of_very_many_trials_a_bounded_number_is_drawn_and_that_is_said() -> None:
    run = synthetic_run(blocks=1500, scenarios=("hello",), arms=("container",), warmup_blocks=0)
    for kind in ("start", "distribution"):
        chart = chart_of(run, kind)
        assert f"{MOST_POINTS} of 1,500 trials drawn" in words(chart)
        assert drawn(chart.inline_wide) < MOST_POINTS + 20
        assert len(chart.inline_wide) < 120_000
    (heights,) = curve_heights(chart_of(run, "distribution"))
    assert len(heights) < 2 * MOST_STEPS + 5
    assert heights[-1] == pytest.approx(1, abs=0.001)


def test_thinning_keeps_the_ends_and_the_shape() -> None:
    import numpy as np

    values = np.random.RandomState(3).lognormal(size=100_000)
    kept = thinned(values)
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (values.min(), values.max())
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(kept, share) == pytest.approx(np.quantile(values, share), rel=0.02)
    assert thinned(values[:7]) == tuple(values[:7])


def test_short_arms_are_magnified_and_by_how_much_is_said() -> None:
    chart = chart_of(synthetic_run(blocks=8, scenarios=("hello",)), "start")
    found = re.search(r"process and container, magnified (\d+) ×", words(chart))
    assert found is not None
    assert 500 < int(found[1]) < 3000
    alike = synthetic_run(blocks=8, scenarios=("hello",), arms=("vm-micro", "vm-classic"))
    assert "magnified" not in words(chart_of(alike, "start"))


def test_figures_in_the_pictures_are_those_of_the_table() -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",))
    table = summarise(run).tables[0]
    start, disk, memory = (chart_of(run, kind) for kind in ("start", "disk", "memory"))
    for row in table.rows:
        assert wording.duration_estimate(row.ready) in words(start)
        assert wording.duration_estimate(row.ready) in start.description
        assert row.shared_bytes is not None
        assert row.exclusive is not None
        figures = f"{wording.size(row.shared_bytes)} shared + {wording.size(row.exclusive.median)}"
        assert f"{figures} each" in words(disk)
        assert f"{row.arm}: {figures} each" in disk.description
        pss, uss = (row.metrics[metric].median for metric in ("pss", "uss"))
        assert f"{wording.size(pss)}, {wording.size(uss)} own" in words(memory)
    assert sum(row.count("–") for row in memory.grid.rows) == sum(
        metric in row.missing
        for row in table.rows
        for metric in ("pss", "uss", "cgroup-current", "cgroup-peak", "available-delta")
    )
    for row in table.rows:
        for metric, reason in row.missing.items():
            if metric == "cgroup-peak":
                assert (row.arm, metric, "–", reason) in memory.grid.rows


# -- Ratios ---------------------------------------------------------------------------------------


def marks(chart: Chart) -> list[float]:
    """Where the dots of ratios lie, in points from the left, top to bottom, panel by panel."""
    uses = re.findall(r'<use xlink:href="#[^"]+" x="([\d.]+)" y="([\d.]+)"', chart.inline_narrow)
    return [float(x) for x, _ in uses]


def test_the_forest_shows_every_known_ratio_with_interval_and_noise() -> None:
    run = synthetic_run(blocks=12, scenarios=("hello",), again="container")
    table = summarise(run).tables[0]
    chart = chart_of(run, "ratios")
    assert table.noise
    told = words(chart)
    for metric in SHOWN:
        known = [row for row in table.shown if metric in row.ratios]
        assert (METRICS[metric].title in told) is bool(known)
        for row in known:
            assert wording.ratio(row.ratios[metric]) in told
            assert wording.ratio(row.ratios[metric]) in chart.description
    floor = next(noise for noise in table.noise if noise.metric == "ready").floor
    assert f"noise floor ± {floor * 100:.2g} %" in told
    assert "noise of this host" in told
    # Without a noise floor there is no band, and that it is not known is said.
    silent = chart_of(synthetic_run(blocks=12, scenarios=("hello",)), "ratios")
    assert "noise floor not known" in words(silent)
    assert "noise of this host" not in words(silent)


@pytest.mark.parametrize("kind", ["start", "ratios"])
def test_an_emulated_cpu_is_named_where_a_machine_stands_beside_a_container(kind: str) -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",))
    table = summarise(run).tables[0]
    virtual = [row for row in table.rows if row.is_emulated]
    assert len(virtual) == 2
    panels = 1 if kind == "start" else sum(
        any(metric in row.ratios for row in virtual) for metric in SHOWN if metric != "disk"
    )  # fmt: skip
    chart = chart_of(run, kind)
    assert words(chart).count(UPPER_BOUND) == 2 * panels
    assert chart.description.count(UPPER_BOUND) == 2 * panels
    # Two emulated machines are alike in that: their ratio is none of a bound.
    alike = synthetic_run(blocks=8, scenarios=("hello",), arms=("vm-micro", "vm-classic"))
    assert UPPER_BOUND not in words(chart_of(alike, kind))


def test_a_ratio_without_an_end_is_an_arrow_and_a_lone_arm_has_no_forest() -> None:
    failing = synthetic_run(blocks=8, scenarios=("hello",), failure_rate=0.45, seed=5)
    table = summarise(failing).tables[0]
    ends = [row.ratio.estimate.interval for row in table.rows if row.ratio is not None]
    assert any(end is not None and end.high == float("inf") for end in ends)
    assert ratio_chart(table) is not None
    alone = synthetic_run(blocks=8, scenarios=("hello",), arms=("container",))
    assert ratio_chart(summarise(alone).tables[0]) is None


@pytest.mark.parametrize(
    ("low", "high", "some"),
    [
        (0.3, 2000, {1, 10, 100, 1000}),
        (0.8, 1.3, {0.8, 1, 1.2}),
        (0.98, 1.03, {1}),
        (1e-6, 1e6, {1}),
        (3.1, 3.3, {3.2}),
        (0.5, 30, {1, 10}),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_few_and_round(
    low: float, high: float, some: set[float]
) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert some <= set(ticks)
    assert all(low <= tick <= high for tick in ticks)


# -- Growth ---------------------------------------------------------------------------------------


def scaled() -> tuple[Summary, ScenarioTable]:
    summary = summarise(synthetic_scale_run(blocks=3, full_at=5))
    return summary, summary.tables[0]


def test_growth_says_slope_and_intercept_of_every_arm_and_metric() -> None:
    _, table = scaled()
    chart = growth_chart(table)
    assert chart is not None
    assert table.growth
    for curve in table.growth:
        assert curve.line is not None
        each = wording.size_estimate(curve.line.slope)
        start = curve.line.intercept.median
        once = f"{'+' if start >= 0 else chr(0x2212)} {wording.size(abs(start))} once"
        assert f"{curve.arm}: {each} each {once}" in chart.description
        assert any(row[0] == curve.arm and row[2] == each for row in chart.grid.rows)


def test_an_instance_that_could_not_be_started_is_in_picture_and_table() -> None:
    _, table = scaled()
    failed = {curve.arm: curve.failed_at for curve in table.growth}
    assert failed == {"container": None, "vm-micro": 6}
    for chart in (growth_chart(table), crowd_chart(table)):
        assert chart is not None
        assert "✕ at 6" in words(chart)
        assert any((row[0], row[-1]) == ("vm-micro", "6") for row in chart.grid.rows)


def test_start_time_is_shown_against_those_alive_and_those_started_together() -> None:
    _, table = scaled()
    chart = crowd_chart(table)
    assert chart is not None
    assert "instances alive already" in words(chart)
    assert "requested at the same time" in words(chart)
    plain = summarise(synthetic_run(blocks=3, scenarios=("hello",))).tables[0]
    assert crowd_chart(plain) is None
    assert growth_chart(plain) is None


def test_a_line_meets_the_edge_at_the_intercept() -> None:
    """One arm, one metric: the line goes through the readings, and dotted on to x = 0."""
    run = synthetic_scale_run(arms=("container",))
    table = summarise(run).tables[0]
    curve = next(curve for curve in table.growth if curve.metric == "pss")
    chart = growth_chart(dataclasses.replace(table, growth=(curve,)))
    assert chart is not None
    assert curve.line is not None
    slope, start = curve.line.slope.median, curve.line.intercept.median
    last = max(instances for instances, _ in curve.points)
    paths = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+)\s*L ([\d.]+) ([\d.]+)\s*"[^>]*#0067a3', chart.svg.decode()
    )
    ends = [[float(number) for number in path] for path in paths]
    left, right = (0.12 + 0.56) * 72, (8.2 - 0.12) * 72
    (beyond,) = (path for path in ends if path[0] == pytest.approx(left, abs=0.5))
    line = max(ends, key=lambda path: path[2] - path[0])
    assert beyond[2:] == pytest.approx(line[:2], abs=0.01)
    (x0, y0), (x1, y1) = beyond[:2], line[2:]
    assert x0 == pytest.approx(left, abs=0.5)
    assert x1 == pytest.approx(left + (right - left) / 1.04, abs=0.5)
    highest = max(*(value for _, value in curve.points), start)
    per_byte = 1.55 * 72 / (highest * 1.06)
    assert y0 - y1 == pytest.approx(slope * last * per_byte, abs=0.5)


def test_a_fall_that_was_a_rise_stays_within_its_panel() -> None:
    run = synthetic_scale_run(arms=("container",))
    table = summarise(run).tables[0]
    curve = next(curve for curve in table.growth if curve.metric == "available-delta")
    points = tuple((instances, value - 3e6) for instances, value in curve.points)
    assert min(value for _, value in points) < 0 < max(value for _, value in points)
    chart = growth_chart(
        dataclasses.replace(table, growth=(dataclasses.replace(curve, points=points, line=None),))
    )
    assert chart is not None
    (height,) = re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', chart.inline_narrow)
    marks = [
        float(y)
        for colour in re.findall(r"<g[^>]*line-1[^>]*>\n((?:\s*<use .*\n)+)", chart.inline_narrow)
        for y in re.findall(r' y="(-?[\d.]+)"', colour)
    ]
    assert len(marks) == len(points)
    bottom = float(height) - (0.42 + 0.08) * 72
    assert all(bottom - 1.55 * 72 <= mark <= bottom + 1 for mark in marks)


# -- Layout ---------------------------------------------------------------------------------------


def test_a_long_name_moves_its_figures_to_a_line_of_their_own() -> None:
    short = row_head("vm", "3.91 s [3.83–4.14]", "", 3.66)
    long = row_head("vm-classic-with-a-long-name", "3.91 s [3.83–4.14] · 1383 × x", "", 3.66)
    assert [line for line, _ in short.right] == ["3.91 s [3.83–4.14]"]
    assert [line for line, _ in long.right] == ["", "3.91 s [3.83–4.14] · 1383 × x"]
    assert long.inches > short.inches


@pytest.mark.parametrize("text", ["a b c " * 30, "x" * 90, "short"])
def test_wrapped_lines_fit(text: str) -> None:
    lines = wrapped(text, {}, 3.0)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_inches(line, {}) <= 3.2 for line in lines)


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
    chart = chart_of(run, "start")
    row = table.rows[0]
    isolated = next(e for m, e in row.milestones.items() if m == "isolated")
    longest = max(t.milestones_ns[m] for t in run.trials for m in t.milestones_ns if m == "ready")
    legend = 2.0 * 8  # a handle is two ems of eight points
    axes = (8.2 - 0.24) * 72
    measured = bar_width(chart, PALETTE["sky"]) - legend
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
        # Cut into lines where it is longer than a title may be.
        assert name.replace(" ", "") in words(chart).replace(" ", "")


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


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.1)."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    first, second = sorted((luminance(one), luminance(other)))
    return (second + 0.05) / (first + 0.05)


def test_every_colour_of_a_line_or_a_word_is_read_on_its_paper() -> None:
    for light, (_, dark) in THEMED.items():
        assert contrast(light, PAPER) >= 4.5, light
        assert contrast(dark, "#14171a") >= 4.5, dark
