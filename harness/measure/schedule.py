"""In which order trials are taken, and when to stop: pure.

A block is one trial of every arm of one scenario, in an order drawn anew for each block. What
changes slowly on a host (heat, other work, caches) then weighs on all arms, and arms are
compared block by block. The order of a block depends on the seed, the scenario and the block's
number alone, so a longer run begins exactly like a shorter one.

All scenarios advance together: block 0 of each, then block 1 of each. A run that is ended early
has then asked every question equally often.

A run ends by its number of blocks, by its time, or once its intervals are narrow enough. The last
looks at how wide an interval is and never at where it lies, so it cannot wait for a result that one
would like; and it looks only now and then, at block counts fixed beforehand: looking after every
block would stop at the luckiest of many chances, with intervals that claim more than they hold.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

from harness import stats
from harness.model import ArmRecord, Slot, Trial
from harness.model.metrics import trial_value

DEFAULT_WARMUP_BLOCKS = 1
"""The first trials after preparing read cold files and fill caches that later ones find warm."""
DEFAULT_MOST_BLOCKS = 30
"""Without a number of blocks: no more than these; a median's interval is narrow by then."""
DEFAULT_TIME_LIMIT_NS = 200_000_000_000
"""Without a number of blocks: what trials may take in all, warm-up included."""
UNTIL_MOST_BLOCKS = 300
"""With a width to be reached, and without a number of blocks: no more than these."""
FEWEST_BLOCKS = 3
"""Without a number of blocks: the time limit does not cut the run below these."""
CHECKPOINT_GROWTH = 4 / 3
"""From one look at the intervals to the next: ten looks from 6 blocks to 80."""

Samples = Mapping[tuple[str, str, str], Sequence[float]]
"""(scenario, arm, metric) -> one value a block that counts."""


def block_order(scenario: str, arms: Sequence[str], block: int, seed: int) -> tuple[Slot, ...]:
    """The trials of one block of one scenario, in the order in which they are taken."""
    order = list(arms)
    # Seeding with a string is stable between versions of Python (its SHA-512 is used).
    random.Random(f"{seed}/{scenario}/{block}").shuffle(order)
    return tuple(Slot(scenario, arm, block, position) for position, arm in enumerate(order))


def blocks(
    arms: Mapping[str, Sequence[str]], count: int, warmup: int, seed: int
) -> Iterator[tuple[Slot, ...]]:
    """All blocks of a run, one after the other, each with the trials of every scenario.

    Args:
        arms: Scenario name -> its arms' names.
        count: Blocks that count.
        warmup: Blocks before them.
        seed: Of the order.
    """
    for block in range(-warmup, count):
        yield tuple(
            slot
            for scenario, names in arms.items()
            for slot in block_order(scenario, names, block, seed)
        )


def another_block_fits(
    block_times_ns: Sequence[int], counted: int, time_limit_ns: int | None
) -> bool:
    """Whether to go on: the rule of a run with a time limit.

    It looks at the time that blocks took and never at what they measured.

    Args:
        block_times_ns: Wall time of each block so far, warm-up included.
        counted: How many of them were no warm-up.
        time_limit_ns: For all blocks together; None is no limit.
    """
    if time_limit_ns is None or counted < FEWEST_BLOCKS or not block_times_ns:
        return True
    typical_ns = statistics.median(block_times_ns)
    return sum(block_times_ns) + typical_ns <= time_limit_ns


def expected_blocks(
    block_times_ns: Sequence[int], most: int, warmup: int, time_limit_ns: int
) -> int | None:
    """How many counted blocks `another_block_fits` will let through, if blocks go on as so far.

    Returns:
        None while no block has been taken; the number may change from block to block.
    """
    if not block_times_ns:
        return None
    typical_ns = max(statistics.median(block_times_ns), 1)
    left_ns = time_limit_ns - sum(block_times_ns)
    fitting = len(block_times_ns) - warmup + int(left_ns // typical_ns)
    return min(most, max(fitting, FEWEST_BLOCKS))


def is_checkpoint(counted: int) -> bool:
    """Whether intervals are looked at after so many blocks: 6, 8, 11, 15, 20, 27, 36 and so on."""
    place = stats.FEWEST_FOR_LEVEL
    while place < counted:
        place = math.ceil(place * CHECKPOINT_GROWTH)
    return place == counted


def samples_of(
    trials: Collection[Trial], records: Collection[ArmRecord], metrics: Collection[str]
) -> Samples:
    """The values of the trials that count, in their order; a trial without a value gives none.

    Where instances grow in number it is the first of each block: there was no other beside it.
    """
    by_arm = {(record.scenario, record.arm.name): record for record in records}
    samples: dict[tuple[str, str, str], list[float]] = {
        (*arm, metric): [] for arm in by_arm for metric in metrics
    }
    for trial in trials:
        if trial.block < 0 or trial.alive or trial.together > 1:
            continue
        for metric in metrics:
            value = trial_value(metric, trial, by_arm.get((trial.scenario, trial.arm)))
            if not math.isnan(value):
                samples.setdefault((trial.scenario, trial.arm, metric), []).append(value)
    return samples


def widest(samples: Samples, seed: int) -> dict[str, float]:
    """For each metric the widest 95 % interval of a median among all arms of all scenarios.

    Args:
        samples: An arm without any value of a metric (nothing meters it there) has no say in it.
        seed: Of the intervals, where they are drawn.

    Returns:
        Metric -> half the interval's width as a share of the median; infinite where an interval is
        open, and where no arm has a value.
    """
    found: dict[str, float] = {}
    for (_, _, metric), values in samples.items():
        found.setdefault(metric, -math.inf)
        if (estimate := stats.estimate(values, seed)) is not None:
            found[metric] = max(found[metric], stats.relative_width(estimate))
    return {metric: width if width > -math.inf else math.inf for metric, width in found.items()}


def are_narrow_enough(widths: Mapping[str, float], until: Mapping[str, float]) -> bool:
    """Whether every interval that was asked for is narrow enough: the rule of `--until`.

    Args:
        widths: As `widest` gives them.
        until: Metric -> the largest relative half-width; empty: nothing was asked for.
    """
    return bool(until) and all(widths.get(name, math.inf) <= most for name, most in until.items())
