"""Walks the schedule: prepares the arms, takes the trials, writes the records, emits events.

It prints nothing and judges nothing. A trial that fails is recorded and the run goes on; only what
makes the run as a whole pointless is raised. However a run ends (finished, interrupted, failed),
the instance under way is stopped and removed, the arms are closed and the records say how it was.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic_ns
from typing import TYPE_CHECKING

from harness import schedule
from harness.backend import Availability, Backend, PreparedArm
from harness.diagnostics import Diagnostic, DiagnosticCode
from harness.environment import Environment
from harness.errors import BackendUnavailableError, HarnessError, PrepareError
from harness.events import (
    ArmPrepared,
    ArmPreparing,
    ArmSkipped,
    BlockStarted,
    Event,
    Listener,
    RunFinished,
    RunStarted,
    TrialFinished,
    TrialStarted,
)
from harness.interruption import Interrupted, Interruption
from harness.model import SCHEMA_VERSION, Arm, ArmRecord, Outcome, RunInfo, Scenario, Trial
from harness.schedule import Slot
from harness.trial import take_trial

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.records import RunWriter


GetBackend = Callable[[str], Backend]
"""How the runner comes by backends: `harness.backends.get_backend`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        scenarios: In order, each with the arms to run.
        blocks: How many blocks count, at most when there is a time limit.
        warmup_blocks: How many are taken before, recorded, and not counted.
        seed: Of the order of trials.
        time_limit_ns: What all blocks together may take; None is no limit.
        required_arms: Names of arms that the user asked for: if one cannot run, that is an error.
        command: argv, for the records.
        run_id: Identifier of the run.
        steelyard: Steelyard's own version.
    """

    scenarios: tuple[Scenario, ...]
    blocks: int
    warmup_blocks: int
    seed: int
    time_limit_ns: int | None
    required_arms: frozenset[str]
    command: tuple[str, ...]
    run_id: str
    steelyard: str


class Runner:
    """One run. Use once: `Runner(…).run()`.

    Args:
        request: What to do.
        get_backend: Where backends come from.
        environment: The host's facts, captured before.
        writer: Where records go.
        listener: Told of every event.
    """

    def __init__(
        self,
        request: Request,
        get_backend: GetBackend,
        environment: Environment,
        writer: RunWriter,
        listener: Listener,
    ) -> None:
        self._request = request
        self._get_backend = get_backend
        self._writer = writer
        self._emit: Callable[[Event], None] = listener
        self._scenarios = {scenario.name: scenario for scenario in request.scenarios}
        self._prepared: dict[tuple[str, str], PreparedArm] = {}
        self._availability: dict[str, Availability] = {}
        self._skipped: list[str] = []
        self._lab: Lab | None = None
        self._interruption = Interruption()
        self._trials: list[Trial] = []
        self._info = RunInfo(
            schema=SCHEMA_VERSION,
            steelyard=request.steelyard,
            run_id=request.run_id,
            started_at=_now(),
            ended_at=None,
            command=request.command,
            seed=request.seed,
            blocks=request.blocks,
            warmup_blocks=request.warmup_blocks,
            scenarios=request.scenarios,
            arms=(),
            environment=environment.facts,
            environment_missing=environment.missing,
            diagnostics=environment.diagnostics,
        )

    def run(self) -> RunInfo:
        """Do it.

        Returns:
            The circumstances as they are in the records at the end.

        Raises:
            BackendUnavailableError: An arm that was asked for by name cannot run here.
            PrepareError: An arm that was asked for by name cannot be prepared.
            HarnessError: No arm at all can run, or records cannot be written.
            Interrupted: By a signal; everything is written and removed.
        """
        with self._interruption, contextlib.ExitStack() as stack:
            self._record()
            self._emit(RunStarted(self._info, self._writer.directory))
            # The last word of the records comes after everything was removed.
            stack.callback(self._finish)
            stack.callback(self._close_arms)
            try:
                self._prepare_all(stack)
                self._take_blocks()
            except Interrupted:
                self._info = replace(self._info, interrupted=True)
                raise
        return self._info

    def _prepare_all(self, stack: contextlib.ExitStack) -> None:
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
        if not self._prepared:
            reasons = "; ".join(dict.fromkeys(self._skipped))
            message = f"no arm can run here ({reasons}); see steelyard doctor"
            raise HarnessError(message)

    def _prepare(self, scenario: Scenario, arm: Arm, lab: Lab | None) -> None:
        """Prepare one arm, or leave it out and say so."""

        def progress(message: str) -> None:
            self._emit(ArmPreparing(scenario.name, arm.name, message))

        if arm.backend not in self._availability:
            progress(f"checking whether {arm.backend} works here")
        begun_ns = monotonic_ns()
        try:
            backend = self._get_backend(arm.backend)
            with self._interruption.safe():
                self._require_usable(backend)
                prepared = backend.prepare(scenario, arm, lab, progress)
        except (BackendUnavailableError, PrepareError) as error:
            if arm.name in self._request.required_arms:
                raise
            reason, remedy = str(error), ""
            if isinstance(error, BackendUnavailableError):
                reason, remedy = error.reason, error.remedy
            self._skipped.append(f"{arm.name}: {reason}")
            detail = f"{scenario.name}, {arm.name}: {reason}"
            self._add_diagnostics(Diagnostic(DiagnosticCode.ARM_SKIPPED, detail))
            self._emit(ArmSkipped(scenario.name, arm.name, Availability(False, reason, remedy)))
            return
        self._prepared[scenario.name, arm.name] = prepared
        record = ArmRecord(
            scenario=scenario.name,
            arm=arm,
            prepare_ns=monotonic_ns() - begun_ns,
            disk=prepared.disk_parts(),
            facts=prepared.facts,
            diagnostics=prepared.diagnostics,
        )
        self._info = replace(self._info, arms=(*self._info.arms, record))
        self._record()
        self._emit(ArmPrepared(record))

    def _require_usable(self, backend: Backend) -> None:
        if backend.name not in self._availability:
            self._availability[backend.name] = backend.availability()
        verdict = self._availability[backend.name]
        if not verdict.usable:
            raise BackendUnavailableError(backend.name, verdict.reason, verdict.remedy)

    def _take_blocks(self) -> None:
        request = self._request
        arms = {
            name: [arm for scenario, arm in self._prepared if scenario == name]
            for name in self._scenarios
            if any(scenario == name for scenario, _ in self._prepared)
        }
        times_ns: list[int] = []
        done = 0
        # What preparing left in memory stays; collecting before each trial need not look at it.
        gc.freeze()
        for slots in schedule.blocks(arms, request.blocks, request.warmup_blocks, request.seed):
            if not schedule.another_block_fits(times_ns, done, request.time_limit_ns):
                break
            self._emit(
                BlockStarted(slots[0].block, request.blocks, self._expected(times_ns), len(slots))
            )
            begun_ns = monotonic_ns()
            for slot in slots:
                self._take(slot)
            times_ns.append(monotonic_ns() - begun_ns)
            done += slots[0].block >= 0
            if request.time_limit_ns is not None and slots[0].block >= 0:
                # What was asked for, once it is known: as many as fitted.
                self._info = replace(self._info, blocks=done)
        if request.time_limit_ns is not None:
            self._record()

    def _expected(self, times_ns: Sequence[int]) -> int | None:
        """How many counted blocks there will be, by the time limit and what blocks took so far."""
        request = self._request
        if request.time_limit_ns is None:
            return request.blocks
        return schedule.expected_blocks(
            times_ns, request.blocks, request.warmup_blocks, request.time_limit_ns
        )

    def _take(self, slot: Slot) -> None:
        self._interruption.check()
        self._emit(TrialStarted(slot.scenario, slot.arm, slot.block, slot.position))
        # Python's garbage collector must not choose a trial to run in.
        gc.collect()
        gc.disable()
        try:
            trial = take_trial(
                slot,
                self._scenarios[slot.scenario],
                self._prepared[slot.scenario, slot.arm],
                self._lab,
                self._interruption,
            )
        finally:
            gc.enable()
        self._writer.append(trial)
        self._trials.append(trial)
        self._emit(TrialFinished(trial))

    def _close_arms(self) -> None:
        """Close every arm, whatever the others' closing does."""
        with contextlib.ExitStack() as stack:
            while self._prepared:
                _, prepared = self._prepared.popitem()
                stack.callback(prepared.close)

    def _finish(self) -> None:
        self._add_diagnostics(*run_diagnostics(self._info, self._trials))
        self._info = replace(self._info, ended_at=_now())
        self._record()
        self._emit(RunFinished(self._writer.directory, self._info))

    def _add_diagnostics(self, *diagnostics: Diagnostic) -> None:
        together = dict.fromkeys((*self._info.diagnostics, *diagnostics))
        self._info = replace(self._info, diagnostics=tuple(together))

    def _record(self) -> None:
        self._writer.write_info(self._info)


def run_diagnostics(info: RunInfo, trials: Collection[Trial]) -> list[Diagnostic]:
    """The doubts that only the trials together show: pure."""
    found = []
    counted = [trial for trial in trials if trial.block >= 0]
    failed = sum(trial.outcome is not Outcome.OK for trial in counted)
    if failed:
        detail = f"{failed} of {len(counted)}"
        found.append(Diagnostic(DiagnosticCode.FAILED_TRIALS, detail))
    blocks = len({trial.block for trial in counted})
    if blocks < schedule.FEW_BLOCKS:
        found.append(Diagnostic(DiagnosticCode.FEW_BLOCKS, f"{blocks} blocks"))
    found += _mixed_kernel_formats(info)
    for scenario in info.scenarios:
        answers: dict[str, set[str]] = {}
        for trial in trials:
            if trial.scenario == scenario.name and trial.response_sha256 is not None:
                answers.setdefault(trial.response_sha256, set()).add(trial.arm)
        if len(answers) > 1:
            groups = " / ".join(
                f"{', '.join(sorted(arms))} served sha256 {digest[:12]}"
                for digest, arms in sorted(answers.items())
            )
            detail = f"{scenario.name}: {groups}"
            found.append(Diagnostic(DiagnosticCode.RESPONSE_DIFFERS, detail))
    return found


def _mixed_kernel_formats(info: RunInfo) -> list[Diagnostic]:
    """A doubt for each scenario whose VMs enter their kernels in different formats."""
    found = []
    for scenario in info.scenarios:
        formats = {
            record.arm.name: record.facts["kernel_format"]
            for record in info.arms
            if record.scenario == scenario.name and "kernel_format" in record.facts
        }
        if len(set(formats.values())) > 1:
            told = ", ".join(f"{arm} {format_}" for arm, format_ in formats.items())
            detail = f"{scenario.name}: {told}"
            found.append(Diagnostic(DiagnosticCode.KERNEL_FORMAT, detail))
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
