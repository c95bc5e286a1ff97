"""The charts of a run: one module a chart, each a picture, its description and its figures."""

from __future__ import annotations

from dataclasses import replace

from harness.analysis.summary import ScenarioTable, Summary
from harness.records.dataset import run_data
from harness.report.charts.disk import disk_chart
from harness.report.charts.distribution import distribution_chart
from harness.report.charts.drawing import Chart
from harness.report.charts.growth import crowd_chart, growth_chart
from harness.report.charts.memory import memory_chart
from harness.report.charts.ratios import ratio_chart
from harness.report.charts.samples import samples_of
from harness.report.charts.start import start_chart


def charts_by_scenario(summary: Summary) -> dict[str, list[Chart]]:
    """Draw all charts of a run: scenario name to those that have something to show."""
    return {table.scenario.name: charts_of(table, summary) for table in summary.tables}


def charts_of(table: ScenarioTable, summary: Summary) -> list[Chart]:
    """Draw the charts of one scenario, in the order of the page."""
    table = replace(table, rows=table.shown)
    samples = samples_of(table, run_data(summary.run))
    drawn = (
        growth_chart(table),
        crowd_chart(table),
        start_chart(table, samples),
        ratio_chart(table),
        distribution_chart(table, samples),
        disk_chart(table),
        memory_chart(table),
    )
    return [chart for chart in drawn if chart is not None]
