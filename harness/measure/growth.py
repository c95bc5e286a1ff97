"""Many instances of one arm at once: how start time and footprint change with their number.

```
the ramp       launch, wait until ready, meter    one after the other; all stay alive
                 0, 1, 2, 3, … alive                each launch a trial with `alive`
                 all of them at 1, 2, 4, …          their footprint: a GrowthPoint
               end them, the last one first       each stop meets as many others as its start did
together       N threads launch at the same time  each launch a trial with `together` = N
                 (see `harness.measure.burst`)           all are ready, or have failed, then metered
               end them, all at the same time
```

An instance dies with the thread that launched it (PR_SET_PDEATHSIG, prctl(2)), so each thread of
the second stage stays until its instance is removed.

A failure is data: a trial with its outcome, after which the ramp goes no further. Nothing outlives
`grow`, however it ends. What an arm is asked for, and what it cannot be, is in
`harness.model.scale`.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.lab.readiness import unexpected_exit
from harness.measure.burst import SHOULD_RUN_ON, start_together
from harness.measure.capacity import MemoryRoom, enough_descriptors, with_remedy
from harness.measure.interruption import Interruption
from harness.measure.trial import OpenTrial
from harness.meters.footprint import read_footprint
from harness.model import GrowthPoint, Scenario, Slot, Trial
from harness.model.backend import PreparedArm
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError
from harness.model.scale import stages

if TYPE_CHECKING:
    from harness.lab import Lab

_LOOK_EVERY = 16
"""After how many launches those that live are looked after, besides whenever they are metered."""


@dataclass(frozen=True, slots=True)
class GrowthListener:
    """Who is told what comes out; called on the thread that called `grow`.

    Attributes:
        trial: A finished trial (its instance is removed): `RunWriter.append` and the events.
        point: A footprint, as soon as it is read: `RunWriter.append_growth`.
        alive: Progress: so many instances live (or were requested together) of so many.
    """

    trial: Callable[[Trial], None]
    point: Callable[[GrowthPoint], None]
    alive: Callable[[int, int], None]


def grow(
    slot: Slot,
    scenario: Scenario,
    prepared: PreparedArm,
    lab: Lab | None,
    interruption: Interruption,
    listener: GrowthListener,
    taken: Collection[Trial] = (),
) -> None:
    """Let the instances of one arm grow in number: instead of `take_trial`, for one slot.

    A block that does not count (warm-up) has one instance: that fills the caches as well.

    Args:
        slot: Scenario, arm, block and position; all trials and points of it carry them.
        scenario: Its `scale` is not None, and `scale_problems` finds nothing.
        prepared: The arm.
        lab: The private network, where the readiness needs it.
        interruption: Of the run; entered by the caller.
        listener: Told of trials, footprints and progress.
        taken: Trials of this slot that the records hold already, when a run is resumed: a stage
            (the ramp: `together` 1; each number started at once) that has trials is left out.

    Raises:
        Interrupted: By a signal. Every instance is gone; the stage under way has given no trials.
    """
    assert scenario.scale is not None
    asked = stages(scenario.scale, slot.arm, warmup=slot.block < 0)
    done = {trial.together for trial in taken}
    growth = _Growth(slot, scenario, prepared, lab, interruption, listener)
    with enough_descriptors(asked.most), _no_collection():
        if 1 not in done:
            growth.ramp(asked.instances)
        for number in asked.together:
            if number not in done:
                growth.start_together(number)


class _Growth:
    """The stages of one slot."""

    def __init__(
        self,
        slot: Slot,
        scenario: Scenario,
        prepared: PreparedArm,
        lab: Lab | None,
        interruption: Interruption,
        listener: GrowthListener,
    ) -> None:
        self._slot = slot
        self._scenario = scenario
        self._prepared = prepared
        self._lab = lab
        self._interruption = interruption
        self._listener = listener
        self._room = MemoryRoom(scenario.limits.memory_bytes)

    def ramp(self, numbers: Sequence[int]) -> None:
        """Launch one after the other up to the last number, and read the footprint at each."""
        most = numbers[-1]
        trials: list[OpenTrial] = []
        doubts: dict[int, Diagnostic] = {}
        with contextlib.ExitStack() as stack:
            while len(trials) < most:
                trial = self._open(self._prepared, alive=len(trials))
                trials.append(trial)
                # The last one first, and each of them whatever becomes of the others.
                stack.callback(trial.end)
                self._start(trial, len(trials))
                is_wanted = len(trials) in numbers
                if is_wanted or len(trials) % _LOOK_EVERY == 0:
                    _look_after(trials)
                if any(trial.failed for trial in trials):
                    break
                self._listener.alive(len(trials), most)
                if is_wanted and (doubt := self._read_footprint(trials)) is not None:
                    doubts[len(trials) - 1] = doubt
        for number, trial in enumerate(trials):
            taken = trial.record()
            if number in doubts:
                taken = replace(taken, diagnostics=(*taken.diagnostics, doubts[number]))
            self._listener.trial(taken)

    def start_together(self, number: int) -> None:
        """Launch so many at the same time."""
        self._interruption.check()
        if (lack := self._room.lack(number)) is not None:
            for _ in range(number):
                trial = self._open(self._prepared, together=number)
                trial.fail(HarnessError(lack))
                self._listener.trial(trial.record())
            return
        gc.collect()
        trials = start_together(
            names=[self._name(f"t{number}-{index + 1}") for index in range(number)],
            open_trial=lambda arm: self._open(arm, together=number),
            prepared=self._prepared,
            lab=self._lab,
            interruption=self._interruption,
            begun=lambda: self._listener.alive(number, number),
        )
        for taken in trials:
            self._listener.trial(taken)

    def _open(self, prepared: PreparedArm, alive: int = 0, together: int = 1) -> OpenTrial:
        return OpenTrial(
            self._slot,
            self._scenario,
            prepared,
            alive=alive,
            together=together,
            watched=False,
        )

    def _start(self, trial: OpenTrial, number: int) -> None:
        """Launch the ramp's next instance, wait for it and meter it."""
        self._interruption.check()
        if number > 1:
            self._room.learn(number - 1)
            if (lack := self._room.lack(1)) is not None:
                trial.fail(HarnessError(lack))
                return
        gc.collect()
        try:
            trial.begin(self._name(str(number)))
            with self._interruption.safe():
                trial.wait(self._lab)
            trial.meter()
        except (HarnessError, OSError) as error:
            trial.fail(with_remedy(error) if trial.instance is None else error)

    def _read_footprint(self, trials: Sequence[OpenTrial]) -> Diagnostic | None:
        """Tell the listener of it, or return why it could not be had."""
        living = [trial.instance for trial in trials if trial.instance is not None]
        try:
            point = read_footprint(self._slot, self._prepared, living, self._room.available_before)
        except (HarnessError, OSError) as error:
            detail = f"the footprint of {len(living)} instances: {error}"
            return Diagnostic(DiagnosticCode.MISSING, detail)
        self._listener.point(point)
        return None

    def _name(self, suffix: str) -> str:
        """Unique in a run, and short: it becomes part of folder, cgroup and process names."""
        slot = self._slot
        block = f"w{-slot.block}" if slot.block < 0 else str(slot.block)
        return f"{slot.scenario}-{slot.arm}-{block}-{suffix}"


def _look_after(trials: Sequence[OpenTrial]) -> None:
    """Take what the living print, so that they need not wait, and see whether they still live."""
    for trial in trials:
        instance = trial.instance
        if instance is None or trial.failed:
            continue
        try:
            instance.pump(0)
        except (HarnessError, OSError) as error:
            trial.fail(error)
        if instance.exit is not None:
            trial.fail(unexpected_exit(instance, SHOULD_RUN_ON))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector must not choose a launch to run in."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
