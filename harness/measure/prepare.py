"""Making everything that a run's arms need, before its first trial, and timing it apart.

The image of a scenario serves all its arms, so it is made and timed by itself: charged to the arm
that happens to come first, it would make that arm look slow to prepare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.measure.interruption import Interruption
from harness.model import Arm, ArmRecord, Scenario
from harness.model.backend import Availability, Backend, PreparedArm, Progress
from harness.model.errors import BackendUnavailableError, PrepareError
from harness.model.events import ArmPreparing, Event, ImagePrepared

if TYPE_CHECKING:
    from harness.lab import Lab

GetBackend = Callable[[str], Backend]
"""How a run comes by backends: `harness.backends.get_backend`."""
EnsureImage = Callable[[str, Progress], None]
"""How it comes by images: `harness.experiment.images.ensure_image`. Raises PrepareError."""

IMAGE = "image"
"""In the place of an arm's name, while an image is made."""
_WITHOUT_IMAGE = frozenset({"fake", "null"})
"""Backends whose boxes have no files in them."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An arm that is prepared.

    Attributes:
        prepared: What launches its instances.
        record: What the records say of it.
    """

    prepared: PreparedArm
    record: ArmRecord


class Preparer:
    """Prepares arms, one after the other.

    Args:
        get_backend: Where backends come from.
        ensure_image: Makes an image if it is not there.
        interruption: Of the run; entered by the caller.
        emit: Told what is done.
    """

    def __init__(
        self,
        get_backend: GetBackend,
        ensure_image: EnsureImage,
        interruption: Interruption,
        emit: Callable[[Event], None],
    ) -> None:
        self._get_backend = get_backend
        self._ensure_image = ensure_image
        self._interruption = interruption
        self._emit = emit
        self._availability: dict[str, Availability] = {}
        self._images: dict[str, int | PrepareError] = {}

    def prepare(self, scenario: Scenario, arm: Arm, lab: Lab | None) -> Ready:
        """Prepare one arm.

        Raises:
            BackendUnavailableError: It cannot run here.
            PrepareError: Something that it needs cannot be made.
            Interrupted: By a signal.
        """

        def progress(message: str) -> None:
            self._emit(ArmPreparing(scenario.name, arm.name, message))

        asked = scenario.for_arm(arm)
        backend = self._get_backend(arm.backend)
        self._require_usable(backend, progress)
        image_ns = None if backend.name in _WITHOUT_IMAGE else self._image(asked)
        begun_ns = monotonic_ns()
        with self._interruption.safe():
            prepared = backend.prepare(asked, arm, lab, progress)
        try:
            prepare_ns = monotonic_ns() - begun_ns
            facts = dict(prepared.facts)
            if image_ns is not None:
                facts["image_prepare_ns"] = str(image_ns)
            record = ArmRecord(
                scenario=scenario.name,
                arm=arm,
                prepare_ns=prepare_ns,
                disk=prepared.disk_parts(),
                facts=MappingProxyType(facts),
                diagnostics=prepared.diagnostics,
                initial_disk=prepared.initial_disk_parts(),
            )
        except BaseException:
            prepared.close()
            raise
        return Ready(prepared, record)

    def _require_usable(self, backend: Backend, progress: Progress) -> None:
        if backend.name not in self._availability:
            progress(f"checking whether {backend.name} works here")
            with self._interruption.safe():
                self._availability[backend.name] = backend.availability()
        verdict = self._availability[backend.name]
        if not verdict.usable:
            raise BackendUnavailableError(backend.name, verdict.reason, verdict.remedy)

    def _image(self, scenario: Scenario) -> int:
        """Have the image there; how long that took in this run, whichever arm it was for."""
        known = self._images.get(scenario.image)
        if known is None:
            begun_ns = monotonic_ns()
            try:
                with self._interruption.safe():
                    self._ensure_image(
                        scenario.image,
                        lambda message: self._emit(ArmPreparing(scenario.name, IMAGE, message)),
                    )
            except PrepareError as error:
                self._images[scenario.image] = error
                raise
            known = self._images[scenario.image] = monotonic_ns() - begun_ns
            self._emit(ImagePrepared(scenario.name, scenario.image, known))
        if isinstance(known, PrepareError):
            # It is not tried again for each arm; what was wrong is as wrong for all of them.
            raise known
        return known
