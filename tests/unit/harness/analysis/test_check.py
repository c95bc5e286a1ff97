"""Budgets and baselines: what passes, what fails, what cannot be told, and every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import CliRunner

from harness.analysis.baseline.match import comparability
from harness.analysis.check import check, layers_of
from harness.analysis.judgement import ExitCode, Finding, Judgement, Verdict
from harness.cli.check import check as command
from harness.model import (
    Budget,
    CacheState,
    Milestone,
    Outcome,
    Trial,
)
from harness.model.errors import RecordError
from harness.records import Run, RunWriter
from harness.scenario import parse_scenario
from tests.support.synthetic import synthetic_run

ARMS = ("container", "vm-micro")


@pytest.fixture(scope="module")
def run() -> Run:
    return synthetic_run(seed=1, blocks=40, scenarios=("hello",))


def with_budgets(run: Run, *budgets: Budget) -> Run:
    (scenario,) = run.info.scenarios
    return replace(run, info=replace(run.info, scenarios=(replace(scenario, budgets=budgets),)))


def slower(run: Run, factor: float, arm: str = "container") -> Run:
    def change(trial: Trial) -> Trial:
        if trial.arm != arm or Milestone.READY not in trial.milestones_ns:
            return trial
        ready = round(trial.milestones_ns[Milestone.READY] * factor)
        return replace(trial, milestones_ns={**trial.milestones_ns, Milestone.READY: ready})

    return replace(run, trials=tuple(map(change, run.trials)))


def only(judgement: Judgement) -> Finding:
    assert judgement.refusals == ()
    (finding,) = judgement.findings
    return finding


def ready_ns(run: Run, arm: str = "container") -> float:
    finding = only(check(with_budgets(run, Budget(arm, "ready", 1.0))))
    assert finding.value is not None
    return finding.value


def test_an_absolute_budget(run: Run) -> None:
    median = ready_ns(run)
    for factor, verdict, code in (
        (1.5, Verdict.SAME, ExitCode.FINE),
        (0.5, Verdict.WORSE, ExitCode.REGRESSED),
        (1.0005, Verdict.CANNOT_TELL, ExitCode.CANNOT_TELL),
    ):
        judgement = check(with_budgets(run, Budget("container", "ready", median * factor, line=7)))
        assert only(judgement).verdict is verdict
        assert judgement.exit_code is code
        assert only(judgement).source.endswith(":7")


def test_what_cannot_be_told_says_how_many_blocks_would(run: Run) -> None:
    median = ready_ns(run)
    finding = only(check(with_budgets(run, Budget("container", "ready", median * 1.02))))
    if finding.verdict is Verdict.CANNOT_TELL:
        assert "take about" in finding.sentence
    few = replace(run, trials=tuple(t for t in run.trials if t.block < 5))
    finding = only(check(with_budgets(few, Budget("container", "ready", median * 10))))
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "5 blocks cannot tell, take 6 or more" in finding.sentence


def test_a_budget_relative_to_another_arm_is_paired(run: Run) -> None:
    ratio = ready_ns(run, "vm-micro") / ready_ns(run)
    for factor, verdict in ((1.3, Verdict.SAME), (0.7, Verdict.WORSE)):
        budget = Budget("vm-micro", "ready", ratio * factor, of="container")
        finding = only(check(with_budgets(run, budget)))
        assert finding.verdict is verdict
        assert finding.ratio == pytest.approx(ratio, rel=0.1)
        assert "container's" in finding.sentence


def test_failed_trials_count_as_slower_than_any(run: Run) -> None:
    median = ready_ns(run)
    broken = tuple(
        replace(trial, outcome=Outcome.FAILED, milestones_ns={Milestone.REQUESTED: 0})
        if trial.arm == "container" and trial.block % 5
        else trial
        for trial in run.trials
    )
    judgement = check(
        with_budgets(replace(run, trials=broken), Budget("container", "ready", median * 100))
    )
    assert only(judgement).verdict is Verdict.WORSE
    assert "not reached" in only(judgement).sentence


def test_one_mebibyte_more_in_a_layer_is_caught_exactly(run: Run) -> None:
    (record, *others) = (r for r in run.info.arms if r.arm.name == "container")
    assert not others
    part = record.disk[0]
    fatter = replace(record, disk=(replace(part, allocated_bytes=part.allocated_bytes + 2**20),))
    arms = tuple(fatter if r is record else r for r in run.info.arms)
    changed = replace(run, info=replace(run.info, arms=arms))
    budget = Budget("container", "disk-shared", part.allocated_bytes)
    assert only(check(with_budgets(run, budget))).verdict is Verdict.SAME
    finding = only(check(with_budgets(changed, budget)))
    assert finding.verdict is Verdict.WORSE
    assert "exactly" in finding.sentence
    against = check(changed, run, within=0.0)
    worse = {f.metric for f in against.findings if f.verdict is Verdict.WORSE}
    assert worse == {"disk-shared"}


def test_a_layer_that_is_shared_no_longer_is_named(run: Run) -> None:
    def with_layers(layers: str) -> Run:
        arms = tuple(
            replace(r, facts=MappingProxyType({**r.facts, "layers": layers}))
            if r.arm.name == "container"
            else r
            for r in run.info.arms
        )
        return replace(run, info=replace(run.info, arms=arms))

    before = with_layers(f"sha256:{'a' * 64}=2000000 sha256:{'b' * 64}=1000")
    assert check(before, before).findings == check(run, run).findings
    after = with_layers(f"sha256:{'c' * 64}=2000000 sha256:{'b' * 64}=1000")
    (finding,) = (f for f in check(after, before).findings if "layer" in f.sentence)
    assert finding.verdict is Verdict.WORSE
    assert f"layer {'a' * 12} (2.00 MB) of the baseline is in the image no longer" in (
        finding.sentence
    )
    assert "c" * 12 in finding.sentence
    assert layers_of(after.info.arms[0]) == {} or layers_of(after.info.arms[1])


def test_a_baseline_without_budgets(run: Run) -> None:
    again = synthetic_run(seed=2, blocks=40, scenarios=("hello",))
    judgement = check(again, run, within=0.5)
    by_metric = {f.metric: f.verdict for f in judgement.findings if f.arm == "container"}
    assert by_metric == {
        "ready": Verdict.CANNOT_TELL,
        "cpu": Verdict.CANNOT_TELL,
        "pss": Verdict.CANNOT_TELL,
        "disk": Verdict.SAME,
        "disk-shared": Verdict.SAME,
    }
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    ready = next(f for f in judgement.findings if (f.arm, f.metric) == ("container", "ready"))
    assert "one run does not say how runs differ among themselves: take the run by" in (
        ready.sentence
    )
    assert "`steelyard check --run hello --against IMAGE`" in ready.sentence


def test_a_baseline_budget(run: Run) -> None:
    budget = Budget("container", "disk-shared", 1.5, of="baseline")
    assert only(check(with_budgets(run, budget), run)).verdict is Verdict.SAME
    budget = Budget("container", "ready", 1.5, of="baseline")
    finding = only(check(with_budgets(slower(run, 3.0), budget), run))
    assert finding.verdict is Verdict.CANNOT_TELL  # by one run that has no anchor
    others = [synthetic_run(seed=seed, blocks=40, scenarios=("hello",)) for seed in (2, 3, 4)]
    judged = only(check(with_budgets(slower(run, 3.0), budget), others))
    assert judged.verdict is Verdict.WORSE
    assert "of 3 earlier runs (" in judged.sentence


# Every refusal, with what to do.


def changed_facts(run: Run, **facts: Any) -> Run:
    environment = MappingProxyType({**run.info.environment, **facts})
    return replace(run, info=replace(run.info, environment=environment))


def refusal(run: Run, baseline: Run | None = None) -> str:
    judgement = check(run, baseline)
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    return judgement.refusals[0]


def test_refused_without_anything_to_judge_by(run: Run) -> None:
    assert "add budgets to the scenario, or name one by --baseline" in refusal(run)


def test_refused_with_a_baseline_of_other_scenarios(run: Run) -> None:
    other = synthetic_run(blocks=8, scenarios=("python-http",))
    text = refusal(run, other)
    assert "and no baseline has an arm of hello; add budgets" in text
    assert "no baseline was given" not in text


def test_refused_without_the_baseline_that_a_budget_names(run: Run) -> None:
    text = refusal(with_budgets(run, Budget("container", "ready", 1.5, of="baseline", line=9)))
    assert ":9: " in text
    assert "name one by --baseline" in text


def test_refused_from_another_host(run: Run) -> None:
    other = changed_facts(run, cpu_model="another")
    text = refusal(with_budgets(run, Budget("container", "ready", 1.5, of="baseline")), other)
    assert "from another host (another with kernel" in text
    assert "take a baseline here" in text
    # What is exact, and ratios between arms of one run, travel.
    exact = with_budgets(run, Budget("container", "disk-shared", 1.0, of="baseline"))
    assert check(exact, other).exit_code is ExitCode.FINE
    judgement = check(run, other, within=0.5)
    assert {f.metric for f in judgement.findings} == {"disk", "disk-shared"}
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    assert all("from another host" in text for text in judgement.refusals)


@pytest.mark.parametrize("fact", ["accelerator", "launcher"])
def test_refused_with_another_accelerator_or_launcher(run: Run, fact: str) -> None:
    def with_fact(value: str) -> Run:
        arms = tuple(
            replace(r, facts=MappingProxyType({**r.facts, fact: value})) for r in run.info.arms
        )
        return replace(run, info=replace(run.info, arms=arms))

    text = comparability(with_fact("two").info, with_fact("one").info, "hello", "vm-micro")
    assert text is not None
    assert f"the {fact} was one in the baseline and is two now" in text
    assert comparability(with_fact("one").info, with_fact("one").info, "hello", "vm-micro") is None


def test_refused_cold_against_warm(run: Run) -> None:
    arms = tuple(replace(r, arm=replace(r.arm, cache=CacheState.COLD)) for r in run.info.arms)
    cold = replace(run, info=replace(run.info, arms=arms))
    text = comparability(cold.info, run.info, "hello", "container")
    assert text is not None
    assert "page cache was warm in the baseline and is cold now" in text


def test_refused_light_arms_beside_machines_against_those_without(run: Run) -> None:
    arms = tuple(r for r in run.info.arms if not r.arm.backend.startswith("vm"))
    light = replace(run, info=replace(run.info, arms=arms))
    text = comparability(light.info, run.info, "hello", "container")
    assert text is not None
    assert "the set of arms was with machines in the baseline and is without machines now" in text
    # One machine more or less, an arm that is repeated, or an anchor makes no other company.
    fewer = tuple(r for r in run.info.arms if r.arm.name != "vm-classic")
    one = next(r for r in run.info.arms if r.arm.name == "container")
    again = replace(one, arm=replace(one.arm, name="again", repeats="container"))
    anchor = replace(one, arm=replace(one.arm, name="pinned", anchors="container"))
    other = replace(run, info=replace(run.info, arms=(*fewer, again, anchor)))
    assert comparability(other.info, run.info, "hello", "container") is None
    assert comparability(other.info, run.info, "hello", "vm-micro") is None


def test_refused_an_arm_that_one_side_lacks(run: Run) -> None:
    arms = tuple(r for r in run.info.arms if r.arm.name != "container")
    without = replace(run, info=replace(run.info, arms=arms))
    text = comparability(run.info, without.info, "hello", "container")
    assert text == "the baseline has no arm container in scenario hello; measure that arm in both"
    budget = Budget("container", "ready", 1.0)
    trials = tuple(trial for trial in run.trials if trial.arm != "container")
    assert "run that arm" in refusal(with_budgets(replace(without, trials=trials), budget))
    # An arm that was not asked for is not judged.
    (scenario,) = run.info.scenarios
    others = replace(scenario, budgets=(budget,), arms=scenario.arms[:1])
    asked = replace(without, trials=trials, info=replace(without.info, scenarios=(others,)))
    assert "there is nothing to judge by" in refusal(asked)


# The command.


def recorded(run: Run, folder: Path) -> Path:
    with RunWriter(folder) as writer:
        writer.write_info(run.info)
        for trial in run.trials:
            writer.append(trial)
    return folder


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)


def test_the_newest_run_is_judged_by_the_budgets_of_today(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hello.toml"
    arms = ", ".join(f'"{arm}"' for arm in ARMS)
    text = (
        f'question = "q"\nimage = "busybox"\narms = [{arms}]\n[workload]\ncommand = ["true"]\n'
        '[readiness]\nkind = "exit"\n'
    )
    path.write_text(text)
    scenario = replace(parse_scenario(text, path), name="hello")
    small = replace(run, trials=tuple(t for t in run.trials if t.block < 10))
    told = replace(small, info=replace(small.info, scenarios=(scenario,)))
    recorded(told, tmp_path / "results" / "20260101T000000Z-aaaaaa")
    recorded(told, tmp_path / "results" / "reference")
    assert invoke().return_value == ExitCode.CANNOT_TELL
    path.write_text(text + '[budget.container]\nready = "1ms"\n')
    result = invoke("--format", "github")
    assert result.return_value == ExitCode.REGRESSED
    assert result.output.startswith(f"::error file={path.name},line=9,")
    path.write_text(text + '[budget.container]\nready = "1h"\n')
    result = invoke("--format", "json=out/x.json", "--format", "badge=out/x.svg")
    assert result.return_value == ExitCode.FINE
    assert json.loads((tmp_path / "out/x.json").read_text())["verdict"] == "fine"
    assert "fine" in (tmp_path / "out/x.svg").read_text()


def test_a_run_that_has_lost_its_trials_is_told_and_an_interrupted_one_named(
    run: Run, tmp_path: Path
) -> None:
    folder = recorded(run, tmp_path / "r")
    (folder / "trials.jsonl").unlink()
    with pytest.raises(RecordError, match=r"r has no trials: trials.jsonl is missing or empty"):
        raise invoke(folder).exception
    cut = replace(run, info=replace(run.info, interrupted=True, wanted_blocks=100))
    told = check(with_budgets(cut, Budget("container", "ready", 1e12)))
    assert told.facts["run"].endswith("(interrupted: 40 of 100 blocks)")


def test_the_summary_of_a_step_is_added_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(run, trials=run.trials[:8])
    folder = recorded(small, tmp_path / "r")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    invoke(folder, "--format", f"markdown={summary}")
    assert summary.read_text().startswith("before\n### Steelyard: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x", "--run", "hello"), "exclude each other"),
        (("x", "--blocks", "3"), "give --run SCENARIO too"),
        (("x", "--no-anchor"), "give --run SCENARIO too"),
        (("--run", "x", "--against", "y", "--anchor"), "pairs both within a run"),
        (("x", "--within", "much"), "'much' is no percentage; write it like 5%"),
        (("x", "--format", "junitt"), "did you mean 'junit'?"),
        (("x", "--format", "json="), "write json=PATH"),
        (("x", "--format", "json", "--format", "junit"), "only one of them"),
        ((), "results holds no run; name one, or take one by --run SCENARIO"),
        (("absent",), "absent is no run"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in str(invoke(*arguments).exception)


@pytest.mark.parametrize(("typed", "code"), [((), 1), (("--within", "10%"), 0)])
def test_a_twentieth_more_on_disk_is_allowed_by_default(
    run: Run, tmp_path: Path, typed: tuple[str, ...], code: int
) -> None:
    def fatter(share: float) -> Run:
        record, *_ = run.info.arms
        disk = tuple(
            replace(one, allocated_bytes=int(one.allocated_bytes * share)) for one in record.disk
        )
        arm, trials = replace(record, disk=disk), run.trials[:8]
        return replace(run, info=replace(run.info, arms=(arm,)), trials=trials)

    folders = [recorded(fatter(share), tmp_path / str(share)) for share in (1.0, 1.08)]
    written = invoke(folders[1], "--baseline", folders[0], "--format", "json", *typed).stdout
    found = [one for one in json.loads(written)["findings"] if one["metric"] == "disk-shared"]
    assert [one["verdict"] for one in found] == [("same", "worse")[code]]


def test_a_corrupt_and_a_newer_baseline(run: Run, tmp_path: Path) -> None:
    small = replace(run, trials=run.trials[:2])
    folder, other = recorded(small, tmp_path / "a"), recorded(small, tmp_path / "b")
    (other / "run.json").write_text('{"schema": 999}')
    assert "read it with a newer Steelyard" in str(invoke(folder, "--baseline", other).exception)
    (other / "run.json").write_text("{")
    assert "not JSON" in str(invoke(folder, "--baseline", other).exception)
