"""A run's events on the terminal: a bar where there is a person, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from harness.model import Milestone, Outcome, RunInfo, Trial, units
from harness.model.events import (
    ArmPrepared,
    ArmPreparing,
    ArmSkipped,
    BlockFinished,
    BlockStarted,
    Event,
    HookStarted,
    ImagePrepared,
    InstancesAlive,
    Listener,
    RunFinished,
    RunStarted,
    TrialFinished,
    TrialStarted,
)
from harness.model.units import format_duration
from harness.report.text.wording import share

if TYPE_CHECKING:
    from rich.console import Console

_TOLD_TOGETHER_NS = 1_000_000_000
"""Blocks share a line until they have taken so long: hundreds of lines are read by nobody."""
_TOLD_IMAGE_NS = 100_000_000
"""An image that took less was there already, and that is no news."""


def make_console(*, stderr: bool = False) -> Console:
    """Where a command prints. A reader that left is a BrokenPipeError, as it is elsewhere.

    Args:
        stderr: To the standard error, where the standard output is for the result alone.
    """
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own way is to exit at once with code 1.
            raise BrokenPipeError

    return _Console(highlight=False, stderr=stderr)


@contextlib.contextmanager
def listener_for(console: Console) -> Iterator[Listener]:
    """A listener that shows a run on `console`, for as long as it lasts."""
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
    with progress:
        yield BarListener(console, progress)


class PlainListener:
    """Lines: what is prepared, the blocks as they pass, each failure."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._info: RunInfo | None = None
        self._block: BlockStarted | None = None
        self._done = self._failed = 0
        self._untold_blocks = self._untold_ns = 0
        self._last_message = ""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        match event:
            case RunStarted(info, _, taken):
                self._info = info
                self.run_started(taken)
                self._say(_intention(info, taken))
            case BlockStarted():
                self._block = event
                self.block_started(event)
            case BlockFinished(took_ns=took_ns):
                assert self._block is not None
                self.block_finished(self._block, took_ns)
            case TrialStarted():
                self.trial_started(event)
            case InstancesAlive():
                self.instances_alive(event)
            case TrialFinished(trial):
                self._finished(trial)
            case RunFinished():
                if self._block is not None and self._untold_blocks:
                    self.blocks_passed(self._block)
            case _:
                self._before_trials(event)

    def _before_trials(self, event: Event) -> None:
        match event:
            case HookStarted(scenario, hook, command):
                self._say(f"{scenario}: {hook}: {command}")
            case ArmPreparing(scenario, arm, message):
                self.preparing(scenario, arm, message)
            case ImagePrepared(scenario, image, took_ns) if took_ns >= _TOLD_IMAGE_NS:
                self._say(f"{scenario}: image {image} made in {format_duration(took_ns)}")
            case ArmPrepared(record):
                took = format_duration(record.prepare_ns)
                self._say(f"{record.scenario}: {record.arm.name} prepared in {took}")
            case ArmSkipped(scenario, arm, availability):
                remedy = f"; {availability.remedy}" if availability.remedy else ""
                self._say(f"{scenario}: {arm} left out: {availability.reason}{remedy}")
            case _:
                pass

    def _finished(self, trial: Trial) -> None:
        self._done += 1
        if trial.outcome is not Outcome.OK:
            self._failed += 1
            where = f"{trial.scenario}: {trial.arm}, {_block_name(trial.block)}"
            self._say(f"{where}: {trial.outcome}: {trial.error}")
        self.trial_finished(trial)

    def preparing(self, scenario: str, arm: str, message: str) -> None:
        """A step of preparing; each once."""
        line = f"{scenario}: {arm}: {message}"
        if line != self._last_message:
            self._say(line)
            self._last_message = line

    def run_started(self, taken: int) -> None:
        """Nothing: its first line says what it is going to do."""

    def block_started(self, event: BlockStarted) -> None:
        """Say after the warm-up how many blocks there will be."""

    def trial_started(self, event: TrialStarted) -> None:
        """Nothing: one line a block is enough."""

    def instances_alive(self, event: InstancesAlive) -> None:
        """Nothing: one line a block is enough."""

    def trial_finished(self, trial: Trial) -> None:
        """Nothing: one line a block is enough."""

    def block_finished(self, event: BlockStarted, took_ns: int) -> None:
        """One line for a block, or for some quick ones together."""
        self._untold_blocks += 1
        self._untold_ns += took_ns
        expected = event.expected or event.blocks
        is_quick = self._untold_ns < _TOLD_TOGETHER_NS
        if 0 <= event.block < expected - 1 and is_quick and not self._failed:
            return
        self.blocks_passed(event)

    def blocks_passed(self, event: BlockStarted) -> None:
        """Tell of those that were not told yet, up to this one."""
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
        took = format_duration(self._untold_ns)
        which = _block_name(event.block)
        if self._untold_blocks > 1:
            which = f"blocks {event.block + 2 - self._untold_blocks} to {event.block + 1}"
        self._say(f"{which}{of}: {self._done} trials in {took}{failures}")
        self._untold_blocks = self._untold_ns = self._done = self._failed = 0

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class BarListener(PlainListener):
    """The same, with a bar in place of a line for each step and block."""

    def __init__(self, console: Console, progress: object) -> None:
        super().__init__(console)
        from rich.progress import Progress

        assert isinstance(progress, Progress)
        self._progress = progress
        self._task = progress.add_task("preparing", total=None)
        self._all_done = 0

    def run_started(self, taken: int) -> None:
        """Count the trials that are there already as done."""
        self._all_done = taken

    def preparing(self, scenario: str, arm: str, message: str) -> None:
        """A step of preparing."""
        self._progress.update(self._task, description=f"{scenario}: {arm}: {message}")

    def block_started(self, event: BlockStarted) -> None:
        """Set the bar's length by what will fit."""
        expected = max(event.expected or event.blocks, event.block + 1)
        assert self._info is not None
        total = (expected + self._info.warmup_blocks) * event.trials
        self._progress.update(self._task, total=total)

    def trial_started(self, event: TrialStarted) -> None:
        """Name the trial under way."""
        what = f"{_block_name(event.block)}: {event.scenario}: {event.arm}"
        self._progress.update(self._task, description=what)

    def instances_alive(self, event: InstancesAlive) -> None:
        """Say how far an arm has grown."""
        where = f"{_block_name(event.block)}: {event.scenario}: {event.arm}"
        what = f"{where}: {event.alive} of {event.most} alive"
        self._progress.update(self._task, description=what)

    def trial_finished(self, trial: Trial) -> None:
        """One step further."""
        self._all_done += 1
        ready = trial.milestones_ns.get(Milestone.READY)
        if ready is not None:
            what = f"{_block_name(trial.block)}: {trial.scenario}: {trial.arm}"
            what += f" ready in {format_duration(ready)}"
            self._progress.update(self._task, description=what)
        self._progress.update(self._task, completed=self._all_done)

    def block_finished(self, event: BlockStarted, took_ns: int) -> None:
        """Nothing: the bar has moved."""


def _intention(info: RunInfo, taken: int) -> str:
    """What the run is going to do, in one sentence."""
    names = ", ".join(scenario.name for scenario in info.scenarios)
    warmup = f"{units.count(info.warmup_blocks, 'warm-up block')}, then "
    many = units.count(info.blocks, "block")
    if info.time_limit_ns is not None:
        limit = format_duration(info.time_limit_ns)
        many = f"as many blocks as fit {limit} (at most {info.blocks}; --blocks sets the number)"
    if info.until:
        many += f", until {_widths(info.until, 'within')}"
    if info.resumed_at:
        names = f"{names}: going on after {taken} trials"
    return f"{names}: {warmup if info.warmup_blocks else ''}{many}, seed {info.seed}"


def _widths(widths: Mapping[str, float], verb: str = "is within") -> str:
    """How sure the medians are, or are to be: `ready is within 3.1 %`."""
    return ", ".join(
        f"{metric} {verb} {share(width)}" if width < float("inf") else f"{metric} is not known yet"
        for metric, width in widths.items()
    )


def _block_name(block: int) -> str:
    return f"block {block + 1}" if block >= 0 else "warm-up"
