"""Orders the trials of a run. Pure.

A block is one trial of every arm of one scenario, in an order drawn anew for each block, so slow
changes on a host (heat, other work, caches) weigh on all arms. The order depends on the seed, the
scenario and the block's number alone, so a longer run begins exactly like a shorter one.

Block 0 of each scenario comes first, then block 1 of each: a run that ends early has asked every
question equally often.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from harness.model import Slot

DEFAULT_WARMUP_BLOCKS = 1
"""The first trials after preparing read cold files and fill caches that later ones find warm."""
DEFAULT_MOST_BLOCKS = 30
"""Without a number of blocks: no more than these; a median's interval is narrow by then."""
ANCHORED_MOST_BLOCKS = 60
"""The same with anchors: the error of a ratio between runs is mostly that within them."""
DEFAULT_TIME_LIMIT_NS = 200_000_000_000
"""Without a number of blocks: what trials may take in all, warm-up included."""
UNTIL_MOST_BLOCKS = 300
"""With a width to be reached, and without a number of blocks: no more than these."""


def block_order(scenario: str, arms: Sequence[str], block: int, seed: int) -> tuple[Slot, ...]:
    """Order the trials of one block of one scenario."""
    order = list(arms)
    # Seeding with a string is stable between versions of Python (its SHA-512 is used).
    random.Random(f"{seed}/{scenario}/{block}").shuffle(order)
    return tuple(Slot(scenario, arm, block, position) for position, arm in enumerate(order))


def blocks(arms: Mapping[str, Sequence[str]], first: int, seed: int) -> Iterator[tuple[Slot, ...]]:
    """Yield blocks without end, each with the trials of every scenario.

    Args:
        arms: Scenario name -> its arms' names.
        first: Number of the first block; negative for warm-up.
        seed: Of the order.
    """
    for block in itertools.count(first):
        yield tuple(
            slot
            for scenario, names in arms.items()
            for slot in block_order(scenario, names, block, seed)
        )
