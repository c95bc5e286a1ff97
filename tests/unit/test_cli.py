"""The command line, as a user meets it: in a process of its own."""

from __future__ import annotations

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
    program = "from harness.cli import main; main()"
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
    assert names == ["run", "report", "doctor", "container", "image", "version"]
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
        (["run", "no-such"], "no-such: no such scenario; there are: hello, python-http"),
        (["run", "./absent.toml"], "./absent.toml: no such scenario file"),
        (["run", "hello", "--arm", "contaner"], "did you mean 'container'?"),
        (["run", "hello", "hello"], "is named already"),
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
    assert (told.returncode, told.stderr) == (0, "")
    (directory,) = (tmp_path / "results").iterdir()
    run = read_run(directory)
    assert run.info.run_id == directory.name
    assert run.info.seed == 7
    assert run.info.command[1:] == ("run", str(scenario), "--blocks", "3", "--seed", "7")
    assert len(run.trials) == (3 + 1) * 2
    for line in ("sample: quick prepared", "warm-up: 2 trials", "block 3 of 3: 2 trials"):
        assert line in told.stdout
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
    assert "3 of 3 trials failed" in told.stderr
    assert "block 1: failed: the workload ended with code 3" in told.stdout
    assert len(read_run(tmp_path / "out").trials) == 3


def test_an_arm_that_was_asked_for_and_cannot_run_leaves_no_folder(
    scenario: Path, tmp_path: Path
) -> None:
    told = steelyard("run", scenario, "--arm", "no=fake,fail=unavailable", cwd=tmp_path)
    assert told.returncode == 1
    assert told.stderr == "steelyard: fake: unavailable, as asked; do not ask for it\n"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_exit_code(
    scenario: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        command("run", scenario, "--blocks", "5000", "--output", tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        trials = tmp_path / "out/trials.jsonl"
        while not trials.exists() or trials.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.startswith(f"steelyard: interrupted by {number.name}; the finished trials are in")
    assert errors.count("\n") == 1
    run = read_run(tmp_path / "out")
    assert run.info.interrupted
    assert len(run.trials) >= 5


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
    assert errors == ""
    assert process.returncode == 141


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
    assert re.search(r"\d+/62 trials", text), text
    assert "━" in text
    assert "Does the command line work?" in text


def test_a_mistake_of_ours_is_one_sentence_too(scenario: Path, tmp_path: Path) -> None:
    program = (
        "import harness.environment, harness.cli\n"
        "def capture(): raise ZeroDivisionError('x')\n"
        "harness.environment.capture = capture\n"
        "harness.cli.main()"
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
    assert [arm["name"] for arm in found["arms"]] == [
        "process", "container", "vm-micro", "vm-classic",
    ]  # fmt: skip
    for arm in found["arms"]:
        assert arm["name"] in text.stdout
        assert arm["availability"]["reason"] in text.stdout
    assert found["well"] == (told.returncode == 0)
