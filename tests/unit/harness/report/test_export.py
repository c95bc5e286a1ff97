"""`steelyard report --format`: what other programs read, and where it goes."""

from __future__ import annotations

import io
import json
import math

import pandas as pd
import pytest

from harness.analysis.summary import summarise
from harness.model import Outcome
from harness.model.metrics import METRICS, trial_value
from harness.report.export import render_csv, render_json
from tests.support.synthetic import synthetic_run, synthetic_scale_run

# -- CSV ------------------------------------------------------------------------------------------


def test_csv_is_one_tidy_row_a_trial_with_every_metric() -> None:
    run = synthetic_run(blocks=5, failure_rate=0.3, cold=True)
    text = render_csv([summarise(run)])
    table = pd.read_csv(io.StringIO(text))
    assert len(table) == len(run.trials)
    assert set(table["run_id"]) == {run.info.run_id}
    assert "form" not in table
    records = {(r.scenario, r.arm.name): r for r in run.info.arms}
    for name, metric in METRICS.items():
        if metric.is_static:
            continue
        for trial, value in zip(run.trials, table[metric.column], strict=True):
            expected = trial_value(name, trial, records[trial.scenario, trial.arm])
            if math.isfinite(expected):
                assert value == expected
            else:
                assert math.isnan(value) or trial.outcome is not Outcome.OK
    assert ".0," not in text, "nanoseconds and bytes are whole numbers"
    assert "nan" not in text.lower()


def test_csv_of_two_runs_is_one_table() -> None:
    first, second = (summarise(synthetic_run(blocks=1, seed=seed)) for seed in (1, 2))
    text = render_csv([first, second])
    assert text.count("run_id") == 1
    assert len(text.splitlines()) == 1 + len(first.run.frame) + len(second.run.frame)


# -- JSON -----------------------------------------------------------------------------------------


def test_json_has_every_figure_with_its_unit_and_interval() -> None:
    run = synthetic_run(blocks=20, again="container")
    summary = summarise(run)
    document = json.loads(render_json([summary]))
    (told,) = document["runs"]
    assert told["metrics"]["pss"] == {"unit": "bytes", "title": METRICS["pss"].title}
    assert told["metrics"]["ready"]["unit"] == "ns"
    scenario, table = told["scenarios"][0], summary.tables[0]
    assert (scenario["name"], scenario["reference"]) == ("hello", "container")
    for arm, row in zip(scenario["arms"], table.rows, strict=True):
        assert arm["name"] == row.arm
        for name, value in row.metrics.items():
            found = arm["metrics"][name]
            assert found["median"] == value.median
            assert found["interval"]["low"] == value.interval.low  # type: ignore[union-attr]
            assert found["count"] == value.count
            if name in row.ratios:
                assert found["ratio"]["median"] == row.ratios[name].estimate.median
        assert set(arm["metrics"]) | set(arm["missing"]) <= set(METRICS)
    assert scenario["arms"][2]["times_are_upper_bounds"] is True
    assert scenario["noise"][0]["detectable"] == 0.04


def test_json_of_a_scale_run_has_its_curves() -> None:
    (run,) = json.loads(render_json([summarise(synthetic_scale_run(full_at=5))]))["runs"]
    curves = run["scenarios"][0]["growth"]
    assert {curve["instances_are"] for curve in curves} == {
        "alive, all together", "alive already", "requested together",
    }  # fmt: skip
    disk = next(c for c in curves if (c["arm"], c["metric"]) == ("container", "disk"))
    assert disk["slope"]["median"] > 0
    assert disk["points"][0][0] == 1


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_json_is_strict_whatever_failed(rate: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = render_json([summarise(synthetic_run(blocks=4, failure_rate=rate))])
    document = json.loads(text, parse_constant=refuse)
    if rate == 1.0:
        arm = document["runs"][0]["scenarios"][0]["arms"][0]
        assert arm["metrics"]["ready"]["median"] is None
