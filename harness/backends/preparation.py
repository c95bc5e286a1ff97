"""What preparing an arm takes in every backend: options checked, the image found, the spec made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import runtime
from harness.model import ARM_SETTINGS, ReadinessKind, Scenario
from harness.model.backend import Availability, Backend, Progress
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import BackendUnavailableError, PrepareError
from harness.model.network import Lease, Network


def unknown_options(backend: Backend, options: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each option that the backend does not have."""
    from harness.model.suggestions import did_you_mean

    known = [*backend.options, *ARM_SETTINGS]
    return tuple(
        f"unknown option {name!r}; {did_you_mean(name, known)}"
        for name in options
        if name not in backend.options
    )


def require_usable(name: str, found: Availability) -> None:
    """Raise BackendUnavailableError if a backend cannot work here."""
    if not found.usable:
        raise BackendUnavailableError(name, found.reason, found.remedy)


def without_limits(scenario: Scenario, detail: str) -> tuple[Diagnostic, ...]:
    """The diagnostic for an arm that ignores limits, if the scenario sets any."""
    limits = scenario.limits
    if limits.memory_bytes is limits.cpus is limits.pids is None:
        return ()
    return (Diagnostic(DiagnosticCode.NOT_LIMITED, detail),)


def refuse_inside(name: str, scenario: Scenario, why: str) -> None:
    """Raise PrepareError if a scenario's readiness is asked for from inside the box.

    `why` says what keeps the host from doing so.
    """
    readiness = scenario.readiness
    if readiness.is_inside:
        key = "address" if readiness.socket is None else "socket"
        raise PrepareError(
            f"readiness.{key} is not to be had with {name}: {why}; ask at a port of the box's "
            "address, or leave the arm out"
        )


def refuse_command(name: str, scenario: Scenario, why: str) -> None:
    """Raise PrepareError if a scenario's readiness is a command that runs inside the box."""
    if scenario.readiness.kind is ReadinessKind.COMMAND:
        raise PrepareError(
            f"readiness 'command' is not to be had with {name}: {why}; use another kind, or leave "
            "the arm out"
        )


def join_lab(lab: Network) -> tuple[Lease, int]:
    """Take a place in the lab: its lease, and a descriptor of its network namespace."""
    lease = lab.lease()
    try:
        return lease, lab.attach_container(lease)
    except BaseException:
        lab.release(lease)
        raise


def prepare_image(
    scenario: Scenario, progress: Progress
) -> tuple[runtime.Image, runtime.ImageStore]:
    """The scenario's image from the store, made first where it comes with Steelyard.

    Raises:
        PrepareError: There is no such image, or it cannot be made.
    """
    store = runtime.ImageStore.default()
    try:
        return runtime.ensure_image(scenario.image, store=store, progress=progress), store
    except runtime.ContainerError as error:
        raise PrepareError(str(error)) from error


def image_spec(
    scenario: Scenario,
    image: runtime.Image,
    store: runtime.ImageStore,
    directory_root: str | None = None,
) -> runtime.ContainerSpec:
    """The scenario's workload on its image, as the runtime wants it."""
    workload, limits = scenario.workload, scenario.limits
    try:
        return runtime.spec_for_image(
            image,
            store,
            command=workload.command,
            # A scenario states its command completely, so that every arm runs the same argv.
            entrypoint=() if workload.command else None,
            environment=workload.environment,
            user=workload.user,
            working_directory=workload.working_directory,
            limits=runtime.ResourceLimits(limits.memory_bytes, limits.cpus, limits.pids),
            directory_root=directory_root,
        )
    except runtime.ContainerError as error:
        raise PrepareError(f"scenario {scenario.name}: {error}") from error
