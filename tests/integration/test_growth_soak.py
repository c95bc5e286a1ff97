"""Growth as far as it was promised: 300 containers, 12 machines, held against du(1)."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.model import GrowthPoint, Limits, Meter, Outcome, Scale
from harness.stats import Line, line
from tests.support.growing import Block, growing, take_block

pytestmark = [pytest.mark.soak, pytest.mark.privileged, pytest.mark.timeout(1800)]

BLOCKS = 3
MEMORY = (Meter.PSS_BYTES, Meter.USS_BYTES, Meter.CGROUP_CURRENT_BYTES, Meter.AVAILABLE_DELTA_BYTES)


def over_instances(blocks: list[Block], values: list[list[float]]) -> Line:
    """A line through a value of each point, over its number of instances."""
    points = [
        (number, float(point.instances), value)
        for number, (block, of_block) in enumerate(zip(blocks, values, strict=True))
        for point, value in zip(block.points, of_block, strict=True)
    ]
    return fitted(points)


def over_alive(blocks: list[Block]) -> Line:
    """A line through each start time of the ramp, over how many lived already; in ms."""
    from harness.model.metrics import trial_value

    points = [
        (number, float(trial.alive), trial_value("ready", trial) / 1e6)
        for number, block in enumerate(blocks)
        for trial in block.trials
        if trial.together == 1
    ]
    return fitted(points)


def fitted(points: list[tuple[int, float, float]]) -> Line:
    found = line(points)
    assert found is not None
    return found


def reading(point: GrowthPoint, meter: Meter) -> float | None:
    return next((r.value for r in point.readings if r.meter is meter), None)


def shown(told: Line, scale: float) -> dict[str, float | None]:
    slope, interval = told.slope, told.slope.interval
    return {
        "slope": round(slope.median / scale, 3),
        "low": None if interval is None else round(interval.low / scale, 3),
        "high": None if interval is None else round(interval.high / scale, 3),
        "intercept": round(told.intercept.median / scale, 3),
    }


@pytest.mark.parametrize(
    ("backend", "scale", "limits"),
    [
        pytest.param(
            "container", Scale((1, 2, 4, 8, 16, 32, 64, 128, 300), (2, 8, 32)), Limits(32 << 20)
        ),
        pytest.param(
            "vm-micro",
            Scale((1, 2, 4, 8, 12), (2, 4)),
            Limits(96 << 20, cpus=1),
            marks=pytest.mark.vm,
        ),
    ],
)
def test_the_slope_of_the_disk_is_the_one_of_du(
    backend: str, scale: Scale, limits: Limits, tmp_path: Path, nothing_left: None
) -> None:
    verdict = get_backend(backend).availability()
    if not verdict.usable:
        pytest.skip(f"{backend}: {verdict.reason}")
    asked = growing(backend, scale, limits)
    blocks = [take_block(asked, number) for number in range(BLOCKS)]
    trials = [trial for block in blocks for trial in block.trials]
    assert [trial.error for trial in trials if trial.outcome is not Outcome.OK] == []
    assert len(trials) == BLOCKS * (scale.instances[-1] + sum(scale.together))
    ours = over_instances(blocks, [[float(v) for v in block.owned_bytes()] for block in blocks])
    du = over_instances(blocks, [[float(v) for v in block.du_bytes] for block in blocks])
    told = {
        "backend": backend,
        "disk KiB": shown(ours, 1024),
        "du KiB": shown(du, 1024),
        "ready ms": shown(over_alive(blocks), 1),
        "most resident KiB of the harness": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    for meter in MEMORY:
        values = [[reading(point, meter) for point in block.points] for block in blocks]
        known = [[value for value in row if value is not None] for row in values]
        if known == values:
            told[f"{meter} (in KiB)"] = shown(over_instances(blocks, known), 1024)
    report = Path(os.environ.get("STEELYARD_SOAK_REPORT", tmp_path / "growth.jsonl"))
    with report.open("a") as file:
        file.write(json.dumps(told) + "\n")
    assert ours.slope.median == pytest.approx(du.slope.median, rel=0.05)
    assert ours.slope.interval is not None, "three blocks of many points give an interval"
    assert ours.slope.interval.low <= ours.slope.median <= ours.slope.interval.high
