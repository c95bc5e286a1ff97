"""Walks the schedule: prepares the arms, takes the trials, writes the records, emits events.

It prints nothing and judges nothing: its arguments decide when to stop, and what the run shows as a
whole. A trial that fails is recorded and the run goes on; only what makes the run as a whole
pointless is raised. However a run ends (finished, interrupted, failed), the instance under way is
stopped and removed, the arms are closed, the user's `cleanup` is run and the records say how it
was.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic_ns
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.environment import Environment
from harness.measure import placement, schedule
from harness.measure.hooks import HookRunner
from harness.measure.interruption import Interrupted, Interruption
from harness.measure.prepare import ArmSource, EnsureImage, Preparer, ReadyArm
from harness.measure.quiet import MOST_RETAKES, QuietHost
from harness.measure.request import Request, begun, now
from harness.measure.resume import refuse_another_arm, refuse_another_host
from harness.measure.stopping import Outlook, StoppingRule, Taken
from harness.measure.trial import without_collection
from harness.model import Arm, Repetitions, RunInfo, Scenario, Slot, Trial, events
from harness.model.backend import Availability
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import BackendUnavailableError, HarnessError, PrepareError
from harness.model.events import Event, Listener
from harness.model.scale import Stages, stages

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.measure.growth import GrowthListener
    from harness.records import RunWriter

Assess = Callable[[RunInfo, Sequence[Trial]], RunInfo]
"""Adds to a run's circumstances what only all of its trials show, finished or interrupted."""


class Runner:
    """One run. Use once: `Runner(…).run()`.

    Args:
        request: Scenarios, blocks and the rest.
        source: Prepares the arms.
        environment: The host's facts, captured before.
        writer: Takes the records.
        listener: Called with every event. A BrokenPipeError of it ends the run as SIGPIPE would.
        ensure_image: Makes images.
        rule: Decides when to stop.
        assess: Called when all was removed, before the last record.
    """

    def __init__(
        self,
        request: Request,
        source: ArmSource,
        environment: Environment,
        writer: RunWriter,
        listener: Listener,
        ensure_image: EnsureImage,
        *,
        rule: StoppingRule,
        assess: Assess,
    ) -> None:
        self._request = request
        self._rule = rule
        self._assess = assess
        self._environment = environment
        self._writer = writer
        self._listener = listener
        self._interruption = Interruption()
        self._preparer = Preparer(source, ensure_image, self._interruption, self._emit)
        self._hooks = HookRunner(writer.directory, self._interruption)
        self._scenarios = {scenario.name: scenario for scenario in request.scenarios}
        self._arms: dict[tuple[str, str], ReadyArm] = {}
        self._skipped: list[str] = []
        self._lab: Lab | None = None
        resumption = request.resumption
        self._trials: list[Trial] = list(resumption.run.trials) if resumption else []
        self._times_ns: list[int] = resumption.block_times_ns() if resumption else []
        self._done = 0
        self._often: dict[str, Repetitions] = {}
        quiet = request.quiet
        self._quiet = None if quiet is None else QuietHost(quiet, self._interruption)
        self._widths: Mapping[str, float] = {}
        # A resumed run's records are touched only once it is certain that it can go on.
        self._may_record = resumption is None
        self._info = begun(request, environment)

    def run(self) -> RunInfo:
        """Prepare the arms, take the trials and write the records.

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
            self._emit(events.RunStarted(self._info, self._writer.directory, len(self._trials)))
            # The last word of the records comes after everything was removed.
            stack.callback(self._finish)
            try:
                self._prepare_all(stack)
                self._probe(placement.MKDIR_BEGIN, "before the first trial", move=True)
                self._take_blocks()
            except BaseException:
                self._info = replace(self._info, interrupted=True)
                raise
        return self._info

    def _emit(self, event: Event) -> None:
        try:
            self._listener(event)
        except BrokenPipeError:
            # Not an Exception: code that reports progress from deep inside must not take it for
            # a failure of its own.
            raise Interrupted(signal.SIGPIPE) from None

    def _prepare_all(self, stack: contextlib.ExitStack) -> None:
        if self._request.resumption is not None:
            refuse_another_host(self._request.resumption, self._environment.facts)
        for scenario in self._request.scenarios:
            if scenario.hooks.setup is not None:
                self._emit(events.HookStarted(scenario.name, "setup", scenario.hooks.setup))
            stack.enter_context(self._hooks.around(scenario))
        for scenario in self._request.scenarios:
            lab = None
            if scenario.readiness.needs_network:
                if self._lab is None:
                    from harness.lab import Lab

                    self._lab = stack.enter_context(Lab())
                lab = self._lab
            for arm in scenario.arms:
                self._prepare(scenario, arm, lab, stack)
        if not self._arms:
            reasons = "; ".join(dict.fromkeys(self._skipped))
            raise HarnessError(f"no arm can run here ({reasons}); see steelyard doctor")
        if not self._may_record:
            self._may_record = True
            self._record()

    def _prepare(
        self, scenario: Scenario, arm: Arm, lab: Lab | None, stack: contextlib.ExitStack
    ) -> None:
        """Prepare one arm, or leave it out and report that."""
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
        # Arms that live in the lab are closed before the lab is.
        stack.callback(ready.close)
        self._arms[scenario.name, arm.name] = ready
        if before is not None and resumption is not None:
            refuse_another_arm(resumption, ready.record)
        else:
            self._info = replace(self._info, arms=(*self._info.arms, ready.record))
        self._record()
        self._emit(events.ArmPrepared(ready.record))

    def _leave_out(
        self, scenario: Scenario, arm: Arm, error: BackendUnavailableError | PrepareError
    ) -> None:
        judged = arm.repeats or arm.anchors
        if judged is not None and (scenario.name, judged) not in self._arms:
            return  # the arm that it stands beside has said so
        reason, remedy = str(error), ""
        if isinstance(error, BackendUnavailableError):
            reason, remedy = error.reason, error.remedy
        self._skipped.append(f"{arm.name}: {reason}")
        detail = f"{scenario.name}, {arm.name}: {reason}"
        skipped = Diagnostic(DiagnosticCode.ARM_SKIPPED, detail)
        # A run that is taken up again without trials may have said so already.
        diagnostics = dict.fromkeys((*self._info.diagnostics, skipped))
        self._info = replace(self._info, diagnostics=tuple(diagnostics))
        self._emit(events.ArmSkipped(scenario.name, arm.name, Availability(False, reason, remedy)))

    def _take_blocks(self) -> None:
        request = self._request
        arms: dict[str, list[str]] = {}
        for scenario, arm in self._arms:
            arms.setdefault(scenario, []).append(arm)
        first = request.resumption.broken_block if request.resumption else None
        if first is None:
            first = -request.warmup_blocks
        self._done = max(first, 0)
        # What preparing left in memory stays; collecting before each trial need not look at it.
        gc.freeze()
        # How often arms are taken is decided by the warm-up; without one, by the first block.
        settled = max(1 - request.warmup_blocks, 0)
        for block in itertools.count(first):
            taken = Taken(block, self._times_ns, self._trials, self._info.arms)
            outlook = self._rule.look(taken)
            if outlook.is_over:
                break
            if block == max(first, settled):
                self._decide_repetitions(arms, settled)
            slots = schedule.block(arms, block, request.seed, self._often)
            if self._quiet is None or self._holds(slots):
                self._take_block(slots, outlook)
            else:
                self._take_quietly(slots, outlook, self._quiet)
            self._done += block >= 0

    def _decide_repetitions(self, arms: Mapping[str, Sequence[str]], settled: int) -> None:
        """Decide by the blocks below `settled` how often arms are taken in each further one.

        Recorded trials alone decide, so that a resumed run goes on as it began. Arms that are held
        against each other have one trial a block each. What the user's own commands around a trial
        take is not known, so that they are not run more often either.
        """
        early = [trial for trial in self._trials if trial.block < settled]
        compared = {pair.scenario for pair in self._info.pairs}
        for name, scenario in self._scenarios.items():
            hooks = scenario.hooks
            is_alone = scenario.scale is None and not hooks.prepare and not hooks.conclude
            if name in arms and is_alone and name not in compared:
                often = schedule.repetitions(name, arms[name], early)
                if often.heavy:
                    self._often[name] = often
        self._info = replace(self._info, repetitions=tuple(self._often.values()))
        self._record()

    def _take_quietly(self, slots: Sequence[Slot], outlook: Outlook, quiet: QuietHost) -> None:
        """Take a block once the host is quiet; again, under the same number, if it did not stay so.

        What was disturbed stays in the records, and of each trial the last version counts. Warm-up
        is not taken again, nor are instances that live side by side, nor, in a run that goes on,
        a block of which the records hold every trial: whether it was disturbed is not known then.
        """
        block = slots[0].block
        is_alone = all(self._scenarios[slot.scenario].scale is None for slot in slots)
        retakes = MOST_RETAKES if block >= 0 and is_alone else 0
        for left in range(retakes, -1, -1):
            busy = quiet.wait(partial(self._report_busy, block))
            if busy is not None:
                self._warn_of_others(f"began although others used {_percent(busy)}", block)
            self._take_block(slots, outlook, again=block in self._info.retaken)
            disturbed = quiet.disturbed()
            if block < 0 or disturbed is None:
                return
            used = f"others used {_percent(disturbed)}"
            if left:
                self._info = replace(self._info, retaken=(*self._info.retaken, block))
                self._warn_of_others(f"was taken again: {used}", block)
            else:
                self._warn_of_others(f"counts although {used}", block)

    def _report_busy(self, block: int, others: float) -> None:
        assert self._request.quiet is not None
        self._emit(events.HostBusy(block, others, self._request.quiet))

    def _warn_of_others(self, what: str, block: int) -> None:
        name = f"block {block + 1}" if block >= 0 else "warm-up"
        found = Diagnostic(DiagnosticCode.LOADED_HOST, f"{name} {what} of the CPUs")
        diagnostics = tuple(dict.fromkeys((*self._info.diagnostics, found)))
        self._info = replace(self._info, diagnostics=diagnostics)
        self._record()

    def _take_block(self, slots: Sequence[Slot], outlook: Outlook, *, again: bool = False) -> None:
        block = slots[0].block
        asked = [self._stages(slot) for slot in slots]
        self._widths = outlook.widths or self._widths
        self._emit(
            events.BlockStarted(
                block=block,
                blocks=self._request.blocks,
                expected=outlook.expected,
                trials=sum(max(each.instances, default=0) + sum(each.together) for each in asked),
                widths=self._widths,
            )
        )
        begun_ns = monotonic_ns()
        for slot in slots:
            self._take(slot, again=again)
        took_ns = monotonic_ns() - begun_ns
        self._times_ns.append(took_ns)
        self._emit(events.BlockFinished(block, took_ns))

    def _stages(self, slot: Slot) -> Stages:
        """Find what a slot is asked for; a scenario without a scale wants one instance."""
        scale = self._scenarios[slot.scenario].scale
        if scale is None:
            return Stages((1,), ())
        return stages(scale, slot.arm, warmup=slot.block < 0)

    def _recorded(self, slot: Slot) -> tuple[Trial, ...]:
        """The trials of a slot that a run that goes on had when it was interrupted."""
        resumption = self._request.resumption
        return () if resumption is None else resumption.taken(slot)

    def _is_whole(self, slot: Slot, taken: Sequence[Trial]) -> bool:
        return {1, *self._stages(slot).together} <= {trial.together for trial in taken}

    def _holds(self, slots: Sequence[Slot]) -> bool:
        """Whether the records hold every trial of a block; of one taken again, the last version."""
        versions = 1 + self._info.retaken.count(slots[0].block)
        return all(
            self._is_whole(slot, taken) and (versions == 1 or len(taken) >= versions)
            for slot, taken in ((slot, self._recorded(slot)) for slot in slots)
        )

    def _take(self, slot: Slot, *, again: bool) -> None:
        """Take the trials of a slot: those that the records do not hold yet, or `again` all."""
        self._interruption.check()
        scenario = self._scenarios[slot.scenario]
        taken = () if again else self._recorded(slot)
        if self._is_whole(slot, taken):
            return
        self._emit(events.TrialStarted(slot.scenario, slot.arm, slot.block, slot.position))
        self._hooks.run("prepare", scenario, slot)
        ready = self._arms[slot.scenario, slot.arm]
        if scenario.scale is not None:
            assert ready.grow is not None
            ready.grow(slot, self._growth_listener(slot), taken)
        else:
            with without_collection():
                trial = ready.take(slot)
            self._keep(trial)
        self._hooks.run("conclude", scenario, slot)

    def _growth_listener(self, slot: Slot) -> GrowthListener:
        from harness.measure.growth import GrowthListener

        def alive(count: int, most: int) -> None:
            self._emit(events.InstancesAlive(slot.scenario, slot.arm, slot.block, count, most))

        return GrowthListener(self._keep, self._writer.append_growth, alive)

    def _keep(self, trial: Trial) -> None:
        self._writer.append(trial)
        self._trials.append(trial)
        self._emit(events.TrialFinished(trial))

    def _probe(self, fact: str, when: str, *, move: bool = False) -> None:
        """Record what a new folder costs now where the run's instances are made."""
        cost_ns = placement.probe(move=move)
        if cost_ns is None:
            return
        environment = MappingProxyType({**self._info.environment, fact: cost_ns})
        slow = placement.slow_folders(cost_ns, when)
        # A run that is taken up again may have said so already.
        found = dict.fromkeys((*self._info.diagnostics, *(() if slow is None else (slow,))))
        self._info = replace(self._info, environment=environment, diagnostics=tuple(found))

    def _finish(self) -> None:
        if not self._may_record:
            return
        self._probe(placement.MKDIR_END, "after the last trial")
        info = self._assess(replace(self._info, blocks=self._done), self._trials)
        self._info = replace(info, ended_at=now())
        self._record()
        self._emit(events.RunFinished(self._writer.directory, self._info))

    def _record(self) -> None:
        if self._may_record:
            self._writer.write_info(self._info)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
