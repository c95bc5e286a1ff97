"""The library as a Python user meets it: whole runs by `harness.run` and what follows from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
import runtime
from harness.measure import schedule
from harness.model.events import Event, RunFinished, RunStarted, TrialFinished

QUICK = {"isolated_ms": 0.1, "started_ms": 0.2, "work_ms": 0.1, "stop_ms": 0.0, "remove_ms": 0.0}


def question(*arms: harness.Arm, **changes: Any) -> harness.Scenario:
    """A scenario made in Python, of arms of the fake backend where none are given."""
    given = arms or tuple(harness.Arm(name, "fake", QUICK) for name in ("one", "two"))
    settings: dict[str, Any] = {
        "name": "sample",
        "image": "none",
        "workload": harness.Workload(["echo", "hello"]),
        "readiness": harness.Readiness("exit"),
        "arms": list(given),
    }
    return harness.Scenario(**{**settings, **changes})


def test_a_run_is_what_its_folder_says(tmp_path: Path) -> None:
    events: list[Event] = []
    run = harness.run(
        question(), blocks=3, seed=7, directory=str(tmp_path / "out"), listener=events.append
    )
    assert run.directory == tmp_path / "out"
    assert run == harness.read_run(str(run.directory))
    assert (run.info.blocks, run.info.seed, run.info.interrupted) == (3, 7, False)
    assert {trial.outcome for trial in run.trials} == {harness.Outcome.OK}
    frame = run.frame()
    counted = frame[frame["block"] >= 0]
    assert sorted(counted["arm"]) == ["one"] * 3 + ["two"] * 3
    assert (counted["ready_ns"] > 0).all()
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert sum(isinstance(event, TrialFinished) for event in events) == len(run.trials)
    pages = harness.write_report(run, tmp_path / "pages")
    assert {page.name for page in pages} >= {"report.html", "summary.md"}
    assert all(page.stat().st_size for page in pages)


def test_null_prints_what_the_images_own_command_would(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text('FROM scratch\nENTRYPOINT ["echo", "hello there"]\n')
    runtime.build_image(tmp_path, tags=["test/own-command:1"])
    asked = question(
        harness.Arm("null"),
        image="test/own-command:1",
        workload=harness.Workload(()),
        readiness=harness.Readiness("exit", output="^hello there$"),
    )
    run = harness.run(asked, blocks=1, warmup_blocks=0, directory=tmp_path / "run")
    assert [trial.outcome for trial in run.trials] == [harness.Outcome.OK]


def test_a_run_without_a_folder_goes_to_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = harness.run(question(), arms="two", blocks=1, warmup_blocks=0)
    assert harness.find_runs(Path("results")) == [run.directory]
    assert [(trial.arm, trial.block) for trial in run.trials] == [("two", 0)]


def test_a_run_that_nobody_limits_has_blocks_enough_for_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that is typed is kept, and the one that is ours gives way."""
    monkeypatch.setattr(schedule, "DEFAULT_TIME_LIMIT_NS", 1)
    run = harness.run(question(), directory=tmp_path / "default")
    assert (run.info.blocks, run.info.fewest_blocks, run.info.time_limit_ns) == (6, 6, 1)
    typed = harness.run(question(), time_limit_ns=1, directory=tmp_path / "typed")
    assert (typed.info.blocks, typed.info.fewest_blocks) == (3, 3)

    def stop(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.trial.block == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        harness.run(question(), directory=tmp_path / "broken", listener=stop)
    assert harness.resume(tmp_path / "broken").info.blocks == 6


def test_a_run_and_its_boxes_are_kept_to_the_cpus_that_are_named(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    asked = harness.Scenario(
        name="pinned",
        image="busybox",
        workload=harness.Workload(["nproc"]),  # it counts those that it may run on
        readiness=harness.Readiness("exit", output=r"^1\n"),
        arms=[harness.Arm("process"), harness.Arm("container")],
    )
    run = harness.run(asked, blocks=1, cpuset=[cpu], repeat=False, directory=tmp_path / "out")
    assert [trial.error for trial in run.trials] == [None] * 4
    assert (run.info.cpuset, run.info.environment["cpus_allowed"]) == ((cpu,), str(cpu))
    assert run.info.environment["cpus"] == 1
    assert os.sched_getaffinity(0) == before
    others = question(harness.Arm("one", "fake", QUICK))
    assert harness.run(others, blocks=1, directory=tmp_path / "all").info.cpuset == ()


def test_a_resumed_run_is_kept_to_the_same_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = max(os.sched_getaffinity(0))
    used: list[set[int]] = []

    def stop(event: Event) -> None:
        if isinstance(event, TrialFinished):
            used.append(os.sched_getaffinity(0))
            if len(used) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    conduct: dict[str, Any] = {"blocks": 1, "cpuset": [cpu], "directory": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        harness.run(question(), listener=stop, **conduct)
    run = harness.resume(tmp_path / "out", listener=stop)
    assert used == [{cpu}] * 4
    assert run.info.cpuset == (cpu,)
    others = os.sched_getaffinity(0) - {cpu}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: others)
    with pytest.raises(ValueError, match=f"there is no CPU {cpu} here that Steelyard may use"):
        harness.run(question(), cpuset=[cpu], directory=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_budgets_decide_the_exit_code(tmp_path: Path) -> None:
    budgets = (harness.Budget("one", "ready", 60e9), harness.Budget("two", "ready", 1.0))
    run = harness.run(question(budgets=budgets), blocks=8, directory=tmp_path / "out")
    judgement = harness.check(run)
    assert {f.arm: f.verdict for f in judgement.findings} == {
        "one": harness.Verdict.SAME,
        "two": harness.Verdict.WORSE,
    }
    assert judgement.exit_code == 1
    assert json.loads(harness.render_judgement(judgement, "json"))["findings"]


def test_a_comparison_is_decided_and_is_itself_a_run(tmp_path: Path) -> None:
    said: list[str] = []
    judgement = harness.compare(
        question(),
        "one",
        "one,delay_ms=20",
        metrics="ready",
        blocks=20,
        seed=3,
        directory=tmp_path / "out",
        notify=said.append,
    )
    (finding,) = judgement.findings
    assert (finding.metric, finding.verdict) == ("ready", harness.Verdict.WORSE)
    assert judgement.exit_code == 1
    info = harness.read_run(tmp_path / "out").info
    assert info.paired
    assert info.seed == 3
    assert said == []
    absolute = question(budgets=[harness.Budget("one", "ready", 60e9)])
    against = harness.check_against(
        absolute, "old", arms=["one"], within=9.0, blocks=8, directory=tmp_path / "against",
        notify=said.append,
    )  # fmt: skip
    assert {finding.arm for finding in against.findings} == {"one"}
    assert [sentence.partition(": not judged")[0] for sentence in said] == [
        "steelyard: 1 budget not of the baseline"
    ]


@pytest.mark.privileged
def test_real_boxes_by_three_calls(tmp_path: Path, nothing_left: None) -> None:
    hello = harness.load_scenario("hello")
    run = harness.run(
        hello, arms=["process", "container"], blocks=2, repeat=False, directory=tmp_path / "out"
    )
    assert {trial.outcome for trial in run.trials} == {harness.Outcome.OK}
    frame = run.frame()
    assert set(frame["arm"]) == {"process", "container"}
    assert (frame.loc[frame["arm"] == "container", "isolated_ns"] > 0).all()
    judgement = harness.compare(
        hello, "container", "container,cache=cold", blocks=2, directory=tmp_path / "compared"
    )
    assert {finding.metric for finding in judgement.findings} >= {"disk"}


def test_all_that_is_wrong_with_a_scenario_is_said_at_once(tmp_path: Path) -> None:
    wrong = question(
        harness.Arm("one", "fake", {"wrok_ms": 1}),
        harness.Arm("two", "contaner"),
        harness.Arm("two", "fake", cache="hot"),
        "process",  # type: ignore[arg-type]
        name="Not a name",
        image="",
        readiness=harness.Readiness("htpp", port=80),
        limits=harness.Limits(memory_bytes="256M", cpus=-1),
        timeout_ns=0,
        budgets=[harness.Budget("one", "redy", 1.0)],
    )
    with pytest.raises(harness.ScenarioError) as caught:
        harness.run(wrong, blocks=1, directory=tmp_path / "out")
    for part in (
        "name: 'Not a name' cannot name a scenario",
        "image: is empty",
        "timeout_ns: 0 is nothing",
        "readiness: no readiness is called 'htpp'; did you mean 'http'?",
        "limits.memory_bytes: '256M' is no number in that unit",
        "limits.cpus: -1 is nothing",
        "arms.one.wrok_ms: unknown option 'wrok_ms'; did you mean 'work_ms'?",
        "arms: no backend is called 'contaner'; did you mean 'container'?",
        "arms: the arm 'two' comes twice",
        "arms.two.cache: no state of the cache is called 'hot'",
        "arms: should hold only values of Arm, and holds 'process'",
        "budgets: no metric is called 'redy'; did you mean 'ready'?",
    ):
        assert sum(part in problem for problem in caught.value.problems) == 1, part
    assert len(caught.value.problems) == 12
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert not (tmp_path / "out").exists()


def test_every_way_to_compare_refuses_a_wrong_scenario(tmp_path: Path) -> None:
    wrong = question(image="")
    with pytest.raises(harness.ScenarioError, match="image: is empty"):
        harness.compare(wrong, "one", "two", directory=tmp_path / "out")
    with pytest.raises(harness.ScenarioError, match="image: is empty"):
        harness.compare_revisions(wrong, "HEAD", ".", directory=tmp_path / "out")
    with pytest.raises(harness.ScenarioError, match="image: is empty"):
        harness.check_against(wrong, "old", directory=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_wrong_says_so_with_lines(tmp_path: Path) -> None:
    path = tmp_path / "sample.toml"
    path.write_text('question = "?"\nimage = ""\narms = ["fake", "fkae"]\n[readiness]\nkind = "ex"')
    with pytest.raises(harness.ScenarioError) as caught:
        harness.load_scenario(path)
    lines = [problem.split(": ")[0] for problem in caught.value.problems]
    assert lines == [f"{path}:2", f"{path}:3", f"{path}:5"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"blocks": 0}, "blocks is 0; take at least 1"),
        ({"blocks": 1, "warmup_blocks": -1}, "warmup_blocks is -1"),
        ({"time_limit_ns": 0}, "time_limit_ns is 0"),
        ({"quiet": 0.0}, "quiet is 0.0; give a share up to 1, like 0.1 for 10 %"),
        ({"quiet": 10.0}, "quiet is 10.0"),
        ({"until": {"redy": 0.02}}, "no metric is called 'redy'; did you mean 'ready'"),
        ({"until": {"disk-shared": 0.02}}, "no metric is called 'disk-shared'"),
    ],
)
def test_an_argument_out_of_range_is_a_value_error(
    tmp_path: Path, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        harness.run(question(), directory=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"metrics": ["redy"]}, "no metric is called 'redy'; did you mean 'ready'"),
        ({"within": -0.1}, "within is -0.1"),
        ({"blocks": 0}, "blocks is 0"),
    ],
)
def test_so_is_one_of_a_comparison(
    tmp_path: Path, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        harness.compare(question(), "one", "two", directory=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_command_is_a_list_of_words_and_a_state_may_be_its_name() -> None:
    with pytest.raises(TypeError, match="a command is a list of words"):
        harness.Workload("echo hello")
    with pytest.raises(TypeError, match="a command is a list of words"):
        harness.Arm("process", command="echo hello")
    assert harness.Arm("process", cache="cold").cache is harness.CacheState.COLD


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    refusals: list[str] = []
    program = (
        "import sys, harness\n"
        "arm = harness.Arm('one', 'fake')\n"
        "ended = harness.Readiness('exit')\n"
        "asked = harness.Scenario(name='other', image='none', readiness=ended, arms=[arm])\n"
        "for take in (lambda: harness.run(asked, blocks=1, directory=sys.argv[1]),\n"
        "             lambda: harness.resume(sys.argv[1])):\n"
        "    try:\n"
        "        take()\n"
        "    except harness.RecordError as error:\n"
        "        print(error)\n"
    )

    def second(event: Event) -> None:
        if isinstance(event, TrialFinished) and not refusals:
            done = subprocess.run(
                [sys.executable, "-c", program, directory],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            refusals.extend(done.stdout.splitlines())

    run = harness.run(question(), blocks=3, directory=directory, listener=second)
    assert refusals == [
        f"{directory} holds a run already; give another folder, runs are never mixed",
        f"{directory} is being written by a run that goes on; let it end",
    ]
    assert (run.info.blocks, run.info.interrupted) == (3, False)
    assert [scenario.name for scenario in run.info.scenarios] == ["sample"]
    assert run == harness.read_run(directory)


def test_an_interrupted_run_is_recorded_and_goes_on(tmp_path: Path) -> None:
    directory, taken = tmp_path / "out", 0

    def interrupt(event: Event) -> None:
        nonlocal taken
        taken += isinstance(event, TrialFinished)
        if taken == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(harness.Interrupted):
        harness.run(question(), blocks=4, seed=5, directory=directory, listener=interrupt)
    before = harness.read_run(directory)
    assert before.info.interrupted
    assert 5 <= len(before.trials) < 10
    after = harness.resume(str(directory))
    assert after.trials[: len(before.trials)] == before.trials
    assert (after.info.blocks, after.info.interrupted) == (4, False)
    whole = harness.run(question(), blocks=4, seed=5, directory=tmp_path / "whole", repeat=False)
    places = [[(t.arm, t.block, t.position) for t in run.trials] for run in (after, whole)]
    assert places[0] == places[1]
    with pytest.raises(harness.RecordError, match="ended as it should"):
        harness.resume(directory)


CHECKED = """
question = "Which run is judged?"
image = "none"

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"

[arms.fake]
work_ms = 0.1
stop_ms = 0.0

[hooks]
setup = "{setup}"

[budget.fake]
ready = "{most}"
"""


def test_check_judges_the_run_that_it_took_while_another_is_taken(tmp_path: Path) -> None:
    """The setups meet at a pipe, so that both folders are there before either has a trial."""
    os.mkfifo(tmp_path / "meeting")
    asked = {"wide": ("echo go > meeting", "60s"), "narrow": ("cat meeting", "1ns")}
    processes = {}
    for name, (setup, most) in asked.items():
        setup = f"cd {tmp_path} && {setup}"
        (tmp_path / f"{name}.toml").write_text(CHECKED.format(setup=setup, most=most))
        processes[name] = subprocess.Popen(
            [sys.executable, "-c", "from harness.cli.main import main; main()", "check",
             "--run", f"{name}.toml", "--blocks", "8", "--format", f"json={name}.json"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(harness.__file__).parents[1])},
        )  # fmt: skip
    try:
        said = {name: process.communicate(timeout=200) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert {name: process.returncode for name, process in processes.items()} == {
        "wide": 0,
        "narrow": 1,
    }, said
    assert len(harness.find_runs(tmp_path / "results")) == 2
    for name in asked:
        document = json.loads((tmp_path / f"{name}.json").read_text())
        assert {finding["scenario"] for finding in document["findings"]} == {name}
        run = harness.read_run(tmp_path / "results" / document["facts"]["run"])
        assert [scenario.name for scenario in run.info.scenarios] == [name]
