"""Known truths: arms that differ from a reference in one thing, and what must be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing

from harness.backends import get_backend
from harness.measure.interruption import Interruption
from harness.measure.schedule import block
from harness.measure.trial import take_trial
from harness.model import ArmRecord, Outcome, Scenario, Slot, Trial
from harness.model.metrics import trial_value
from harness.stats import paired_difference

TOLERANCE = 0.05


def take_blocks(
    scenarios: Mapping[str, Scenario], count: int, seed: int, warmup: int = 1
) -> dict[str, tuple[list[Trial], ArmRecord]]:
    """Trials of one arm a scenario, in blocks of seeded random order, as the runner takes them.

    Args:
        scenarios: Name of the truth -> a scenario with one arm.
        count: Blocks that are counted.
        seed: Of the order.
        warmup: Blocks before.
    """
    found: dict[str, tuple[list[Trial], ArmRecord]] = {}
    with ExitStack() as stack, Interruption() as interruption:
        prepared = {}
        for name, asked in scenarios.items():
            arm = asked.arms[0]
            ready = get_backend(arm.backend).prepare(asked, arm, None, lambda _: None)
            prepared[name] = stack.enter_context(closing(ready))
            record = ArmRecord(
                name, arm, 0, (), ready.facts, initial_disk=ready.initial_disk_parts()
            )
            found[name] = [], record
        for number in range(-warmup, count):
            for slot in block({"truth": list(scenarios)}, number, seed):
                asked = scenarios[slot.arm]
                own = Slot(slot.arm, asked.arms[0].name, slot.block, slot.position)
                trial = take_trial(own, asked, prepared[slot.arm], None, interruption)
                assert (trial.outcome, trial.error) == (Outcome.OK, None)
                if slot.block >= 0:
                    found[slot.arm][0].append(trial)
    return found


def is_recovered(
    arm: tuple[Sequence[Trial], ArmRecord],
    reference: tuple[Sequence[Trial], ArmRecord],
    metric: str,
    truth: float,
) -> bool:
    """Whether the paired difference is within 5 % of the truth, or its interval holds it."""
    values = [
        {trial.block: trial_value(metric, trial, record) for trial in trials}
        for trials, record in (arm, reference)
    ]
    comparison = paired_difference(*values)
    assert comparison is not None
    estimate = comparison.estimate
    if abs(estimate.median - truth) <= TOLERANCE * truth:
        return True
    return (
        estimate.interval is not None and estimate.interval.low <= truth <= estimate.interval.high
    )
