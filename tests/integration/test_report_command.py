"""`steelyard report --format`: where its pages, texts and charts go."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.report import report
from harness.records import Run, RunWriter
from tests.support.synthetic import synthetic_run


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


def test_without_a_format_all_pages_go_into_the_runs_folder(small: Path) -> None:
    done = call(small)
    assert done.exit_code == 0
    assert (small / "report.html").is_file()
    assert (small / "summary.md").is_file()
    assert list((small / "charts").glob("*.png"))
    assert done.output.splitlines()[-1] == f"report: {small / 'report.html'}"


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
    assert call(small, "--format", form).stdout == text
    assert {path.name for path in small.iterdir()} == before
    assert call(small, "--format", form, "--output", tmp_path).exit_code == 0
    assert (tmp_path / name).read_text() == text
    assert call(small, "-q", "--export", f"{form}={tmp_path / 'beside'}").exit_code == 0
    assert (tmp_path / "beside").read_text() == text


@pytest.mark.parametrize("form", ["svg", "png"])
def test_charts_alone(form: str, small: Path, tmp_path: Path) -> None:
    assert call(small, "--format", "json", "--export", f"{form}={tmp_path / 'out'}").exit_code == 0
    found = list((tmp_path / "out" / "charts").iterdir())
    assert len(found) >= 2
    assert {path.suffix for path in found} == {f".{form}"}
    assert not (small / "charts").exists()


def test_several_runs_are_joined_or_get_a_folder_each(small: Path, tmp_path: Path) -> None:
    run = synthetic_run(blocks=1, scenarios=("hello",), seed=2)
    named = Run(dataclasses.replace(run.info, run_id="20261125T000000Z-000000"), run.trials)
    other = stored(tmp_path / "other", named)
    done = call(small, other, "--format", "json", "--output", "-")
    assert len(json.loads(done.stdout)["runs"]) == 2
    done = call(small, other, "--format", "csv", "--output", "-")
    assert len(done.stdout.splitlines()) == 1 + 12 + 8
    folder = call(tmp_path, "--format", "csv")
    assert len(folder.stdout.splitlines()) == 1 + 12 + 8
    assert call(small, other, "--format", "html", "--output", tmp_path / "site").exit_code == 0
    assert len(list(tmp_path.glob("site/*/report.html"))) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--output", "-"), "only a text can go to standard output"),
        (("--format", "png"), "'png' names no file; write png=PATH"),
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
