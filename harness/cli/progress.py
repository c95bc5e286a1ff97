"""A run's events on stderr: a bar where there is a person, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from harness.model import Outcome, RunInfo, events, units
from harness.model.units import format_duration
from harness.report.text.wording import share

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LINE_NS = 10_000_000_000
"""At most one line in so long says how far the run is: logs are kept, and read by people."""
_NEW_IMAGE_NS = 100_000_000
"""An image that took less was there already."""


def make_console(*, stderr: bool = False) -> Console:
    """Make what a command prints on; a reader that left is a BrokenPipeError, as elsewhere.

    COLUMNS and LINES count only where they are above zero, as elsewhere.
    """
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own way is to exit at once with code 1.
            raise BrokenPipeError

    sizes = ("COLUMNS", "LINES")
    unset = {name for name in sizes if not os.environ.get(name, "").strip("0")}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return _Console(highlight=False, stderr=stderr, _environ=environment)


@contextlib.contextmanager
def listener_for(console: Console) -> Iterator[events.Listener]:
    """Show a run on a console for as long as it lasts."""
    if not console.is_terminal:
        yield PlainListener(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("left:"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        # A redraw is work beside the measurement: few of them.
        refresh_per_second=4,
        # Longer than a block: its trials are of very different length.
        speed_estimate_period=600,
    )
    # The bar lives while the run does: what is printed before is not its, and charts that are drawn
    # afterwards by other processes want no thread beside them.
    try:
        yield BarListener(console, progress)
    finally:
        progress.stop()


class PlainListener:
    """Lines: what is prepared, and every ten seconds what is done now and how long it will take."""

    def __init__(self, console: Console, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._console = console
        self._clock_ns = clock_ns
        self._said_ns = clock_ns()
        self._info: RunInfo | None = None
        self._block: events.BlockStarted | None = None
        self._finished_blocks = self._blocks_ns = self._failed = 0
        self._first_failure = ""

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.RunStarted(info, _, taken):
                self._info = info
                self._say(_intention(info, taken))
            case events.BlockStarted():
                self._block = event
            case events.BlockFinished(took_ns=took_ns):
                self._finished_blocks += 1
                self._blocks_ns += took_ns
            case events.TrialStarted() | events.InstancesAlive():
                self._now(f"{self._place()}: {_doing(event)}{self._rest()}")
            case events.TrialFinished(trial) if trial.outcome is not Outcome.OK:
                self._failed += 1
                self._first_failure = self._first_failure or f"{trial.arm}: {trial.error}"
            case _:
                self._before_trials(event)

    def _before_trials(self, event: events.Event) -> None:
        match event:
            case events.HookStarted(scenario, hook, command):
                self._say(f"{scenario}: {hook}: {command}")
            case events.ArmPreparing(scenario, arm, message):
                self._now(f"{scenario}: {arm}: {message}")
            case events.ImagePrepared(scenario, image, took_ns) if took_ns >= _NEW_IMAGE_NS:
                self._say(f"{scenario}: image {image} made in {format_duration(took_ns)}")
            case events.ArmPrepared(record):
                took = format_duration(record.prepare_ns)
                self._say(f"{record.scenario}: {record.arm.name} prepared in {took}")
            case events.ArmSkipped(scenario, arm, availability):
                remedy = f"; {availability.remedy}" if availability.remedy else ""
                self._say(f"{scenario}: {arm} left out: {availability.reason}{remedy}")
            case events.HostBusy(block, others, most):
                which = "warm-up" if block < 0 else f"block {block + 1}"
                self._say(
                    f"{which} waits: others use {share(others)} of the CPUs, "
                    f"and may use {share(most)}"
                )

    def _now(self, line: str) -> None:
        """Say what is done now, if nothing was said for a while."""
        if self._clock_ns() - self._said_ns >= LINE_NS:
            self._say(line)

    def _place(self) -> str:
        """Say which block it is, and of how many."""
        assert self._info is not None
        assert self._block is not None
        block = self._block
        if block.block < 0:
            return "warm-up"
        about = "about " if self._info.time_limit_ns is not None else ""
        about = "at most " if self._info.until or self._info.paired else about
        return f"block {block.block + 1} of {about}{_expected(block)}"

    def _rest(self) -> str:
        """Say what failed so far, how sure the medians are, and how long the rest will take."""
        assert self._block is not None
        rest = f"; {self._failed} failed, first {self._first_failure}" if self._failed else ""
        if self._block.widths:
            rest += f"; {_widths(self._block.widths)}"
        if self._finished_blocks and self._block.block >= 0:
            left = max(_expected(self._block) - self._block.block, 1)
            rest += f"; about {_roughly(left * self._blocks_ns / self._finished_blocks)} left"
        return rest

    def _say(self, line: str) -> None:
        self._said_ns = self._clock_ns()
        self._console.print(line, markup=False, soft_wrap=True)


class BarListener(PlainListener):
    """The same, with a bar in place of the lines on how far it is."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._task = progress.add_task("preparing", total=None)
        self._all_done = 0

    def __call__(self, event: events.Event) -> None:
        """Take an event, and move the bar."""
        super().__call__(event)
        match event:
            case events.RunStarted(taken=taken):
                self._all_done = taken
                self._progress.start()
            case events.RunFinished():
                self._progress.stop()
            case events.BlockStarted():
                assert self._info is not None
                # A block of warm-up has fewer trials than those after it.
                total = self._all_done + (_expected(event) - event.block) * event.trials
                self._progress.update(self._task, total=total)
            case events.TrialFinished():
                self._all_done += 1
                self._progress.update(self._task, completed=self._all_done)

    def _now(self, line: str) -> None:
        self._progress.update(self._task, description=line)

    def _rest(self) -> str:
        return f", {self._failed} failed" if self._failed else ""  # the bar says the rest


def _intention(info: RunInfo, taken: int) -> str:
    """Say in one sentence what the run is going to do."""
    names = ", ".join(scenario.name for scenario in info.scenarios)
    warmup = f"{units.count(info.warmup_blocks, 'warm-up block')}, then "
    many = units.count(info.blocks, "block")
    if info.time_limit_ns is not None:
        limit = format_duration(info.time_limit_ns)
        span = f"{info.fewest_blocks} to {info.blocks}"
        many = f"as many blocks as fit {limit} ({span}; --blocks sets the number)"
    if info.until:
        many += f", until {_widths(info.until, 'within')}"
    if info.resumed_at:
        names = f"{names}: going on after {taken} trials"
    return f"{names}: {warmup if info.warmup_blocks else ''}{many}, seed {info.seed}"


def _widths(widths: Mapping[str, float], verb: str = "is within") -> str:
    """Say how sure the medians are, or are to be: `ready is within 3.1 %`."""
    return ", ".join(
        f"{metric} {verb} {share(width)}" if width < float("inf") else f"{metric} is not known yet"
        for metric, width in widths.items()
    )


def _expected(event: events.BlockStarted) -> int:
    return max(event.expected or event.blocks, event.block + 1)


def _doing(event: events.TrialStarted | events.InstancesAlive) -> str:
    alive = ""
    if isinstance(event, events.InstancesAlive):
        alive = f", {event.alive} of {event.most} alive"
    return f"{event.scenario}: {event.arm}{alive}"


def _roughly(ns: float) -> str:
    """Spell how long something will take: `40 s`, `3 min`."""
    seconds = ns / 1e9
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"
