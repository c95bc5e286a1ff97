"""The order of trials and the stopping rule."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from harness.measure import schedule
from harness.model import ArmRecord, Meter, Milestone, Outcome, Reading, Trial
from tests.support.scenarios import fake

ARMS = {"one": ["a", "b", "c"], "two": ["x", "y"]}


def order(seed: int, count: int = 50) -> list[tuple[str, ...]]:
    return [
        tuple(slot.arm for slot in block if slot.scenario == "one")
        for block in schedule.blocks(ARMS, count, 0, seed)
    ]


def test_a_block_has_one_trial_of_every_arm_of_every_scenario() -> None:
    blocks = list(schedule.blocks(ARMS, 3, 2, seed=1))
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


@given(st.lists(st.integers(1, 10**10), min_size=4, max_size=20), st.integers(1, 10**11))
def test_a_block_that_is_let_through_fits_by_what_is_known(times: list[int], limit: int) -> None:
    if schedule.another_block_fits(times, len(times), limit):
        assert sum(times) < limit


def test_the_fewest_blocks_are_taken_whatever_they_take() -> None:
    assert schedule.another_block_fits([10**12] * 3, 2, 1)
    assert not schedule.another_block_fits([10**12] * 4, 3, 1)


def test_without_a_limit_there_is_always_time() -> None:
    assert schedule.another_block_fits([10**15] * 9, 9, None)


def test_the_expected_number_of_blocks_is_what_the_rule_lets_through() -> None:
    times: list[int] = []
    counted = -1
    while schedule.another_block_fits(times, max(counted, 0), 10_000):
        times.append(700)
        counted += 1
    assert counted == schedule.expected_blocks([700, 700], 30, 1, 10_000)
    assert schedule.expected_blocks([], 30, 1, 10_000) is None
    assert schedule.expected_blocks([1], 30, 1, 10_000) == 30
    assert schedule.expected_blocks([10**9], 30, 1, 10_000) == schedule.FEWEST_BLOCKS


def test_intervals_are_looked_at_on_a_grid_that_is_fixed_beforehand() -> None:
    looks = [count for count in range(101) if schedule.is_checkpoint(count)]
    assert looks == [6, 8, 11, 15, 20, 27, 36, 48, 64, 86]


def trial(arm: str, block: int, ready: int, pss: int | None = None, **changes: object) -> Trial:
    readings = () if pss is None else (Reading(Meter.PSS_BYTES, pss, "workload"),)
    values = {"outcome": Outcome.OK, "milestones_ns": {Milestone.READY: ready}, **changes}
    return Trial("one", arm, block, 0, readings=readings, **values)  # type: ignore[arg-type]


RECORDS = [ArmRecord("one", fake(name), 0, (), {}) for name in "ab"]


def test_samples_are_those_of_the_trials_that_count() -> None:
    trials = [
        trial("a", -1, 99),
        trial("a", 0, 10, pss=5),
        trial("b", 0, 20),
        trial("a", 1, 0, outcome=Outcome.TIMEOUT, milestones_ns={}),
    ]
    assert schedule.samples_of(trials, RECORDS, ["ready", "pss"]) == {
        ("one", "a", "ready"): [10, math.inf],
        ("one", "b", "ready"): [20],
        ("one", "a", "pss"): [5],
        ("one", "b", "pss"): [],
    }


def widths(*trials: Trial) -> dict[str, float]:
    return schedule.widest(schedule.samples_of(trials, RECORDS, ["ready", "pss"]), 1)


def test_of_growing_instances_the_first_of_each_block_counts() -> None:
    trials = [trial("a", 0, 10), trial("a", 0, 20, alive=1), trial("a", 0, 30, together=2)]
    assert schedule.samples_of(trials, RECORDS, ["ready"])["one", "a", "ready"] == [10]


def test_the_widest_interval_of_all_arms_decides() -> None:
    a = [trial("a", block, 1000 + block, pss=1000 + 10 * block) for block in range(11)]
    b = [trial("b", block, 1000 + 100 * block) for block in range(11)]
    alone, other, both = widths(*a), widths(*b), widths(*a, *b)
    assert 0 < alone["ready"] < 0.01 < alone["pss"] < 0.1 < other["ready"] < 1
    assert both["ready"] == other["ready"]
    # `b` has no such meter: it has no say.
    assert both["pss"] == alone["pss"]
    assert other["pss"] == math.inf


def test_an_open_interval_and_a_metric_that_nobody_has_are_never_narrow() -> None:
    a = [trial("a", block, 1000) for block in range(8)]
    failed = [
        trial("a", block, 0, outcome=Outcome.FAILED, milestones_ns={}) for block in range(8, 14)
    ]
    assert widths(*a) == {"ready": 0.0, "pss": math.inf}
    assert widths(*a, *failed)["ready"] == math.inf
    assert widths(*a[:5])["ready"] == math.inf  # five samples promise less than 95 %
    assert not schedule.are_narrow_enough(widths(*a), {"pss": 0.99})
    assert schedule.are_narrow_enough(widths(*a), {"ready": 0.01})
    assert not schedule.are_narrow_enough(widths(*a), {"ready": 0.01, "pss": 0.01})
    assert not schedule.are_narrow_enough({"ready": 0.0}, {})
