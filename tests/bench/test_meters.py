"""Known delays in the real container arm, and what the meters themselves cost.

`STEELYARD_BENCH_RUNS` sets the number of runs. On a quiet machine: pytest -m bench
tests/bench/test_meters.py -s
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import closing

import pytest

from harness.backends import get_backend
from harness.lab.readiness import wait_ready
from harness.meters import instance
from harness.model import Arm, Limits, Readiness, ReadinessKind
from harness.model.metrics import trial_value
from tests.support.scenarios import scenario
from tests.support.truths import is_recovered, take_blocks

pytestmark = [pytest.mark.bench, pytest.mark.privileged, pytest.mark.timeout(1200)]

RUNS, BLOCKS = int(os.environ.get("STEELYARD_BENCH_RUNS", "100")), 30
# Both arms sleep: what a sleep costs beyond its length, its own start above all, is in both.
BASE_US = 1000
DELAYS_US = {"0.5 ms": 500, "2 ms": 2000, "20 ms": 20_000}
WAITING = Readiness(ReadinessKind.OUTPUT, output="^ready$")


def sleeping(us: int) -> tuple[str, ...]:
    return ("sh", "-c", f"busybox usleep {us}; echo ready; exec busybox sleep 1000")


@pytest.fixture(autouse=True)
def can_run() -> None:
    verdict = get_backend("container").availability()
    if not verdict.usable:
        pytest.skip(verdict.reason)


def test_known_delays_are_recovered_in_the_real_container_arm() -> None:
    asked = {
        name: scenario(Arm("arm", "container"), command=sleeping(BASE_US + us), readiness=WAITING)
        for name, us in {"reference": 0, **DELAYS_US}.items()
    }
    recovered = dict.fromkeys(DELAYS_US, 0)
    for run in range(RUNS):
        found = take_blocks(asked, BLOCKS, seed=run)
        for name, us in DELAYS_US.items():
            differences = [
                trial_value("ready", one) - trial_value("ready", other)
                for one, other in zip(found[name][0], found["reference"][0], strict=True)
            ]
            print(f"run {run}: {name} seen as {statistics.median(differences) / 1e6:.3f} ms")
            recovered[name] += is_recovered(found[name], found["reference"], "ready", us * 1e3)
    print(recovered)
    assert min(recovered.values()) >= 0.95 * RUNS


def test_the_meters_take_a_few_milliseconds_after_ready_and_none_before() -> None:
    """The median of 30, for a container of one process."""
    limits = Limits(memory_bytes=256 << 20)
    asked = scenario(Arm("arm", "container"), command=sleeping(0), readiness=WAITING, limits=limits)
    times_ns, starts_ns = [], []
    backend = get_backend("container")
    with closing(backend.prepare(asked, asked.arms[0], None, lambda _: None)) as prepared:
        for number in range(30):
            before = instance.look_before(prepared.image_paths(), cold=False)
            box = prepared.launch(f"cost-{number}")
            try:
                ready = wait_ready(box, WAITING, None, time.monotonic_ns() + 10_000_000_000)
                begun_ns = time.monotonic_ns()
                instance.read(box.accounting(), before)
                box.disk_parts()
                times_ns.append(time.monotonic_ns() - begun_ns)
                starts_ns.append(ready.at_ns - min(box.milestones_ns.values()))
            finally:
                box.stop(1_000_000_000)
                box.remove()
    cost_ms = statistics.median(times_ns) / 1e6
    print(f"meters: {cost_ms:.2f} ms after starts of {statistics.median(starts_ns) / 1e6:.2f} ms")
    assert cost_ms < 5
