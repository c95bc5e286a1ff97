"""Orders the trials of a run. Pure.

A block is one trial of every arm of one scenario, in an order drawn anew for each block, so slow
changes on a host (heat, other work, caches) weigh on all arms. The order depends on the seed, the
scenario, its repetitions and the block's number alone, so a longer run begins exactly like a
shorter one.

Where some arms take much longer than the others (a machine of 3 s beside containers of 5 ms), the
light ones are taken several times a block: around the heavy ones, in rounds of one trial each. That
costs a tenth of the block and narrows what is known of the light arms among themselves. Measured on
a loaded 2-core ext4 host beside an emulated machine, nine trials of each in eight blocks: intervals
of container/process and of a container against itself a third as wide as one trial a block gives
(of CPU time: 0.6 and 0.4 times). Coverage of those intervals in resampled blocks of 60 recorded
ones, with 1, 3 and 5 trials in 6, 10 and 20 blocks: 92 to 96 %. What a heavy trial leaves behind
(cold caches, a slow clock) made the first light one after it 6 to 17 % slower, and the second not
at all: so one trial after it is taken and not counted.

Block 0 of each scenario comes first, then block 1 of each: a run that ends early has asked every
question equally often.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from harness.model import Milestone, Outcome, Repetitions, Slot, Trial

DEFAULT_WARMUP_BLOCKS = 1
"""The first trials after preparing read cold files and fill caches that later ones find warm."""
DEFAULT_MOST_BLOCKS = 30
"""Without a number of blocks: no more than these; a median's interval is narrow by then."""
ANCHORED_MOST_BLOCKS = 60
"""The same with anchors: the error of a ratio between runs is mostly that within them."""
DEFAULT_TIME_LIMIT_NS = 200_000_000_000
"""Without a number of blocks: what trials may take in all, warm-up included. There are always as
many blocks as an interval needs, `harness.stats.FEWEST_FOR_LEVEL`."""
UNTIL_MOST_BLOCKS = 300
"""With a width to be reached, and without a number of blocks: no more than these."""

HEAVY_FACTOR = 10
"""So many times as long as every light arm: its trials are heavy,"""
HEAVY_NS = 100_000_000
"""if they take so long at all: around shorter ones there is no room for more."""
MOST_REPETITIONS = 10
"""Of a light arm in one block; more narrow little, as blocks differ among themselves."""
SHARE_OF_HEAVY = 0.1
"""What the light trials of a block may take of the time of the heavy ones."""


def repetitions(scenario: str, arms: Collection[str], trials: Sequence[Trial]) -> Repetitions:
    """Decide how often the arms of a scenario are taken in each block, by the first trials.

    A trial counts from its request until it is removed. By that time the arms fall in two where
    the widest step is from one to the next: if it is one of `HEAVY_FACTOR`, those above are heavy.
    The light ones are taken an odd number of times, so that their median is one of them.

    Args:
        scenario: Scenario name.
        arms: Names of its arms.
        trials: Those that were taken with one of every arm a block, of this scenario or others.
    """
    times_ns: dict[str, list[int]] = defaultdict(list)
    for trial in trials:
        removed_ns = trial.milestones_ns.get(Milestone.REMOVED)
        if trial.scenario == scenario and trial.outcome is Outcome.OK and removed_ns is not None:
            times_ns[trial.arm].append(removed_ns)
    # Not by `statistics`, which `steelyard run --help` would wait for.
    typical_ns = {
        arm: max(sorted(times)[len(times) // 2], 1) for arm in arms if (times := times_ns[arm])
    }
    rising = sorted(typical_ns, key=lambda arm: typical_ns[arm])
    steps = [typical_ns[long] / typical_ns[short] for short, long in pairwise(rising)]
    # An arm without a time (its trials failed) could be either.
    if len(rising) < len(arms) or max(steps, default=0.0) < HEAVY_FACTOR:
        return Repetitions(scenario)
    first = steps.index(max(steps)) + 1
    if typical_ns[rising[first]] < HEAVY_NS:
        return Repetitions(scenario)
    light_ns = sum(typical_ns[arm] for arm in rising[:first])
    heavy_ns = sum(typical_ns[arm] for arm in rising[first:])
    fitting = max(1, min(int(SHARE_OF_HEAVY * heavy_ns / light_ns), MOST_REPETITIONS))
    return Repetitions(scenario, fitting - (fitting + 1) % 2, tuple(sorted(rising[first:])))


def block_order(
    scenario: str, arms: Sequence[str], block: int, seed: int, often: Repetitions | None = None
) -> tuple[Slot, ...]:
    """Order the trials of one block of one scenario; without `often` each arm has one."""
    # Seeding with a string is stable between versions of Python (its SHA-512 is used).
    dice = random.Random(f"{seed}/{scenario}/{block}")
    heavy = () if often is None else often.heavy
    if often is None or often.count == 1:
        order = list(arms)
        dice.shuffle(order)
    else:
        order = _around(arms, often, dice)
    slots: list[Slot] = []
    counted: dict[str, int] = defaultdict(int)
    discarded: dict[str, int] = defaultdict(int)
    for place, arm in enumerate(order):
        slots.append(Slot(scenario, arm, block, len(slots), counted[arm]))
        counted[arm] += 1
        after = order[place + 1 : place + 2]
        if arm not in heavy or (after and after[0] in heavy):
            continue
        # The one that comes next, so that what it finds is what it leaves; at the end any.
        spare = after[0] if after else dice.choice([arm for arm in arms if arm not in heavy])
        discarded[spare] -= 1
        slots.append(Slot(scenario, spare, block, len(slots), discarded[spare]))
    return tuple(slots)


def _around(arms: Sequence[str], often: Repetitions, dice: random.Random) -> list[str]:
    """Draw the order of a block in which rounds of the light arms stand around the heavy ones.

    As many rounds stand before the first heavy trial as between two and after the last, or one more
    at places that are drawn.
    """
    heavy = [arm for arm in arms if arm in often.heavy]
    dice.shuffle(heavy)
    each, more = divmod(often.count, len(heavy) + 1)
    larger = set(dice.sample(range(len(heavy) + 1), more))
    order: list[str] = []
    for group in range(len(heavy) + 1):
        for _ in range(each + (group in larger)):
            light = [arm for arm in arms if arm not in often.heavy]
            dice.shuffle(light)
            order += light
        order += heavy[group : group + 1]
    return order


def block(
    arms: Mapping[str, Sequence[str]],
    number: int,
    seed: int,
    often: Mapping[str, Repetitions] = MappingProxyType({}),
) -> tuple[Slot, ...]:
    """Order one block: the trials of every scenario.

    Args:
        arms: Scenario name -> its arms' names.
        number: Of the block; negative for warm-up.
        seed: Of the order.
        often: Scenario name -> its repetitions, where arms are not all taken once.
    """
    return tuple(
        slot
        for scenario, names in arms.items()
        for slot in block_order(scenario, names, number, seed, often.get(scenario))
    )
