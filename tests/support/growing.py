"""Scale scenarios of real boxes, run without the command around them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.backends import get_backend
from harness.measure.growth import GrowthListener, grow
from harness.measure.interruption import Interruption
from harness.model import (
    Arm,
    GrowthPoint,
    Limits,
    Readiness,
    ReadinessKind,
    Scale,
    Scenario,
    Sharing,
    Slot,
    Trial,
)
from tests.support.scenarios import scenario

UP = Readiness(ReadinessKind.OUTPUT, output="^up$")
WRITTEN_BYTES = 256 << 10


def growing(backend: str, scale: Scale, limits: Limits | None = None) -> Scenario:
    """Boxes that write a quarter of a MiB, say that they are up, and live."""
    write = f"head -c {WRITTEN_BYTES} /dev/urandom > /written; echo up; exec sleep 1000000"
    asked = scenario(
        Arm(backend, backend), command=("sh", "-c", write), readiness=UP, limits=limits,
        timeout_s=120,
    )  # fmt: skip
    return replace(asked, scale=scale)


@dataclass
class Block:
    """What one block of one arm gave."""

    trials: list[Trial] = field(default_factory=list)
    points: list[GrowthPoint] = field(default_factory=list)
    du_bytes: list[int] = field(default_factory=list)

    def owned_bytes(self) -> list[int]:
        """At each point: what the instances have on disk that nobody else has."""
        return [
            sum(part.allocated_bytes for part in point.disk if part.sharing is Sharing.EXCLUSIVE)
            for point in self.points
        ]


def take_block(asked: Scenario, block: int = 0, taken: tuple[Trial, ...] = ()) -> Block:
    """Grow the scenario's only arm; `du` (du(1)) looks at the instances at each point."""
    (arm,) = asked.arms
    result = Block()

    def point(footprint: GrowthPoint) -> None:
        result.points.append(footprint)
        result.du_bytes.append(du_of_instances(f"{asked.name}-{arm.name}-{block}-"))

    listener = GrowthListener(result.trials.append, point, lambda *_: None)
    prepared = get_backend(arm.backend).prepare(asked, arm, None, lambda _: None)
    try:
        with Interruption() as interruption:
            slot = Slot(asked.name, arm.name, block, 0)
            grow(slot, asked, prepared, None, interruption, listener, taken)
    finally:
        prepared.close()
    return result


def du_of_instances(prefix: str) -> int:
    """What du(1) says of the folders of instances with names that begin so, added up."""
    from runtime import Session

    folder = Path(Session.current().directory)
    places = (*folder.glob(f"{prefix}*"), *folder.glob(f".[0-9]*/{prefix}*"))
    names = sorted(str(path.relative_to(folder)) for path in places)
    if not names:
        return 0
    command = ["du", "--block-size=1", "--summarize", "--total", "-x", "--", *names]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return int(told.stdout.splitlines()[-1].split()[0])
