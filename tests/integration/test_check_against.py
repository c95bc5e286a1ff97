"""`steelyard check --against`: whole runs of the fake backend, and every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.check import check as command
from harness.model.errors import RecordError
from harness.records import read_run

SCENARIO = """
question = "Does holding against an image work?"
image = "none"

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"

[arms.quick]
backend = "fake"
work_ms = 1.0
jitter = 0.02

[arms.other]
backend = "fake"
work_ms = 1.0

[budget.quick]
ready = [{{ times = {times}, of = "baseline" }}, "1h"]
"""


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO.format(times=1.2))
    return path


def test_what_keeps_its_budget_is_fine_and_recorded_as_a_run(sample: Path) -> None:
    told = check("--run", sample, "--against", "old", "--format", "json=out.json")
    assert told.return_value == 0, told.output
    document = json.loads(Path("out.json").read_text())
    (finding,) = document["findings"]
    assert (finding["arm"], finding["metric"], finding["verdict"]) == ("quick", "ready", "same")
    assert finding["source"] == f"{sample}:21"
    assert finding["limit"] == 1.2
    assert document["facts"]["A"] == "old (quick-before)"
    run = read_run(Path(document["facts"]["run"]))
    assert [record.arm.name for record in run.info.arms] == ["quick-before", "quick"]
    assert [record.arm.image for record in run.info.arms] == ["old", None]
    assert run.info.paired
    assert re.search(r"^sample: quick prepared in ", told.stderr, re.MULTILINE)
    assert "1 budget not of the baseline: not judged here" in told.stderr


def test_what_is_beyond_its_budget_is_told_at_its_line(sample: Path) -> None:
    sample.write_text(SCENARIO.format(times=0.5))
    told = check("--run", sample, "--against", "old", "--format", "github")
    assert told.return_value == 1
    assert f"::error file={sample.name},line=21," in told.stdout
    told = check("--run", sample, "--against", "old", "--blocks", "4", "--format", "terminal")
    assert told.return_value == 3
    assert "take more blocks (--blocks)" in told.stdout


def test_without_such_budgets_all_is_held_against_within(sample: Path) -> None:
    told = check(
        "--run", sample, "--against", "old", "--arm", "other", "--within", "100%", "--format",
        "json",
    )  # fmt: skip
    assert told.return_value == 0, told.output
    findings = json.loads(told.stdout)["findings"]
    assert {finding["arm"] for finding in findings} == {"other"}
    assert "ready" in {finding["metric"] for finding in findings}
    assert {finding["source"] for finding in findings} == {None}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--against", "old"], "say of which scenario by --run SCENARIO"),
        (["--run", "s", "--against", "old", "--baseline", "x"], "exclude each other"),
        (["--run", "s", "--context", "."], "give --against REV too"),
        (["--run", "s", "--against", "HEAD~1"], "add --context DIR"),
        (["--run", "s", "--against", "main@{1}"], "add --context DIR"),
        (["RUN", "--run", "s", "--against", "old"], "exclude each other"),
        (["--run", "s", "--against", "old", "--context", "/nowhere"], "does not exist"),
        (["--run", "nosuch", "--against", "old"], "nosuch"),
        (["--run", "sample.toml", "--arm", "nosuch", "--against", "old"], "nosuch"),
        (["--run", "sample.toml", "--against", "HEAD", "--context", "/proc"], "has revisions"),
        (["--run", "s", "--against", ""], "is empty: name a revision or an image"),
    ],
)
def test_a_refusal_says_what_to_do(sample: Path, arguments: list[str], sentence: str) -> None:
    told = check(*arguments)
    assert told.exception is not None
    said = getattr(told.exception, "message", None) or str(told.exception)
    assert sentence in said
    assert not Path("results").exists()


def test_few_blocks_that_agree_on_disk_are_exact_once_no_more_will_come(sample: Path) -> None:
    sample.write_text(SCENARIO.format(times=9).replace("ready =", "disk ="))
    text = sample.read_text().replace(', "1h"', "")
    sample.write_text(text)
    told = check("--run", sample, "--against", "old", "--blocks", "2", "--format", "json")
    (finding,) = json.loads(told.stdout)["findings"]
    assert (told.return_value, finding["verdict"], finding["interval"]) == (0, "same", None)


def test_the_newest_run_is_no_comparison(sample: Path) -> None:
    assert check("--run", sample, "--against", "old", "--blocks", "2").return_value == 3
    with pytest.raises(RecordError, match="holds no run"):
        raise_from(check())


def raise_from(told: Result) -> None:
    assert told.exception is not None
    raise told.exception
