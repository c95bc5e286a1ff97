"""The command line, as a user meets it: in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.backends import BACKENDS
from harness.environment import Environment
from harness.experiment.run import with_noise
from harness.measure import schedule
from harness.measure.request import Request
from harness.measure.stopping import is_checkpoint
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.records import read_run

SCENARIO = """
question = "Does the command line work?"
image = "none"
timeout = "2s"

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"
output = "^hello$"

[arms.quick]
backend = "fake"

[arms.slow]
backend = "fake"
work_ms = 6.0
"""


def steelyard(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=120, **options
    )


def command(*arguments: str | Path) -> list[str]:
    program = "from harness.cli.main import main; main()"
    return [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO)
    return path


def test_help_names_every_command_and_every_command_has_help() -> None:
    told = steelyard("--help")
    assert told.returncode == 0
    names = [line.split()[0] for line in told.stdout.split("Commands:")[1].splitlines() if line]
    assert names == [
        "run", "report", "compare", "check", "history", "doctor", "container", "image", "version",
    ]  # fmt: skip
    for name in names:
        assert steelyard(name, "--help").returncode == 0


def test_the_version() -> None:
    for argument in ("version", "--version"):
        assert steelyard(argument).stdout == f"steelyard {harness.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "no such command 'rnu'"),
        (["run", "--blocks", "0"], "--blocks"),
        (["run", "--blocks", "many"], "'many' is not a valid integer"),
        (["run", "--time-limit", "5"], "'5' is not a duration; write it with its unit"),
        (["run", "--nonsense"], "no such option"),
        (["run", "no-such"], "no-such: no such scenario; there are: "),
        (["run", "./absent.toml"], "./absent.toml: no such scenario file"),
        (["run", "hello", "--arm", "contaner"], "did you mean 'container'?"),
        (["run", "hello", "hello"], "is named already"),
        (["run", "hello", "--arm", "a=container,x=1"], "x: unknown option 'x'"),
        (["run", "hello", "--cache", "hot"], "'hot' is not one of"),
        (["run", "--quiet=much", "hello"], "--quiet: 'much' is no percentage; write it like 5%"),
        (["run", "--quiet=0%", "hello"], "'0%' is no part of the CPUs; write it like 10%"),
        (["run", "--quiet", "hallo"], "hallo"),  # what follows is a scenario
        (["run", "hello", "--cpuset", "0,"], "'0,' is no list of CPUs; write it like 0-3,8"),
        (["run", "hello", "--cpuset", "8000"], "no CPU 8000 here that Steelyard may use; it may"),
        (["run", "hello", "--until", "2"], "'2' is no width of an interval; write it like 2%"),
        (["run", "hello", "--until", "ready=0%"], "'0%' is no width of an interval"),
        (["run", "hello", "--until", "redy=2%"], "no metric is called 'redy'; did you mean 'rea"),
        (["run", "hello", "--until", "disk-shared=2%"], "no metric is called 'disk-shared'"),
        (["run", "hello", "--most", "container"], "write it like vm-micro=4"),
        (["run", "hello", "--most", "container=2"], "--most limits growth, and there is none"),
        (["run", "hello", "--scale", "4"], "readiness.kind: 'exit' means"),
        (["run", "hello", "--resume", "x"], "--resume takes everything from the records; take ou"),
        (["run", "--resume", "x", "--seed", "1"], "take out --seed"),
        (["run", "--resume", "/nonexistent"], "/nonexistent is no run"),
        (["report", "/nonexistent"], "/nonexistent"),
        (["report"], "missing argument"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    told = steelyard(*arguments, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stdout == ""
    assert message in told.stderr
    assert told.stderr.startswith("steelyard: ")
    assert told.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_mistake_of_every_file_is_told_before_anything_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text("image = 3\n" + SCENARIO.replace("image", "imag"))
    told = steelyard("run", "one.toml", "two.toml", cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr.splitlines() == [
        f"steelyard: {name}.toml:{problem}"
        for name in ("one", "two")
        for problem in (
            "1: image: should be a string, is 3",
            "4: imag: unknown key; did you mean 'image'?",
        )
    ]


def test_a_run_is_recorded_told_and_reported(scenario: Path, tmp_path: Path) -> None:
    told = steelyard("run", scenario, "--blocks", "3", "--seed", "7", cwd=tmp_path)
    assert told.returncode == 0
    (directory,) = (tmp_path / "results").iterdir()
    run = read_run(directory)
    assert run.info.run_id == directory.name
    assert run.info.seed == 7
    assert run.info.command[1:] == ("run", str(scenario), "--blocks", "3", "--seed", "7")
    assert len(run.trials) == (3 + 1) * 2
    # What it did went to the standard error, what it found to the standard output.
    assert "sample: quick prepared" in told.stderr
    assert "prepared" not in told.stdout
    assert told.stdout.splitlines()[-1] == f"report: results/{directory.name}/report.html"
    assert run.info.scenarios[0].question in told.stdout
    assert (directory / "report.html").stat().st_size > 1000
    assert (directory / "summary.md").exists()
    again = steelyard("report", directory, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert run.info.scenarios[0].question in again.stdout


def test_arms_and_output_as_asked(scenario: Path, tmp_path: Path) -> None:
    told = steelyard(
        "run", scenario, "--arm", "quick", "--arm", "other=fake,work_ms=1", "--blocks", "1",
        "--warmup", "0", "--output", tmp_path / "here",
    )  # fmt: skip
    assert told.returncode == 0
    run = read_run(tmp_path / "here")
    assert {trial.arm for trial in run.trials} == {"quick", "other"}
    again = steelyard("run", scenario, "--blocks", "1", "--output", tmp_path / "here")
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    assert len(read_run(tmp_path / "here").trials) == 2


def test_failed_trials_are_exit_code_1_and_kept(scenario: Path, tmp_path: Path) -> None:
    told = steelyard(
        "run", scenario, "--arm", "bad=fake,exit_code=3", "--blocks", "2", "--output",
        tmp_path / "out",
    )  # fmt: skip
    assert told.returncode == 1
    assert "! bad failed in 2 of 2 trials: the workload ended with code 3" in told.stdout
    assert len(read_run(tmp_path / "out").trials) == 3


def test_an_arm_that_was_asked_for_and_cannot_run_leaves_no_folder(
    scenario: Path, tmp_path: Path
) -> None:
    told = steelyard("run", scenario, "--arm", "no=fake,fail=unavailable", cwd=tmp_path)
    assert told.returncode == 1
    said = told.stderr.splitlines()
    assert said[-1] == "steelyard: fake: unavailable, as asked; do not ask for it"
    assert not (tmp_path / "results").exists()


def broken_off(scenario: Path, directory: Path, number: signal.Signals) -> tuple[int, str]:
    """A run that a signal ends after some trials: its exit code and what it said."""
    with subprocess.Popen(
        command("run", scenario, "--blocks", "60", "--seed", "3", "--output", directory),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        trials = directory / "trials.jsonl"
        while not trials.exists() or trials.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_run_which_is_then_resumed(
    scenario: Path, tmp_path: Path, number: signal.Signals
) -> None:
    directory = tmp_path / "out"
    code, errors = broken_off(scenario, directory, number)
    broken = read_run(directory)
    assert len(broken.trials) >= 5
    if number is signal.SIGKILL:
        assert code == -number
        assert "steelyard: " not in errors
        assert (broken.info.ended_at, broken.info.blocks) == (None, 60)
    else:
        assert code == 128 + number
        assert errors.endswith(
            f"\nsteelyard: interrupted by {number.name}; the finished trials are in {directory}, "
            f"for: steelyard report {directory}, or to go on: steelyard run --resume {directory}\n"
        )
        assert broken.info.interrupted
        whole = [t.block for t in broken.trials if t.block >= 0]
        assert broken.info.blocks == sum(whole.count(block) == 2 for block in set(whole)) < 60
    told = steelyard("run", "--resume", directory, cwd=tmp_path)
    assert told.returncode == 0
    assert f"sample: going on after {len(broken.trials)} trials: " in told.stderr
    result = read_run(directory)
    assert result.trials[: len(broken.trials)] == broken.trials
    assert len({(t.arm, t.block) for t in result.trials}) == len(result.trials) == 61 * 2
    assert (result.info.blocks, result.info.interrupted) == (60, False)
    assert result.info.command == broken.info.command
    assert len(result.info.resumed_at) == 1
    assert (directory / "report.html").exists()
    blocks = (schedule.block({"sample": ["quick", "slow"]}, n, seed=3) for n in range(-1, 60))
    order = [(t.arm, t.block, t.position) for t in result.trials]
    assert order == [(slot.arm, slot.block, slot.position) for block in blocks for slot in block]
    again = steelyard("run", "--resume", directory)
    assert again.returncode == 2
    assert "ended as it should" in again.stderr


def test_a_reader_that_leaves_is_no_traceback(scenario: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("run", scenario, "--blocks", "5", "--output", tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert "steelyard: " not in errors
    assert "Traceback" not in errors
    assert process.returncode == 141
    assert (tmp_path / "out/report.html").exists()


def test_a_reader_of_both_streams_that_leaves_is_no_traceback(
    scenario: Path, tmp_path: Path
) -> None:
    """As in `steelyard run 2>&1 | head -3`."""
    ours, theirs = os.pipe()
    arguments = command("run", scenario, "--blocks", "5", "--output", tmp_path / "out")
    with subprocess.Popen(arguments, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(timeout=60) == 141


@pytest.mark.privileged
def test_a_reader_that_leaves_while_an_image_is_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "made.toml").write_text(
        SCENARIO.partition("[arms.quick]")[0].replace('"none"', '"busybox"') + "[arms.container]\n"
    )
    environment = {**os.environ, "STEELYARD_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        command("run", "made.toml", "--blocks", "1"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if "made: " in line:
                break
        else:
            pytest.fail("no image was made")
        process.stderr.close()
        result = process.stdout.read()
    assert result == ""
    assert process.returncode == 141
    assert not (tmp_path / "results").exists()


def test_hooks_cache_and_width_from_the_command_line(scenario: Path, tmp_path: Path) -> None:
    told = steelyard(
        "run", scenario, "--arm", "quick", "--cache", "both", "--setup", "echo set up",
        "--cleanup", "echo cleaned up", "--until", "99%", "--output", tmp_path / "out",
    )  # fmt: skip
    assert told.returncode == 0
    run = read_run(tmp_path / "out")
    assert {trial.arm for trial in run.trials} == {"quick", "quick-cold"}
    assert [arm.cache for arm in run.info.scenarios[0].arms] == ["warm", "cold"]
    assert dict(run.info.until) == {"ready": 0.99}
    assert is_checkpoint(run.info.blocks)
    assert "sample: setup: echo set up" in told.stderr
    assert "until ready within 99 %" in told.stderr
    printed = (tmp_path / "out/hooks.log").read_text()
    assert "\nset up\n" in printed
    assert "\ncleaned up\n" in printed


def test_a_hook_that_fails_is_one_sentence_and_its_output_is_kept(
    scenario: Path, tmp_path: Path
) -> None:
    arguments = ("run", scenario, "--setup", "seq 9; exit 4", "--output", tmp_path / "out")
    for _ in range(2):  # again in the same folder: it holds no run
        told = steelyard(*arguments)
        assert told.returncode == 1
        (said,) = [line for line in told.stderr.splitlines() if line.startswith("steelyard: ")]
        assert said.startswith(
            "steelyard: sample: the setup command ended with code 4: 7 / 8 / 9; mend it, or"
        )
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["hooks.log"]


def test_the_records_say_what_to_type_and_are_reported_though_cleanup_fails(
    scenario: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "STEELYARD_COMMAND": "./steelyard"}
    options = ("--blocks", "1", "--cleanup", "exit 5", "--output", tmp_path / "out")
    told = steelyard("run", scenario, *options, env=environment)
    assert told.returncode == 1
    assert "the cleanup command ended with code 5" in told.stderr
    assert (tmp_path / "out/report.html").exists()
    assert read_run(tmp_path / "out").info.command[:2] == ("./steelyard", "run")


def test_an_arm_is_compared_with_itself_on_request_and_that_is_remembered(
    scenario: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "STEELYARD_CACHE": str(tmp_path / "cache")}
    options = ("--aa", "--blocks", "7", "--output", tmp_path / "out")
    told = steelyard("run", scenario, *options, env=environment)
    assert told.returncode == 0
    run = read_run(tmp_path / "out")
    assert {trial.arm for trial in run.trials} == {"quick", "slow", "quick-again"}
    assert [arm.repeats for arm in run.info.scenarios[0].arms] == [None, None, "quick"]
    (ready,) = [floor for floor in run.info.noise if floor.metric == "ready"]
    assert (ready.scenario, ready.arm, ready.blocks) == ("sample", "quick", 7)
    # A later run on this host knows it, and need not measure it again.
    asked = Request(
        scenarios=run.info.scenarios[:1], blocks=30, warmup_blocks=1, seed=1, time_limit_ns=None,
        required_arms=frozenset(), command=(), run_id="later", steelyard="0",
    )  # fmt: skip
    host = Environment(run.info.environment, {})
    later = with_noise(asked, None, tmp_path / "cache/noise", host)
    assert later.noise == run.info.noise
    assert later.scenarios == asked.scenarios


def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:
        told = subprocess.run(
            command("--help"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert told.returncode == 1
    assert told.stderr.startswith("steelyard: ")
    assert told.stderr.endswith("no space left on device\n")


def test_a_terminal_gets_a_bar(scenario: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command("run", scenario, "--blocks", "30", "--output", tmp_path / "out"),
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        seen = bytearray()
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # EIO: the last writer has gone
                break
            if not data:
                break
            seen += data
        code = process.wait(timeout=60)
    finally:
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert code == 0, text
    assert re.search(r"block \d+ of 30: sample: (quick|slow)", text), text
    assert "━" in text
    assert "Does the command line work?" in text


def test_a_mistake_of_ours_is_one_sentence_too(scenario: Path, tmp_path: Path) -> None:
    program = (
        "import harness.environment, harness.cli.main\n"
        "def capture(): raise ZeroDivisionError('x')\n"
        "harness.environment.capture = capture\n"
        "harness.cli.main.main()"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, "run", scenario],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stderr.startswith("steelyard: ZeroDivisionError: x; this is a mistake in Steelyard")
    assert "Traceback" not in told.stderr


def test_doctor_tells_the_same_in_both_formats() -> None:
    text, told = steelyard("doctor"), steelyard("doctor", "--format", "json")
    assert text.returncode == told.returncode
    found = json.loads(told.stdout)
    names = [arm["name"] for arm in found["arms"]]
    assert {"process", "container", "vm-micro", "vm-classic"} <= set(names) <= set(BACKENDS)
    for arm in found["arms"]:
        assert arm["name"] in text.stdout
        assert arm["availability"]["reason"] in text.stdout
    assert found["well"] == (told.returncode == 0)


def test_an_interrupted_check_says_where_the_finished_trials_are(tmp_path: Path) -> None:
    path = tmp_path / "sample.toml"
    path.write_text(
        'question = "q"\nimage = "none"\n[workload]\ncommand = ["true"]\n[readiness]\n'
        'kind = "exit"\n[arms.fake]\nwork_ms = 20.0\n'
    )
    program = "from harness.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "check", "--run", str(path), "--blocks", "500"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:  # fmt: skip
        while not any(file.stat().st_size for file in tmp_path.glob("results/*/trials.jsonl")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the finished trials are in results/" in said
    assert "run --resume results/" in said


def test_the_result_of_a_run_is_data_for_another_program(scenario: Path, tmp_path: Path) -> None:
    told = steelyard(
        "run", scenario, "--blocks", "2", "--warmup", "0", "--no-aa", "--format", "json",
        "--export", "csv=out/trials.csv", "--export", "markdown=summary.md", cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (run,) = json.loads(told.stdout)["runs"]
    assert [arm["name"] for arm in run["scenarios"][0]["arms"]] == ["quick", "slow"]
    assert (tmp_path / "out/trials.csv").read_text().count("\n") == 1 + 4
    assert (tmp_path / "summary.md").read_text().startswith("# Steelyard: sample\n")
    last = told.stderr.splitlines()[-1]
    assert last == f"report: results/{run['run_id']}/report.html"


def test_a_check_of_a_new_run_has_its_verdict_alone_on_the_standard_output(
    scenario: Path, tmp_path: Path
) -> None:
    scenario.write_text(scenario.read_text() + '\n[budget.quick]\ndisk = "1GiB"\n')
    told = steelyard("check", "--run", scenario, "--blocks", "2", "--format", "json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["verdict"] == "fine"
    assert "sample: quick prepared" in told.stderr
    assert "report: results/" in told.stderr


def test_quiet_is_the_last_line_and_verbose_is_all(scenario: Path, tmp_path: Path) -> None:
    options = ("--blocks", "1", "--warmup", "0", "--no-aa", "--output")
    quiet = steelyard("run", scenario, "-q", *options, tmp_path / "a")
    assert quiet.stdout == f"report: {tmp_path / 'a/report.html'}\n"
    verbose = steelyard("run", scenario, "-v", *options, tmp_path / "b")
    assert " - few-blocks: too few blocks" in verbose.stdout
    assert verbose.stdout.splitlines()[-1] == f"report: {tmp_path / 'b/report.html'}"


def test_an_arm_that_was_named_and_left_out_by_a_resumed_run_is_exit_code_1(
    scenario: Path, tmp_path: Path
) -> None:
    from harness.cli.run import refuse_left_out

    told = steelyard("run", scenario, "--arm", "quick", "--blocks", "1", "--output", tmp_path / "o")
    assert told.returncode == 0
    info = read_run(tmp_path / "o").info
    skipped = Diagnostic(DiagnosticCode.ARM_SKIPPED, "sample, slow: no kernel")
    out = dataclasses.replace(info, diagnostics=(skipped,))
    assert refuse_left_out(out) == 1
    assert refuse_left_out(info) == 0
    assert refuse_left_out(dataclasses.replace(out, command=("steelyard", "run", "hello"))) == 0
