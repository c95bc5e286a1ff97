"""How fast guests come up, as ratios inside one run, and whether they always do."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from harness.backends import get_backend
from harness.lab.readiness import wait_ready
from harness.model import Arm, Milestone
from harness.model.backend import PreparedArm
from tests.support.scenarios import ENDED, scenario

pytestmark = [pytest.mark.vm, pytest.mark.bench, pytest.mark.timeout(1200)]

BOOTS = 30
BLOCKS = 12
PATIENCE_NS = 120_000_000_000


def started_s(prepared: PreparedArm, name: str) -> float:
    """Boot one guest to the end of its workload; seconds from the request to `started`."""
    instance = prepared.launch(name)
    try:
        wait_ready(instance, ENDED, None, time.monotonic_ns() + PATIENCE_NS)
        stamps = instance.milestones_ns
        return (stamps[Milestone.STARTED] - stamps[Milestone.REQUESTED]) / 1e9
    finally:
        instance.stop(10_000_000_000)
        instance.remove()


def prepare(arm: str) -> PreparedArm:
    asked = scenario(Arm(arm, arm, {"accelerator": "tcg"}))
    return get_backend(arm).prepare(asked, asked.arms[0], None, lambda _: None)


@pytest.fixture
def loaded_core() -> Iterator[None]:
    """Keep one core busy: the last that this process may use."""
    core = max(os.sched_getaffinity(0))
    busy = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    yield
    busy.kill()
    busy.wait()


def test_thirty_boots_in_a_row_on_a_loaded_host(loaded_core: None) -> None:
    with closing(prepare("vm-micro")) as prepared:
        times = [started_s(prepared, f"boot-{number}") for number in range(BOOTS)]
    print(f"started p50 {statistics.median(times):.2f} s, max {max(times):.2f} s")
    assert len(times) == BOOTS


def test_micro_starts_in_three_quarters_of_classics_time() -> None:
    times: dict[str, list[float]] = {"vm-micro": [], "vm-classic": []}
    with ExitStack() as stack:
        arms = {name: stack.enter_context(closing(prepare(name))) for name in times}
        for block in range(BLOCKS):
            order = list(arms)[:: 1 if block % 2 else -1]
            for name in order:
                times[name].append(started_s(arms[name], f"{name}-{block}"))
    ratios = [micro / classic for micro, classic in zip(*times.values(), strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"started p50 {medians}, paired ratio p50 {statistics.median(ratios):.2f}")
    assert statistics.median(ratios) <= 0.75
