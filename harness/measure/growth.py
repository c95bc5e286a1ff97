"""Measures how start time and footprint of one arm change with the number of its instances.

```
the ramp       launch, wait until ready, meter    one after the other; all stay alive
                 0, 1, 2, 3, … alive                each launch a trial with `alive`
                 all of them at 1, 2, 4, …          their footprint: a GrowthPoint
               end them, the last one first       each stop meets as many others as its start did
burst          N threads launch at the same time  each launch a trial with `together` = N
                 (see `harness.measure.burst`)           all are ready, or have failed, then metered
               end them, all at the same time
```

An instance dies with the thread that launched it (PR_SET_PDEATHSIG, prctl(2)), so each thread of
a burst stays until its instance is removed. A failure is a trial with its outcome, after which the
ramp ends. Nothing outlives `grow`. `harness.model.scale` has the numbers of instances.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from harness.measure.burst import start_burst
from harness.measure.capacity import MemoryCapacity, enough_descriptors, with_remedy
from harness.measure.interruption import Interruption
from harness.measure.trial import OpenTrial, instance_name, without_collection
from harness.meters.footprint import read_footprint
from harness.model import GrowthPoint, Scenario, Slot, Trial
from harness.model.backend import PreparedArm
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError
from harness.model.scale import stages

if TYPE_CHECKING:
    from harness.lab import Lab

_LOOK_EVERY = 16
"""After how many launches living instances are looked after, besides whenever they are metered."""


@dataclass(frozen=True, slots=True)
class GrowthListener:
    """Takes the results; called on the thread that called `grow`.

    Attributes:
        trial: Takes a finished trial, whose instance is removed.
        point: Takes a footprint, as soon as it is read.
        alive: Takes progress: so many instances live (or were requested in a burst) of so many.
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
    """Take the trials of one slot in which the instances of one arm grow in number.

    A block that does not count (warm-up) has one instance: that fills the caches as well.

    Args:
        slot: Scenario, arm, block and position of all trials and points.
        scenario: Its `scale` is not None, and `scale_problems` finds nothing.
        prepared: The arm.
        lab: The private network, where the readiness needs it.
        interruption: Of the run; entered by the caller.
        listener: Takes trials, footprints and progress.
        taken: Trials of this slot from the records of a resumed run: a stage (the ramp: `together`
            1; each number of a burst) that has trials is left out.

    Raises:
        Interrupted: By a signal. Every instance is gone; the stage under way has given no trials.
    """
    assert scenario.scale is not None
    asked = stages(scenario.scale, slot.arm, warmup=slot.block < 0)
    done = {trial.together for trial in taken}
    growth = _Growth(slot, scenario, prepared, lab, interruption, listener)
    with enough_descriptors(asked.most), without_collection():
        if 1 not in done:
            growth.ramp(asked.instances)
        for number in asked.together:
            if number not in done:
                growth.burst(number)


@dataclass(slots=True)
class _Growth:
    """The stages of one slot; the fields are the arguments of `grow`."""

    slot: Slot
    scenario: Scenario
    prepared: PreparedArm
    lab: Lab | None
    interruption: Interruption
    listener: GrowthListener
    capacity: MemoryCapacity = field(init=False)
    open: partial[OpenTrial] = field(init=False)

    def __post_init__(self) -> None:
        self.capacity = MemoryCapacity(self.scenario.limits.memory_bytes)
        # What others do on the host is not reported: they would be instances that live on.
        self.open = partial(OpenTrial, self.slot, self.scenario, self.prepared, watched=False)

    def ramp(self, numbers: Sequence[int]) -> None:
        """Launch one after the other up to the last number, and read the footprint at each."""
        most = numbers[-1]
        trials: list[OpenTrial] = []
        missing: dict[int, Diagnostic] = {}
        with contextlib.ExitStack() as stack:
            while len(trials) < most:
                trial = self.open(alive=len(trials))
                trials.append(trial)
                # The last one first, and each of them whatever becomes of the others.
                stack.callback(trial.end)
                self._start(trial, len(trials))
                is_wanted = len(trials) in numbers
                if is_wanted or len(trials) % _LOOK_EVERY == 0:
                    for one in trials:
                        one.pump(0)
                if any(trial.failed for trial in trials):
                    break
                self.listener.alive(len(trials), most)
                if is_wanted and (lack := self._read_footprint(trials)) is not None:
                    missing[len(trials) - 1] = lack
        for number, trial in enumerate(trials):
            taken = trial.record()
            if number in missing:
                taken = replace(taken, diagnostics=(*taken.diagnostics, missing[number]))
            self.listener.trial(taken)

    def burst(self, number: int) -> None:
        """Launch so many at the same time."""
        self.interruption.check()
        if (lack := self.capacity.lack(number)) is not None:
            for _ in range(number):
                trial = self.open(burst=number)
                trial.fail(HarnessError(lack))
                self.listener.trial(trial.record())
            return
        gc.collect()
        trials = start_burst(
            names=[instance_name(self.slot, f"t{number}-{index + 1}") for index in range(number)],
            open_trial=lambda launch: self.open(burst=number, launch=launch),
            launch=self.prepared.launch,
            lab=self.lab,
            interruption=self.interruption,
            begun=lambda: self.listener.alive(number, number),
        )
        for taken in trials:
            self.listener.trial(taken)

    def _start(self, trial: OpenTrial, number: int) -> None:
        self.interruption.check()
        if number > 1:
            self.capacity.learn(number - 1)
            if (lack := self.capacity.lack(1)) is not None:
                trial.fail(HarnessError(lack))
                return
        gc.collect()
        try:
            trial.run(instance_name(self.slot, str(number)), self.lab, self.interruption)
        except (HarnessError, OSError) as error:
            trial.fail(with_remedy(error) if trial.instance is None else error)

    def _read_footprint(self, trials: Sequence[OpenTrial]) -> Diagnostic | None:
        """Give it to the listener, or return why it is missing."""
        living = [trial.instance for trial in trials if trial.instance is not None]
        try:
            point = read_footprint(self.slot, self.prepared, living, self.capacity.available_before)
        except (HarnessError, OSError) as error:
            detail = f"the footprint of {len(living)} instances: {error}"
            return Diagnostic(DiagnosticCode.MISSING, detail)
        self.listener.point(point)
        return None
