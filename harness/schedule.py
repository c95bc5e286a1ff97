"""In which order trials are taken, and when to stop: pure.

A block is one trial of every arm of one scenario, in an order drawn anew for each block. What
changes slowly on a host (heat, other work, caches) then falls on all arms alike, and arms are
compared block by block. The order of a block depends on the seed, the scenario and the block's
number alone, so a longer run begins exactly like a shorter one.

All scenarios advance together: block 0 of each, then block 1 of each. A run that is ended early
has then asked every question equally often.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

DEFAULT_WARMUP_BLOCKS = 1
"""The first trials after preparing read cold files and fill caches that later ones find warm."""
DEFAULT_MOST_BLOCKS = 30
"""Without a number of blocks: no more than these; a median's interval is narrow by then."""
DEFAULT_TIME_LIMIT_NS = 200_000_000_000
"""Without a number of blocks: what trials may take in all, warm-up included."""
FEWEST_BLOCKS = 3
"""Without a number of blocks: the time limit does not cut the run below these."""
FEW_BLOCKS = 6
"""Below this a 95 % interval of a median does not exist: even the whole range covers less."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One trial's place in a run.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        block: From 0; warm-up blocks count from -1 downwards, the last of them is -1.
        position: Place in the order of the block, from 0.
    """

    scenario: str
    arm: str
    block: int
    position: int


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
    """Whether to go on: the stopping rule of a run with a time limit.

    It looks at the time that blocks took and never at what they measured: stopping when a result
    looks good would bias the result.

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
