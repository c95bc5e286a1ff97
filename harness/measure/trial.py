"""Takes one trial: one instance from request to removal, whatever goes wrong on the way.

begin      evict the image (cold arms), look at the host, launch (t0)
wait       until ready; nothing is metered meanwhile
meter      what the instance costs now, see `harness.meters.instance`
end        stop, remove, look for what is left, look at the host again
record     the trial
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.lab.readiness import ReadyEvent, unexpected_exit, wait_ready
from harness.measure.interruption import Interruption
from harness.meters import instance as meters
from harness.meters.host_activity import Watch, gauges
from harness.meters.leaks import Traces, left_behind, traces
from harness.meters.readings import why
from harness.meters.unlinked import unlinked_bytes
from harness.model import (
    CacheState,
    DiskPart,
    Meter,
    Milestone,
    Outcome,
    ReadinessKind,
    Reading,
    Scenario,
    Slot,
    Trial,
)
from harness.model.backend import Accounting, Instance, PreparedArm
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError, InstanceError, MeterError, ReadinessTimeoutError
from harness.model.metrics import Unit
from harness.model.units import spell

if TYPE_CHECKING:
    from harness.lab import Lab

STOP_PATIENCE_NS = 10_000_000_000
"""How long an instance may take to stop when asked, before it is ended by force."""
_SHOWN_LEFTOVERS = 5

Launch = Callable[[str], Instance]
"""Launches an instance under a name, as `harness.model.backend.PreparedArm.launch`."""


@dataclass(slots=True)
class _Findings:
    """Collects what a trial shows while it goes on."""

    outcome: Outcome = Outcome.OK
    error: str | None = None
    console: str | None = None
    ready: ReadyEvent | None = None
    output_sha256: str | None = None
    disk: tuple[DiskPart, ...] = ()
    readings: tuple[Reading, ...] = ()
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def warn(self, code: DiagnosticCode, detail: str) -> None:
        self.diagnostics.append(Diagnostic(code, detail))


@runtime_checkable
class WorksApart(Protocol):
    """An instance of which a part runs in processes that are not below this one."""

    apart_cpu_ns: int
    """Their CPU time, once it is removed."""


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of a trial: it runs before."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def take_trial(
    slot: Slot,
    scenario: Scenario,
    prepared: PreparedArm,
    lab: Lab | None,
    interruption: Interruption,
) -> Trial:
    """Launch, wait until ready, measure, stop, remove.

    A trial that failed says so in its outcome and keeps the milestones it reached.

    Raises:
        Interrupted: By a signal. The instance is gone, and there is no trial.
    """
    trial = OpenTrial(slot, scenario, prepared)
    try:
        trial.run(instance_name(slot), lab, interruption)
    except (HarnessError, OSError) as error:
        trial.fail(error)
    finally:
        trial.end()
    return trial.record()


@dataclass(eq=False, slots=True)
class OpenTrial:
    """A trial whose instance may live: each step by itself, so that several can live at once.

    Call `begin`, `wait`, `meter`, or `run`, which is these three; give what they raise to `fail`.
    Call `end` in every case, then `record`.

    Attributes:
        slot, scenario, prepared: Which trial it is, the question, and the arm.
        alive: Instances of the arm that live already.
        burst: How many are requested at the same time, this one included.
        launch: Launches the instance; None: as the arm does.
        watched: Whether what others do on the host meanwhile is reported; not where other
            instances of ours live on.
        instance: The instance, once launched.
        accounting: Where its use could be read when it was ready; None before that.
    """

    slot: Slot
    scenario: Scenario
    prepared: PreparedArm
    alive: int = 0
    burst: int = 1
    launch: Launch | None = None
    watched: bool = True
    instance: Instance | None = field(default=None, init=False)
    accounting: Accounting | None = field(default=None, init=False)
    _findings: _Findings = field(default_factory=_Findings, init=False)
    _before: meters.Before | None = field(default=None, init=False)
    _watch: Watch | None = field(default=None, init=False)
    _has_ended: bool = field(default=False, init=False)
    _ended_by_itself: bool = field(default=False, init=False)

    @property
    def failed(self) -> bool:
        """Whether something has gone wrong so far."""
        return self._findings.error is not None

    def run(self, name: str, lab: Lab | None, interruption: Interruption) -> None:
        """Begin, wait and meter; raises as these do, and Interrupted during the wait."""
        self.begin(name)
        with interruption.safe():
            self.wait(lab)
        self.meter()

    def begin(self, name: str) -> None:
        """Make the page cache what the arm wants, and launch.

        Raises:
            LaunchFailedError: It could not be launched.
        """
        launch = self.launch or self.prepared.launch
        arms = self.scenario.arms
        cold = any(arm.name == self.slot.arm and arm.cache is CacheState.COLD for arm in arms)
        self._before = meters.look_before(self.prepared.image_paths(), cold=cold)
        if self._before.not_evicted:
            self._findings.warn(DiagnosticCode.CACHE_NOT_EVICTED, self._before.not_evicted)
        if self.watched:
            self._watch = Watch.begin()
        self.instance = launch(name)

    def wait(self, lab: Lab | None) -> None:
        """Wait until the workload is ready.

        Raises:
            InstanceError: It was not, in time or at all.
        """
        assert self.instance is not None
        readiness = self.scenario.readiness
        deadline_ns = self.instance.milestones_ns[Milestone.REQUESTED] + self.scenario.timeout_ns
        network = lab if readiness.needs_network else None
        self._findings.ready = wait_ready(self.instance, readiness, network, deadline_ns)

    def meter(self) -> None:
        """Read what the instance costs, just after it was ready."""
        assert self.instance is not None
        assert self._before is not None
        findings = self._findings
        if (accounting := self._account()) is not None:
            findings.readings = meters.read(accounting, self._before)
        if findings.ready is not None and findings.ready.probe_ns is not None:
            probe = Reading(Meter.PROBE_NS, findings.ready.probe_ns, "readiness command")
            findings.readings = (*findings.readings, probe)
        # Not among the readings, so that it cannot be missing by itself: a trial whose own files
        # cannot be read has failed.
        findings.disk = self.instance.disk_parts()
        if accounting is not None and (unlinked := unlinked_bytes(accounting.pids)):
            rounded = float(f"{unlinked:.2g}")  # so that a report can gather trials of a kind
            findings.warn(DiagnosticCode.UNLINKED_FILES, f"about {spell(Unit.BYTES, rounded)}")
        findings.output_sha256 = self.instance.output.sha256
        if (
            self.scenario.readiness.kind is ReadinessKind.HTTP
            and findings.ready is not None
            and findings.ready.body is None
        ):
            findings.warn(DiagnosticCode.MISSING, "the body of the answer did not arrive whole")

    def pump(self, deadline_ns: int) -> bool:
        """Take what a ready workload prints, so that it need not wait, and fail it if it has ended.

        Returns:
            Whether it still runs.
        """
        if self.instance is None or self.failed:
            return False
        try:
            if self.instance.exit is None:
                self.instance.pump(deadline_ns)
        except (HarnessError, OSError) as error:
            self.fail(error)
        if self.instance.exit is not None:
            self.fail(unexpected_exit(self.instance, "it should run on until it is stopped"))
        return not self.failed

    def fail(self, error: BaseException) -> None:
        """Record the first error; those that follow from it are not recorded."""
        findings = self._findings
        if findings.error is not None:
            return
        is_timeout = isinstance(error, ReadinessTimeoutError)
        findings.outcome = Outcome.TIMEOUT if is_timeout else Outcome.FAILED
        findings.error = str(error) or type(error).__name__
        console = error.console if isinstance(error, InstanceError) else ""
        if not console and self.instance is not None:
            console = self.instance.console_tail()
        findings.console = console or None

    def end(self) -> None:
        """Stop and remove; removing is tried also when stopping failed. Idempotent."""
        if self._has_ended:
            return
        self._has_ended = True
        if self.instance is not None:
            self._ended_by_itself = self.instance.exit is not None
            # One that failed is not metered, but must be gone as well.
            accounting = self.accounting or self._account()
            seen = None if accounting is None else traces(accounting)
            self._stop_and_remove(self.instance)
            if seen is not None:
                self._look_for_leftovers(seen)
        apart_ns = self.instance.apart_cpu_ns if isinstance(self.instance, WorksApart) else 0
        if apart_ns:
            gauges().add_apart(apart_ns)
        if self._watch is not None:
            self._findings.diagnostics += self._watch.end()

    def record(self) -> Trial:
        """Make the record of a trial that has ended."""
        findings, slot = self._findings, self.slot
        milestones_ns: Mapping[Milestone, int] = {}
        exit_code = signal = None
        if (instance := self.instance) is not None:
            milestones_ns = relative(instance.milestones_ns)
            if (disorder := out_of_order(milestones_ns)) is not None:
                self.fail(HarnessError(disorder))
            # An end by our own stop says nothing about the workload.
            stopped_by_us = findings.ready is not None and not self._ended_by_itself
            if instance.exit is not None and not stopped_by_us:
                exit_code, signal = instance.exit.code, instance.exit.signal
            findings.diagnostics[:0] = instance.diagnostics
        body = None if findings.ready is None else findings.ready.body
        return Trial(
            scenario=slot.scenario,
            arm=slot.arm,
            block=slot.block,
            position=slot.position,
            outcome=findings.outcome,
            milestones_ns=milestones_ns,
            error=findings.error,
            console=findings.console,
            exit_code=exit_code,
            signal=signal,
            output_sha256=findings.output_sha256,
            response_sha256=None if body is None else hashlib.sha256(body).hexdigest(),
            disk=findings.disk,
            diagnostics=tuple(findings.diagnostics),
            readings=findings.readings,
            alive=self.alive,
            together=self.burst,
            repetition=slot.repetition,
        )

    def _account(self) -> Accounting | None:
        assert self.instance is not None
        try:
            self.accounting = self.instance.accounting()
        except (HarnessError, OSError) as error:
            self._findings.warn(DiagnosticCode.MISSING, f"all meters: {why(error)}")
            return None
        return self.accounting

    def _stop_and_remove(self, instance: Instance) -> None:
        asked_ns = monotonic_ns()
        for step in (partial(instance.stop, STOP_PATIENCE_NS), instance.remove):
            try:
                step()
            except (HarnessError, OSError) as error:
                self.fail(error)
                self._findings.warn(DiagnosticCode.LEFTOVER, str(error))
        # An instance with a clock of its own has stamped this itself.
        instance.milestones_ns.setdefault(Milestone.STOPPING, asked_ns)

    def _look_for_leftovers(self, seen: Traces) -> None:
        try:
            left = left_behind(seen)
        except (MeterError, OSError) as error:
            reading = Reading(Meter.LEFT_BEHIND, None, "host", why(error))
        else:
            reading = Reading(Meter.LEFT_BEHIND, len(left), "host")
            if left:
                more = f" and {len(left) - _SHOWN_LEFTOVERS} more" * (len(left) > _SHOWN_LEFTOVERS)
                detail = f"{', '.join(left[:_SHOWN_LEFTOVERS])}{more}"
                self._findings.warn(DiagnosticCode.LEFTOVER, detail)
        self._findings.readings = (*self._findings.readings, reading)


def relative(stamps_ns: Mapping[Milestone, int]) -> dict[Milestone, int]:
    """Turn absolute stamps into nanoseconds since `requested`, in the order of the milestones."""
    begun_ns = stamps_ns[Milestone.REQUESTED]
    return {name: stamps_ns[name] - begun_ns for name in Milestone if name in stamps_ns}


def out_of_order(milestones_ns: Mapping[Milestone, int]) -> str | None:
    """Describe the first milestone that comes before its predecessor; None if all is well.

    A violated order is a mistake in Steelyard or in its clock, never a result.
    """
    reached = [milestone for milestone in Milestone if milestone in milestones_ns]
    for earlier, later in pairwise(reached):
        early_ns = milestones_ns[earlier] - milestones_ns[later]
        if early_ns > 0:
            return (
                f"milestones out of order: {later} was stamped {early_ns / 1e3:.0f} us before "
                f"{earlier}; the trial does not count, please report this"
            )
    return None


def instance_name(slot: Slot, *more: str) -> str:
    """Name an instance, unique in a run and short: folders, cgroups and processes have it too."""
    block = f"w{-slot.block}" if slot.block < 0 else f"{slot.block}"
    if slot.repetition:
        block += f"r{slot.repetition}" if slot.repetition > 0 else f"d{-slot.repetition}"
    return "-".join((slot.scenario, slot.arm, block, *more))
