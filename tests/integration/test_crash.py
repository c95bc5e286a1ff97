"""The harness dies in the middle of a trial: what was recorded stays, the rest can be cleaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.records import find_runs, read_run

SCENARIO = """
question = "Does a killed run keep what it has?"
image = "busybox"
timeout = "120s"
arms = ["{arm}"]

[workload]
command = ["sh", "-c", "echo ready; exec sleep 1000"]

[readiness]
kind = "output"
output = "ready"
"""


def _steelyard(*arguments: str | Path) -> list[str]:
    program = "import sys; from harness.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", program, *map(str, arguments)]


class Killable:
    """A `steelyard run` of many trials in a data home of its own."""

    def __init__(self, arm: str, folder: Path) -> None:
        verdict = get_backend(arm).availability()
        if not verdict.usable:
            pytest.skip(f"{arm}: {verdict.reason}")
        self.home, self.results = folder / "home", folder / "results"
        self.environment = os.environ | {"STEELYARD_HOME": str(self.home)}
        scenario = folder / "endless.toml"
        scenario.write_text(SCENARIO.format(arm=arm))
        self.stderr = folder / "stderr"
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                _steelyard("run", scenario, "--blocks", "500", "--output", self.results),
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def trials(self) -> int:
        return sum(
            len(path.read_bytes().splitlines()) for path in self.results.glob("**/trials.jsonl")
        )

    def wait_for_trials(self, count: int) -> None:
        deadline = time.monotonic() + 200
        while self.trials() < count:
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < deadline, f"no {count} trials in time"
            time.sleep(0.02)

    def leftovers(self, sessions: list[str], *options: str) -> list[dict[str, str]]:
        """What the doctor finds of these sessions; other runs on the machine may leave theirs."""
        result = subprocess.run(
            _steelyard("doctor", "--format", "json", *options),
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        found: list[dict[str, str]] = json.loads(result.stdout)["leftovers"]
        return [one for one in found if any(session in str(one) for session in sessions)]

    @staticmethod
    def traces(sessions: list[str]) -> list[str]:
        """Processes, mounts and cgroups that carry the name of one of the sessions."""
        found = [f"cgroup {p}" for s in sessions for p in Path("/sys/fs/cgroup").rglob(f"{s}-*")]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [f"mount {session}" for session in sessions if session in mounts]
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [f"process {entry}" for session in sessions if session in command]
        return found

    @property
    def sessions(self) -> list[str]:
        folder = self.home / "instances"
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize(
    "arm",
    ["container", "process", pytest.param("vm-micro", marks=pytest.mark.vm)],
)
def test_killed_harness_leaves_readable_trials_and_doctor_cleans_the_rest(
    arm: str, tmp_path: Path
) -> None:
    run = Killable(arm, tmp_path)
    run.wait_for_trials(2)
    # Somewhere in a trial: nothing waits for a quiet moment.
    run.process.kill()
    run.process.wait()
    finished = run.trials()
    assert finished >= 2
    (folder,) = find_runs(run.results)
    record = read_run(folder)
    assert len(record.trials) >= finished - 1  # the last line may be torn
    assert record.info.ended_at is None
    assert run.sessions, "the dead session's folder should still be there to be found"
    sessions = run.sessions
    assert run.leftovers(sessions, "--clean")
    assert not run.traces(sessions)
    assert run.sessions == []
    assert run.leftovers(sessions) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    run = Killable("container", tmp_path)
    run.wait_for_trials(2)
    sessions = run.sessions
    assert sessions
    run.process.send_signal(number)
    run.process.wait(timeout=60)
    stderr = run.stderr.read_text()
    assert run.process.returncode == 128 + number
    assert "Traceback" not in stderr
    (folder,) = find_runs(run.results)
    record = read_run(folder)
    assert record.info.interrupted
    assert record.info.ended_at is not None
    assert record.trials
    assert run.sessions == []
    assert not run.traces(sessions)
    assert run.leftovers(sessions) == []
