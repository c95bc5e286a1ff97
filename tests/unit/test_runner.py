"""The runner, on fake boxes: the whole of a run in milliseconds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.backend import Backend
from harness.backends import get_backend
from harness.backends.fake import FakeArm, FakeBackend, FakeInstance
from harness.diagnostics import Diagnostic, DiagnosticCode
from harness.environment import Environment
from harness.errors import BackendUnavailableError, HarnessError, PrepareError
from harness.events import (
    ArmPrepared,
    ArmSkipped,
    BlockStarted,
    Event,
    RunFinished,
    RunStarted,
    TrialFinished,
    TrialStarted,
)
from harness.interruption import Interrupted, Interruption
from harness.model import ArmRecord, Milestone, Outcome, Run, RunInfo, Scenario
from harness.records import RunWriter, read_run
from harness.runner import Request, Runner, run_diagnostics
from harness.trial import out_of_order
from tests.support.scenarios import fake, scenario

ENVIRONMENT = Environment({"cpus": 2}, {})


def request(*scenarios: Scenario, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "scenarios": scenarios, "blocks": 3, "warmup_blocks": 1, "seed": 5, "time_limit_ns": None,
        "required_arms": frozenset(), "command": ("steelyard", "run"), "run_id": "test",
        "steelyard": "0",
    }  # fmt: skip
    return Request(**{**values, **changes})


def run(
    directory: Path,
    asked: Request,
    backends: Callable[[str], Backend] = get_backend,
    listener: Callable[[Event], None] = lambda _: None,
) -> tuple[Run, list[Event]]:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        listener(event)

    try:
        with RunWriter(directory) as writer:
            Runner(asked, backends, ENVIRONMENT, writer, listen).run()
    finally:
        # However it ended, the records can be read.
        result = read_run(directory)
    return result, events


def test_every_trial_is_recorded_with_its_milestones_in_order(tmp_path: Path) -> None:
    asked = request(scenario(fake("a"), fake("b")), scenario(fake("a"), name="other"))
    result, _ = run(tmp_path / "run", asked)
    assert len(result.trials) == 4 * 3
    for trial in result.trials:
        assert trial.outcome is Outcome.OK
        assert list(trial.milestones_ns) == [
            Milestone.REQUESTED, Milestone.ISOLATED, Milestone.STARTED, Milestone.READY,
            Milestone.STOPPED, Milestone.REMOVED,
        ]  # fmt: skip
        times = list(trial.milestones_ns.values())
        assert times[0] == 0
        assert times == sorted(times)
        assert trial.exit_code == 0
        assert trial.disk
    assert sorted({trial.block for trial in result.trials}) == [-1, 0, 1, 2]
    assert len({trial.output_sha256 for trial in result.trials}) == 1
    assert result.info.ended_at is not None
    assert not result.info.interrupted
    assert [record.arm.name for record in result.info.arms] == ["a", "b", "a"]
    assert result.info.environment == {"cpus": 2}


def test_the_events_tell_the_run_in_order(tmp_path: Path) -> None:
    _, events = run(tmp_path / "run", request(scenario(fake()), blocks=2))
    kinds = [type(event) for event in events if type(event).__name__ != "ArmPreparing"]
    a_block = [BlockStarted, TrialStarted, TrialFinished]
    assert kinds == [RunStarted, ArmPrepared, *a_block * 3, RunFinished]


def test_a_trial_is_on_disk_before_it_is_told(tmp_path: Path) -> None:
    counts = []

    def look(event: Event) -> None:
        if isinstance(event, TrialFinished):
            counts.append(len(read_run(tmp_path / "run").trials))

    run(tmp_path / "run", request(scenario(fake())), listener=look)
    assert counts == [1, 2, 3, 4]


def test_failed_trials_are_results_and_the_run_goes_on(tmp_path: Path) -> None:
    arms = (
        fake("good"),
        fake("launch", fail="launch", fail_every=2),
        fake("boot", fail="boot"),
        fake("code", exit_code=3),
        fake("killed", signal=int(signal.SIGSEGV)),
        fake("slow", exit_code=-1),
    )
    result, _ = run(tmp_path / "run", request(scenario(*arms, timeout_s=0.05), warmup_blocks=0))
    by_arm: dict[str, list[Any]] = {}
    for trial in result.trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    assert {arm: len(trials) for arm, trials in by_arm.items()} == dict.fromkeys(by_arm, 3)
    assert [t.outcome for t in by_arm["good"]] == [Outcome.OK] * 3
    assert [t.outcome for t in by_arm["launch"]] == [Outcome.OK, Outcome.FAILED, Outcome.OK]
    assert by_arm["launch"][1].milestones_ns == {}
    assert by_arm["launch"][1].console == "fake: refusing\n"
    assert all("died while booting" in t.error for t in by_arm["boot"])
    assert all(Milestone.REMOVED in t.milestones_ns for t in by_arm["boot"])
    assert all("ended with code 3, it should end with code 0" in t.error for t in by_arm["code"])
    assert all(t.exit_code == 3 for t in by_arm["code"])
    assert all("was ended by SIGSEGV" in t.error for t in by_arm["killed"])
    assert all(t.signal == signal.SIGSEGV and t.exit_code is None for t in by_arm["killed"])
    assert [t.outcome for t in by_arm["slow"]] == [Outcome.TIMEOUT] * 3
    assert all(Milestone.READY not in t.milestones_ns for t in by_arm["slow"])
    assert all(Milestone.REMOVED in t.milestones_ns for t in by_arm["slow"])
    failed = [d for d in result.info.diagnostics if d.code is DiagnosticCode.FAILED_TRIALS]
    assert failed == [Diagnostic(DiagnosticCode.FAILED_TRIALS, "13 of 18")]


def test_an_arm_that_cannot_run_is_left_out_and_said_so(tmp_path: Path) -> None:
    asked = request(
        scenario(fake("good"), fake("no", fail="unavailable"), fake("bad", fail="prepare"))
    )
    result, events = run(tmp_path / "run", asked)
    assert {trial.arm for trial in result.trials} == {"good"}
    skipped = {event.arm: event.availability for event in events if isinstance(event, ArmSkipped)}
    assert skipped.keys() == {"no", "bad"}
    assert skipped["no"].reason == "unavailable, as asked"
    assert skipped["no"].remedy == "do not ask for it"
    details = [d.detail for d in result.info.diagnostics if d.code is DiagnosticCode.ARM_SKIPPED]
    assert details == [
        "sample, no: unavailable, as asked",
        "sample, bad: fake: preparing failed, as asked",
    ]


@pytest.mark.parametrize(
    ("failure", "error"), [("unavailable", BackendUnavailableError), ("prepare", PrepareError)]
)
def test_an_arm_that_was_asked_for_must_run(
    tmp_path: Path, failure: str, error: type[HarnessError]
) -> None:
    asked = request(scenario(fake("no", fail=failure)), required_arms=frozenset({"no"}))
    with pytest.raises(error):
        run(tmp_path / "run", asked)


def test_no_arm_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no arm can run here .no: unavailable, as asked"):
        run(tmp_path / "run", request(scenario(fake("no", fail="unavailable"))))


class Spy(FakeBackend):
    """A fake backend that remembers its arms and instances."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.instances: list[FakeInstance] = []
        self.during_launch: Callable[[FakeInstance], None] = lambda _: None

    def prepare(self, *arguments: Any) -> FakeArm:
        prepared = super().prepare(*arguments)
        launch, name = prepared.launch, arguments[1].name

        def spy(instance_name: str) -> FakeInstance:
            instance = launch(instance_name)
            self.instances.append(instance)
            self.during_launch(instance)
            return instance

        prepared.launch = spy  # type: ignore[method-assign]
        prepared.close = lambda: self.closed.append(name)  # type: ignore[method-assign]
        return prepared


def test_arms_are_closed_in_the_end(tmp_path: Path) -> None:
    spy = Spy()
    run(tmp_path / "run", request(scenario(fake("a"), fake("b"))), lambda _: spy)
    assert sorted(spy.closed) == ["a", "b"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    spy = Spy()
    timers: list[threading.Timer] = []

    def interrupt_third(instance: FakeInstance) -> None:
        if len(spy.instances) == 3:
            # Twice, and the second one during the clean-up: impatience must not break it.
            for delay_s in (0.05, 0.06):
                timers.append(threading.Timer(delay_s, os.kill, (os.getpid(), number)))
                timers[-1].start()
            instance._work_done_ns = time.monotonic_ns() + 10**10

    spy.during_launch = interrupt_third
    asked = request(scenario(fake("a", stop_ms=50.0)), blocks=10, warmup_blocks=0)
    before = signal.getsignal(number)
    begun = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "run", asked, lambda _: spy)
    for timer in timers:
        timer.join()
    assert caught.value.signal_number == number
    assert time.monotonic() - begun < 5
    assert len(spy.instances) == 3
    assert all(Milestone.REMOVED in instance.milestones_ns for instance in spy.instances)
    assert spy.closed == ["a"]
    result = read_run(tmp_path / "run")
    assert len(result.trials) == 2
    assert result.info.interrupted
    assert result.info.ended_at is not None
    assert signal.getsignal(number) is before


def test_a_signal_while_launching_waits_until_the_instance_is_known(tmp_path: Path) -> None:
    spy = Spy()

    def interrupt(_: FakeInstance) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    spy.during_launch = interrupt
    with pytest.raises(Interrupted):
        run(tmp_path / "run", request(scenario(fake())), lambda _: spy)
    assert len(spy.instances) == 1
    assert Milestone.REMOVED in spy.instances[0].milestones_ns


def test_an_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, interruption.safe():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert interruption.pending is None
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_the_time_limit_ends_the_run_and_the_records_say_how_many_blocks(tmp_path: Path) -> None:
    arm = fake(work_ms=20.0)
    asked = request(scenario(arm), blocks=1000, time_limit_ns=400_000_000)
    begun = time.monotonic()
    result, events = run(tmp_path / "run", asked)
    assert time.monotonic() - begun < 3
    counted = {trial.block for trial in result.trials if trial.block >= 0}
    assert 3 <= len(counted) <= 19
    assert result.info.blocks == len(counted)
    expected = [event.expected for event in events if isinstance(event, BlockStarted)]
    assert expected[0] is None
    assert all(count is not None and 3 <= count <= 19 for count in expected[1:])


def test_an_instance_that_cannot_be_removed_is_a_failed_trial_with_a_doubt(tmp_path: Path) -> None:
    spy = Spy()

    def stick(instance: FakeInstance) -> None:
        def remove() -> None:
            message = "device or resource busy"
            raise OSError(message)

        instance.remove = remove  # type: ignore[method-assign]

    spy.during_launch = stick
    result, _ = run(tmp_path / "run", request(scenario(fake()), warmup_blocks=0), lambda _: spy)
    assert all(trial.outcome is Outcome.FAILED for trial in result.trials)
    assert all(
        trial.diagnostics == (Diagnostic(DiagnosticCode.LEFTOVER, "device or resource busy"),)
        for trial in result.trials
    )


def with_arms(info: RunInfo, *formats: str) -> RunInfo:
    records = tuple(
        ArmRecord("sample", fake(f"vm{number}"), 0, (), {"kernel_format": format_})
        for number, format_ in enumerate(formats)
    )
    return replace(info, arms=records)


def test_doubts_that_only_the_whole_run_shows(tmp_path: Path) -> None:
    result, _ = run(tmp_path / "run", request(scenario(fake("a"), fake("b")), blocks=6))
    assert run_diagnostics(result.info, result.trials) == []
    few = [trial for trial in result.trials if trial.block < 5]
    assert run_diagnostics(result.info, few) == [Diagnostic(DiagnosticCode.FEW_BLOCKS, "5 blocks")]
    served = [replace(t, response_sha256={"a": "0" * 64, "b": "f" * 64}[t.arm]) for t in few]
    assert run_diagnostics(result.info, served)[1] == Diagnostic(
        DiagnosticCode.RESPONSE_DIFFERS,
        "sample: a served sha256 000000000000 / b served sha256 ffffffffffff",
    )
    mixed = run_diagnostics(with_arms(result.info, "elf", "bzimage"), result.trials)
    assert mixed == [Diagnostic(DiagnosticCode.KERNEL_FORMAT, "sample: vm0 elf, vm1 bzimage")]
    assert run_diagnostics(with_arms(result.info, "elf", "elf"), result.trials) == []


def test_milestones_out_of_order_fail_the_trial(tmp_path: Path) -> None:
    spy = Spy()

    def turn_back(instance: FakeInstance) -> None:
        instance.milestones_ns[Milestone.STARTED] = (
            instance.milestones_ns[Milestone.ISOLATED] - 5_000
        )

    spy.during_launch = turn_back
    result, _ = run(tmp_path / "run", request(scenario(fake()), warmup_blocks=0), lambda _: spy)
    for trial in result.trials:
        assert trial.outcome is Outcome.FAILED
        assert trial.error is not None
        assert "started was stamped 5 us before isolated" in trial.error


def test_order_is_judged_over_the_milestones_that_are_there() -> None:
    assert out_of_order({Milestone.REQUESTED: 0, Milestone.READY: 5, Milestone.STOPPED: 5}) is None
    told = out_of_order({Milestone.REQUESTED: 0, Milestone.READY: 5, Milestone.REMOVED: 4})
    assert told is not None
    assert told.startswith("milestones out of order: removed was stamped")


def test_unknown_options_of_a_fake_arm_are_refused(tmp_path: Path) -> None:
    asked = request(scenario(fake("f", wrok_ms=1)), required_arms=frozenset({"f"}))
    with pytest.raises(PrepareError, match="did you mean 'work_ms'"):
        run(tmp_path / "run", asked)
