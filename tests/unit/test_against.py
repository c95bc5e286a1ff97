"""`check --against`: what a paired run allows under a limit, what is asked, and every refusal."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from harness.analysis.judgement import Verdict
from harness.analysis.limits import Allowance, Margin
from harness.cli.check import check as command
from harness.experiment.check import questions_of
from harness.experiment.sides import not_the_images_own
from harness.model import BASELINE, Budget, Pair, Scale
from harness.model.errors import RecordError, ScenarioError
from harness.records import read_run
from harness.scenario.pairing import BEFORE_AND_NOW, in_pairs, with_images
from harness.stats.sequential import Look
from tests.support.scenarios import fake, scenario

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


# The rules.


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.11, 1.30, Verdict.WORSE),
        (1.01, 1.09, Verdict.SAME),  # more than before, and allowed
        (0.80, 0.99, Verdict.BETTER),
        (0.90, 1.10, Verdict.SAME),
        (1.05, 1.11, Verdict.CANNOT_TELL),
        (0.0, math.inf, Verdict.CANNOT_TELL),
    ],
)
def test_an_allowance_is_judged_by_the_whole_interval(
    low: float, high: float, verdict: Verdict
) -> None:
    assert Allowance(1.1).verdict(low, high) is verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (115, 100, Verdict.SAME),  # 1.15 is not the binary number next to it
        (116, 100, Verdict.WORSE),
        (99, 100, Verdict.BETTER),
        (100, 100, Verdict.SAME),
        (1, 0, Verdict.WORSE),
        (0, 0, Verdict.SAME),
    ],
)
def test_what_has_no_noise_is_held_against_the_limit_exactly(
    ours: float, theirs: float, verdict: Verdict
) -> None:
    assert Allowance(1.15).exact(ours, theirs) is verdict
    assert Margin(0.15).exact(100, 99) is Verdict.WORSE  # any difference is one


def test_advice_is_more_blocks_and_a_wider_limit_where_that_helps() -> None:
    look = Look(40, 1.08, 1.02, 1.14, 0.98)
    budget = Allowance(1.1, "hello.toml:12")
    assert "or allow times = 1.141" in budget.advice(look)
    assert "or be content with --within 14.1%" in Allowance(1.1).advice(look)
    beyond = Look(40, 1.12, 1.06, 1.18, 0.98)
    assert "allow" not in budget.advice(beyond)
    assert "take about" in budget.advice(beyond)
    on_it = Look(40, 1.1, 1.06, 1.14, 0.98)
    assert "widen the budget" in budget.advice(on_it)
    assert "take more blocks (--blocks)" in budget.advice(Look(4, 1.1, 0.0, math.inf, 0.0))


# What is asked.


def test_budgets_of_the_baseline_are_asked_with_their_lines_and_others_by_default() -> None:
    budgets = (
        Budget("fake", "ready", 1.2, BASELINE, 12),
        Budget("fake", "ready", 5e6, None, 13),  # absolute: not of what was before
        Budget("gone", "ready", 1.2, BASELINE, 14),
    )
    asked = replace(scenario(fake(), fake("other")), budgets=budgets)
    paired = with_images(asked, asked.arms, ("old", None), BEFORE_AND_NOW)
    assert [(arm.name, arm.image) for arm in paired.scenario.arms] == [
        ("fake-before", "old"), ("fake", None), ("other-before", "old"), ("other", None),
    ]  # fmt: skip
    first, *rest = questions_of(paired, 0.05)
    assert first.pair == Pair("sample", "fake-before", "fake")
    assert (first.name, first.rule, first.is_asked) == (
        "ready", Allowance(1.2, f"{asked.path}:12"), True,
    )  # fmt: skip
    assert {question.pair.candidate for question in rest} == {"other"}
    assert {question.rule for question in rest} == {Allowance(1.05)}
    assert not any(question.is_asked for question in rest)
    assert [question.name for question in rest] == ["ready", "cpu", "pss", "disk", "disk-shared"]


def test_pairs_cannot_share_a_name_or_grow() -> None:
    asked = scenario(fake(), fake("fake-before"))
    with pytest.raises(ScenarioError, match="would be called fake-before; rename one"):
        in_pairs(asked, [(arm, arm) for arm in asked.arms], BEFORE_AND_NOW)
    growing = replace(asked, scale=Scale((1, 2), (), MappingProxyType({})))
    with pytest.raises(ScenarioError, match="has no pairs"):
        in_pairs(growing, [(fake(), fake())])
    two = in_pairs(scenario(fake()), [(fake(), fake())])
    assert two.pairs == (Pair("sample", "fake-a", "fake-b"),)


# The command.


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
    assert re.search(r"^blocks? .*of at most 1000: \d+ trials", told.stderr, re.MULTILINE)
    assert "1 budget not of the baseline: not judged here" in told.stderr


def test_what_is_beyond_its_budget_is_told_at_its_line(sample: Path) -> None:
    sample.write_text(SCENARIO.format(times=0.5))
    told = check("--run", sample, "--against", "old", "--format", "github")
    assert told.return_value == 1
    assert f"::error file={sample},line=21," in told.stdout
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


def test_what_starts_in_both_images_is_said_where_it_is_not_theirs() -> None:
    asked = scenario(fake(), command=("echo", "hello"))
    assert "sample starts 'echo hello' in both images" in not_the_images_own([asked])
    assert not_the_images_own([scenario(fake(), command=())]) == ""


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
