"""A standard output that is closed, full, or read by nobody, for every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """
question = "Does the output matter?"
image = "none"
arms = ["fake"]
[workload]
command = ["echo", "hello"]
[readiness]
kind = "exit"
[budget.fake]
disk = "{disk}"
"""
PROGRAM = "from harness.cli.main import main; main()"
CLOSED = ("1>&-", "0<&- 1>&- 2>&-")

# Command line -> exit code when all is well.
COMMANDS = {
    "version": 0,
    "--help": 0,
    "check --help": 0,
    "run fine.toml --blocks 2 --warmup 0 --no-aa --output another": 0,
    "report fine --format json --output -": 0,
    "report fine --format csv": 0,
    "check fine": 0,
    "check fine --format json": 0,
    "check regressed": 1,
    "check regressed --format markdown": 1,
    "compare cache=warm cache=warm --scenario fine.toml --arm fake --metric disk --blocks 2"
    " --output another": 0,
    "history fine": 0,
    "history fine --check": 3,
    "doctor": 0,
    "container ls": 0,
    "image ls": 0,
}
every_command = pytest.mark.parametrize("line", COMMANDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scenarios and a run of each: within its budget, and above it."""
    path = tmp_path_factory.mktemp("streams")
    for name, disk in (("fine", "1GiB"), ("regressed", "1B")):
        (path / f"{name}.toml").write_text(SCENARIO.format(disk=disk))
        line = f"run {name}.toml --blocks 3 --warmup 0 --no-aa --output {name}"
        told = steelyard(path, line)
        assert (told.returncode, errors(told)) == (0, [])
    return path


def steelyard(
    folder: Path, line: str, redirections: str = "", stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -W error -c "$1" {line} {redirections}', sys.executable, PROGRAM],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
        env={**os.environ, "STEELYARD_HOME": str(folder / "home")},
    )


def errors(told: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The lines on stderr but for the progress that `run` and `compare` show there."""
    progress = r"(fine: |regressed: |warm-up: |blocks? ).*"
    lines = told.stderr.decode().splitlines()
    return [line for line in lines if not re.fullmatch(progress, line)]


@pytest.fixture
def fresh(folder: Path) -> Path:
    """The folder, without what `run` left in it the last time."""
    subprocess.run(["rm", "-rf", folder / "another"], check=True)
    return folder


@every_command
def test_a_closed_stream_changes_neither_exit_code_nor_errors(fresh: Path, line: str) -> None:
    well = steelyard(fresh, line)
    assert well.stdout
    for number, redirections in enumerate(CLOSED):
        told = steelyard(fresh, line.replace("another", f"another/{number}"), redirections)
        expected = [] if "2>&-" in redirections else errors(well)
        assert (told.returncode, errors(told)) == (COMMANDS[line], expected), redirections


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_no_file_of_ours_gets_the_number_of_a_closed_stream(tmp_path: Path, closed: str) -> None:
    program = """
import subprocess, sys
from harness.cli.standard_streams import open_standard_streams
open_standard_streams()
with open("file", "wb") as file:
    number = file.fileno()
    print("from us", flush=True)
    subprocess.run("echo from a child; echo to 2 >&2; cat", shell=True, check=True)
with open("number", "w") as file:
    print(number, sys.stdin.read() == "", file=file)
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert (tmp_path / "file").read_bytes() == b""
    number, is_empty = (tmp_path / "number").read_text().split()
    assert int(number) > 2
    assert is_empty == "True"


@every_command
def test_a_full_disk_is_one_sentence_and_no_verdict(fresh: Path, line: str) -> None:
    is_judge = line.split(maxsplit=1)[0] in {"check", "compare", "history"}
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        told = steelyard(fresh, line, stdout=full)
    finally:
        os.close(full)
    sentence = "steelyard: cannot write to the standard output: no space left on device"
    assert errors(told) == [sentence]
    assert told.returncode == (2 if is_judge else 1)


@every_command
def test_a_reader_that_has_gone_is_silence_and_no_verdict(fresh: Path, line: str) -> None:
    """As git and docker, which SIGPIPE ends: 128 + 13."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        told = steelyard(fresh, line, stdout=theirs)
    finally:
        os.close(theirs)
    assert (told.returncode, errors(told)) == (141, [])


def test_a_standard_error_that_is_full_hides_no_exit_code(fresh: Path) -> None:
    for line, code in {"nonsense": 2, "check nonsense": 2, "check regressed": 1}.items():
        assert steelyard(fresh, line, "2>/dev/full").returncode == code


def test_unbuffered_output_is_the_same(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("check fine", "report fine --format json --output -"):
        buffered = steelyard(fresh, line)
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        assert steelyard(fresh, line).stdout == buffered.stdout
        monkeypatch.delenv("PYTHONUNBUFFERED")
