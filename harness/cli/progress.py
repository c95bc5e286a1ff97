"""A run's events on the terminal: a bar where there is a person, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from harness.model import Milestone, Outcome, RunInfo, Trial, events, units
from harness.model.units import format_duration
from harness.report.text.wording import share

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_LINE_NS = 1_000_000_000
"""Blocks share a line until they have taken so long: nobody reads hundreds of lines."""
_NEW_IMAGE_NS = 100_000_000
"""An image that took less was there already."""


def make_console(*, stderr: bool = False) -> Console:
    """Make what a command prints on; a reader that left is a BrokenPipeError, as elsewhere."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own way is to exit at once with code 1.
            raise BrokenPipeError

    return _Console(highlight=False, stderr=stderr)


@contextlib.contextmanager
def listener_for(console: Console) -> Iterator[events.Listener]:
    """Show a run on a console for as long as it lasts."""
    if not console.is_terminal:
        yield PlainListener(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # A redraw is work beside the measurement: few of them.
        refresh_per_second=4,
    )
    # The bar lives while the run does: what is printed before is not its, and charts that are drawn
    # afterwards by other processes want no thread beside them.
    try:
        yield BarListener(console, progress)
    finally:
        progress.stop()


class PlainListener:
    """Lines: what is prepared, the blocks as they pass, each failure."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._info: RunInfo | None = None
        self._block: events.BlockStarted | None = None
        self._done = self._failed = 0
        self._unreported_blocks = self._unreported_ns = 0
        self._unreported_from = 0
        self._last_message = ""

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.RunStarted(info, _, taken):
                self._info = info
                self._say(_intention(info, taken))
            case events.BlockStarted():
                self._block = event
            case events.BlockFinished(took_ns=took_ns):
                assert self._block is not None
                self._block_finished(self._block, took_ns)
            case events.TrialFinished(trial):
                self._done += 1
                if trial.outcome is not Outcome.OK:
                    self._failed += 1
                    where = f"{trial.scenario}: {trial.arm}, {_block_name(trial.block)}"
                    self._say(f"{where}: {trial.outcome}: {trial.error}")
            case events.RunFinished():
                if self._block is not None and self._unreported_blocks:
                    self._blocks_passed(self._block)
            case _:
                self._before_trials(event)

    def _before_trials(self, event: events.Event) -> None:
        match event:
            case events.HookStarted(scenario, hook, command):
                self._say(f"{scenario}: {hook}: {command}")
            case events.ArmPreparing(scenario, arm, message):
                self._preparing(f"{scenario}: {arm}: {message}")
            case events.ImagePrepared(scenario, image, took_ns) if took_ns >= _NEW_IMAGE_NS:
                self._say(f"{scenario}: image {image} made in {format_duration(took_ns)}")
            case events.ArmPrepared(record):
                took = format_duration(record.prepare_ns)
                self._say(f"{record.scenario}: {record.arm.name} prepared in {took}")
            case events.ArmSkipped(scenario, arm, availability):
                remedy = f"; {availability.remedy}" if availability.remedy else ""
                self._say(f"{scenario}: {arm} left out: {availability.reason}{remedy}")
            case events.HostBusy(block, others, most):
                self._say(
                    f"{_block_name(block)} waits: others use {share(others)} of the CPUs, "
                    f"and may use {share(most)}"
                )

    def _preparing(self, line: str) -> None:
        if line != self._last_message:
            self._say(line)
            self._last_message = line

    def _block_finished(self, event: events.BlockStarted, took_ns: int) -> None:
        """Write a line for a block, or one for several quick ones."""
        if not self._unreported_blocks:
            self._unreported_from = event.block
        self._unreported_blocks += 1
        self._unreported_ns += took_ns
        expected = event.expected or event.blocks
        is_quick = self._unreported_ns < _LINE_NS
        if not (0 <= event.block < expected - 1 and is_quick and not self._failed):
            self._blocks_passed(event)

    def _blocks_passed(self, event: events.BlockStarted) -> None:
        """Report the blocks that no line has reported yet, up to this one."""
        expected = event.expected or event.blocks
        of = ""
        if event.block >= 0:
            assert self._info is not None
            about = "about " if self._info.time_limit_ns is not None else ""
            about = "at most " if self._info.until or self._info.paired else about
            of = f" of {about}{max(expected, event.block + 1)}"
        if event.widths:
            of += f" ({_widths(event.widths)})"
        failures = f", {self._failed} failed" if self._failed else ""
        took = format_duration(self._unreported_ns)
        which = _block_name(event.block)
        if self._unreported_from < event.block:  # one may have been taken again
            which = f"blocks {self._unreported_from + 1} to {event.block + 1}"
        self._say(f"{which}{of}: {self._done} trials in {took}{failures}")
        self._unreported_blocks = self._unreported_ns = self._done = self._failed = 0

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class BarListener(PlainListener):
    """The same, with a bar in place of a line for each step and block."""

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
                expected = max(event.expected or event.blocks, event.block + 1)
                assert self._info is not None
                # A block of warm-up has fewer trials than those after it.
                total = self._all_done + (expected - event.block) * event.trials
                self._progress.update(self._task, total=total)
            case events.TrialStarted():
                self._preparing(_place(event))
            case events.InstancesAlive():
                self._preparing(f"{_place(event)}: {event.alive} of {event.most} alive")
            case events.TrialFinished(trial):
                self._all_done += 1
                ready = trial.milestones_ns.get(Milestone.READY)
                if ready is not None:
                    self._preparing(f"{_place(trial)} ready in {format_duration(ready)}")
                self._progress.update(self._task, completed=self._all_done)

    def _preparing(self, line: str) -> None:
        self._progress.update(self._task, description=line)

    def _block_finished(self, event: events.BlockStarted, took_ns: int) -> None:
        pass  # the bar has moved


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


def _block_name(block: int) -> str:
    return f"block {block + 1}" if block >= 0 else "warm-up"


def _place(of: Trial | events.TrialStarted | events.InstancesAlive) -> str:
    return f"{_block_name(of.block)}: {of.scenario}: {of.arm}"
