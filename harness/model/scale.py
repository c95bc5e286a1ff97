"""What a scale scenario asks of each arm, and what makes one impossible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.model.scenario import CacheState, Readiness, ReadinessKind, Scale, Scenario

MOST_ADDRESSES = 65_532
"""Places in the private network (`harness.lab`): a /16 without its own addresses."""
_ONE_ADDRESS = frozenset({"process", "fake"})
"""Backends whose instances all have the network's own address, so that a port is there once."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What one arm does in one block of a scale scenario.

    Attributes:
        instances: Numbers of living instances at which the footprint is read, rising; the last is
            how far the ramp goes.
        together: Numbers of instances that are then requested at the same time, rising, each above
            1: one alone is the first of the ramp.
    """

    instances: tuple[int, ...]
    together: tuple[int, ...]

    @property
    def most(self) -> int:
        """The most instances that ever live at once."""
        return max(self.instances + self.together, default=0)


def stages(scale: Scale, arm: str, *, warmup: bool = False) -> Stages:
    """Cut both lists at what `most` allows an arm, which becomes their last.

    In a block that does not count one instance is enough: it fills the caches as well.
    """
    if warmup:
        return Stages((1,), ())
    most = scale.most.get(arm)
    together = (number for number in _cut(scale.together, most) if number > 1)
    return Stages(_cut(scale.instances, most), tuple(together))


def _cut(numbers: Sequence[int], most: int | None) -> tuple[int, ...]:
    if most is None or not numbers or numbers[-1] <= most:
        return tuple(numbers)
    return (*(number for number in numbers if number < most), most)


def scale_problems(scenario: Scenario) -> list[str]:
    """List what makes a `[scale]` impossible: sentences that begin with a field, `scale: …`.

    That the lists rise and that `most` names arms is a matter of the file's shape, checked there.
    """
    return [] if scenario.scale is None else list(_problems(scenario, scenario.scale))


def _place(readiness: Readiness) -> str:
    return f"port {readiness.port}" if readiness.socket is None else readiness.socket


def _problems(scenario: Scenario, scale: Scale) -> Iterator[str]:
    readiness = scenario.readiness
    if readiness.kind is ReadinessKind.EXIT:
        yield (
            "readiness.kind: 'exit' means that the workload has ended, and instances that have "
            "ended do not live together; let the workload run on and use 'output', 'tcp', "
            "'http' or 'command'"
        )
    for arm in scenario.arms:
        most = stages(scale, arm.name).most
        if arm.cache is CacheState.COLD and most > 1:
            yield (
                f"arms.{arm.name}.cache: 'cold' cannot be had with [scale]: instances that live "
                "hold the image's pages in memory; take it out"
            )
        if readiness.needs_network and arm.backend in _ONE_ADDRESS and most > 1:
            yield (
                f"arms.{arm.name}: instances of the backend {arm.backend!r} share one address, so "
                f"only one can have {_place(readiness)}; add {arm.name} = 1 to scale.most, or "
                "take the arm out"
            )
        elif readiness.needs_network and most > MOST_ADDRESSES:
            yield (
                f"scale: {most} instances of {arm.name} are more than the private network has "
                f"addresses; ask for at most {MOST_ADDRESSES}"
            )
