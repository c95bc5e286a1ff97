"""`steelyard report --format`: what other programs read, and where it goes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from harness.analysis.summary import summarise
from harness.cli.report import report
from harness.model import Outcome
from harness.model.metrics import METRICS, trial_value
from harness.records import Run, RunWriter
from harness.report.export import render_csv, render_json
from tests.support.synthetic import synthetic_run, synthetic_scale_run


def stored(folder: Path, run: Run) -> Path:
    with RunWriter(folder) as writer:
        writer.write_info(run.info)
        for trial in run.trials:
            writer.append(trial)
        for point in run.growth:
            writer.append_growth(point)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return stored(tmp_path / "run", synthetic_run(blocks=2, scenarios=("hello",)))


def call(*words: object) -> Result:
    return CliRunner().invoke(report, [str(word) for word in words])


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


# -- The command ----------------------------------------------------------------------------------


def test_without_a_format_all_pages_go_into_the_runs_folder(small: Path) -> None:
    done = call(small)
    assert done.exit_code == 0
    assert (small / "report.html").is_file()
    assert (small / "summary.md").is_file()
    assert list((small / "charts").glob("*.png"))
    assert "ready after" in done.output


@pytest.mark.parametrize(
    ("form", "name", "begin"),
    [
        ("html", "report.html", "<!DOCTYPE html>"),
        ("markdown", "summary.md", "# Steelyard"),
        ("csv", "trials.csv", "run_id,"),
        ("json", "summary.json", "{"),
    ],
)
def test_texts_go_to_the_folder_to_a_file_or_to_standard_output(
    form: str, name: str, begin: str, small: Path, tmp_path: Path
) -> None:
    done = call(small, "--format", form, "--output", "-")
    assert done.exit_code == 0, done.output
    text = done.stdout
    assert text.startswith(begin)
    other = tmp_path / "elsewhere" / "file.txt"
    assert call(small, "--format", form, "--output", other).exit_code == 0
    assert other.read_text() == text
    before = {path.name for path in small.iterdir()}
    assert call(small, "--format", form).exit_code == 0
    assert (small / name).read_text() == text
    assert {path.name for path in small.iterdir()} - before == {name}, "and nothing else"


@pytest.mark.parametrize("form", ["svg", "png"])
def test_charts_alone(form: str, small: Path, tmp_path: Path) -> None:
    assert call(small, "--format", form, "--output", tmp_path / "out").exit_code == 0
    found = list((tmp_path / "out" / "charts").iterdir())
    assert len(found) >= 2
    assert {path.suffix for path in found} == {f".{form}"}
    assert not (small / "charts").exists()


def test_several_runs_are_joined_or_get_a_folder_each(small: Path, tmp_path: Path) -> None:
    other = stored(tmp_path / "other", synthetic_run(blocks=1, scenarios=("hello",), seed=2))
    done = call(small, other, "--format", "json", "--output", "-")
    assert len(json.loads(done.stdout)["runs"]) == 2
    done = call(small, other, "--format", "csv", "--output", "-")
    assert len(done.stdout.splitlines()) == 1 + 12 + 8
    assert call(tmp_path, "--format", "csv").exit_code == 0  # a folder of runs
    assert (small / "trials.csv").is_file()
    assert (other / "trials.csv").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--output", "-"), "only a text can go to standard output"),
        (("--format", "png", "--output", "-"), "only a text can go to standard output"),
    ],
)
def test_what_cannot_go_to_standard_output_is_refused(
    words: tuple[str, ...], sentence: str, small: Path
) -> None:
    done = call(small, *words)
    assert done.exit_code == 2
    assert sentence in done.output


def test_two_pages_are_no_page(small: Path) -> None:
    done = call(small, small, "--format", "html", "--output", "-")
    assert done.exit_code == 2
    assert "2 pages are no page" in done.output
