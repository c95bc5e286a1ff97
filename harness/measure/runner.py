"""Walks the schedule: prepares the arms, takes the trials, writes the records, emits events.

It prints nothing and judges nothing. A trial that fails is recorded and the run goes on; only what
makes the run as a whole pointless is raised. However a run ends (finished, interrupted, failed),
the instance under way is stopped and removed, the arms are closed, the user's `cleanup` is run and
the records say how it was.
"""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING

from harness.analysis.diagnose import run_diagnostics
from harness.environment import Environment
from harness.measure import schedule
from harness.measure.hooks import HookRunner
from harness.measure.interruption import Interrupted, Interruption
from harness.measure.prepare import EnsureImage, GetBackend, Preparer, Ready
from harness.measure.request import Request, begun, now
from harness.measure.resume import refuse_another_arm, refuse_another_host
from harness.measure.trial import take_trial
from harness.model import Arm, GrowthPoint, NoiseFloor, RunInfo, Scenario, Slot, Trial
from harness.model.backend import Availability
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import BackendUnavailableError, HarnessError, PrepareError
from harness.model.events import (
    ArmPrepared,
    ArmSkipped,
    BlockFinished,
    BlockStarted,
    Event,
    HookStarted,
    InstancesAlive,
    Listener,
    RunFinished,
    RunStarted,
    TrialFinished,
    TrialStarted,
)
from harness.model.scale import stages
from harness.records import Run

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.records import RunWriter


class Runner:
    """One run. Use once: `Runner(…).run()`.

    Args:
        request: What to do.
        get_backend: Where backends come from.
        environment: The host's facts, captured before.
        writer: Where records go.
        listener: Told of every event. A BrokenPipeError of it ends the run as SIGPIPE would.
        ensure_image: Where images come from.
    """

    def __init__(
        self,
        request: Request,
        get_backend: GetBackend,
        environment: Environment,
        writer: RunWriter,
        listener: Listener,
        ensure_image: EnsureImage,
    ) -> None:
        self._request = request
        self._environment = environment
        self._writer = writer
        self._listener = listener
        self._interruption = Interruption()
        self._preparer = Preparer(get_backend, ensure_image, self._interruption, self._emit)
        self._hooks = HookRunner(writer.directory, self._interruption)
        self._scenarios = {scenario.name: scenario for scenario in request.scenarios}
        self._arms: dict[tuple[str, str], Ready] = {}
        self._skipped: list[str] = []
        self._lab: Lab | None = None
        resumption = request.resumption
        self._trials: list[Trial] = list(resumption.run.trials) if resumption else []
        self._times_ns: list[int] = resumption.block_times_ns() if resumption else []
        self._done = 0
        self._widths: Mapping[str, float] = {}
        # A resumed run's records are touched only once it is certain that it can go on.
        self._may_record = resumption is None
        self._info = begun(request, environment)

    def run(self) -> RunInfo:
        """Do it.

        Returns:
            The circumstances as they are in the records at the end.

        Raises:
            BackendUnavailableError: An arm that was asked for by name cannot run here.
            PrepareError: An arm that was asked for by name cannot be prepared.
            HookFailedError: A command of the user's failed; with `cleanup`, all else is done.
            RecordError: A run to be resumed does not fit this host any more.
            HarnessError: No arm at all can run, or records cannot be written.
            Interrupted: By a signal; everything is written and removed.
        """
        with self._interruption, contextlib.ExitStack() as stack:
            self._record()
            self._emit(RunStarted(self._info, self._writer.directory, len(self._trials)))
            # The last word of the records comes after everything was removed.
            stack.callback(self._finish)
            try:
                self._prepare_all(stack)
                self._take_blocks()
            except BaseException:
                self._info = replace(self._info, interrupted=True)
                raise
        return self._info

    def _emit(self, event: Event) -> None:
        try:
            self._listener(event)
        except BrokenPipeError:
            # Not an Exception: whoever reports progress from deep inside must not take it for a
            # failure of his own.
            raise Interrupted(signal.SIGPIPE) from None

    def _prepare_all(self, stack: contextlib.ExitStack) -> None:
        if self._request.resumption is not None:
            refuse_another_host(self._request.resumption, self._environment.facts)
        for scenario in self._request.scenarios:
            if scenario.hooks.setup is not None:
                self._emit(HookStarted(scenario.name, "setup", scenario.hooks.setup))
            stack.enter_context(self._hooks.around(scenario))
        stack.callback(self._close_arms)
        for scenario in self._request.scenarios:
            lab = None
            if scenario.readiness.needs_network:
                if self._lab is None:
                    from harness.lab import Lab

                    self._lab = stack.enter_context(Lab())
                    # Arms that live in the lab are closed before the lab is.
                    stack.callback(self._close_arms)
                lab = self._lab
            for arm in scenario.arms:
                self._prepare(scenario, arm, lab)
        if not self._arms:
            reasons = "; ".join(dict.fromkeys(self._skipped))
            message = f"no arm can run here ({reasons}); see steelyard doctor"
            raise HarnessError(message)
        if not self._may_record:
            self._may_record = True
            self._record()

    def _prepare(self, scenario: Scenario, arm: Arm, lab: Lab | None) -> None:
        """Prepare one arm, or leave it out and say so."""
        resumption = self._request.resumption
        is_going_on = resumption is not None and bool(resumption.run.trials)
        before = resumption.record_of(scenario.name, arm.name) if resumption else None
        if is_going_on and before is None:
            return  # it was left out when the run began, and an order without it was drawn
        try:
            ready = self._preparer.prepare(scenario, arm, lab)
        except (BackendUnavailableError, PrepareError) as error:
            if is_going_on or arm.name in self._request.required_arms:
                raise
            self._leave_out(scenario, arm, error)
            return
        self._arms[scenario.name, arm.name] = ready
        if before is not None and resumption is not None:
            refuse_another_arm(resumption, ready.record)
        else:
            self._info = replace(self._info, arms=(*self._info.arms, ready.record))
        self._record()
        self._emit(ArmPrepared(ready.record))

    def _leave_out(
        self, scenario: Scenario, arm: Arm, error: BackendUnavailableError | PrepareError
    ) -> None:
        reason, remedy = str(error), ""
        if isinstance(error, BackendUnavailableError):
            reason, remedy = error.reason, error.remedy
        if arm.repeats is not None:
            return  # what it repeats has said so
        self._skipped.append(f"{arm.name}: {reason}")
        detail = f"{scenario.name}, {arm.name}: {reason}"
        self._add_diagnostics(Diagnostic(DiagnosticCode.ARM_SKIPPED, detail))
        self._emit(ArmSkipped(scenario.name, arm.name, Availability(False, reason, remedy)))

    def _take_blocks(self) -> None:
        request = self._request
        arms = {
            name: [arm for scenario, arm in self._arms if scenario == name]
            for name in self._scenarios
            if any(scenario == name for scenario, _ in self._arms)
        }
        whole = request.resumption.broken_block if request.resumption else None
        # What preparing left in memory stays; collecting before each trial need not look at it.
        gc.freeze()
        for slots in schedule.blocks(arms, request.blocks, request.warmup_blocks, request.seed):
            block = slots[0].block
            if whole is not None and block < whole:
                self._done += block >= 0
                continue
            if not schedule.another_block_fits(self._times_ns, self._done, request.time_limit_ns):
                break
            if self._is_narrow_enough() or self._is_decided(block):
                break
            self._take_block(slots)

    def _take_block(self, slots: Sequence[Slot]) -> None:
        block = slots[0].block
        self._emit(
            BlockStarted(
                block=block,
                blocks=self._request.blocks,
                expected=self._expected(),
                trials=sum(self._trials_of(slot) for slot in slots),
                widths=self._widths,
            )
        )
        begun_ns = monotonic_ns()
        for slot in slots:
            self._take(slot)
        took_ns = monotonic_ns() - begun_ns
        self._times_ns.append(took_ns)
        self._done += block >= 0
        self._emit(BlockFinished(block, took_ns))

    def _trials_of(self, slot: Slot) -> int:
        scale = self._scenarios[slot.scenario].scale
        if scale is None:
            return 1
        asked = stages(scale, slot.arm, warmup=slot.block < 0)
        return max(asked.instances, default=0) + sum(asked.together)

    def _is_taken(self, slot: Slot, taken: Collection[Trial]) -> bool:
        """Whether the records hold all of a slot already."""
        scale = self._scenarios[slot.scenario].scale
        if scale is None:
            return bool(taken)
        asked = stages(scale, slot.arm, warmup=slot.block < 0)
        return {1, *asked.together} <= {trial.together for trial in taken}

    def _expected(self) -> int | None:
        """How many counted blocks there will be, by the time limit and what blocks took so far."""
        request = self._request
        if request.time_limit_ns is None:
            return request.blocks
        return schedule.expected_blocks(
            self._times_ns, request.blocks, request.warmup_blocks, request.time_limit_ns
        )

    def _is_narrow_enough(self) -> bool:
        """Whether the intervals that were asked for are there; looked at now and then only."""
        request = self._request
        if not request.until or not schedule.is_checkpoint(self._done):
            return False
        samples = schedule.samples_of(self._trials, self._info.arms, request.until)
        self._widths = schedule.widest(samples, request.seed)
        return schedule.are_narrow_enough(self._widths, request.until)

    def _is_decided(self, block: int) -> bool:
        """Whether what the run is taken for is known; asked once after each block that counts."""
        decided = self._request.decided
        return decided is not None and block > 0 and decided(self._trials, self._info.arms)

    def _take(self, slot: Slot) -> None:
        self._interruption.check()
        scenario = self._scenarios[slot.scenario]
        resumption = self._request.resumption
        is_broken = resumption is not None and slot.block == resumption.broken_block
        taken = resumption.taken(slot) if resumption is not None and is_broken else ()
        if self._is_taken(slot, taken):
            return
        self._emit(TrialStarted(slot.scenario, slot.arm, slot.block, slot.position))
        self._hooks.before(scenario, slot)
        prepared = self._arms[slot.scenario, slot.arm].prepared
        if scenario.scale is not None:
            self._grow(slot, scenario, taken)
        else:
            # Python's garbage collector must not choose a trial to run in.
            gc.collect()
            gc.disable()
            try:
                trial = take_trial(slot, scenario, prepared, self._lab, self._interruption)
            finally:
                gc.enable()
            self._keep(trial)
        self._hooks.after(scenario, slot)

    def _grow(self, slot: Slot, scenario: Scenario, taken: Sequence[Trial]) -> None:
        """Many instances of the arm at once."""
        from harness.measure.growth import GrowthListener, grow

        def alive(count: int, most: int) -> None:
            self._emit(InstancesAlive(slot.scenario, slot.arm, slot.block, count, most))

        def point(footprint: GrowthPoint) -> None:
            self._writer.append_growth(footprint)

        prepared = self._arms[slot.scenario, slot.arm].prepared
        listener = GrowthListener(trial=self._keep, point=point, alive=alive)
        grow(slot, scenario, prepared, self._lab, self._interruption, listener, taken)

    def _keep(self, trial: Trial) -> None:
        self._writer.append(trial)
        self._trials.append(trial)
        self._emit(TrialFinished(trial))

    def _close_arms(self) -> None:
        """Close every arm, whatever the others' closing does."""
        with contextlib.ExitStack() as stack:
            while self._arms:
                _, ready = self._arms.popitem()
                stack.callback(ready.prepared.close)

    def _finish(self) -> None:
        if not self._may_record:
            return
        self._info = replace(self._info, blocks=self._done, noise=self._noise())
        self._add_diagnostics(*run_diagnostics(self._info, self._trials))
        self._info = replace(self._info, ended_at=now())
        self._record()
        self._emit(RunFinished(self._writer.directory, self._info))

    def _noise(self) -> tuple[NoiseFloor, ...]:
        """What an arm and its twin showed in this run, and what is known of the rest."""
        measured: tuple[NoiseFloor, ...] = ()
        if any(record.arm.repeats for record in self._info.arms):
            from harness.analysis.noise import noise_floors

            measured = noise_floors(Run(self._info, tuple(self._trials)))
        new = {(floor.scenario, floor.metric) for floor in measured}
        old = (floor for floor in self._info.noise if floor.run_id != self._info.run_id)
        return (*measured, *(floor for floor in old if (floor.scenario, floor.metric) not in new))

    def _add_diagnostics(self, *diagnostics: Diagnostic) -> None:
        together = dict.fromkeys((*self._info.diagnostics, *diagnostics))
        self._info = replace(self._info, diagnostics=tuple(together))

    def _record(self) -> None:
        if self._may_record:
            self._writer.write_info(self._info)
