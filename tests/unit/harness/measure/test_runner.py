"""The runner, on fake boxes: the whole of a run in milliseconds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import stats
from harness.analysis.summary import summarise
from harness.backends import get_backend
from harness.backends.fake import FakeArm, FakeBackend, FakeInstance
from harness.environment import Environment
from harness.experiment.assessment import assess, without_assessment
from harness.measure import runner, schedule
from harness.measure.hooks import HookFailedError
from harness.measure.interruption import Interrupted, Interruption
from harness.measure.prepare import EnsureImage, LocalArms
from harness.measure.request import Request
from harness.measure.resume import Resumption, refuse_unless_resumable
from harness.measure.runner import Runner
from harness.measure.stopping import is_checkpoint, rule_of
from harness.measure.trial import out_of_order
from harness.meters.host_activity import gauges
from harness.model import (
    Arm,
    DiskPart,
    Hooks,
    Milestone,
    NoiseFloor,
    Outcome,
    Pair,
    Readiness,
    ReadinessKind,
    Repetitions,
    RunInfo,
    Scale,
    Scenario,
    Trial,
)
from harness.model.backend import Availability, Backend
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import BackendUnavailableError, HarnessError, PrepareError, RecordError
from harness.model.events import (
    ArmPrepared,
    ArmPreparing,
    ArmSkipped,
    BlockFinished,
    BlockStarted,
    Event,
    HookStarted,
    HostBusy,
    ImagePrepared,
    InstancesAlive,
    RunFinished,
    RunStarted,
    TrialFinished,
    TrialStarted,
)
from harness.records import HOOKS_FILE, Run, RunWriter, read_run
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
    images: EnsureImage = lambda *_: None,
    environment: Environment = ENVIRONMENT,
) -> tuple[Run, list[Event]]:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        listener(event)

    opened = RunWriter.resume if asked.resumption else RunWriter
    try:
        with opened(directory) as writer:
            Runner(
                asked,
                LocalArms(backends),
                environment,
                writer,
                listen,
                images,
                rule=rule_of(asked),
                assess=assess,
            ).run()
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
            Milestone.STOPPING, Milestone.STOPPED, Milestone.REMOVED,
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
    # What a new folder costs is added where this process has had a container before.
    assert {**result.info.environment, "cpus": 2} == result.info.environment


def test_the_events_tell_the_run_in_order(tmp_path: Path) -> None:
    _, events = run(tmp_path / "run", request(scenario(fake()), blocks=2))
    kinds = [type(event) for event in events if type(event).__name__ != "ArmPreparing"]
    a_block = [BlockStarted, TrialStarted, TrialFinished, BlockFinished]
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
    assert len(failed) == 5


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


def test_an_arm_of_which_no_record_can_be_made_is_closed_and_left_out(tmp_path: Path) -> None:
    class Unreadable(Spy):
        def prepare(self, *arguments: Any) -> FakeArm:
            prepared = super().prepare(*arguments)

            def disk_parts() -> tuple[DiskPart, ...]:
                message = "its disk cannot be read"
                raise PrepareError(message)

            if arguments[1].name == "bad":
                prepared.disk_parts = disk_parts  # type: ignore[method-assign]
            return prepared

    spy = Unreadable()
    asked = request(scenario(fake("bad"), fake("good")))
    result, _ = run(tmp_path / "run", asked, lambda _: spy)
    assert spy.closed == ["bad", "good"]
    assert {trial.arm for trial in result.trials} == {"good"}


def test_a_backend_is_asked_once_whether_it_works_for_all_of_its_arms(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counted(FakeBackend):
        def availability(self) -> Availability:
            asked.append(self.name)
            return super().availability()

    arms = (fake("a"), fake("b"))
    _, events = run(tmp_path / "run", request(scenario(*arms)), lambda _: Counted())
    assert asked == ["fake"]
    checks = [e.arm for e in events if isinstance(e, ArmPreparing) and "checking" in e.message]
    assert checks == ["a"]


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
        signal.raise_signal(signal.SIGINT)

    spy.during_launch = interrupt
    with pytest.raises(Interrupted):
        run(tmp_path / "run", request(scenario(fake())), lambda _: spy)
    assert len(spy.instances) == 1
    assert Milestone.REMOVED in spy.instances[0].milestones_ns


def test_an_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, interruption.safe():
            signal.raise_signal(signal.SIGHUP)
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
        Diagnostic(DiagnosticCode.LEFTOVER, "device or resource busy") in trial.diagnostics
        for trial in result.trials
    )


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


class Boxes(FakeBackend):
    """A fake backend under another name, whose boxes have files in them."""

    name = "boxes"


def boxes(name: str) -> Arm:
    return replace(fake(name), backend="boxes")


def test_the_image_is_made_once_and_timed_apart(tmp_path: Path) -> None:
    made = []

    def image(reference: str, progress: Callable[[str], None]) -> None:
        progress("unpacking")
        made.append(reference)
        time.sleep(0.05)

    arms = (boxes("a"), boxes("b"), replace(boxes("c"), image="other"))
    result, events = run(
        tmp_path / "run", request(scenario(*arms)), lambda _: Boxes(), images=image
    )
    assert made == ["busybox", "other"]
    took = {e.image: e.took_ns for e in events if isinstance(e, ImagePrepared)}
    assert min(took.values()) >= 50_000_000
    by_arm = {record.arm.name: record for record in result.info.arms}
    for name, reference in (("a", "busybox"), ("b", "busybox"), ("c", "other")):
        assert by_arm[name].facts["image_prepare_ns"] == str(took[reference])
        assert by_arm[name].prepare_ns < 50_000_000
    told = [e for e in events if isinstance(e, ArmPreparing) and e.arm == "image"]
    assert [e.message for e in told] == ["unpacking", "unpacking"]


def test_an_image_that_cannot_be_made_is_tried_once_and_leaves_out_all_its_arms(
    tmp_path: Path,
) -> None:
    tried = []

    def image(reference: str, _: Callable[[str], None]) -> None:
        tried.append(reference)
        if reference == "busybox":
            message = "there is no busybox"
            raise PrepareError(message)

    arms = (boxes("a"), boxes("b"), replace(boxes("c"), image="other"))
    result, _ = run(tmp_path / "run", request(scenario(*arms)), lambda _: Boxes(), images=image)
    assert tried == ["busybox", "other"]
    assert {trial.arm for trial in result.trials} == {"c"}


def test_an_arms_own_image_and_command_reach_the_backend(tmp_path: Path) -> None:
    asked: list[Scenario] = []

    class Asked(FakeBackend):
        def prepare(self, *arguments: Any) -> FakeArm:
            asked.append(arguments[0])
            return super().prepare(*arguments)

    arms = (fake("a"), replace(fake("b"), image="other", command=("echo", "b")))
    run(tmp_path / "run", request(scenario(*arms)), lambda _: Asked())
    assert [(one.image, one.workload.command) for one in asked] == [
        ("busybox", ("echo", "hello")), ("other", ("echo", "b")),
    ]  # fmt: skip


def hooked(tmp_path: Path, **changes: str) -> Hooks:
    log = tmp_path / "log"
    lines = {
        hook: f'echo "{hook} $STEELYARD_ARM $STEELYARD_BLOCK" >> {log}'
        for hook in ("setup", "prepare", "conclude", "cleanup")
    }
    return Hooks(**{**lines, **changes})


def hook_log(tmp_path: Path) -> list[str]:
    return [line.strip() for line in (tmp_path / "log").read_text().splitlines()]


def test_hooks_are_run_around_the_trials_and_know_which(tmp_path: Path) -> None:
    asked = replace(scenario(fake("a")), hooks=hooked(tmp_path, setup="echo told; pwd"))
    done = []

    def look(event: Event) -> None:
        if isinstance(event, TrialStarted | TrialFinished):
            with (tmp_path / "log").open("a") as log:
                log.write(f"{type(event).__name__}\n")
        done.append(event)

    run(tmp_path / "run", request(asked, blocks=2, warmup_blocks=1), listener=look)
    a_trial = ["TrialStarted", "prepare a {0}", "TrialFinished", "conclude a {0}"]
    assert hook_log(tmp_path) == [
        *(line.format(block) for block in (-1, 0, 1) for line in a_trial),
        "cleanup",
    ]
    assert [event.hook for event in done if isinstance(event, HookStarted)] == ["setup"]
    written = (tmp_path / "run" / HOOKS_FILE).read_text()
    assert written.startswith("== setup: sample: echo told; pwd\ntold\n")
    assert "== prepare: sample, a, block 1: " in written


@pytest.mark.parametrize("hook", ["setup", "prepare", "conclude"])
def test_a_hook_that_fails_is_one_error_and_cleanup_is_run_all_the_same(
    tmp_path: Path, hook: str
) -> None:
    hooks = hooked(tmp_path, **{hook: "echo something; echo is missing >&2; exit 3"})
    asked = replace(scenario(fake("a")), hooks=hooks)
    with pytest.raises(HookFailedError) as caught:
        run(tmp_path / "run", request(asked, warmup_blocks=0))
    assert str(caught.value).startswith(
        f"sample: the {hook} command ended with code 3: something / is missing; mend it, or"
    )
    assert (caught.value.hook, caught.value.code) == (hook, 3)
    assert hook_log(tmp_path)[-1] == "cleanup"
    result = read_run(tmp_path / "run")
    assert result.info.interrupted
    assert result.info.blocks == 0
    assert len(result.trials) == (hook == "conclude")
    assert "is missing\n== " in (tmp_path / "run" / HOOKS_FILE).read_text()


@pytest.mark.privileged
@pytest.mark.parametrize(("uid", "user"), [(65534, "nobody"), (4_000_000_001, "unset")])
def test_hooks_are_the_callers_with_their_path_also_of_one_without_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, user: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root works on behalf of others")
    monkeypatch.setenv("STEELYARD_CALLER", f"{uid}:65533")
    monkeypatch.setenv("STEELYARD_CALLER_PATH", "/theirs:/usr/bin:/bin")
    monkeypatch.delenv("USER", raising=False)
    line = 'echo "$(id -u) $(id -g) $(id -G) ${USER-unset} $PATH"'
    asked = replace(scenario(fake("a")), hooks=Hooks(setup=line, cleanup=line))
    run(tmp_path / "run", request(asked, blocks=1))
    said = (tmp_path / "run" / HOOKS_FILE).read_text().splitlines()
    assert len(said) == 4
    for words in said[1::2]:
        number, group, *groups, name, path = words.split()
        assert (number, group, name) == (str(uid), "65533", user)
        assert groups[0] == "65533"
        assert user == "nobody" or groups == ["65533"]
        assert path == "/theirs:/usr/bin:/bin"


def test_a_failing_cleanup_is_told_after_everything_else_is_done(tmp_path: Path) -> None:
    asked = replace(scenario(fake("a")), hooks=Hooks(cleanup="kill -9 $$"))
    with pytest.raises(HookFailedError, match="the cleanup command was ended by SIGKILL, and pri"):
        run(tmp_path / "run", request(asked))
    result = read_run(tmp_path / "run")
    assert not result.info.interrupted
    assert result.info.blocks == 3
    assert result.info.ended_at is not None


def test_a_failing_cleanup_does_not_hide_what_went_wrong_before(tmp_path: Path) -> None:
    asked = replace(scenario(fake("a")), hooks=Hooks(prepare="exit 1", cleanup="exit 2"))
    with pytest.raises(HookFailedError, match="the prepare command ended with code 1"):
        run(tmp_path / "run", request(asked))
    assert "== cleanup: exit 2\n" in (tmp_path / "run" / HOOKS_FILE).read_text()


def test_a_signal_ends_a_hook_and_all_that_it_started_but_not_cleanup(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hooks = hooked(
        tmp_path,
        prepare=f"sleep 100 & echo $! >> {pids}; echo $$ >> {pids}; wait",
        cleanup=f"sleep 0.2; echo cleanup >> {tmp_path / 'log'}",
    )
    asked = replace(scenario(fake("a")), hooks=hooks)

    def interrupt() -> None:
        while not pids.exists() or pids.read_text().count("\n") < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        run(tmp_path / "run", request(asked))
    thread.join()
    assert hook_log(tmp_path)[-1] == "cleanup"
    deadline = time.monotonic() + 5
    for pid in pids.read_text().split():
        while Path(f"/proc/{pid}").exists() and "Z" not in state(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("place", [ArmPreparing, ArmPrepared, TrialStarted, TrialFinished])
def test_a_listener_whose_reader_left_ends_the_run_as_the_signal_would(
    tmp_path: Path, place: type
) -> None:
    spy = Spy()

    def leave(event: Event) -> None:
        if isinstance(event, place):
            raise BrokenPipeError

    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "run", request(scenario(fake())), lambda _: spy, listener=leave)
    assert caught.value.signal_number == signal.SIGPIPE
    assert all(Milestone.REMOVED in instance.milestones_ns for instance in spy.instances)
    assert read_run(tmp_path / "run").info.interrupted


def test_a_reader_that_left_is_no_failure_of_making_the_image(tmp_path: Path) -> None:
    """The store turns an OSError of whatever it calls into an error of its own."""

    def image(_: str, progress: Callable[[str], None]) -> None:
        try:
            progress("unpacking")
        except OSError as error:
            message = f"image store: {error.strerror}"
            raise PrepareError(message) from error

    def leave(event: Event) -> None:
        if isinstance(event, ArmPreparing) and event.arm == "image":
            raise BrokenPipeError

    asked = request(scenario(boxes("a")))
    with pytest.raises(Interrupted):
        run(tmp_path / "run", asked, lambda _: Boxes(), listener=leave, images=image)


def test_the_run_ends_when_its_intervals_are_narrow_enough(tmp_path: Path) -> None:
    wide = fake("wide", work_ms=50.0, jitter=1.0, waits=False)
    narrow = fake("narrow", work_ms=50.0, jitter=0.01, waits=False)
    asked = request(scenario(narrow), blocks=100, until={"ready": 0.05})
    result, _ = run(tmp_path / "narrow", asked)
    assert result.info.blocks == 8
    assert result.info.until == {"ready": 0.05}
    assert (result.info.wanted_blocks, result.info.interrupted) == (100, False)
    asked = request(scenario(narrow, wide), blocks=20, until={"ready": 0.0001})
    result, events = run(tmp_path / "limit", asked)
    assert result.info.blocks == 20
    widths = {e.block: e.widths for e in events if isinstance(e, BlockStarted)}
    assert widths[5] == {}
    assert widths[6] == widths[7]
    assert widths[19] not in ({}, widths[6])
    asked = request(scenario(narrow, wide), blocks=100, until={"ready": 0.2, "disk": 0.01})
    result, _ = run(tmp_path / "both", asked)
    assert 8 <= result.info.blocks < 100
    assert is_checkpoint(result.info.blocks)


def test_a_twin_gives_the_noise_floor_and_what_is_known_is_kept(tmp_path: Path) -> None:
    twin = Arm("a-again", "fake", fake("a", jitter=0.5).options, repeats="a")
    known = NoiseFloor("sample", "a", "ready", 9, 0.9, 0.9, "before")
    other = NoiseFloor("else", "a", "ready", 9, 0.9, 0.9, "before")
    asked = request(scenario(fake("a", jitter=0.5), twin), blocks=8, noise=(known, other))
    result, _ = run(tmp_path / "run", asked)
    floors = {(f.scenario, f.metric): f for f in result.info.noise}
    assert floors["sample", "ready"].run_id == "test"
    assert floors["sample", "ready"].blocks == 8
    assert floors["else", "ready"] == other
    alone, _ = run(tmp_path / "alone", request(scenario(fake("a")), noise=(known,)))
    assert alone.info.noise == (known,)


def test_what_a_run_shows_is_asked_once_when_all_is_removed_even_if_interrupted(
    tmp_path: Path,
) -> None:
    spy = Spy()
    seen: list[tuple[int, int, bool, list[str]]] = []

    def look(info: RunInfo, trials: Sequence[Trial]) -> RunInfo:
        seen.append((info.blocks, len(trials), info.interrupted, list(spy.closed)))
        return replace(info, diagnostics=(Diagnostic(DiagnosticCode.FEW_BLOCKS, "as told"),))

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.trial.block == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    asked = request(scenario(fake("a")), blocks=9)
    with RunWriter(tmp_path / "run") as writer, pytest.raises(Interrupted):
        Runner(
            asked, LocalArms(lambda _: spy), ENVIRONMENT, writer, interrupt, lambda *_: None,
            rule=rule_of(asked), assess=look,
        ).run()  # fmt: skip
    info = read_run(tmp_path / "run").info
    assert seen == [(2, 3, True, ["a"])]
    assert [found.detail for found in info.diagnostics] == ["as told"]
    assert info.ended_at is not None


def test_a_twin_of_what_cannot_run_is_left_out_in_silence(tmp_path: Path) -> None:
    twin = Arm("no-again", "fake", fake("no", fail="unavailable").options, repeats="no")
    asked = request(scenario(fake("a"), fake("no", fail="unavailable"), twin))
    _, events = run(tmp_path / "run", asked)
    assert [event.arm for event in events if isinstance(event, ArmSkipped)] == ["no"]


def interrupted_run(directory: Path, after: int, asked: Request) -> Run:
    """A run that a signal ends after so many trials."""
    count = 0

    def listen(event: Event) -> None:
        nonlocal count
        count += isinstance(event, TrialFinished)
        if count == after:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(directory, asked, listener=listen)
    return read_run(directory)


def resumed(directory: Path, **changes: Any) -> Request:
    before = without_assessment(read_run(directory))
    resumption = Resumption(before, directory)
    refuse_unless_resumable(resumption, "0")
    return request(
        *before.info.scenarios,
        **{"blocks": resumption.wanted_blocks, "resumption": resumption, **changes},
    )


@pytest.mark.parametrize("after", [1, 2, 3, 6, 7, 11])
def test_a_resumed_run_has_the_trials_of_one_that_was_never_interrupted(
    tmp_path: Path, after: int
) -> None:
    asked = request(
        scenario(fake("a"), fake("b")), scenario(fake("a"), name="other"), blocks=3, warmup_blocks=1
    )
    whole, _ = run(tmp_path / "whole", asked)
    broken = interrupted_run(tmp_path / "run", after, asked)
    assert len(broken.trials) == after
    assert broken.info.interrupted
    assert broken.info.blocks == max(after // 3 - 1, 0)
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run"))

    def order(found: Run) -> list[tuple[str, str, int, int]]:
        return [(t.scenario, t.arm, t.block, t.position) for t in found.trials]

    assert order(result) == order(whole)
    assert result.trials[:after] == broken.trials
    assert result.info.blocks == result.info.wanted_blocks == 3
    assert not result.info.interrupted
    assert len(result.info.resumed_at) == 1
    assert result.info.started_at == broken.info.started_at
    assert result.info.arms == broken.info.arms
    assert result.info.diagnostics == whole.info.diagnostics


def mixed(**changes: Any) -> Scenario:
    """Two light arms beside one that says it takes 2 s, and one that has nothing to do with it."""
    arms = (
        fake("a", work_ms=16.0, waits=False),
        fake("b", work_ms=16.0, waits=False),
        fake("vm", work_ms=2000.0, waits=False),
    )
    return replace(scenario(*arms), **changes)


def places(found: Run) -> list[tuple[str, int, int, int]]:
    return [(t.arm, t.block, t.position, t.repetition) for t in found.trials]


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_light_arms_are_taken_several_times_around_a_heavy_one(tmp_path: Path, warmup: int) -> None:
    result, _ = run(tmp_path / "run", request(mixed(), blocks=3, warmup_blocks=warmup))
    often = Repetitions("sample", 5, ("vm",))  # a tenth of 2 s for rounds of 33 ms
    assert result.info.repetitions == (often,)
    settled = 0 if warmup else 1
    expected = [
        (slot.arm, slot.block, slot.position, slot.repetition)
        for block in range(-warmup, 3)
        for slot in schedule.block(
            {"sample": ["a", "b", "vm"]}, block, 5, {"sample": often} if block >= settled else {}
        )
    ]
    assert places(result) == expected
    assert sum(trial.is_counted for trial in result.trials) == 11 * 3 - (0 if warmup else 8)
    assert sum(trial.repetition < 0 for trial in result.trials) == 3 - settled
    (again,) = [f for f in summarise(result).tables[0].rows if f.arm == "a"]
    assert again.metrics["ready"].count == 3


def test_arms_that_are_held_against_each_other_have_one_trial_a_block(tmp_path: Path) -> None:
    paired = request(mixed(), pairs=(Pair("sample", "a", "b"),))
    result, _ = run(tmp_path / "pairs", paired)
    assert (len(result.trials), result.info.repetitions) == (4 * 3, ())
    interrupted_run(tmp_path / "again", 5, paired)
    again, _ = run(tmp_path / "again", resumed(tmp_path / "again"))
    assert (places(again), again.info.repetitions) == (places(result), ())
    hooked, _ = run(tmp_path / "hooks", request(mixed(hooks=Hooks(prepare="true"))))
    assert (len(hooked.trials), hooked.info.repetitions) == (4 * 3, ())
    grown, _ = run(tmp_path / "scale", request(mixed(scale=Scale((1, 2))), blocks=2))
    assert grown.info.repetitions == ()
    assert {trial.repetition for trial in grown.trials} == {0}


@pytest.mark.parametrize(("after", "warmup"), [(2, 1), (3, 1), (4, 1), (17, 1), (5, 0), (40, 1)])
def test_a_resumed_run_repeats_light_arms_as_it_began(
    tmp_path: Path, after: int, warmup: int
) -> None:
    asked = request(mixed(), blocks=4, warmup_blocks=warmup)
    whole, _ = run(tmp_path / "whole", asked)
    interrupted_run(tmp_path / "run", after, asked)
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run", warmup_blocks=warmup))
    assert places(result) == places(whole)
    assert result.info.repetitions == whole.info.repetitions


class Unquiet:
    """In place of a `QuietHost`: what others use while each block is taken, one after the other."""

    shares: tuple[float | None, ...] = ()
    busy: float | None = None

    def __init__(self, most: float, _: Interruption) -> None:
        self.left = list(self.shares)

    def wait(self, on_busy: Callable[[float], None]) -> float | None:
        if self.busy is not None:
            on_busy(self.busy)
        return self.busy

    def disturbed(self) -> float | None:
        return self.left.pop(0)


def unquiet(patch: pytest.MonkeyPatch, *shares: float | None, busy: float | None = None) -> None:
    patch.setattr(Unquiet, "shares", shares)
    patch.setattr(Unquiet, "busy", busy)
    patch.setattr(runner, "QuietHost", Unquiet)


def test_a_disturbed_block_is_taken_again_and_its_last_version_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The warm-up, block 0, block 1 three times, block 2.
    unquiet(monkeypatch, 0.9, None, 0.5, 0.4, 0.3, None)
    result, events = run(tmp_path / "run", request(scenario(fake("a"), fake("b")), quiet=0.1))
    assert [e.block for e in events if isinstance(e, BlockStarted)] == [-1, 0, 1, 1, 1, 2]
    assert (result.info.quiet, result.info.retaken, result.info.blocks) == (0.1, (1, 1), 3)
    assert len(result.trials) == 2 * 6
    details = [d.detail for d in result.info.diagnostics if d.code is DiagnosticCode.LOADED_HOST]
    assert details == [
        "block 2 was taken again: others used 50 % of the CPUs",
        "block 2 was taken again: others used 40 % of the CPUs",
        "block 2 counts although others used 30 % of the CPUs",
    ]
    summary = summarise(result)
    for row in summary.tables[0].rows:
        last = [t for t in result.trials if t.arm == row.arm and t.block == 1][-1]
        times = {t.block: t for t in result.trials if t.arm == row.arm and t.block >= 0}
        assert times[1] is last
        ready = [float(t.milestones_ns[Milestone.READY]) for t in times.values()]
        assert row.metrics["ready"] == stats.estimate(ready)
        assert row.trials == 3
    assert [d.code for d in summary.diagnostics if d.code is DiagnosticCode.RECORDS] == []
    assert result.frame()["counted"].sum() == 6


def test_a_block_that_is_disturbed_on_a_host_that_is_busy_throughout_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unquiet(monkeypatch, None, None, busy=0.42)
    asked = request(scenario(fake("a")), blocks=1, quiet=0.1)
    result, events = run(tmp_path / "run", asked)
    assert [e for e in events if isinstance(e, HostBusy)] == [
        HostBusy(-1, 0.42, 0.1), HostBusy(0, 0.42, 0.1),
    ]  # fmt: skip
    details = [d.detail for d in result.info.diagnostics if d.code is DiagnosticCode.LOADED_HOST]
    assert details == [
        f"{block} began although others used 42 % of the CPUs" for block in ("warm-up", "block 1")
    ]


def test_what_instances_use_apart_counts_as_ours_also_while_the_host_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeInstance, "apart_cpu_ns", 7, raising=False)
    before_ns = gauges().read().apart_ns
    result, _ = run(tmp_path / "run", request(scenario(fake("a"))))
    assert gauges().read().apart_ns - before_ns == 7 * len(result.trials) == 28


def test_instances_that_live_side_by_side_are_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unquiet(monkeypatch, None, 0.9)
    grows = replace(scenario(fake("a")), scale=Scale((1, 2)))
    result, _ = run(tmp_path / "run", request(grows, blocks=1, quiet=0.1))
    assert result.info.retaken == ()
    assert any("counts although" in d.detail for d in result.info.diagnostics)


@pytest.mark.parametrize(
    ("before", "after", "then", "blocks", "retaken"),
    [
        # All of block 0 is there: what disturbs the rest disturbs block 1.
        ((None, None), 4, (0.9, None), [-1, -1, 0, 0, 1, 1, 1, 1], (1,)),
        # Block 0 is there twice, as it should be.
        ((None, 0.5, None), 6, (None,), [-1, -1, 0, 0, 0, 0, 1, 1], (0,)),
        # Its second version is half there.
        ((None, 0.5, None), 5, (None, None), [-1, -1, 0, 0, 0, 0, 0, 1, 1], (0,)),
        # So is its first.
        ((None,), 3, (0.9, None, None), [-1, -1, 0, 0, 0, 0, 1, 1], (0,)),
    ],
)
def test_a_resumed_run_takes_no_block_again_that_is_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[float | None, ...],
    after: int,
    then: tuple[float | None, ...],
    blocks: list[int],
    retaken: tuple[int, ...],
) -> None:
    asked = request(scenario(fake("a"), fake("b")), blocks=2, quiet=0.1)
    unquiet(monkeypatch, *before)
    interrupted_run(tmp_path / "run", after, asked)
    unquiet(monkeypatch, *then)
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run", quiet=0.1))
    assert [trial.block for trial in result.trials] == blocks
    assert result.info.retaken == retaken
    assert result.frame()["counted"].sum() == 4


def test_a_run_can_be_interrupted_and_resumed_again_and_again(tmp_path: Path) -> None:
    asked = request(scenario(fake("a"), fake("b")), blocks=4)
    interrupted_run(tmp_path / "run", 3, asked)
    interrupted_run(tmp_path / "run", 4, resumed(tmp_path / "run"))
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run"))
    assert len(result.trials) == 10
    assert len(result.info.resumed_at) == 2
    assert (result.info.blocks, result.info.interrupted) == (4, False)


def test_a_run_killed_before_its_first_trial_is_resumed_from_the_beginning(tmp_path: Path) -> None:
    asked = request(scenario(fake("a"), fake("b")), blocks=2)
    count = 0

    def die(event: Event) -> None:
        nonlocal count
        count += isinstance(event, ArmPrepared)
        if count == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", asked, listener=die)
    assert len(read_run(tmp_path / "run").info.arms) == 1
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run"))
    assert [record.arm.name for record in result.info.arms] == ["a", "b"]
    assert len(result.trials) == 6


def test_an_arm_that_was_left_out_stays_out_of_a_resumed_run(tmp_path: Path) -> None:
    """The order was drawn without it: with it, blocks of two kinds would stand in one run."""
    asked = request(scenario(fake("a"), fake("b"), fake("no", fail="unavailable")))
    interrupted_run(tmp_path / "run", 3, asked)
    works = scenario(fake("a"), fake("b"), fake("no"))
    result, _ = run(tmp_path / "run", replace(resumed(tmp_path / "run"), scenarios=(works,)))
    assert {trial.arm for trial in result.trials} == {"a", "b"}


def test_what_a_crash_left_of_a_line_is_taken_again(tmp_path: Path) -> None:
    asked = request(scenario(fake("a"), fake("b")), blocks=2)
    interrupted_run(tmp_path / "run", 3, asked)
    trials = tmp_path / "run/trials.jsonl"
    content = trials.read_bytes()
    trials.write_bytes(content[:-1])  # a whole line that lacks its end
    assert len(read_run(tmp_path / "run").trials) == 3
    RunWriter.resume(tmp_path / "run").close()
    assert trials.read_bytes() == content
    trials.write_bytes(content[:-20])
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run"))
    assert len(result.trials) == 6
    assert len({(t.arm, t.block) for t in result.trials}) == 6


class Versioned(FakeBackend):
    """A fake backend with a fact that names what it runs."""

    image = "sha256:1"

    def prepare(self, *arguments: Any) -> FakeArm:
        prepared = super().prepare(*arguments)
        prepared.facts = {"image": self.image, "folder": os.urandom(4).hex()}
        return prepared


def test_a_run_goes_on_only_with_what_it_had_where_it_was(tmp_path: Path) -> None:
    backend = Versioned()
    directory = tmp_path / "run"
    asked = request(scenario(fake("a")), blocks=5)

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.trial.block == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(directory, asked, lambda _: backend, listener=listen)
    before = (directory / "run.json").read_bytes(), (directory / "trials.jsonl").read_bytes()
    backend.image = "sha256:2"
    with pytest.raises(RecordError) as caught:
        run(directory, resumed(directory), lambda _: backend)
    assert str(caught.value) == (
        f"{directory} cannot go on: sample, a: the image was sha256:1 and is sha256:2 now, and "
        "trials of the two must not be mixed; make a new run"
    )
    backend.image = "sha256:1"
    with pytest.raises(RecordError, match="the host's cpus was 2 and is 3 now"):
        run(
            directory, resumed(directory), lambda _: backend,
            environment=Environment({"cpus": 3}, {}),
        )  # fmt: skip
    with pytest.raises(RecordError, match="Steelyard's version was 0 and is 1 now"):
        refuse_unless_resumable(Resumption(read_run(directory), directory), "1")
    # Nothing of that has touched the records.
    assert before == (
        (directory / "run.json").read_bytes(),
        (directory / "trials.jsonl").read_bytes(),
    )
    result, _ = run(directory, resumed(directory), lambda _: backend)
    assert len(result.trials) == 6
    with pytest.raises(RecordError, match="ended as it should"):
        resumed(directory)


def test_a_run_that_goes_on_cannot_be_resumed_beside_itself(tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            with pytest.raises(RecordError, match="is being written by a run that goes on"):
                RunWriter.resume(tmp_path / "run")

    run(tmp_path / "run", request(scenario(fake("a"))), listener=listen)
    with pytest.raises(RecordError, match="is no run"):
        RunWriter.resume(tmp_path / "nowhere")


def test_the_time_that_was_spent_before_an_interruption_counts(tmp_path: Path) -> None:
    slow = fake("a", work_ms=20.0)
    asked = request(scenario(slow), blocks=1000, time_limit_ns=400_000_000)
    interrupted_run(tmp_path / "run", 8, asked)
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run", time_limit_ns=400_000_000))
    assert 8 <= len(result.trials) <= 20
    assert result.info.blocks == len(result.trials) - 1
    assert result.info.wanted_blocks == 1000


GROWING = replace(
    scenario(
        fake("a", exit_code=-1),
        fake("b", exit_code=-1),
        readiness=Readiness(ReadinessKind.OUTPUT, output="hello"),
    ),
    scale=Scale((1, 2, 4), (2,), {"b": 2}),
)


def test_instances_grow_in_number_within_each_block(tmp_path: Path) -> None:
    asked = request(GROWING, blocks=2, warmup_blocks=1)
    result, events = run(tmp_path / "run", asked)
    started = [event for event in events if isinstance(event, BlockStarted)]
    assert [event.trials for event in started] == [2, 6 + 4, 6 + 4]
    assert len(result.trials) == sum(event.trials for event in started)
    for arm, most in (("a", 4), ("b", 2)):
        for block in (0, 1):
            mine = [t for t in result.trials if (t.arm, t.block) == (arm, block)]
            assert sorted(t.alive for t in mine if t.together == 1) == list(range(most))
            assert [t.together for t in mine if t.together > 1] == [2, 2]
    assert {(p.arm, p.block, p.instances) for p in result.growth} >= {
        (arm, block, number)
        for arm, numbers in (("a", (1, 2, 4)), ("b", (1, 2)))
        for number in numbers
        for block in (0, 1)
    }
    assert any(isinstance(event, InstancesAlive) and event.alive == 4 for event in events)


@pytest.mark.parametrize("after", [3, 6, 8, 9, 12, 14])
def test_growth_that_was_interrupted_goes_on_with_the_stage_that_is_missing(
    tmp_path: Path, after: int
) -> None:
    asked = request(replace(GROWING, hooks=hooked(tmp_path)), blocks=2, warmup_blocks=1)
    broken = interrupted_run(tmp_path / "run", after, asked)
    assert after <= len(broken.trials) <= after + 4  # a stage that is being told is told to its end
    result, _ = run(tmp_path / "run", resumed(tmp_path / "run"))
    stages = [(t.arm, t.block, t.alive, t.together) for t in result.trials if t.together == 1]
    assert len(stages) == len(set(stages)) == 2 + 2 * (4 + 2)
    assert len([t for t in result.trials if t.together == 2]) == 2 * 2 * 2
    assert result.info.blocks == 2
