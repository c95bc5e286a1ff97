"""Growth, on fake boxes: the ramp, starts at the same time, failures, and that all of it goes."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from harness.backends.fake import FakeBackend, FakeInstance
from harness.measure.capacity import enough_descriptors, with_remedy
from harness.measure.growth import GrowthListener, grow
from harness.measure.interruption import Interrupted, Interruption
from harness.meters.footprint import sum_parts
from harness.model import (
    Arm,
    CacheState,
    DiskPart,
    GrowthPoint,
    Meter,
    Milestone,
    Outcome,
    Readiness,
    ReadinessKind,
    Scale,
    Scenario,
    Sharing,
    Slot,
    Trial,
)
from harness.model.backend import Exit, Instance, PreparedArm
from harness.model.diagnostics import DiagnosticCode
from harness.model.errors import LaunchFailedError
from harness.model.scale import Stages, scale_problems, stages
from tests.support.scenarios import fake, scenario

UP = Readiness(ReadinessKind.OUTPUT, output="up")
SLOT = Slot("sample", "fake", 0, 0)
KIB, MIB = 1 << 10, 1 << 20


def growing(arm: Arm, *instances: int, together: tuple[int, ...] = (), **most: int) -> Scenario:
    asked = scenario(arm, command=("echo", "up"), readiness=UP, timeout_s=5)
    return replace(asked, scale=Scale(instances, together, MappingProxyType(most)))


def living(name: str = "fake", **options: Any) -> Arm:
    """A fake arm whose workload runs on until it is stopped."""
    return fake(name, exit_code=-1, **options)


class Grown:
    """What one call of `grow` said."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.points: list[GrowthPoint] = []
        self.alive: list[tuple[int, int]] = []
        self.listener = GrowthListener(
            self.trials.append, self.points.append, lambda *counts: self.alive.append(counts)
        )


class Watched:
    """A fake arm that counts who lives; `spoil` may change each instance just launched."""

    def __init__(
        self, asked: Scenario, spoil: Callable[[int, FakeInstance], None] | None = None
    ) -> None:
        self.arm = FakeBackend().prepare(asked, asked.arms[0], None, lambda _: None)
        self.spoil = spoil
        self.launched: list[FakeInstance] = []
        self.threads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arm, name)

    def launch(self, name: str) -> Instance:
        instance = self.arm.launch(name)
        assert isinstance(instance, FakeInstance)
        self.threads.append(threading.get_ident())
        self.launched.append(instance)
        if self.spoil is not None:
            self.spoil(len(self.launched), instance)
        return instance

    @property
    def left(self) -> int:
        return sum(Milestone.REMOVED not in one.milestones_ns for one in self.launched)


def grow_it(
    asked: Scenario,
    prepared: Any = None,
    slot: Slot = SLOT,
    taken: tuple[Trial, ...] = (),
    grown: Grown | None = None,
) -> Grown:
    grown = grown or Grown()
    arm: PreparedArm = prepared or Watched(asked)
    gc.freeze()  # as the runner does: collecting before each launch need not look at all of pytest
    try:
        with Interruption() as interruption:
            grow(slot, asked, arm, None, interruption, grown.listener, taken)
    finally:
        gc.unfreeze()
    return grown


# --- what is asked for ---


def test_both_lists_are_cut_at_what_an_arm_may_have() -> None:
    scale = Scale((1, 2, 4, 8), (1, 4, 16), MappingProxyType({"vm": 3, "one": 1}))
    assert stages(scale, "container") == Stages((1, 2, 4, 8), (4, 16))
    assert stages(scale, "container").most == 16
    assert stages(scale, "vm") == Stages((1, 2, 3), (3,))
    assert stages(scale, "one") == Stages((1,), ())
    assert stages(scale, "vm", warmup=True) == Stages((1,), ())


def test_a_scenario_without_scale_has_no_problem_with_it() -> None:
    assert scale_problems(scenario(fake())) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"readiness": Readiness(ReadinessKind.EXIT)}, "readiness.kind: 'exit' means that"),
        ({"arms": (replace(living(), cache=CacheState.COLD),)}, "arms.fake.cache: 'cold' cannot"),
        (
            {"readiness": Readiness(ReadinessKind.TCP, port=80)},
            "arms.fake: instances of the backend 'fake' share one address, so only one can have ",
        ),
        (
            {
                "readiness": Readiness(ReadinessKind.TCP, port=80),
                "arms": (Arm("c", "container"),),
                "scale": Scale((1, 70_000)),
            },
            "scale: 70000 instances of c are more than the private network has addresses",
        ),
    ],
)
def test_impossible_scenarios_are_refused_in_a_sentence(
    changes: Mapping[str, Any], said: str
) -> None:
    fine = growing(living(), 1, 2)
    assert scale_problems(fine) == []
    (problem,) = scale_problems(replace(fine, **changes))
    assert problem.startswith(said)


# --- the ramp ---


def test_the_ramp_takes_a_trial_for_each_launch_and_a_point_at_each_number() -> None:
    asked = growing(living(disk_bytes=4096, written_bytes=1000, touched_bytes=MIB), 1, 2, 4)
    watched = Watched(asked)
    grown = grow_it(asked, watched)
    assert [trial.alive for trial in grown.trials] == [0, 1, 2, 3]
    assert {trial.outcome for trial in grown.trials} == {Outcome.OK}
    assert {trial.together for trial in grown.trials} == {1}
    assert all(trial.signal is None and trial.exit_code is None for trial in grown.trials)
    assert grown.alive == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert watched.left == 0
    assert set(watched.threads) == {threading.get_ident()}
    assert [point.instances for point in grown.points] == [1, 2, 4]
    for point in grown.points:
        shared, owned = point.disk
        assert (shared.sharing, shared.allocated_bytes) == (Sharing.SHARED, MIB)
        assert (owned.name, owned.allocated_bytes) == ("fake layer", 5096 * point.instances)
        readings = {reading.meter: reading.value for reading in point.readings}
        assert readings.keys() == {
            Meter.PSS_BYTES,
            Meter.USS_BYTES,
            Meter.CGROUP_CURRENT_BYTES,
            Meter.AVAILABLE_DELTA_BYTES,
        }
        assert readings[Meter.PSS_BYTES] == 2 * MIB * point.instances
        assert (point.scenario, point.arm, point.block) == ("sample", "fake", 0)


def test_instances_live_until_the_last_has_been_read_and_end_in_the_opposite_order() -> None:
    asked = growing(living(), 3)
    watched = Watched(asked)
    grow_it(asked, watched)
    ready = [one.milestones_ns[Milestone.READY] for one in watched.launched]
    stopped = [one.milestones_ns[Milestone.STOPPED] for one in watched.launched]
    assert ready == sorted(ready)
    assert stopped == sorted(stopped, reverse=True)
    assert min(stopped) > max(ready)


def test_a_failed_launch_is_a_trial_and_ends_the_ramp() -> None:
    asked = growing(living(fail="launch", fail_every=3), 1, 2, 4)
    watched = Watched(asked)
    grown = grow_it(asked, watched)
    assert [trial.outcome for trial in grown.trials] == [Outcome.OK, Outcome.OK, Outcome.FAILED]
    assert grown.trials[-1].alive == 2
    assert "failed to launch" in (grown.trials[-1].error or "")
    assert [point.instances for point in grown.points] == [1, 2]
    assert watched.left == 0


def test_an_instance_that_is_never_ready_times_out_and_ends_the_ramp() -> None:
    asked = replace(growing(living(), 4), timeout_ns=50_000_000)
    watched = Watched(asked, lambda number, one: _mute(one) if number == 2 else None)
    grown = grow_it(asked, watched)
    assert [trial.outcome for trial in grown.trials] == [Outcome.OK, Outcome.TIMEOUT]
    assert grown.points == []
    assert watched.left == 0


def test_one_that_dies_while_others_start_is_a_failure_and_no_point_counts_it() -> None:
    asked = growing(living(), 1, 2, 4)

    def kill_the_first(number: int, _: FakeInstance) -> None:
        if number == 2:
            watched.launched[0].exit = Exit(None, 9, time.monotonic_ns())

    watched = Watched(asked, kill_the_first)
    grown = grow_it(asked, watched)
    assert [trial.outcome for trial in grown.trials] == [Outcome.FAILED, Outcome.OK]
    first = grown.trials[0]
    assert "was ended by SIGKILL, it should run on" in (first.error or "")
    assert first.signal == 9
    assert Milestone.READY in first.milestones_ns
    assert [point.instances for point in grown.points] == [1]
    assert watched.left == 0


def test_a_warm_up_has_one_instance() -> None:
    grown = grow_it(growing(living(), 1, 4, together=(2,)), slot=replace(SLOT, block=-1))
    assert [(trial.alive, trial.together, trial.block) for trial in grown.trials] == [(0, 1, -1)]


def test_most_cuts_the_ramp() -> None:
    grown = grow_it(growing(living(), 1, 2, 8, together=(2, 8), fake=3))
    assert [point.instances for point in grown.points] == [1, 2, 3]
    assert [trial.together for trial in grown.trials] == [1] * 3 + [2] * 2 + [3] * 3


def test_nothing_is_launched_into_a_host_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instance takes a third of what there is; the third one would take the rest."""
    asked = growing(living(), 8, together=(2,))
    watched = Watched(asked)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def fewer_with_each() -> int:
        return total - len(watched.launched) * total // 3

    monkeypatch.setattr("harness.meters.memory.available_if_known", fewer_with_each)
    grown = grow_it(asked, watched)
    assert [trial.alive for trial in grown.trials] == [0, 1, 2, 0, 0]
    assert [trial.outcome for trial in grown.trials[2:]] == [Outcome.FAILED] * 3
    assert len(watched.launched) == 2
    for trial in grown.trials[2:]:
        assert "MiB of the host's memory are left, instances take about" in (trial.error or "")
        assert trial.milestones_ns == {}


def test_a_footprint_that_cannot_be_read_is_a_doubt_and_no_zero() -> None:
    asked = growing(living(), 1, 2)

    def unreadable() -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    watched = Watched(asked)
    setattr(watched, "disk_parts", unreadable)  # noqa: B010 - it has none of its own
    grown = grow_it(asked, watched)
    assert grown.points == []
    assert {trial.outcome for trial in grown.trials} == {Outcome.OK}
    details = [
        doubt.detail
        for doubt in grown.trials[-1].diagnostics
        if doubt.code is DiagnosticCode.MISSING
    ]
    assert any("the footprint of 2 instances: " in detail for detail in details)


def test_descriptors_are_as_many_before_as_after() -> None:
    before = os.listdir("/proc/self/fd")
    grow_it(growing(living(), 4, together=(4,)))
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert threading.active_count() == 1


# --- at the same time ---


def test_instances_start_at_the_same_time_each_from_its_thread() -> None:
    asked = growing(living(work_ms=50), 1, together=(4,))
    watched = Watched(asked)
    grown = grow_it(asked, watched)
    trials = grown.trials[1:]
    assert [(trial.together, trial.alive) for trial in trials] == [(4, 0)] * 4
    assert {trial.outcome for trial in trials} == {Outcome.OK}
    assert len(set(watched.threads[1:])) == 4
    assert threading.get_ident() not in watched.threads[1:]
    requested = [one.milestones_ns[Milestone.REQUESTED] for one in watched.launched[1:]]
    ready = [one.milestones_ns[Milestone.READY] for one in watched.launched[1:]]
    stopped = [one.milestones_ns[Milestone.STOPPED] for one in watched.launched[1:]]
    assert max(requested) < min(ready), "they did not start at the same time"
    assert max(ready) < min(stopped), "one went before all were ready"
    assert watched.left == 0
    assert grown.alive[-1] == (4, 4)
    for trial in trials:
        readings = {reading.meter: reading for reading in trial.readings}
        assert readings[Meter.PSS_BYTES].value == MIB
        assert readings[Meter.CPU_USER_NS].value is None
        assert "too late" in (readings[Meter.CPU_USER_NS].missing or "")
        assert readings[Meter.AVAILABLE_DELTA_BYTES].missing is not None


def test_one_that_fails_among_several_is_a_trial_and_the_others_go_on() -> None:
    asked = growing(living(fail="launch", fail_every=3), 1, together=(3,))
    grown = grow_it(asked, Watched(asked))
    outcomes = sorted(trial.outcome for trial in grown.trials[1:])
    assert outcomes == [Outcome.FAILED, Outcome.OK, Outcome.OK]


def test_one_that_dies_before_all_are_ready_is_a_failure() -> None:
    asked = growing(living(work_ms=20), 1, together=(2,))

    def kill(number: int, one: FakeInstance) -> None:
        if number == 2:
            one._options = {**one._options, "exit_code": 3}
        else:
            one._work_done_ns = (one._work_done_ns or 0) + 100_000_000

    grown = grow_it(asked, Watched(asked, kill))
    outcomes = sorted(trial.outcome for trial in grown.trials[1:])
    assert outcomes == [Outcome.FAILED, Outcome.OK]
    (failed,) = (trial for trial in grown.trials if trial.outcome is Outcome.FAILED)
    assert "ended with code 3, it should run on" in (failed.error or "")


def test_threads_that_cannot_be_made_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = growing(living(), 1, together=(3,))
    started = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.endswith("t3-2"):
            message = "can't start new thread"
            raise RuntimeError(message)
        started(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    grown = grow_it(asked, Watched(asked))
    assert [trial.outcome for trial in grown.trials[1:]] == [
        Outcome.OK,
        Outcome.FAILED,
        Outcome.OK,
    ]
    assert "no thread to launch from" in (grown.trials[2].error or "")


# --- however it ends ---


def _mute(instance: FakeInstance) -> None:
    """It never says that it is up."""
    instance._work_done_ns = None


@pytest.mark.parametrize("number", [1, 3])
def test_an_interruption_of_the_ramp_leaves_nothing_and_gives_no_trials(number: int) -> None:
    asked = growing(living(), 1, 8)

    def interrupt(launched: int, one: FakeInstance) -> None:
        if launched == number:
            _mute(one)
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    watched, grown = Watched(asked, interrupt), Grown()
    with pytest.raises(Interrupted):
        grow_it(asked, watched, grown=grown)
    assert len(watched.launched) == number
    assert watched.left == 0
    assert grown.trials == []
    assert len(grown.points) == (number > 1)


def test_an_interruption_while_several_start_leaves_nothing() -> None:
    asked = growing(living(), 1, together=(4,))

    def interrupt(launched: int, one: FakeInstance) -> None:
        if launched > 2:
            _mute(one)
        if launched == 5:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

    watched, grown = Watched(asked, interrupt), Grown()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        grow_it(asked, watched, grown=grown)
    assert time.monotonic() - begun < 3, "it waited for the timeout of the scenario"
    assert len(watched.launched) == 5
    assert watched.left == 0
    assert [trial.together for trial in grown.trials] == [1]
    assert threading.active_count() == 1


@pytest.mark.parametrize("together", [(), (3,)])
def test_an_error_that_is_nobodys_failure_is_raised_when_all_are_gone(
    together: tuple[int, ...],
) -> None:
    asked = growing(living(), 1 if together else 4, together=together)

    def spoil(number: int, one: FakeInstance) -> None:
        del one
        if number == 3:
            message = "a mistake in Steelyard"
            raise ZeroDivisionError(message)

    watched, grown = Watched(asked, spoil), Grown()
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        grow_it(asked, watched, grown=grown)
    # The fake of the launch that went wrong was never handed over: nobody else could remove it.
    assert watched.left == 1
    assert [trial.together for trial in grown.trials] == [1] * len(together)
    assert threading.active_count() == 1


@pytest.mark.parametrize("which", ["point", "alive"])
def test_an_error_of_the_listener_leaves_nothing(which: str) -> None:
    asked = growing(living(), 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    watched, grown = Watched(asked), Grown()
    grown.listener = replace(grown.listener, **{which: full})
    with pytest.raises(OSError, match="No space"):
        grow_it(asked, watched, grown=grown)
    assert watched.left == 0


def test_a_resumed_slot_leaves_out_the_stages_that_it_has() -> None:
    asked = growing(living(), 1, 2, together=(2, 3))
    first = grow_it(asked)
    taken = tuple(trial for trial in first.trials if trial.together != 3)
    second = grow_it(asked, taken=taken)
    assert [trial.together for trial in second.trials] == [3, 3, 3]
    assert second.points == []


# --- the host's limits ---


def test_the_limit_of_open_files_is_raised_and_set_back() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        with enough_descriptors(100):
            raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            assert raised >= 1600
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(256, soft)
        with enough_descriptors(1):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(256, soft)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_never_raised_above_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with enough_descriptors(10_000_000):
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised in (hard, soft) or hard == resource.RLIM_INFINITY
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_an_error_of_a_limit_says_which() -> None:
    def wrapped(number: int) -> LaunchFailedError:
        cause = OSError(number, os.strerror(number))
        error = LaunchFailedError(str(cause), "console")
        error.__cause__ = cause
        return error

    told = with_remedy(wrapped(24))
    assert isinstance(told, LaunchFailedError)
    assert "Too many open files; this process may have no more open files" in str(told)
    assert told.console == "console"
    other = wrapped(2)
    assert with_remedy(other) is other


# --- adding up ---


def test_parts_add_up_by_name_and_keep_what_is_not_known() -> None:
    parts = [
        DiskPart("overlay", Sharing.EXCLUSIVE, 10, 4096, 0),
        DiskPart("overlay", Sharing.EXCLUSIVE, 20, 8192, 4096),
        DiskPart("disk copy", Sharing.EXCLUSIVE, 1, 512, 0),
        DiskPart("disk copy", Sharing.EXCLUSIVE, 1, 512, None),
    ]
    assert sum_parts(parts) == (
        DiskPart("overlay", Sharing.EXCLUSIVE, 30, 12288, 4096),
        DiskPart("disk copy", Sharing.EXCLUSIVE, 2, 1024, None),
    )
    assert sum_parts([]) == ()
