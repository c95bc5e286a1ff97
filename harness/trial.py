"""One trial: one instance from request to removal, whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.backend import Instance, PreparedArm
from harness.diagnostics import Diagnostic, DiagnosticCode
from harness.errors import HarnessError, InstanceError, ReadinessTimeoutError
from harness.interruption import Interruption
from harness.model import DiskPart, Milestone, Outcome, ReadinessKind, Scenario, Trial
from harness.readiness import Ready, wait_ready
from harness.schedule import Slot

if TYPE_CHECKING:
    from harness.lab import Lab

STOP_PATIENCE_NS = 10_000_000_000
"""How long an instance may take to stop when asked, before it is ended by force."""


@dataclass(slots=True)
class _Findings:
    """What becomes known of a trial while it goes on."""

    outcome: Outcome = Outcome.OK
    error: str | None = None
    console: str | None = None
    ready: Ready | None = None
    output_sha256: str | None = None
    disk: tuple[DiskPart, ...] = ()
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def fail(self, error: BaseException, instance: Instance | None) -> None:
        """Take the first thing that went wrong; what follows from it is not told."""
        if self.error is not None:
            return
        is_timeout = isinstance(error, ReadinessTimeoutError)
        self.outcome = Outcome.TIMEOUT if is_timeout else Outcome.FAILED
        self.error = str(error) or type(error).__name__
        console = error.console if isinstance(error, InstanceError) else ""
        if not console and instance is not None:
            console = instance.console_tail()
        self.console = console or None


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
    findings = _Findings()
    instance: Instance | None = None
    try:
        instance = prepared.launch(_instance_name(slot))
        _measure(instance, scenario, lab, interruption, findings)
    except (HarnessError, OSError) as error:
        findings.fail(error, instance)
    finally:
        if instance is not None:
            _end(instance, findings)
    return _record(slot, scenario, instance, findings)


def _measure(
    instance: Instance,
    scenario: Scenario,
    lab: Lab | None,
    interruption: Interruption,
    findings: _Findings,
) -> None:
    deadline_ns = instance.milestones_ns[Milestone.REQUESTED] + scenario.timeout_ns
    network = lab if scenario.readiness.needs_network else None
    with interruption.safe():
        findings.ready = wait_ready(instance, scenario.readiness, network, deadline_ns)
    findings.output_sha256 = hashlib.sha256(instance.output.data).hexdigest()
    findings.disk = instance.disk_parts()
    if scenario.readiness.kind is ReadinessKind.HTTP and findings.ready.body is None:
        detail = "the body of the answer did not arrive whole"
        findings.diagnostics.append(Diagnostic(DiagnosticCode.MISSING, detail))


def _end(instance: Instance, findings: _Findings) -> None:
    """Stop and remove: removing is tried also when stopping failed."""
    steps: tuple[Callable[[], None], ...] = (
        lambda: instance.stop(STOP_PATIENCE_NS),
        instance.remove,
    )
    for step in steps:
        try:
            step()
        except (HarnessError, OSError) as error:
            findings.fail(error, instance)
            findings.diagnostics.append(Diagnostic(DiagnosticCode.LEFTOVER, str(error)))


def _record(
    slot: Slot, scenario: Scenario, instance: Instance | None, findings: _Findings
) -> Trial:
    milestones_ns: Mapping[Milestone, int] = {}
    exit_code = signal = None
    if instance is not None:
        milestones_ns = relative(instance.milestones_ns)
        if (disorder := out_of_order(milestones_ns)) is not None:
            findings.fail(HarnessError(disorder), instance)
        # An end by our own stop says nothing about the workload.
        stopped_by_us = findings.ready is not None and scenario.readiness.kind in (
            ReadinessKind.TCP,
            ReadinessKind.HTTP,
        )
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
    )


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


def _instance_name(slot: Slot) -> str:
    """Unique in a run and short: it becomes part of folder, cgroup and process names."""
    block = f"w{-slot.block}" if slot.block < 0 else f"{slot.block}"
    return f"{slot.scenario}-{slot.arm}-{block}"
