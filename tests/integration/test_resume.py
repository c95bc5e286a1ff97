"""A run of real boxes that is killed, or interrupted, and taken up again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.experiment import doctor
from harness.measure import schedule
from harness.model import Outcome
from harness.records import read_run

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(300)]

BLOCKS = 12
SCENARIO = """
question = "Does it go on?"
image = "busybox"
arms = ["process", "container"]

[workload]
command = ["sleep", "0.05"]

[readiness]
kind = "exit"

[hooks]
prepare = "echo $STEELYARD_ARM $STEELYARD_BLOCK"
cleanup = "echo tidied"
"""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from harness.cli.main import main; main()", *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_broken_off_is_completed(
    tmp_path: Path, nothing_left: None, number: signal.Signals
) -> None:
    (tmp_path / "sample.toml").write_text(SCENARIO)
    directory = tmp_path / "out"
    options = ("--blocks", str(BLOCKS), "--seed", "11", "--no-aa", "--output", directory)
    with subprocess.Popen(
        command("run", tmp_path / "sample.toml", *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        trials = directory / "trials.jsonl"
        while not trials.exists() or trials.read_bytes().count(b"\n") < 9:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
    assert process.returncode == (-number if number is signal.SIGKILL else 128 + number)
    tidy_up()
    before = read_run(directory)
    assert 9 <= len(before.trials) < 2 * BLOCKS
    told = subprocess.run(
        command("run", "--resume", directory), capture_output=True, text=True, check=False
    )
    assert (told.returncode, "steelyard:" in told.stderr) == (0, False)
    after = read_run(directory)
    assert after.trials[: len(before.trials)] == before.trials
    order = [
        (slot.arm, slot.block, slot.position)
        for block in range(-1, BLOCKS)
        for slot in schedule.block({"sample": ["process", "container"]}, block, seed=11)
    ]
    assert [(t.arm, t.block, t.position) for t in after.trials] == order
    assert all(trial.outcome is Outcome.OK for trial in after.trials)
    assert (after.info.blocks, after.info.interrupted) == (BLOCKS, False)
    assert after.info.arms == before.info.arms
    printed = (directory / "hooks.log").read_text()
    assert printed.count("\ntidied\n") == (1 if number is signal.SIGKILL else 2)


def tidy_up() -> None:
    """Take away what the killed process could not: as `steelyard doctor --clean` does."""
    for found in doctor._leftovers(clean=True):
        assert found.problem is None
