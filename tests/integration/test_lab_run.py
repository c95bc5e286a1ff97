"""Whole runs over the lab's network: real boxes, real prober, the command as a user gives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.model import Milestone, Outcome
from harness.model.diagnostics import DiagnosticCode
from harness.records import read_run
from tests.support.host import own_sessions

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(500)]

SCENARIO = """
question = "Do all arms serve the same page?"
image = "busybox"
timeout = "60s"
arms = ["process", "container", "vm-micro", "vm-classic"]

[workload]
command = ["sh", "-c", "cd /tmp; echo hello > index.html; exec httpd -f -p 80 -h /tmp"]

[readiness]
kind = "http"
port = 80

[limits]
memory = "192M"
cpus = 1
"""
VM = pytest.param(["vm-micro", "vm-classic"], marks=pytest.mark.vm)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from harness.cli.main import main; main()", *map(str, arguments)]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "page.toml"
    path.write_text(SCENARIO)
    return path


def chosen(arms: list[str]) -> list[str]:
    for arm in arms:
        verdict = get_backend(arm).availability()
        if not verdict.usable:
            pytest.skip(f"{arm}: {verdict.reason}")
    return [word for arm in arms for word in ("--arm", arm)]


def complaints(errors: str) -> list[str]:
    """The lines on stderr that are no progress."""
    return [line for line in errors.splitlines() if line.startswith("steelyard:")]


@pytest.mark.parametrize("arms", [["process", "container"], VM])
def test_all_arms_serve_the_same_bytes_and_nothing_is_left(
    scenario: Path, tmp_path: Path, arms: list[str], nothing_left: None
) -> None:
    options = [*chosen(arms), "--blocks", "2", "--warmup", "0", "--output", tmp_path / "out"]
    told = subprocess.run(
        command("run", scenario, *options), capture_output=True, text=True, check=False
    )
    assert (told.returncode, complaints(told.stderr)) == (0, [])
    run = read_run(tmp_path / "out")
    assert len(run.trials) == 2 * len(arms)
    for trial in run.trials:
        assert trial.outcome is Outcome.OK
        times = list(trial.milestones_ns.values())
        assert times == sorted(times)
        assert {Milestone.STARTED, Milestone.READY, Milestone.REMOVED} <= trial.milestones_ns.keys()
    assert len({trial.response_sha256 for trial in run.trials}) == 1
    assert run.trials[0].response_sha256 is not None
    codes = {diagnostic.code for diagnostic in run.info.diagnostics}
    assert DiagnosticCode.RESPONSE_DIFFERS not in codes


def boxes(session: str) -> set[Path]:
    """Folders of a session's instances."""
    return set((Path(os.environ["STEELYARD_HOME"]) / "instances" / session).iterdir())


@pytest.mark.parametrize("arms", [["container"], VM])
def test_ctrl_c_reaches_every_process_and_the_run_still_ends_cleanly(
    scenario: Path, tmp_path: Path, arms: list[str], nothing_left: None
) -> None:
    """A terminal sends SIGINT to the whole foreground group: the harness, QEMU, the workload."""
    options = [*chosen(arms), "--blocks", "900", "--warmup", "0", "--output", tmp_path / "out"]
    before = own_sessions()
    with subprocess.Popen(
        command("run", scenario, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        trials = tmp_path / "out/trials.jsonl"
        while not trials.exists() or not trials.read_bytes():
            assert process.poll() is None
            time.sleep(0.01)
        # Into the life of a box, which has its folder from its launch on.
        (session,) = own_sessions() - before
        old = boxes(session)
        while boxes(session) <= old:
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (complaint,) = complaints(errors)
    assert complaint.startswith("steelyard: interrupted by SIGINT; the finished trials are in ")
    assert errors.endswith(f"{complaint}\n")
    run = read_run(tmp_path / "out")
    assert run.info.interrupted
    # What the signal did to the box under way is no result.
    assert all(trial.outcome is Outcome.OK for trial in run.trials)
