"""Runs as data for other programs: the trials as CSV, the estimates as JSON."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.analysis.curves import GrowthCurve
from harness.analysis.summary import ArmRow, ScenarioTable, Summary
from harness.model.metrics import METRICS, Unit
from harness.records.columns import COUNTS
from harness.records.dataset import COLUMNS
from harness.report.text.answer import answer

if TYPE_CHECKING:
    import pandas as pd

JSON_SCHEMA = 2
"""Version of the form of `render_json`; raised when a reader could misread a newer one."""

UNITS = {Unit.NANOSECONDS: "ns", Unit.BYTES: "bytes", Unit.COUNT: "count"}


def render_csv(summaries: Sequence[Summary]) -> str:
    """Write all trials of some runs as one tidy table: a row a trial, a column a variable.

    The columns are `run_id` and those of `harness.records.dataset.trials_frame` but for `form`:
    whole numbers in the unit that their name ends with, empty where a trial does not have the
    value.
    """
    text = io.StringIO()
    for place, summary in enumerate(summaries):
        _csv_frame(summary).to_csv(text, index=False, header=place == 0, lineterminator="\n")
    return text.getvalue()


def _csv_frame(summary: Summary) -> pd.DataFrame:
    frame = summary.run.frame[[column for column in COLUMNS if column != "form"]].copy()
    for column, values in frame.items():
        if values.dtype.kind == "f" and column not in COUNTS:
            frame[column] = values.round().astype("Int64")  # nanoseconds and bytes are whole
    frame.insert(0, "run_id", summary.run.info.run_id)
    return frame


def render_json(summaries: Sequence[Summary]) -> str:
    """Write the estimates of some runs, each with its unit, its interval and its count.

    One object, `{"schema": …, "runs": […]}`. What has no value is null: a median that most trials
    did not reach, the end of an interval that failed trials leave open.
    """
    document = {"schema": JSON_SCHEMA, "runs": [_run(summary) for summary in summaries]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _run(summary: Summary) -> dict[str, Any]:
    info = summary.run.info
    return {
        **_fields(info, "run_id", "steelyard", "started_at", "ended_at", "interrupted"),
        "command": list(info.command),
        "seed": info.seed,
        "environment": dict(info.environment),
        "environment_missing": dict(info.environment_missing),
        "metrics": {
            name: {"unit": UNITS[metric.unit], "title": metric.title}
            for name, metric in METRICS.items()
        },
        "scenarios": [_scenario(table, summary) for table in summary.tables],
        "warnings": [
            {"code": found.code.value, "remedy": found.remedy, "seen": list(found.occurrences)}
            for found in summary.diagnostics
        ],
    }


def _scenario(table: ScenarioTable, summary: Summary) -> dict[str, Any]:
    found = answer(table, summary)
    return {
        "name": table.scenario.name,
        "question": table.scenario.question,
        "answer": found.headline,
        "sure": found.is_sure,
        "certainty": [found.badge, *found.certainty],
        **_fields(table, "reference", "trials", "blocks", "complete_blocks", "same_response"),
        "arms": [_arm(table, row) for row in table.rows],
        "growth": [
            *(_curve(curve, "alive, all together") for curve in table.growth),
            *(_curve(curve, "alive already") for curve in table.start_curves),
            *(_curve(curve, "requested together") for curve in table.burst_curves),
        ],
        "noise": [
            _fields(floor, "arm", "metric", "blocks", "floor", "detectable", "run_id")
            for floor in table.noise
        ],
    }


def _arm(table: ScenarioTable, row: ArmRow) -> dict[str, Any]:
    static = {} if row.shared_bytes is None else {"disk-shared": {"value": row.shared_bytes}}
    return {
        "name": row.arm,
        "backend": row.backend,
        "cache": row.cache.value,
        "repeats": row.repeats,
        "anchors": row.anchors,
        "reference": row.is_reference,
        "emulated_cpu": row.is_emulated,
        "times_are_upper_bounds": table.is_upper_bound(row),
        **_fields(row, "trials", "ok", "failed", "timeouts"),
        "errors": [{"error": error, "trials": number} for error, number in row.errors],
        "metrics": {
            **{name: _metric(row, name, value) for name, value in row.metrics.items()},
            **static,
        },
        "missing": dict(row.missing),
        "quantiles_ns": {f"{p:g}": _estimate(value) for p, value in row.quantiles.items()},
        "cliffs_delta": None
        if row.delta is None
        else {"value": row.delta.delta, "interval": _interval(row.delta.interval)},
        "shape": None
        if row.shape is None
        else {
            "outliers": len(row.shape.outliers),
            "bimodal": row.shape.is_bimodal,
            "drift": _number(row.shape.drift),
            "autocorrelation": _number(row.shape.autocorrelation),
        },
        "prepare_ns": row.prepare_ns,
        "disk": [
            _fields(part, "name", "sharing", "allocated_bytes", "apparent_bytes")
            for part in row.parts
        ],
        "facts": dict(row.facts),
    }


def _metric(row: ArmRow, name: str, value: stats.Estimate) -> dict[str, Any]:
    found: dict[str, Any] = _estimate(value)
    if name in row.scopes:
        found["scope"] = row.scopes[name]
    for key, comparisons in (("ratio", row.ratios), ("difference", row.differences)):
        if name in comparisons:
            compared = comparisons[name]
            found[key] = {**_estimate(compared.estimate), "undetermined": compared.undetermined}
    return found


def _curve(curve: GrowthCurve, against: str) -> dict[str, Any]:
    return {
        "arm": curve.arm,
        "metric": curve.metric,
        "instances_are": against,
        "points": [[instances, value] for instances, value in curve.points],
        "slope": None if curve.line is None else _estimate(curve.line.slope),
        "intercept": None if curve.line is None else _estimate(curve.line.intercept),
        "failed_at": curve.failed_at,
    }


def _fields(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _estimate(value: stats.Estimate) -> dict[str, Any]:
    return {
        "median": _number(value.median),
        "interval": _interval(value.interval),
        "count": value.count,
        "censored": value.censored,
    }


def _interval(value: stats.Interval | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "low": _number(value.low),
        "high": _number(value.high),
        "coverage": value.coverage,
        "method": value.method.value,
    }


def _number(value: float | None) -> float | int | None:
    """Make a number fit for JSON: whole ones without a point, none for infinities and NaN."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value
