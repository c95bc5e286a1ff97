"""Growth of real boxes: what they take together, that failures end it, and that all of them go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import runtime
from harness.backends import get_backend
from harness.lab import Lab
from harness.measure.growth import GrowthListener, grow
from harness.measure.interruption import Interrupted, Interruption
from harness.model import (
    Arm,
    Limits,
    Meter,
    Milestone,
    Outcome,
    Readiness,
    ReadinessKind,
    Scale,
    Slot,
    Trial,
)
from harness.records import read_run
from tests.support.growing import WRITTEN_BYTES, growing, take_block
from tests.support.host import own_sessions, traces_of
from tests.support.scenarios import scenario

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(200)]

SCENARIO = """
question = "What does one more cost?"
image = "busybox"
timeout = "60s"
arms = ["container"]

[workload]
command = ["sh", "-c", "echo up; exec sleep 1000000"]

[readiness]
kind = "output"
output = "^up$"

[scale]
instances = [1, 2, 500]
"""


def require(backend: str) -> None:
    verdict = get_backend(backend).availability()
    if not verdict.usable:
        pytest.skip(f"{backend}: {verdict.reason}")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from harness.cli.main import main; main()", *map(str, arguments)]


def test_containers_grow_and_their_disk_is_what_du_says(nothing_left: None) -> None:
    require("container")
    block = take_block(growing("container", Scale((1, 2, 4, 8), (4,)), Limits(64 << 20)))
    assert {trial.outcome for trial in block.trials} == {Outcome.OK}
    assert [(trial.alive, trial.together) for trial in block.trials] == [
        *((alive, 1) for alive in range(8)),
        *((0, 4) for _ in range(4)),
    ]
    assert [point.instances for point in block.points] == [1, 2, 4, 8]
    owned = block.owned_bytes()
    for ours, du in zip(owned, block.du_bytes, strict=True):
        assert ours == pytest.approx(du, rel=0.05)
    assert (owned[-1] - owned[0]) / 7 >= WRITTEN_BYTES
    shared = {point.disk[0] for point in block.points}
    assert len(shared) == 1, "what all share grew with their number"
    for point in block.points:
        readings = {reading.meter: reading for reading in point.readings}
        pss = readings[Meter.PSS_BYTES].value
        uss = readings[Meter.USS_BYTES].value
        assert pss is not None
        assert uss is not None
        assert 0 < uss <= pss
        assert readings[Meter.AVAILABLE_DELTA_BYTES].value is not None
        charged = readings[Meter.CGROUP_CURRENT_BYTES]
        assert charged.missing is not None or (charged.value or 0) > 0
    # What they share among themselves is in the sum once: eight take less than eight times one.
    first, last = (
        next(r.value or 0 for r in point.readings if r.meter is Meter.PSS_BYTES)
        for point in (block.points[0], block.points[-1])
    )
    assert last < 8 * first
    left = [r for trial in block.trials for r in trial.readings if r.meter is Meter.LEFT_BEHIND]
    assert [reading.value for reading in left] == [0] * 12


def test_containers_of_the_lab_answer_each_at_its_own_address(nothing_left: None) -> None:
    require("container")
    serve = "cd /tmp; echo hello > index.html; exec httpd -f -p 80 -h /tmp"
    asked = replace(
        scenario(
            Arm("container", "container"),
            command=("sh", "-c", serve),
            readiness=Readiness(ReadinessKind.HTTP, port=80),
        ),
        scale=Scale((1, 3), (3,)),
    )
    trials: list[Trial] = []
    listener = GrowthListener(trials.append, lambda _: None, lambda *_: None)
    with Lab() as lab, Interruption() as interruption:
        prepared = get_backend("container").prepare(asked, asked.arms[0], lab, lambda _: None)
        try:
            slot = Slot("sample", "container", 0, 0)
            grow(slot, asked, prepared, lab, interruption, listener)
        finally:
            prepared.close()
    assert [trial.outcome for trial in trials] == [Outcome.OK] * 6
    assert len({trial.response_sha256 for trial in trials}) == 1
    assert trials[0].response_sha256 is not None


@pytest.mark.vm
def test_machines_live_on_and_start_together(nothing_left: None) -> None:
    """QEMU dies with the thread that started it: the stages must keep theirs."""
    require("vm-micro")
    block = take_block(growing("vm-micro", Scale((2,), (2,)), Limits(96 << 20, cpus=1)))
    assert [trial.outcome for trial in block.trials] == [Outcome.OK] * 4
    assert all(trial.signal is None for trial in block.trials)
    (point,) = block.points
    assert point.instances == 2
    assert block.owned_bytes()[0] == pytest.approx(block.du_bytes[0], rel=0.05)
    shared = {part.name for part in point.disk}
    assert {"kernel", "initramfs", "backing file", "overlay"} <= shared
    uss = next(r.value or 0 for r in point.readings if r.meter is Meter.USS_BYTES)
    assert uss > 100 << 20, "two guests take less than a part of their memory"


@pytest.mark.vm
def test_an_interruption_while_machines_start_leaves_none(nothing_left: None) -> None:
    require("vm-micro")
    asked = growing("vm-micro", Scale((1,), (2,)), Limits(96 << 20, cpus=1))
    # It never says that it is up: however quick the host is, the signal comes before.
    asked = replace(asked, workload=replace(asked.workload, command=("sleep", "1000000")))
    ramp = Trial("sample", "vm-micro", 0, 0, Outcome.OK, {})
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(Interrupted):
            take_block(asked, taken=(ramp,))
    finally:
        timer.cancel()


def test_a_workload_that_dies_while_others_start_ends_the_ramp(nothing_left: None) -> None:
    require("container")
    dying = ("sh", "-c", "echo up; sleep 0.3; exit 7")
    asked = growing("container", Scale(tuple(range(1, 200))))
    asked = replace(asked, workload=replace(asked.workload, command=dying))
    block = take_block(asked)
    assert block.trials[0].outcome is Outcome.FAILED
    assert "ended with code 7, it should run on" in (block.trials[0].error or "")
    assert block.trials[0].exit_code == 7
    assert Milestone.READY in block.trials[0].milestones_ns
    assert len(block.points) < len(block.trials) < 199


_FEW_FILES = """
import resource, sys
from harness.backends import get_backend
from harness.model import Scale
from tests.support.growing import growing, take_block

resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))
block = take_block(growing("container", Scale((64,))))
*good, last = block.trials
assert len(good) > 8, len(good)
assert {str(trial.outcome) for trial in good} == {"ok"}, [trial.error for trial in good]
print(last.outcome, last.error)
"""


def test_a_host_without_open_files_is_told_by_the_failure_and_nothing_is_left(
    checkout: Path, nothing_left: None
) -> None:
    require("container")
    told = subprocess.run(
        [sys.executable, "-c", _FEW_FILES],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("failed ")
    assert "raise the hard limit (ulimit -Hn)" in told.stdout


def leftovers_of(session: str) -> list[runtime.Leftover]:
    return [leftover for leftover in runtime.find_leftovers() if leftover.session == session]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_in_the_middle_of_the_ramp_leaves_nothing(
    tmp_path: Path, number: signal.Signals, nothing_left: None
) -> None:
    require("container")
    path = tmp_path / "many.toml"
    path.write_text(SCENARIO)
    options = ["--blocks", "1", "--warmup", "0", "--output", tmp_path / "out"]
    before = own_sessions()
    with subprocess.Popen(
        command("run", path, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        points = tmp_path / "out/growth.jsonl"
        while not points.exists() or points.read_bytes().count(b"\n") < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        (session,) = own_sessions() - before
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        # The boxes die with it, in their own time; folders and groups are for the next who looks.
        deadline = time.monotonic() + 10
        while any(leftover.kind == "process" for leftover in leftovers_of(session)):
            assert time.monotonic() < deadline, "boxes outlive the run that made them"
            time.sleep(0.05)
        for leftover in leftovers_of(session):
            leftover.remove()
        assert traces_of(session) == []
        return
    assert traces_of(session) == []
    assert process.returncode == 130
    last = errors.splitlines()[-1]
    assert last.startswith("steelyard: interrupted by SIGINT before any trial was finished")
    run = read_run(tmp_path / "out") if (tmp_path / "out/run.json").exists() else None
    assert run is None or run.trials == ()
