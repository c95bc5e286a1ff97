"""Makes everything that a run's arms need, before its first trial, and times it apart.

The image of a scenario serves all its arms, so it is made and timed by itself: charged to the arm
that happens to come first, it would make that arm look slow to prepare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from time import monotonic_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from harness.measure.interruption import Interruption
from harness.measure.placement import Placement
from harness.measure.trial import take_trial
from harness.model import Arm, ArmRecord, Scenario, Slot, Trial
from harness.model.backend import Availability, Backend, Progress
from harness.model.errors import BackendUnavailableError, PrepareError
from harness.model.events import ArmPreparing, Event, ImagePrepared

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.measure.growth import GrowthListener

GetBackend = Callable[[str], Backend]
"""Finds a backend by name: `harness.backends.get_backend`."""
EnsureImage = Callable[[str, Progress], None]
"""Makes an image: `harness.experiment.run.ensure_image`. Raises PrepareError."""
Take = Callable[[Slot], Trial]
"""Takes the trial of one slot."""
Grow = Callable[[Slot, "GrowthListener", Collection[Trial]], None]
"""Takes all trials of a slot in which instances grow in number, except those that are there."""

IMAGE = "image"
"""In the place of an arm's name, while an image is made."""
_WITHOUT_IMAGE = frozenset({"fake", "null"})
"""Backends whose boxes have no files in them."""


@dataclass(frozen=True, slots=True)
class ReadyArm:
    """An arm that is prepared.

    Attributes:
        record: Its entry in the records.
        take: Takes one trial, here or in another process; raises as `take_trial`.
        close: Gives back what preparing took for this run only. Idempotent.
        grow: Lets instances grow in number for one slot, as `harness.measure.growth.grow`; None
            where that is not asked for, or cannot be.
    """

    record: ArmRecord
    take: Take
    close: Callable[[], None]
    grow: Grow | None = None


class ArmSource(Protocol):
    """Gives a run its arms: from the backends of this process, or from workers."""

    def require_usable(self, backend: str, interruption: Interruption) -> None:
        """Find out whether a backend works; the answer is kept.

        Raises:
            BackendUnavailableError: It does not.
            Interrupted: By a signal.
        """

    def prepare(
        self,
        scenario: Scenario,
        arm: Arm,
        lab: Lab | None,
        progress: Progress,
        interruption: Interruption,
    ) -> ReadyArm:
        """Prepare one arm, whose image is there, and time it.

        Args:
            scenario: With all of its arms.
            arm: Which of them.
            lab: The private network, where the scenario's readiness needs it.
            progress: Called with what is being done.
            interruption: Of the run; entered by the caller.

        Raises:
            BackendUnavailableError: It cannot run here.
            PrepareError: Something that it needs cannot be made.
            Interrupted: By a signal.
        """


class LocalArms:
    """Prepares arms of backends in this process. Implements `ArmSource`."""

    def __init__(self, get_backend: GetBackend) -> None:
        self._get_backend = get_backend
        self._availability: dict[str, Availability] = {}
        self._placement = Placement()

    def require_usable(self, backend: str, interruption: Interruption) -> None:
        """See `ArmSource.require_usable`."""
        if backend not in self._availability:
            with interruption.safe():
                self._availability[backend] = self._get_backend(backend).availability()
        found = self._availability[backend]
        if not found.usable:
            raise BackendUnavailableError(backend, found.reason, found.remedy)

    def prepare(
        self,
        scenario: Scenario,
        arm: Arm,
        lab: Lab | None,
        progress: Progress,
        interruption: Interruption,
    ) -> ReadyArm:
        """See `ArmSource.prepare`."""
        backend = self._get_backend(arm.backend)
        if scenario.readiness.tls:
            from harness.lab.http import tls_context

            tls_context()  # 15 ms at first, which would be in the first trial's time
        begun_ns = monotonic_ns()
        with interruption.safe():
            prepared = backend.prepare(scenario.for_arm(arm), arm, lab, progress)
        try:
            record = ArmRecord(
                scenario=scenario.name,
                arm=arm,
                prepare_ns=monotonic_ns() - begun_ns,
                disk=prepared.disk_parts(),
                facts=MappingProxyType(dict(prepared.facts)),
                diagnostics=prepared.diagnostics,
                initial_disk=prepared.initial_disk_parts(),
            )
        except BaseException:
            prepared.close()
            raise

        def take(slot: Slot) -> Trial:
            self._placement.before(slot)
            return take_trial(slot, scenario, prepared, lab, interruption)

        if scenario.scale is None:
            return ReadyArm(record, take, prepared.close)
        from harness.measure.growth import grow

        def grow_arm(slot: Slot, listener: GrowthListener, taken: Collection[Trial]) -> None:
            self._placement.before(slot)
            grow(slot, scenario, prepared, lab, interruption, listener, taken)

        return ReadyArm(record, take, prepared.close, grow_arm)


@dataclass(eq=False, slots=True)
class Preparer:
    """Prepares the arms of a run, one after the other, and before each its image."""

    source: ArmSource
    ensure_image: EnsureImage
    interruption: Interruption
    emit: Callable[[Event], None]
    _checked: set[str] = field(default_factory=set)
    _images: dict[str, int | PrepareError] = field(default_factory=dict)

    def prepare(self, scenario: Scenario, arm: Arm, lab: Lab | None) -> ReadyArm:
        """Prepare one arm; raises as `ArmSource.prepare`."""

        def progress(message: str) -> None:
            self.emit(ArmPreparing(scenario.name, arm.name, message))

        if arm.backend not in self._checked:
            self._checked.add(arm.backend)
            progress(f"checking whether {arm.backend} works here")
        self.source.require_usable(arm.backend, self.interruption)
        image_ns = None
        if arm.backend not in _WITHOUT_IMAGE:
            image_ns = self._image(scenario.for_arm(arm))
        ready = self.source.prepare(scenario, arm, lab, progress, self.interruption)
        if image_ns is None:
            return ready
        facts = {**ready.record.facts, "image_prepare_ns": str(image_ns)}
        return replace(ready, record=replace(ready.record, facts=MappingProxyType(facts)))

    def _image(self, scenario: Scenario) -> int:
        """Make the image, once, and return how long that took in this run, for whichever arm."""
        known = self._images.get(scenario.image)
        if known is None:
            begun_ns = monotonic_ns()
            try:
                with self.interruption.safe():
                    self.ensure_image(
                        scenario.image,
                        lambda message: self.emit(ArmPreparing(scenario.name, IMAGE, message)),
                    )
            except PrepareError as error:
                self._images[scenario.image] = error
                raise
            known = self._images[scenario.image] = monotonic_ns() - begun_ns
            self.emit(ImagePrepared(scenario.name, scenario.image, known))
        if isinstance(known, PrepareError):
            # It is not tried again for each arm; what was wrong is as wrong for all of them.
            raise known
        return known
