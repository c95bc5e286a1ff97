"""One trial: one instance from request to removal, whatever goes wrong on the way.

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
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.lab.readiness import Ready, wait_ready
from harness.measure.interruption import Interruption
from harness.meters import instance as meters
from harness.meters.host_activity import Watch
from harness.meters.leaks import Traces, left_behind, traces
from harness.meters.readings import why
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

if TYPE_CHECKING:
    from harness.lab import Lab

STOP_PATIENCE_NS = 10_000_000_000
"""How long an instance may take to stop when asked, before it is ended by force."""
_SHOWN_LEFTOVERS = 5

Launch = Callable[[str], Instance]
"""Launches an instance under a name, as `harness.model.backend.PreparedArm.launch`."""


@dataclass(slots=True)
class _Findings:
    """What becomes known of a trial while it goes on."""

    outcome: Outcome = Outcome.OK
    error: str | None = None
    console: str | None = None
    ready: Ready | None = None
    output_sha256: str | None = None
    disk: tuple[DiskPart, ...] = ()
    readings: tuple[Reading, ...] = ()
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def warn(self, code: DiagnosticCode, detail: str) -> None:
        self.diagnostics.append(Diagnostic(code, detail))


@runtime_checkable
class WorksApart(Protocol):
    """An instance of which a part runs in processes that are not below this one.

    Attributes:
        apart_cpu_ns: Their CPU time, once it is removed.
    """

    apart_cpu_ns: int


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python's garbage collector from choosing a trial to run in: it runs before."""
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

    Returns:
        The trial; one that failed says so in its outcome and keeps the milestones it reached.

    Raises:
        Interrupted: By a signal. The instance is gone, and there is no trial: it was neither
            finished nor did it fail.
    """
    trial = OpenTrial(slot, scenario, prepared)
    try:
        trial.begin(instance_name(slot))
        with interruption.safe():
            trial.wait(lab)
        trial.meter()
    except (HarnessError, OSError) as error:
        trial.fail(error)
    finally:
        trial.end()
    return trial.record()


class OpenTrial:
    """A trial whose instance may live: each step by itself, for those who keep several alive.

    Call `begin`, `wait`, `meter`, `end`, `record` in this order; give what `begin`, `wait` and
    `meter` raise to `fail`, and call `end` in every case.

    Attributes:
        instance: The instance, once launched.
        accounting: Where its use could be read when it was ready; None before that.
    """

    def __init__(
        self,
        slot: Slot,
        scenario: Scenario,
        prepared: PreparedArm,
        *,
        alive: int = 0,
        burst: int = 1,
        launch: Launch | None = None,
        watched: bool = True,
    ) -> None:
        """Nothing happens yet.

        Args:
            slot: Which trial it is.
            scenario: The question.
            prepared: The arm.
            alive: Instances of the arm that live already.
            burst: How many are requested at the same time, this one included.
            watched: Whether what others do on the host meanwhile is reported; not where other
                instances of ours live on.
            launch: Launches the instance; None: as the arm does.
        """
        self.instance: Instance | None = None
        self.accounting: Accounting | None = None
        self._slot = slot
        self._scenario = scenario
        self._prepared = prepared
        self._alive, self._burst = alive, burst
        self._launch = launch or prepared.launch
        self._findings = _Findings()
        self._before: meters.Before | None = None
        self._watch: Watch | None = None
        self._is_watched = watched
        self._has_ended = False
        self._ended_by_itself = False

    @property
    def failed(self) -> bool:
        """Whether something has gone wrong so far."""
        return self._findings.error is not None

    def begin(self, name: str) -> None:
        """Make the page cache what the arm wants, and launch.

        Raises:
            LaunchFailedError: It could not be launched.
        """
        cold = any(
            arm.name == self._slot.arm and arm.cache is CacheState.COLD
            for arm in self._scenario.arms
        )
        self._before = meters.look_before(self._prepared.image_paths(), cold=cold)
        if self._before.not_evicted:
            self._findings.warn(DiagnosticCode.CACHE_NOT_EVICTED, self._before.not_evicted)
        if self._is_watched:
            self._watch = Watch.begin()
        self.instance = self._launch(name)

    def wait(self, lab: Lab | None) -> None:
        """Wait until the workload is ready.

        Raises:
            InstanceError: It was not, in time or at all.
        """
        assert self.instance is not None
        readiness = self._scenario.readiness
        deadline_ns = self.instance.milestones_ns[Milestone.REQUESTED] + self._scenario.timeout_ns
        network = lab if readiness.needs_network else None
        self._findings.ready = wait_ready(self.instance, readiness, network, deadline_ns)

    def meter(self) -> None:
        """Read what the instance costs just after it was ready."""
        assert self.instance is not None
        assert self._before is not None
        findings = self._findings
        accounting = self._account()
        if accounting is not None:
            findings.readings = meters.read(accounting, self._before)
        # Not among the readings, so that it cannot be missing by itself: a trial whose own files
        # cannot be read has failed.
        findings.disk = self.instance.disk_parts()
        findings.output_sha256 = hashlib.sha256(self.instance.output.data).hexdigest()
        if (
            self._scenario.readiness.kind is ReadinessKind.HTTP
            and findings.ready is not None
            and findings.ready.body is None
        ):
            detail = "the body of the answer did not arrive whole"
            findings.warn(DiagnosticCode.MISSING, detail)

    def fail(self, error: BaseException) -> None:
        """Take the first thing that went wrong; what follows from it is not recorded."""
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
            self._end(self.instance)
            if seen is not None:
                self._look_for_leftovers(seen)
        if self._watch is not None:
            apart_ns = self.instance.apart_cpu_ns if isinstance(self.instance, WorksApart) else 0
            self._findings.diagnostics += self._watch.end(apart_ns)

    def record(self) -> Trial:
        """The trial, once it has ended."""
        findings, slot = self._findings, self._slot
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
        body = findings.ready.body if findings.ready is not None else None
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
            alive=self._alive,
            together=self._burst,
        )

    def _account(self) -> Accounting | None:
        """Ask the instance where its use can be read."""
        assert self.instance is not None
        try:
            self.accounting = self.instance.accounting()
        except (HarnessError, OSError) as error:
            self._findings.warn(DiagnosticCode.MISSING, f"all meters: {why(error)}")
            return None
        return self.accounting

    def _end(self, instance: Instance) -> None:
        steps: tuple[Callable[[], None], ...] = (
            lambda: instance.stop(STOP_PATIENCE_NS),
            instance.remove,
        )
        asked_ns = monotonic_ns()
        for step in steps:
            try:
                step()
            except (HarnessError, OSError) as error:
                self.fail(error)
                self._findings.warn(DiagnosticCode.LEFTOVER, str(error))
        # An instance with a clock of its own has said itself when it was asked.
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
    """Absolute stamps as nanoseconds since `requested`, in the order of the milestones."""
    begun_ns = stamps_ns[Milestone.REQUESTED]
    return {
        milestone: stamps_ns[milestone] - begun_ns
        for milestone in Milestone
        if milestone in stamps_ns
    }


def out_of_order(milestones_ns: Mapping[Milestone, int]) -> str | None:
    """A sentence about the first milestone that comes before its predecessor; None if all is well.

    A violated order is a mistake in Steelyard or in its clock, never a result.
    """
    previous: tuple[Milestone, int] | None = None
    for milestone in Milestone:
        if milestone not in milestones_ns:
            continue
        at_ns = milestones_ns[milestone]
        if previous is not None and at_ns < previous[1]:
            early_us = (previous[1] - at_ns) / 1e3
            return (
                f"milestones out of order: {milestone} was stamped {early_us:.0f} us before "
                f"{previous[0]}; the trial does not count, please report this"
            )
        previous = milestone, at_ns
    return None


def instance_name(slot: Slot, *more: str) -> str:
    """Unique in a run and short: it becomes part of folder, cgroup and process names."""
    block = f"w{-slot.block}" if slot.block < 0 else f"{slot.block}"
    return "-".join((slot.scenario, slot.arm, block, *more))
