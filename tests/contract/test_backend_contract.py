"""What every backend promises, asked of every backend in the same words.

The runner drives all of them alike, so whatever one does differently falsifies a comparison. A
backend that cannot work on this host is skipped with its own reason.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from harness.backends import BACKENDS, get_backend
from harness.backends.peers.table import PEERS
from harness.lab import Lab, LabError
from harness.lab.readiness import wait_ready
from harness.measure.interruption import Interruption
from harness.measure.trial import STOP_PATIENCE_NS, out_of_order, take_trial
from harness.meters.host_activity import gauges
from harness.model import (
    Arm,
    Limits,
    Meter,
    Milestone,
    Outcome,
    Readiness,
    ReadinessKind,
    Scenario,
    Sharing,
    Slot,
)
from harness.model.backend import Backend, Instance, PreparedArm
from harness.model.diagnostics import DiagnosticCode
from harness.model.errors import (
    LaunchFailedError,
    PrepareError,
    ReadinessTimeoutError,
    UnexpectedExitError,
)
from tests.support.process_events import missing
from tests.support.scenarios import scenario

ENDED = Readiness(ReadinessKind.EXIT)
LIMITS = Limits(memory_bytes=256 << 20, cpus=1.0)
SERVE = (
    "mkdir -p /tmp/page && echo hello > /tmp/page/index.html && exec httpd -f -p 8000 -h /tmp/page"
)


@dataclass(frozen=True)
class Behaviour:
    """One thing that a workload does: as a command for real boxes, as options for the fake one."""

    command: tuple[str, ...]
    options: dict[str, Any]


def sh(line: str, **options: Any) -> Behaviour:
    return Behaviour(("sh", "-c", line), options)


HELLO = sh("echo hello", output="hello\n")
CODE_3 = sh("echo out; echo bye >&2; exit 3", output="out\nbye\n", exit_code=3)
# A true fault: the first process of a pid namespace is immune to signals that it sends itself
# (pid_namespaces(7)), and endless recursion runs into the end of the stack.
KILLED = sh("f() { f; }; f", output="", signal=int(signal.SIGSEGV))
WAITS = sh("echo waiting; exec sleep 1000", output="waiting\n", exit_code=-1)
STUBBORN = sh("trap '' TERM INT HUP; echo waiting; while :; do sleep 1; done",
              output="waiting\n", exit_code=-1)  # fmt: skip
MUCH_OUTPUT = b"0123456789 0123456789 0123456789\n" * 3000
MUCH = sh("i=0; while [ $i -lt 3000 ]; do echo 0123456789 0123456789 0123456789; i=$((i+1)); done",
          output=MUCH_OUTPUT.decode())  # fmt: skip
NOTHING_THERE = Behaviour(("/no/such/command",), {"fail": "launch"})
SERVES = sh(SERVE, body="hello\n")


OF_THE_HOST = {
    DiagnosticCode.LOADED_HOST, DiagnosticCode.CPU_STOLEN, DiagnosticCode.MEMORY_PRESSURE,
    DiagnosticCode.CGROUP_THROTTLED, DiagnosticCode.SWAPPING, DiagnosticCode.THERMAL,
}  # fmt: skip
"""Doubts that say nothing about the box: others use this machine as well."""


class Box:
    """One backend under test: prepares arms, and makes sure they are closed."""

    def __init__(self, backend: Backend, lab: Lab | None) -> None:
        self.backend = backend
        self.is_fake = backend.name == "fake"
        self.is_vm = backend.name.startswith("vm")
        self.peer = PEERS.get(backend.name)
        # Of a peer's workload the kernel tells when it starts; docker's is not the client's child.
        self.tells_start = self.peer is None or (self.peer.is_seen and missing() is None)
        self.patience_s = 90 if self.is_vm else 10
        self._lab = lab

    @property
    def runs_inside(self) -> bool:
        """Whether it can run a command in a box beside the workload."""
        if self.peer is not None:
            return bool(self.peer.execute)
        return not self.is_fake

    def scenario(self, does: Behaviour, readiness: Readiness, timeout_s: float = 0) -> Scenario:
        return scenario(
            self.arm(does),
            command=does.command,
            readiness=readiness,
            limits=LIMITS,
            timeout_s=timeout_s or self.patience_s,
        )

    def arm(self, does: Behaviour) -> Arm:
        return Arm(self.backend.name, self.backend.name, does.options if self.is_fake else {})

    def prepare(self, does: Behaviour, readiness: Readiness = ENDED) -> PreparedArm:
        asked = self.scenario(does, readiness)
        lab = self._lab if readiness.needs_network else None
        return self.backend.prepare(asked, asked.arms[0], lab, lambda _: None)

    def deadline(self, seconds: float = 0) -> int:
        return time.monotonic_ns() + round((seconds or self.patience_s) * 1e9)


def finish(instance: Instance) -> None:
    instance.stop(STOP_PATIENCE_NS)
    instance.remove()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab | None]:
    try:
        made = Lab()
    except LabError:
        yield None
        return
    with made:
        yield made


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.vm] if name.startswith("vm") else [])
        for name in BACKENDS
        if name != "null"  # it is no box: see tests/unit/harness/backends/test_null.py
    ],
    scope="module",
)
def box(request: pytest.FixtureRequest, lab: Lab | None) -> Box:
    backend = get_backend(request.param)
    if backend.name == "docker":
        request.getfixturevalue("docker_daemon")
    verdict = backend.availability()
    if not verdict.usable:
        pytest.skip(f"{backend.name}: {verdict.reason}; {verdict.remedy}")
    made = Box(backend, lab)
    # The image, kernel and disk are made here, outside of what is watched for leftovers.
    # One trial too: the first of a session makes what all share, and so do the gauges.
    gauges()
    with closing(made.prepare(HELLO)) as prepared:
        finish(prepared.launch("first"))
    return made


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def nothing_left_by_any(box: Box, nothing_left: None) -> None:
    """Every test of this file is watched: mounts, cgroups, namespaces, processes, descriptors."""


def test_it_is_what_its_name_says(box: Box) -> None:
    assert isinstance(box.backend, Backend)
    verdict = box.backend.availability()
    assert verdict.usable
    assert verdict.reason


def test_a_trial_has_its_milestones_in_order_and_owns_its_disk(box: Box) -> None:
    with closing(box.prepare(HELLO)) as prepared:
        assert isinstance(prepared, PreparedArm)
        shared = prepared.disk_parts()
        assert shared
        assert all(part.sharing is Sharing.SHARED for part in shared)
        assert sum(part.allocated_bytes for part in shared) > 0
        assert all(isinstance(value, str) for value in prepared.facts.values())
        before_ns = time.monotonic_ns()
        instance = prepared.launch("contract")
        assert isinstance(instance, Instance)
        try:
            wait_ready(instance, ENDED, None, box.deadline())
            owned = instance.disk_parts()
        finally:
            finish(instance)
        after_ns = time.monotonic_ns()
        # Doing it again does nothing, and changes no stamp.
        stamps = dict(instance.milestones_ns)
        finish(instance)
        assert instance.milestones_ns == stamps
    prepared.close()
    assert all(part.sharing is Sharing.EXCLUSIVE for part in owned)
    expected = {
        Milestone.REQUESTED, Milestone.ISOLATED, Milestone.STARTED, Milestone.READY,
        Milestone.STOPPED, Milestone.REMOVED,
    }  # fmt: skip
    if box.peer is not None:
        # Other people's tools do not say when the box is made.
        expected -= {Milestone.ISOLATED, *([] if box.tells_start else [Milestone.STARTED])}
    if box.is_vm:
        expected |= {Milestone.KERNEL, Milestone.USERSPACE}
    assert expected - stamps.keys() <= ({Milestone.KERNEL} if box.is_vm else set())
    assert out_of_order(stamps) is None
    assert all(before_ns <= stamp <= after_ns for stamp in stamps.values())
    assert instance.output.data == b"hello\n"


def test_much_output_arrives_whole(box: Box) -> None:
    with closing(box.prepare(MUCH)) as prepared:
        instance = prepared.launch("much")
        try:
            wait_ready(instance, ENDED, None, box.deadline())
            assert instance.output.data == MUCH_OUTPUT
            assert instance.output.sha256 == sha256(MUCH_OUTPUT).hexdigest()
        finally:
            finish(instance)


@pytest.mark.parametrize(
    ("does", "code", "number"),
    [(HELLO, 0, None), (CODE_3, 3, None), (KILLED, None, int(signal.SIGSEGV))],
    ids=["0", "3", "SIGSEGV"],
)
def test_the_workloads_own_end_is_reported_as_such(
    box: Box, does: Behaviour, code: int | None, number: int | None
) -> None:
    with closing(box.prepare(does)) as prepared:
        instance = prepared.launch("end")
        try:
            while instance.exit is None:
                assert time.monotonic_ns() < box.deadline()
                instance.pump(box.deadline(1))
            assert (instance.exit.code, instance.exit.signal) == (code, number)
            ended_at = instance.exit.at_ns
            finish(instance)
            assert instance.exit.at_ns == ended_at
            if box.tells_start:
                assert instance.milestones_ns[Milestone.STARTED] <= ended_at
        finally:
            finish(instance)


def test_another_end_than_wanted_is_told_with_all_that_was_printed(box: Box) -> None:
    with closing(box.prepare(CODE_3)) as prepared:
        instance = prepared.launch("unexpected")
        try:
            with pytest.raises(UnexpectedExitError, match=r"code 3.*(bye|out)") as caught:
                wait_ready(instance, ENDED, None, box.deadline())
            assert "bye" in caught.value.console
            # Both streams, and nothing was still on its way when the end was seen.
            lines = instance.output.data.splitlines(keepends=True)
            assert sorted(lines) == [b"bye\n", b"out\n"]
            # A machine's tail begins with what its console said.
            assert b"out" in instance.console_tail().encode().splitlines()
            # A tool that copies the two streams may mix them up.
            assert lines[-1] == b"bye\n" or (box.peer is not None and box.peer.relays_output)
        finally:
            finish(instance)


def failure_of(prepared: PreparedArm, box: Box) -> str:
    """All that is told about a workload that cannot start: at the launch or soon after."""
    instance: Instance | None = None
    try:
        instance = prepared.launch("missing")
        wait_ready(instance, ENDED, None, box.deadline())
    except (LaunchFailedError, UnexpectedExitError) as error:
        return f"{error} {error.console}"
    finally:
        if instance is not None:
            finish(instance)
    return "nothing"


def test_a_command_that_is_not_there_is_named(box: Box) -> None:
    with closing(box.prepare(NOTHING_THERE)) as prepared:
        told = failure_of(prepared, box)
    assert ("the fake box missing failed" if box.is_fake else "/no/such/command") in told


def test_output_makes_it_ready_while_it_goes_on(box: Box) -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="^waiting$")
    with closing(box.prepare(WAITS, ready)) as prepared:
        instance = prepared.launch("waits")
        try:
            wait_ready(instance, ready, None, box.deadline())
            assert instance.exit is None
        finally:
            finish(instance)
        assert instance.exit is not None
        assert out_of_order(instance.milestones_ns) is None


def test_a_timeout_comes_in_time_and_everything_goes(box: Box) -> None:
    with closing(box.prepare(WAITS)) as prepared:
        instance = prepared.launch("timeout")
        try:
            begun = time.monotonic()
            with pytest.raises(ReadinessTimeoutError, match="it has not ended"):
                wait_ready(instance, ENDED, None, box.deadline(0.3))
            assert time.monotonic() - begun < 2
        finally:
            finish(instance)
        assert Milestone.READY not in instance.milestones_ns


def test_a_workload_that_ignores_signals_is_ended_by_force(box: Box) -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="waiting")
    with closing(box.prepare(STUBBORN, ready)) as prepared:
        instance = prepared.launch("stubborn")
        try:
            wait_ready(instance, ready, None, box.deadline())
            begun = time.monotonic()
            instance.stop(2_000_000_000)
            assert time.monotonic() - begun < 8
        finally:
            finish(instance)


def test_it_can_be_stopped_before_it_is_ready(box: Box) -> None:
    with closing(box.prepare(WAITS)) as prepared:
        instance = prepared.launch("early")
        finish(instance)
        assert Milestone.REMOVED in instance.milestones_ns


def test_a_pump_comes_back_at_its_deadline_and_when_woken(box: Box) -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="waiting")
    with closing(box.prepare(WAITS, ready)) as prepared:
        instance = prepared.launch("pump")
        wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            wait_ready(instance, ready, None, box.deadline())
            until_ns = sys.maxsize
            while time.monotonic_ns() < until_ns:  # whatever is still coming
                until_ns = box.deadline(0.05)
                instance.pump(until_ns)
            begun = time.monotonic()
            instance.pump(box.deadline(0.1))
            assert 0.09 < time.monotonic() - begun < 1
            os.eventfd_write(wake_fd, 1)
            begun = time.monotonic()
            instance.pump(box.deadline(20), wake_fd)
            assert time.monotonic() - begun < 5
            assert os.eventfd_read(wake_fd) == 1
        finally:
            os.close(wake_fd)
            finish(instance)


def test_instances_are_independent_of_each_other(box: Box) -> None:
    """Two at the same time, and what one wrote into its files is not in the next."""
    does = sh("cat /tmp/mark 2>/dev/null; echo mine > /tmp/mark; echo hello", output="hello\n")
    with closing(box.prepare(does)) as prepared:
        one, other = prepared.launch("one"), prepared.launch("other")
        try:
            for instance in (one, other):
                wait_ready(instance, ENDED, None, box.deadline())
            if box.backend.name != "process":  # no isolation: that is what it is the floor of
                assert [one.output.data, other.output.data] == [b"hello\n"] * 2
        finally:
            finish(one)
            finish(other)


def need_network(box: Box) -> None:
    """Skip for a backend that cannot be there, once it has said so itself."""
    if box.peer is not None and not box.peer.joins_network:
        with pytest.raises(PrepareError, match=f"{box.peer.name} cannot be put into the private"):
            box.prepare(SERVES, Readiness(ReadinessKind.TCP, port=8000))
        pytest.skip(f"{box.peer.name} joins no network namespace that it is given")


@pytest.mark.parametrize("kind", [ReadinessKind.TCP, ReadinessKind.HTTP])
def test_it_is_reached_over_the_network(box: Box, lab: Lab | None, kind: ReadinessKind) -> None:
    if lab is None:
        pytest.skip("no private network can be made here")
    need_network(box)
    ready = Readiness(kind, port=8000, path="/index.html")
    with closing(box.prepare(SERVES, ready)) as prepared:
        instance = prepared.launch("serves")
        try:
            assert instance.address is not None
            answer = wait_ready(instance, ready, lab, box.deadline())
            assert answer.body == (b"hello\n" if kind is ReadinessKind.HTTP else None)
        finally:
            finish(instance)
        # A milestone that somebody else told of may have come in after the answer.
        if box.tells_start:
            assert instance.milestones_ns[Milestone.STARTED] < answer.at_ns
        assert out_of_order(instance.milestones_ns) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_loopback_address_is_asked_from_inside_or_refused(
    box: Box, lab: Lab | None, address: str
) -> None:
    if lab is None:
        pytest.skip("no private network can be made here")
    need_network(box)
    host = f"[{address}]" if ":" in address else address
    serves = sh(SERVE.replace("-p 8000", f"-p {host}:8000"))
    inside = Readiness(ReadinessKind.HTTP, port=8000, path="/index.html", address=address)
    is_unseen = box.peer is not None and box.peer.is_seen and not box.tells_start
    if box.is_fake or box.is_vm or is_unseen:
        with pytest.raises(PrepareError, match=r"readiness\.address is not to be had with"):
            box.prepare(serves, inside)
        return
    with closing(box.prepare(serves, inside)) as prepared:
        instance = prepared.launch("loopback")
        try:
            answer = wait_ready(instance, inside, lab, box.deadline())
            assert answer.body == b"hello\n"
            outside = replace(inside, address=None)
            soon_ns = time.monotonic_ns() + 50_000_000
            with pytest.raises(ReadinessTimeoutError, match=r"refused; it listens on .* only"):
                wait_ready(instance, outside, lab, soon_ns)
        finally:
            finish(instance)


PROBED = sh("sleep 0.2; echo done > /tmp/probed; sleep 600")
PROBE = Readiness(ReadinessKind.COMMAND, command=("test", "-s", "/tmp/probed"))


def enterable(box: Box, ready: Readiness) -> PreparedArm:
    """Prepare an arm for a command inside its boxes; skip once it has refused that itself."""
    if not box.runs_inside:
        with pytest.raises(PrepareError, match="readiness 'command' is not to be had with"):
            box.prepare(PROBED, ready)
        pytest.skip(f"{box.backend.name} runs no command inside its boxes")
    return box.prepare(PROBED, ready)


def test_a_command_inside_makes_it_ready_when_it_ends_well(box: Box) -> None:
    with closing(enterable(box, PROBE)) as prepared:
        instance = prepared.launch("probed")
        try:
            answer = wait_ready(instance, PROBE, None, box.deadline())
            assert instance.exit is None
            assert answer.probe_ns is not None
            assert answer.at_ns - answer.probe_ns > instance.milestones_ns[Milestone.REQUESTED]
            if Milestone.STARTED in instance.milestones_ns:
                waited_ns = answer.at_ns - instance.milestones_ns[Milestone.STARTED]
                assert waited_ns > 150_000_000
            # Where it took a thread to get in, a box that goes on does not keep it.
            instance.accounting()
            assert "entrance" not in {thread.name for thread in threading.enumerate()}
        finally:
            finish(instance)


def test_a_command_inside_whose_starter_is_interrupted_goes_with_the_box(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(future: Future[object]) -> None:
        del future
        raise KeyboardInterrupt

    with closing(enterable(box, PROBE)) as prepared:
        before = children()
        instance = prepared.launch("interrupted")
        try:
            wait_ready(instance, PROBE, None, box.deadline())
            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(Future, "result", interrupted)
                command = instance.run_inside(("sleep", "600"))
                assert command is not None
                command.close()
        finally:
            finish(instance)
        assert children() == before


def children() -> set[str]:
    """The children of this process, those too that have ended and nobody has waited for."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "echo no; exit 3"), "ends with code 3"),
        (("/no/such/probe",), "/no/such/probe"),
        (("sh", "-c", "kill -9 $$"), "(SIGKILL|code 137)"),
        (("sleep", "600"), "sleep 600: has not ended"),
    ],
)
def test_a_command_inside_that_does_not_end_well_is_described(
    box: Box, command: tuple[str, ...], said: str
) -> None:
    ready = Readiness(ReadinessKind.COMMAND, command=command)
    with closing(enterable(box, ready)) as prepared:
        instance = prepared.launch("unprobed")
        try:
            while Milestone.STARTED not in instance.milestones_ns and box.tells_start:
                instance.pump(box.deadline(0.05))
            patience_s = 3 if box.is_vm or box.peer is not None else 0.3
            with pytest.raises(ReadinessTimeoutError, match=said):
                wait_ready(instance, ready, None, box.deadline(patience_s))
        finally:
            finish(instance)


def test_a_command_inside_does_not_outlive_its_box(box: Box) -> None:
    ready = Readiness(ReadinessKind.COMMAND, command=("true",))
    quits = sh("sleep 0.1; exit 3")
    with closing(enterable(box, ready)) as prepared:
        prepared.close()
    asked = Readiness(ReadinessKind.COMMAND, command=("sleep", "600"))
    with closing(box.prepare(quits, asked)) as prepared:
        instance = prepared.launch("quits")
        try:
            with pytest.raises(UnexpectedExitError, match="code 3, sleep 600 should end with"):
                wait_ready(instance, asked, None, box.deadline())
        finally:
            finish(instance)


def test_a_server_that_ends_before_it_serves_is_told(box: Box, lab: Lab | None) -> None:
    if lab is None:
        pytest.skip("no private network can be made here")
    if box.is_fake:
        pytest.skip("the fake workload always serves when it is on the network")
    need_network(box)
    ready = Readiness(ReadinessKind.TCP, port=8000)
    with closing(box.prepare(CODE_3, ready)) as prepared:
        instance = prepared.launch("quitter")
        try:
            with pytest.raises(UnexpectedExitError, match="code 3, it should serve port 8000"):
                wait_ready(instance, ready, lab, box.deadline())
        finally:
            finish(instance)


def test_the_runner_can_take_trials_of_it(box: Box) -> None:
    asked = box.scenario(HELLO, Readiness(ReadinessKind.EXIT, output="^hello$"))
    with closing(box.prepare(HELLO)) as prepared, Interruption() as interruption:
        for block in range(2):
            slot = Slot("sample", box.backend.name, block, 0)
            trial = take_trial(slot, asked, prepared, None, interruption)
            assert (trial.outcome, trial.error) == (Outcome.OK, None)
            assert trial.exit_code == 0
            assert trial.milestones_ns[Milestone.REQUESTED] == 0
            assert Milestone.REMOVED in trial.milestones_ns
            doubts = {doubt.code for doubt in trial.diagnostics} - OF_THE_HOST
            assert doubts == set() or box.is_vm


def test_options_are_checked_without_asking_the_host(box: Box) -> None:
    backend = box.backend
    assert backend.check_options({}) == ()
    assert all(isinstance(meaning, str) and meaning for meaning in backend.options.values())
    (problem,) = backend.check_options({"no-such-option": 1})
    assert "no-such-option" in problem


def test_what_an_instance_owns_before_it_has_run_can_be_measured(box: Box) -> None:
    with closing(box.prepare(HELLO)) as prepared:
        parts = prepared.initial_disk_parts()
        assert all(part.sharing is Sharing.EXCLUSIVE for part in parts)
        if box.backend.name != "process":  # it shares the one copy
            assert sum(part.allocated_bytes for part in parts) > 0
        # As good as new: nothing of the rehearsal is left, or counted twice.
        again = prepared.initial_disk_parts()
        assert [part.name for part in again] == [part.name for part in parts]
        growth = sum(p.allocated_bytes for p in again) - sum(p.allocated_bytes for p in parts)
        assert abs(growth) <= 64 << 10


def test_the_image_is_where_it_says(box: Box) -> None:
    with closing(box.prepare(HELLO)) as prepared:
        paths = prepared.image_paths()
        assert all(path.is_absolute() and path.exists() for path in paths)
        assert paths or box.is_fake


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its end, waiting for somebody to take note."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(") ")[2][0] not in "ZX"


def test_its_use_can_be_read_while_it_lives_and_is_its_own(box: Box) -> None:
    ready = Readiness(ReadinessKind.OUTPUT, output="^waiting$")
    with closing(box.prepare(WAITS, ready)) as prepared:
        instance = prepared.launch("use")
        try:
            wait_ready(instance, ready, None, box.deadline())
            account = instance.accounting()
            assert account.scope
            assert account.pids or box.is_fake
            assert os.getpid() not in account.pids
            assert all(os.path.exists(f"/proc/{pid}") for pid in account.pids)
            assert all(os.path.isdir(folder) for folder in account.cgroups.values())
        finally:
            finish(instance)
        assert not any(lives(pid) for pid in account.pids)
        assert not any(os.path.exists(path) for path in account.owned)


def test_what_the_file_system_takes_is_a_part_of_the_start(box: Box) -> None:
    """Read where the layer and its mount are made by us: nobody else says what they took."""
    ready = Readiness(ReadinessKind.OUTPUT, output="^waiting$")
    with closing(box.prepare(WAITS, ready)) as prepared:
        instance = prepared.launch("files")
        try:
            wait_ready(instance, ready, None, box.deadline())
            readings = {reading.meter: reading for reading in instance.accounting().readings}
            took_ns = instance.milestones_ns[Milestone.READY]
            took_ns -= instance.milestones_ns[Milestone.REQUESTED]
        finally:
            finish(instance)
    is_ours = box.peer is not None and not box.peer.is_engine
    if box.backend.name == "container" or is_ours:
        value = readings[Meter.FILE_SYSTEM_NS].value
        assert value is not None
        assert 0 < value < took_ns
    else:
        assert Meter.FILE_SYSTEM_NS not in readings


def test_several_threads_can_launch_at_once(box: Box) -> None:
    with closing(box.prepare(HELLO)) as prepared, ThreadPoolExecutor(3) as pool:

        def trial(number: int) -> bytes:
            instance = prepared.launch(f"together-{number}")
            try:
                wait_ready(instance, ENDED, None, box.deadline(3 * box.patience_s))
                return instance.output.data
            finally:
                finish(instance)

        assert list(pool.map(trial, range(3))) == [b"hello\n"] * 3
