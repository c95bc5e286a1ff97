"""`steelyard compare`, as a user meets it: in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.records import read_run

SCENARIO = """
question = "Does comparing work?"
image = "none"

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"

[arms.quick]
backend = "fake"
work_ms = 1.0
jitter = 0.05
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.toml"
    path.write_text(SCENARIO)
    return path


def command(*arguments: str | Path) -> list[str]:
    program = "from harness.cli.main import main; main()"
    return [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]


def steelyard(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=120, cwd=cwd,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
    )  # fmt: skip


def test_worse_is_told_in_every_form_and_is_exit_code_1(sample: Path, tmp_path: Path) -> None:
    told = steelyard(
        "compare", "delay_ms=0", "delay_ms=60", "--scenario", sample, "--metric", "ready,disk",
        "--blocks", "40", "--format", "json", "--format", "terminal=told.txt", "--output", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 1, told.stderr
    document = json.loads(told.stdout)
    assert [found["verdict"] for found in document["findings"]] == ["worse", "same"]
    assert "is B (delay_ms=60) worse than A (delay_ms=0)?" in (tmp_path / "told.txt").read_text()
    run = read_run(tmp_path / "run")
    assert {record.arm.name for record in run.info.arms} == {"quick-a", "quick-b"}
    assert run.info.blocks < 40
    page = (tmp_path / "run" / "report.html").read_text()
    summary = (tmp_path / "run" / "summary.md").read_text()
    (sentence, _) = (found["sentence"] for found in document["findings"])
    for text in (page, summary.replace("\\", "")):
        assert text.index("s B (delay_ms=60) worse than A (delay_ms=0)?") < text.index("regressed")
        assert sentence.partition(" [")[0] in text.replace("\N{NO-BREAK SPACE}", " ")
    # Made again from the records alone, it is the same page.
    again = steelyard("report", tmp_path / "run", "--output", tmp_path / "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert sentence in again.stdout
    assert (tmp_path / "again" / "report.html").read_text() == page
    assert (tmp_path / "again" / "summary.md").read_text() == summary


def test_the_page_of_a_damaged_comparison_has_no_verdict(sample: Path, tmp_path: Path) -> None:
    told = steelyard(
        "compare", "quick", "quick", "--scenario", sample, "--blocks", "3", "--output", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 3, told.stderr
    with (tmp_path / "run" / "trials.jsonl").open("a") as file:
        file.write('{"scenario": "sam')
    page = steelyard("report", "run", "--format", "markdown", "--output", "-", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "cannot tell" not in page.stdout
    assert page.stdout.startswith("# Steelyard: sample\n")


def test_an_open_verdict_fails_in_junit_where_that_is_wanted(sample: Path, tmp_path: Path) -> None:
    for choice, element in (("skip", "<skipped "), ("fail", "<failure ")):
        told = steelyard(
            "compare", "quick", "quick", "--scenario", sample, "--metric", "ready", "--blocks", "3",
            "--format", "junit", "--cannot-tell", choice, cwd=tmp_path,
        )  # fmt: skip
        assert told.returncode == 3, told.stderr
        assert element in told.stdout


def test_same_is_0_and_undecided_is_3(sample: Path, tmp_path: Path) -> None:
    same = steelyard(
        "compare", "quick", "quick", "--scenario", sample, "--within", "50%", cwd=tmp_path
    )
    assert same.returncode == 0, same.stderr
    assert "same within 50 %" in same.stdout
    few = steelyard(
        "compare", "quick", "quick", "--scenario", sample, "--metric", "ready", "--blocks", "3",
        cwd=tmp_path,
    )  # fmt: skip
    assert few.returncode == 3, few.stderr
    assert "cannot tell" in few.stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["a"], "name A and B"),
        (["a", "b", "c"], "name A and B"),
        (["a", "b", "--metric", "redy"], "did you mean 'ready'?"),
        (["a", "b", "--within", "0"], "is no margin"),
        (["a", "b", "--within", "five"], "is no percentage"),
        (["a", "b", "--revision", "x", "y"], "take out"),
        (["a", "b", "--time-limit", "5"], "with its unit"),
        (["a", "b", "--context", "."], "give --revision"),
        (["a", "b", "--scenario", "helo"], "did you mean 'hello'?"),
        (["a", "b", "--scenario", "growth"], "no pairs"),
        (["--revision", "x", "y", "--context", "."], "git"),
        (["nosuchimage", "busybox", "--arm", "container"], "no image 'nosuchimage'"),
        (["quick,delay=1", "quick", "--scenario", "sample"], "unknown option"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence_and_never_a_verdict(
    arguments: list[str], what: str, sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "scenarios").mkdir()
    sample.rename(tmp_path / "scenarios" / "sample.toml")
    told = steelyard("compare", *arguments, cwd=tmp_path)
    assert what in told.stderr
    assert told.returncode == 2
    assert told.stdout == ""
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "results").exists()


def test_ctrl_c_gives_no_verdict(sample: Path, tmp_path: Path) -> None:
    arguments = command(
        "compare", "work_ms=40", "work_ms=41", "--scenario", sample, "--output", tmp_path / "run"
    )
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "HOME": str(tmp_path)},
    ) as process:  # fmt: skip
        trials = tmp_path / "run" / "trials.jsonl"
        while not trials.exists() or not trials.stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == ""
    assert "there is no verdict" in errors
    assert read_run(tmp_path / "run").info.interrupted
