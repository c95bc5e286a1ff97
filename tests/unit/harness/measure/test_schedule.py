"""The order of trials."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from harness.measure import schedule
from harness.model import Milestone, Outcome, Repetitions, Trial

ARMS = {"one": ["a", "b", "c"], "two": ["x", "y"]}


def order(seed: int, count: int = 50) -> list[tuple[str, ...]]:
    return [
        tuple(slot.arm for slot in block if slot.scenario == "one")
        for block in (schedule.block(ARMS, number, seed) for number in range(count))
    ]


def test_a_block_has_one_trial_of_every_arm_of_every_scenario() -> None:
    blocks = [schedule.block(ARMS, number, seed=1) for number in range(-2, 3)]
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


# -- Light arms around heavy ones ------------------------------------------------------------------

BOXES = ("process", "container", "again", "vm-micro", "vm-classic")


def took(arm: str, ms: float, **changes: Any) -> Trial:
    stamps = {Milestone.REQUESTED: 0, Milestone.REMOVED: round(ms * 1e6)}
    values = {"outcome": Outcome.OK, "milestones_ns": stamps, **changes}
    return Trial("one", arm, -1, 0, **values)


def often(**times_ms: float) -> Repetitions:
    trials = [took(arm, ms) for arm, ms in times_ms.items()]
    return schedule.repetitions("one", list(times_ms), trials)


@pytest.mark.parametrize(
    ("light", "vm_ms", "count"),
    [
        (3, 1800, 3),  # 180 ms for rounds of 48: 3.75
        (3, 4000, 7),  # 8.3, and of an even number the median is between two
        (2, 1800, 5),
        (1, 1800, 9),  # 11.25, and no more than ten
        (3, 400, 1),  # a round takes more than a tenth already
    ],
)
def test_light_arms_get_a_tenth_of_the_time_of_the_heavy_ones(
    light: int, vm_ms: float, count: int
) -> None:
    arms = {f"light{number}": 16.0 for number in range(light)}
    assert often(**arms, vm=vm_ms) == Repetitions("one", count, ("vm",))


def test_what_is_heavy_is_seen_from_what_trials_take() -> None:
    two = often(process=1.6, container=4.6, micro=2745, classic=4076)
    assert (two.heavy, two.count) == (("classic", "micro"), 9)
    # The step that counts is the widest: nothing at all beside boxes makes those no heavy ones.
    assert often(null=0.1, process=1.6, vm=2700).heavy == ("vm",)
    assert often(null=0.01, process=99).heavy == ()
    assert often(container=105, vm=1049).heavy == ()
    assert often(container=105, vm=1050).heavy == ("vm",)
    assert often(vm=5000).heavy == ()


def test_a_time_that_is_not_known_leaves_every_arm_at_one_trial() -> None:
    late = took("b", 1e4, outcome=Outcome.TIMEOUT)
    assert schedule.repetitions("one", "ab", [took("a", 1), late]) == Repetitions("one")
    assert schedule.repetitions("one", "ab", []) == Repetitions("one")
    assert schedule.repetitions("two", "ab", [took("a", 1), took("b", 1e4)]) == Repetitions("two")


def test_a_time_is_the_typical_one_of_several_warm_up_blocks() -> None:
    trials = [took("a", 900), took("a", 16), took("a", 16), took("vm", 1800)]
    assert schedule.repetitions("one", ["a", "vm"], trials).count == 9


@pytest.mark.parametrize("count", [3, 5, 9])
@pytest.mark.parametrize("heavy", [("vm-micro",), ("vm-classic", "vm-micro")])
def test_light_trials_stand_on_both_sides_of_each_heavy_one(
    count: int, heavy: tuple[str, ...]
) -> None:
    arms = [arm for arm in BOXES if arm in heavy or not arm.startswith("vm")]
    for block in range(40):
        slots = schedule.block_order("one", arms, block, 7, Repetitions("one", count, heavy))
        counted = [slot for slot in slots if slot.repetition >= 0]
        assert [slot.position for slot in slots] == list(range(len(slots)))
        for arm in arms:
            own = [slot.repetition for slot in counted if slot.arm == arm]
            assert own == list(range(1 if arm in heavy else count))
        places = [-1, *(n for n, slot in enumerate(counted) if slot.arm in heavy), len(counted)]
        between = [last - first - 1 for first, last in itertools.pairwise(places)]
        assert all(number % 3 == 0 for number in between)  # whole rounds of the three light arms
        assert max(between) - min(between) <= 3
        assert min(between) >= 3


@pytest.mark.parametrize("count", [1, 3, 9])
def test_after_a_heavy_trial_one_light_trial_is_discarded(count: int) -> None:
    heavy = ("vm-classic", "vm-micro")
    spares = set()
    for block in range(60):
        slots = schedule.block_order("one", BOXES, block, 3, Repetitions("one", count, heavy))
        discarded = [slot for slot in slots if slot.repetition < 0]
        for before, slot in itertools.pairwise(slots):
            assert (slot.repetition < 0) == (before.arm in heavy and slot.arm not in heavy)
        assert slots[-1].arm not in heavy  # what comes next is another scenario's, or block's
        assert slots[0].repetition == 0 or slots[0].arm in heavy
        # Of one arm they are -1, -2: no two trials of a block have the same name.
        assert len({(slot.arm, slot.repetition) for slot in slots}) == len(slots)
        spares |= {slot.arm for slot in discarded}
        for slot, after in itertools.pairwise(slots):
            assert slot.repetition >= 0 or slot.arm == after.arm
    assert spares == {"process", "container", "again"}


def test_arms_that_are_all_taken_once_keep_their_order() -> None:
    for block in range(20):
        plain = schedule.block_order("one", BOXES, block, 5)
        assert schedule.block_order("one", BOXES, block, 5, Repetitions("one")) == plain
        around = schedule.block_order("one", BOXES, block, 5, Repetitions("one", 1, ("vm-micro",)))
        kept = [slot.arm for slot in around if slot.repetition == 0]
        assert kept == [slot.arm for slot in plain]


def test_the_order_around_heavy_arms_is_fixed_for_good() -> None:
    slots = schedule.block_order("one", ["a", "b", "vm"], 4, 42, Repetitions("one", 3, ("vm",)))
    assert [(slot.arm, slot.repetition) for slot in slots] == [
        ("b", 0),
        ("a", 0),
        ("b", 1),
        ("a", 1),
        ("vm", 0),
        ("a", -1),
        ("a", 2),
        ("b", 2),
    ]
