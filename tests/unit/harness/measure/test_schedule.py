"""The order of trials."""

from __future__ import annotations

import itertools
from itertools import islice

from harness.measure import schedule

ARMS = {"one": ["a", "b", "c"], "two": ["x", "y"]}


def order(seed: int, count: int = 50) -> list[tuple[str, ...]]:
    return [
        tuple(slot.arm for slot in block if slot.scenario == "one")
        for block in islice(schedule.blocks(ARMS, 0, seed), count)
    ]


def test_a_block_has_one_trial_of_every_arm_of_every_scenario() -> None:
    blocks = list(islice(schedule.blocks(ARMS, -2, seed=1), 5))
    assert [block[0].block for block in blocks] == [-2, -1, 0, 1, 2]
    for block in blocks:
        assert sorted((slot.scenario, slot.arm) for slot in block) == [
            ("one", "a"), ("one", "b"), ("one", "c"), ("two", "x"), ("two", "y"),
        ]  # fmt: skip
        assert [slot.position for slot in block] == [0, 1, 2, 0, 1]


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_order_is_fixed_for_good() -> None:
    """Records name a seed: a later version must not repeat them in another order."""
    assert order(42, 4) == [("b", "a", "c"), ("b", "a", "c"), ("c", "b", "a"), ("a", "c", "b")]


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert order(7, 50)[:10] == order(7, 10)


def test_every_order_comes_up_about_equally_often() -> None:
    counts = dict.fromkeys(itertools.permutations("abc"), 0)
    for block in order(3, 1200):
        counts[block] += 1
    # 200 each expected, standard deviation about 13: five of them either way.
    assert all(135 <= count <= 265 for count in counts.values()), counts
