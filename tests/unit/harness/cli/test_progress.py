"""The progress of a run where nobody watches: few lines, and what each says."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.progress import LINE_NS, BarListener, PlainListener, listener_for
from harness.model import Outcome, events
from tests.support.synthetic import synthetic_run

RUN = synthetic_run(blocks=4, scenarios=("hello",), arms=("container", "vm-micro"))
SECOND = 1_000_000_000


class Clock:
    """A clock that stands until it is put forward."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def lines_of(seconds_a_trial: float, failing: bool = False) -> list[str]:
    """What a run of four blocks of two trials says if each trial takes so long."""
    clock, file = Clock(), io.StringIO()
    listener = PlainListener(Console(file=file, width=80, legacy_windows=False), clock)
    listener(events.RunStarted(RUN.info, Path("out")))
    for record in RUN.info.arms:
        listener(events.ArmPrepared(record))
    for block in range(4):
        trials = [trial for trial in RUN.trials if trial.block == block]
        listener(events.BlockStarted(block, 4, 4, len(trials), {}))
        began = clock.ns
        for trial in trials:
            listener(events.TrialStarted(trial.scenario, trial.arm, block, trial.position))
            clock.ns += round(seconds_a_trial * SECOND)
            bad = dataclasses.replace(trial, outcome=Outcome.FAILED, error="no memory is left")
            listener(events.TrialFinished(bad if failing and block == 0 else trial))
        listener(events.BlockFinished(block, clock.ns - began))
    listener(events.RunFinished(Path("out"), RUN.info))
    return file.getvalue().splitlines()


def test_a_quick_run_says_what_it_does_and_what_was_prepared() -> None:
    lines = lines_of(0.5)
    assert len(lines) == 3
    assert lines[0].startswith("hello: ")
    assert [line.split(" in ")[0] for line in lines[1:]] == [
        "hello: container prepared",
        "hello: vm-micro prepared",
    ]


def test_a_long_run_says_where_it_is_at_most_every_ten_seconds() -> None:
    lines = lines_of(LINE_NS / SECOND / 2)[3:]
    # 8 trials of 5 s: a line at the first start from 10 s on, and so on.
    assert len(lines) == 3
    assert [line.split(": ")[0] for line in lines] == [f"block {n} of 4" for n in (2, 3, 4)]
    assert [line.rpartition("; ")[2] for line in lines] == [
        "about 30 s left", "about 20 s left", "about 10 s left",
    ]  # fmt: skip


def test_failures_are_counted_with_the_first_error() -> None:
    lines = lines_of(20, failing=True)[3:]
    assert len(lines) == 7
    assert "; 1 failed, first " in lines[0]
    assert "; 2 failed, first " in lines[-1]
    assert lines[-1].count("no memory is left") == 1


def test_an_arm_that_is_left_out_says_so_at_once() -> None:
    from harness.model.backend import Availability

    file = io.StringIO()
    listener = PlainListener(Console(file=file, width=80), Clock())
    listener(events.ArmSkipped("hello", "vm-micro", Availability(False, "no QEMU", "install it")))
    assert file.getvalue() == "hello: vm-micro left out: no QEMU; install it\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_person_gets_a_bar_and_a_file_lines(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal)
    with listener_for(console) as listener:
        assert isinstance(listener, BarListener) is is_terminal
        listener(events.RunStarted(RUN.info, Path("out")))
        listener(events.BlockStarted(0, 4, 4, 2, {}))
        listener(events.TrialStarted("hello", "container", 0, 0))
    assert isinstance(console.file, io.StringIO)
    assert ("block 1 of 4: hello: container" in console.file.getvalue()) is is_terminal


def test_a_block_that_waits_says_for_what() -> None:
    file = io.StringIO()
    PlainListener(Console(file=file, width=200))(events.HostBusy(2, 0.374, 0.1))
    assert file.getvalue() == "block 3 waits: others use 37 % of the CPUs, and may use 10 %\n"
