"""What measuring costs: the empty path, interleaved with the shortest start that is measured.

The prober and the meters may take 1 % of the shortest measured start, or 0.1 ms. Run it on a quiet
machine: pytest -m bench tests/bench/test_null.py -s
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
from dataclasses import replace

import pytest

from harness.backends import get_backend
from harness.lab import Lab
from harness.measure.interruption import Interruption
from harness.measure.trial import take_trial
from harness.model import Arm, Limits, Milestone, Outcome, Readiness, ReadinessKind, Scenario, Slot
from tests.support.scenarios import scenario

BLOCKS = int(os.environ.get("STEELYARD_BENCH_BLOCKS", "100"))
WARM_UP = 5
SHARE = 0.01
ALLOWANCE_NS = 100_000

pytestmark = [pytest.mark.bench, pytest.mark.timeout(580)]


def measured(asked: Scenario, lab: Lab | None) -> dict[str, list[int]]:
    """Time until ready of each arm, in ns, by interleaved trials as the runner takes them."""
    order = random.Random(1)
    samples: dict[str, list[int]] = {arm.name: [] for arm in asked.arms}
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        prepared = {
            arm.name: stack.enter_context(
                contextlib.closing(
                    get_backend(arm.backend).prepare(asked, arm, lab, lambda _: None)
                )
            )
            for arm in asked.arms
        }
        gc.collect()
        gc.freeze()  # as the worker of a run does: what was there before is not looked at again
        stack.callback(gc.unfreeze)
        for block in range(-WARM_UP, BLOCKS):
            names = list(prepared)
            order.shuffle(names)
            for position, name in enumerate(names):
                gc.collect()
                gc.disable()
                slot = Slot(asked.name, name, block, position)
                trial = take_trial(slot, asked, prepared[name], lab, interruption)
                gc.enable()
                assert trial.outcome is Outcome.OK, trial.error
                if block >= 0:
                    samples[name].append(trial.milestones_ns[Milestone.READY])
    return samples


def judge(samples: dict[str, list[int]]) -> None:
    null = statistics.median(samples["null"])
    print(f"\np50, p10, p90 of {BLOCKS} interleaved trials each, time until ready in ms")
    for name, values in samples.items():
        deciles = statistics.quantiles(values, n=10)
        middle = statistics.median(values) / 1e6
        print(f"  {name:10} {middle:8.4f} {deciles[0] / 1e6:8.4f} {deciles[-1] / 1e6:8.4f}")
    shortest = min(statistics.median(values) for name, values in samples.items() if name != "null")
    limit = max(SHARE * shortest, ALLOWANCE_NS)
    print(f"  measuring costs {null / 1e6:.4f} ms, may cost {limit / 1e6:.4f} ms, ", end="")
    print(f"{null / shortest:.2%} of the shortest start")
    assert null < limit


def test_the_wait_for_an_end_costs_next_to_nothing() -> None:
    arms = (Arm("null", "null"), Arm("process", "process"), Arm("container", "container"))
    ready = Readiness(ReadinessKind.EXIT, output="^hello$")
    asked = scenario(*arms, readiness=ready, limits=Limits(256 << 20, 1.0))
    judge(measured(asked, None))


def test_the_probers_answer_costs_next_to_nothing() -> None:
    """Against the smallest server there is: BusyBox's, in an arm without isolation.

    What the prober costs and not how fine it sees: a real box is not there at its first attempt,
    and the next ones come a millisecond or 1 % of the time waited apart.
    """
    arms = (Arm("null", "null"), Arm("process", "process"))
    line = "mkdir -p /tmp/page && echo hello > /tmp/page/index.html && exec httpd -f -p 8000 -h "
    ready = Readiness(ReadinessKind.TCP, port=8000)
    asked = scenario(*arms, command=("sh", "-c", f"{line} /tmp/page"), readiness=ready)
    with Lab() as lab:
        judge(measured(replace(asked, name="serves"), lab))
