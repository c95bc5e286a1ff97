"""An instance's events and its machine's life, with a shell in QEMU's place: real process, real
sockets, but a guest that says what the test wants it to say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.backends.vm import instance as vm_instance
from harness.backends.vm.instance import VmInstance
from harness.backends.vm.machine import Descriptors, Ending, Machine, death_signal_prefix
from harness.model import Milestone
from harness.model.backend import Exit
from harness.model.diagnostics import DiagnosticCode
from harness.model.errors import LaunchFailedError, UnexpectedExitError

BOOTS = "printf 'Linux version 1\\nsteelyard: userspace\\n' >&$console;"
STARTS = f"{BOOTS} echo started >&$control;"

Start = Callable[[str], VmInstance]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[VmInstance] = []

    def start(script: str) -> VmInstance:
        def argv(fds: Descriptors) -> tuple[str, ...]:
            names = ("console", "qmp", "control", "output")
            variables = " ".join(f"{name}={getattr(fds, f'{name}_fd')}" for name in names)
            return ("/bin/bash", "-c", f"{variables}; {script}")

        machine = Machine(argv, tmp_path / "log")
        now = time.monotonic_ns()
        stamps = {Milestone.REQUESTED: now, Milestone.ISOLATED: now}
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(8192))
        made.append(VmInstance(machine, stamps, (disk, "overlay"), 0, None, [], lambda: None))
        return made[-1]

    yield start
    for instance in made:
        instance.stop(10**9)
        instance.remove()


def pump_until(instance: VmInstance, done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic_ns() + round(seconds * 1e9)
    while not done():
        assert time.monotonic_ns() < deadline, "it never happened"
        instance.pump(deadline)


def test_the_readiness_command_is_asked_for_by_number(start: Start) -> None:
    instance = start(
        f"{STARTS} while read -r n <&$control; do "
        "echo probed $n $((1 - n)) said by $n >&$control; done; sleep 60"
    )
    assert instance.run_inside(("probe",)) is None
    pump_until(instance, lambda: Milestone.STARTED in instance.milestones_ns)
    ends = []
    for _ in range(2):
        command = instance.run_inside(("probe",))
        assert command is not None
        before_ns = time.monotonic_ns()
        pump_until(instance, lambda one=command: one.look() is not None)  # type: ignore[misc]
        end = command.look()
        assert end is not None
        assert before_ns <= end.at_ns <= time.monotonic_ns()
        ends.append((end.code, command.last_line()))
        command.close()
    assert ends == [(1, "said by 0"), (0, "said by 1")]


def test_marks_in_pieces_are_put_together(start: Start) -> None:
    instance = start(
        "printf 'Linux ver' >&$console; sleep 0.1; printf 'sion 6\\nsteel' >&$console; sleep 0.1;"
        "printf 'yard: userspace\\n' >&$console; sleep 0.1; printf star >&$control; sleep 0.1;"
        "printf 'ted\\nex' >&$control; echo bye >&$output; sleep 0.1; printf 'it 7\\n' >&$control;"
        "sleep 0.1; echo drained >&$control; sleep 100"
    )
    pump_until(instance, lambda: instance.exit is not None)
    stamps = instance.milestones_ns
    order = [Milestone.ISOLATED, Milestone.KERNEL, Milestone.USERSPACE, Milestone.STARTED]
    assert sorted(order, key=stamps.__getitem__) == order
    assert stamps[Milestone.USERSPACE] - stamps[Milestone.KERNEL] > 50_000_000
    assert instance.exit is not None
    assert (instance.exit.code, instance.exit.signal) == (7, None)
    assert instance.output.data == b"bye\n"
    # The end is stamped when it was heard, not when the output was complete.
    assert time.monotonic_ns() - instance.exit.at_ns > 50_000_000


def test_output_that_is_there_at_the_end_belongs_to_it(start: Start) -> None:
    instance = start(
        f"{STARTS} echo 'signal 11' >&$control; echo late >&$output; echo drained >&$control;"
        "sleep 100"
    )
    pump_until(instance, lambda: instance.exit is not None)
    assert instance.exit is not None
    assert (instance.exit.code, instance.exit.signal) == (None, 11)
    assert instance.output.data == b"late\n"


def test_a_guest_that_does_not_drain_is_not_waited_for_without_end(start: Start) -> None:
    instance = start(f"{STARTS} echo 'exit 0' >&$control; sleep 100")
    begun = time.monotonic()
    pump_until(instance, lambda: instance.exit is not None)
    assert time.monotonic() - begun < 5


def test_a_machine_that_dies_while_booting_is_a_failed_launch(start: Start) -> None:
    instance = start("echo 'Kernel panic - not syncing: no root' >&$console; exit 1")
    with pytest.raises(LaunchFailedError, match="went down: Kernel panic - not sync") as error:
        pump_until(instance, lambda: False)
    assert "no root" in error.value.console


def test_its_complaint_is_told(start: Start) -> None:
    instance = start("echo 'qemu: cannot set up memory' >&2; exit 1")
    with pytest.raises(LaunchFailedError, match="cannot set up memory"):
        pump_until(instance, lambda: False)


def test_a_machine_that_dies_later_takes_its_workload_with_it(start: Start) -> None:
    instance = start(f"{STARTS} echo half >&$output; exit 1")
    with pytest.raises(UnexpectedExitError, match="its workload went with it"):
        pump_until(instance, lambda: False)
    assert instance.output.data == b"half\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "echo 'lost it was killed' >&$control; sleep 100",
            "how the workload ended: it was killed",
        ),
        ("echo drained >&$control; sleep 100", "how the workload ended: it ended without a word"),
        ("echo 'lost it was killed' >&$control", "how the workload ended: it was killed"),
    ],
)
def test_an_end_that_nobody_knows_is_a_failure(start: Start, words: str, message: str) -> None:
    instance = start(f"{STARTS} echo half >&$output; {words}")
    with pytest.raises(UnexpectedExitError, match=message) as error:
        pump_until(instance, lambda: False)
    assert instance.exit is None
    assert instance.output.data == b"half\n"
    assert "half" in error.value.console


def test_an_end_that_was_told_counts_also_when_the_machine_goes_at_once(start: Start) -> None:
    instance = start(f"{STARTS} echo all >&$output; echo 'exit 4' >&$control")
    pump_until(instance, lambda: instance.exit is not None)
    assert isinstance(instance.exit, Exit)
    assert instance.exit.code == 4
    assert instance.output.data == b"all\n"


def test_a_workload_that_cannot_start_is_told_in_the_guest_s_words(start: Start) -> None:
    instance = start(f"{BOOTS} echo 'failed there is no command x' >&$control; sleep 100")
    with pytest.raises(LaunchFailedError, match="could not start the workload: there is no comm"):
        pump_until(instance, lambda: False)


def test_pump_returns_at_the_deadline_and_for_the_wake_descriptor(start: Start) -> None:
    instance = start("sleep 100")
    begun = time.monotonic_ns()
    instance.pump(begun + 50_000_000)
    assert time.monotonic_ns() >= begun + 50_000_000
    wake_read, wake_write = os.pipe()
    os.write(wake_write, b"x")
    instance.pump(time.monotonic_ns() + 60_000_000_000, wake_read)
    assert os.read(wake_read, 1) == b"x"
    os.close(wake_read)
    os.close(wake_write)


def test_a_machine_that_does_not_listen_is_killed_and_that_is_said(start: Start) -> None:
    instance = start("trap '' TERM; sleep 100 & wait; sleep 100")
    instance.stop(200_000_000)
    assert [doubt.code for doubt in instance.diagnostics] == [DiagnosticCode.FORCED_STOP]
    assert Milestone.STOPPED in instance.milestones_ns
    instance.remove()
    stamps = dict(instance.milestones_ns)
    instance.stop(1)
    instance.remove()
    assert instance.milestones_ns == stamps


def test_a_program_that_is_not_there_is_a_failed_launch(tmp_path: Path) -> None:
    # setpriv is found; that the program behind it is missing shows when nobody answers.
    machine = Machine(lambda _: ("/no/such/qemu",), tmp_path / "log")
    with pytest.raises(LaunchFailedError, match="/no/such/qemu"):
        machine.connect("test")
    machine.close()


def test_ending_what_is_gone_already(tmp_path: Path) -> None:
    machine = Machine(lambda _: ("true",), tmp_path / "log")
    assert machine.ended(5)
    assert machine.end(1) is Ending.GONE
    machine.close()
    machine.close()


HARNESS = """
import sys, time
from pathlib import Path
from harness.backends.vm.machine import Machine
machine = Machine(lambda _: ("sleep", "1000"), Path(sys.argv[1]))
print(machine.process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(not death_signal_prefix(), reason="setpriv has no --pdeathsig here")
def test_the_machine_dies_with_a_killed_harness(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HARNESS, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        pidfd = os.pidfd_open(pid)
        # It must have become the machine before its parent dies.
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/comm").read_text().strip() != "sleep":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        harness.send_signal(signal.SIGKILL)
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(5000)
    os.close(pidfd)


FLUSHES = f"{STARTS} read -r word <&$control; [ $word = sync ] && echo synced >&$control;"


def test_the_disk_is_measured_once_the_guest_has_written_out_what_it_holds(
    start: Start, tmp_path: Path
) -> None:
    more = "head -c 65536 /dev/urandom >>disk;"
    instance = start(
        f"cd {tmp_path}; {FLUSHES.replace('echo synced', f'{more} echo synced')}sleep 60"
    )
    pump_until(instance, lambda: Milestone.STARTED in instance.milestones_ns)
    (part,) = instance.disk_parts()
    assert part.apparent_bytes == 8192 + 65536
    assert instance.diagnostics == []


def test_a_guest_writes_it_out_once_and_keeps_no_later_reading_waiting(
    start: Start, tmp_path: Path
) -> None:
    """A second request would find nobody who answers, and would spoil what the first one gave."""
    instance = start(f"cd {tmp_path}; {FLUSHES} exec sleep 100")
    pump_until(instance, lambda: Milestone.STARTED in instance.milestones_ns)
    instance.disk_parts()
    with (tmp_path / "disk").open("ab") as disk:
        disk.write(bytes(4096))
    (part,) = instance.disk_parts()
    assert part.apparent_bytes == 8192 + 4096
    assert instance.diagnostics == []


@pytest.mark.parametrize(
    "script",
    [
        f"{STARTS} exec sleep 100",  # it does not listen
        f"{STARTS} read -r word <&$control; exit 1",  # it ends when asked
    ],
)
def test_a_guest_that_does_not_write_it_out_is_said_not_to_have(
    start: Start, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_instance, "_FLUSH_PATIENCE_NS", 200_000_000)
    instance = start(script)
    pump_until(instance, lambda: Milestone.STARTED in instance.milestones_ns)
    for _ in range(2):
        instance.disk_parts()
    assert [one.code for one in instance.diagnostics] == [DiagnosticCode.NOT_FLUSHED]


def test_what_comes_while_the_guest_writes_is_taken_in(start: Start) -> None:
    late = "echo printed >&$output; echo exit 0 >&$control; echo drained >&$control;"
    instance = start(f"{FLUSHES.replace('&& echo', f'&& {late} echo')}sleep 60")
    pump_until(instance, lambda: Milestone.STARTED in instance.milestones_ns)
    instance.disk_parts()
    assert instance.diagnostics == []
    assert instance.output.data == b"printed\n"
    assert instance.exit is not None
    assert instance.exit.code == 0
