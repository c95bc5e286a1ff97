"""The rules that end a run, on blocks and trials that are made up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.request import Request
from harness.measure.stopping import (
    NO_BOUND,
    AnyOf,
    Decided,
    FixedBlocks,
    Outlook,
    StoppingRule,
    Taken,
    TimeLimit,
    UntilNarrow,
    is_checkpoint,
    rule_of,
    samples_of,
    widest,
)
from harness.model import ArmRecord, Meter, Milestone, Outcome, Reading, Trial
from tests.support.scenarios import fake


def blocks_of(rule: StoppingRule, block_ns: int = 1, warmup: int = 1, most: int = 1000) -> int:
    """How many counted blocks a rule lets through when each takes equally long."""
    times_ns: list[int] = []
    for block in range(-warmup, most):
        if rule.look(Taken(block, times_ns)).is_over:
            return max(block, 0)
        times_ns.append(block_ns)
    return most


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_a_number_of_blocks_is_taken_exactly_and_warm_up_is_none_of_them(warmup: int) -> None:
    assert blocks_of(FixedBlocks(7), warmup=warmup) == 7
    assert FixedBlocks(7).look(Taken(-1)) == Outlook(is_over=False, expected=7)


@given(st.lists(st.integers(1, 10**10), min_size=4, max_size=20), st.integers(1, 10**11))
def test_a_block_that_is_let_through_fits_by_what_is_known(times: list[int], limit: int) -> None:
    if not TimeLimit(limit, 3).look(Taken(len(times), times)).is_over:
        assert sum(times) < limit


def test_the_fewest_blocks_are_taken_whatever_they_take() -> None:
    assert not TimeLimit(1, 3).look(Taken(2, [10**12] * 3)).is_over
    assert TimeLimit(1, 3).look(Taken(3, [10**12] * 4)).is_over
    assert blocks_of(TimeLimit(1, 3), block_ns=10**12) == 3
    assert blocks_of(TimeLimit(1, 6), block_ns=10**12) == 6


def test_a_time_limit_is_met_by_the_typical_block_and_not_by_the_slowest() -> None:
    times_ns = [100, 100, 100, 600]
    assert not TimeLimit(1000, 3).look(Taken(4, times_ns)).is_over  # 900 and a block of 100
    assert TimeLimit(999, 3).look(Taken(4, times_ns)).is_over


def test_the_expected_number_of_blocks_is_what_the_rule_lets_through() -> None:
    rule = TimeLimit(10_000, 3)
    assert rule.look(Taken(1, [700, 700])).expected == blocks_of(rule, block_ns=700)
    assert rule.look(Taken(-1)).expected is None
    assert rule.look(Taken(0, [10**9])).expected == 3
    assert TimeLimit(10_000, 6).look(Taken(0, [10**9])).expected == 6
    most = AnyOf((FixedBlocks(30), rule))
    assert most.look(Taken(0, [1])).expected == 30
    assert most.look(Taken(-1)).expected is None


def test_intervals_are_looked_at_on_a_grid_that_is_fixed_beforehand() -> None:
    looks = [count for count in range(101) if is_checkpoint(count)]
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
    assert samples_of(trials, RECORDS, ["ready", "pss"]) == {
        ("one", "a", "ready"): [10, math.inf],
        ("one", "b", "ready"): [20],
        ("one", "a", "pss"): [5],
        ("one", "b", "pss"): [],
    }


def widths(*trials: Trial) -> dict[str, float]:
    return widest(samples_of(trials, RECORDS, ["ready", "pss"]))


def test_of_growing_instances_the_first_of_each_block_counts() -> None:
    trials = [trial("a", 0, 10), trial("a", 0, 20, alive=1), trial("a", 0, 30, together=2)]
    assert samples_of(trials, RECORDS, ["ready"])["one", "a", "ready"] == [10]


def test_the_widest_interval_of_all_arms_decides() -> None:
    a = [trial("a", block, 1000 + block, pss=1000 + 10 * block) for block in range(11)]
    b = [trial("b", block, 1000 + 100 * block) for block in range(11)]
    alone, other, both = widths(*a), widths(*b), widths(*a, *b)
    assert 0 < alone["ready"] < 0.01 < alone["pss"] < 0.1 < other["ready"] < 1
    assert both["ready"] == other["ready"]
    # `b` has no such meter: it has no say.
    assert both["pss"] == alone["pss"]
    assert other["pss"] == math.inf


def until(trials: Sequence[Trial], block: int, **most: float) -> Outlook:
    return UntilNarrow(most).look(Taken(block, (), trials, RECORDS))


def test_an_open_interval_and_a_metric_that_nobody_has_are_never_narrow() -> None:
    a = [trial("a", block, 1000) for block in range(8)]
    failed = [
        trial("a", block, 0, outcome=Outcome.FAILED, milestones_ns={}) for block in range(8, 15)
    ]
    assert widths(*a) == {"ready": 0.0, "pss": math.inf}
    assert widths(*a, *failed)["ready"] == math.inf
    assert widths(*a[:5])["ready"] == math.inf  # five samples promise less than 95 %
    assert until(a, 8, ready=0.01).is_over
    assert not until([*a, *failed], 15, ready=0.99).is_over
    assert not until(a, 8, pss=0.99).is_over
    assert not until(a, 8, ready=0.01, pss=0.01).is_over


def test_widths_are_looked_at_at_checkpoints_only_and_are_told_then() -> None:
    a = [trial("a", block, 1000 + block) for block in range(8)]
    outlook = until(a, 8, ready=0.0001)
    assert outlook == Outlook(is_over=False, widths={"ready": widths(*a)["ready"]})
    assert outlook.widths["ready"] > 0.0001
    assert until(a[:7], 7, ready=0.99) == Outlook(is_over=False)
    assert until(a, 8, ready=0.99).is_over


def test_a_question_is_asked_once_a_block_that_counts_and_with_everything() -> None:
    asked: list[tuple[Sequence[Trial], Sequence[ArmRecord]]] = []

    def question(trials: Sequence[Trial], records: Sequence[ArmRecord]) -> bool:
        asked.append((trials, records))
        return len(trials) > 2

    rule = Decided(question)
    trials = [trial("a", block, 10) for block in range(-1, 2)]
    for block in (-1, 0, 1):
        assert not rule.look(Taken(block, (), trials[: block + 1], RECORDS)).is_over
    assert asked == [(trials[:2], RECORDS)]
    assert rule.look(Taken(2, (), trials, RECORDS)).is_over
    assert rule.look(Taken(2, (), trials, RECORDS)).expected == NO_BOUND


@dataclass
class Says:
    """A rule that says one thing, and how often it was asked."""

    outlook: Outlook
    asked: list[Taken] = field(default_factory=list)

    def look(self, taken: Taken) -> Outlook:
        self.asked.append(taken)
        return self.outlook


def test_of_several_rules_the_first_that_ends_the_run_does_and_the_rest_is_not_asked() -> None:
    first, last = Says(Outlook(is_over=False)), Says(Outlook(is_over=True))
    both = AnyOf((first, FixedBlocks(2), last))
    assert both.look(Taken(2)).is_over
    assert (len(first.asked), len(last.asked)) == (1, 0)
    assert both.look(Taken(1)).is_over
    assert len(last.asked) == 1


def test_several_rules_expect_the_fewest_blocks_and_tell_all_widths() -> None:
    def says(expected: int | None, **widths: float) -> Says:
        return Says(Outlook(False, expected, widths))

    together = AnyOf((says(30, ready=0.1), says(NO_BOUND), says(20, pss=0.2)))
    assert together.look(Taken(0)) == Outlook(False, 20, {"ready": 0.1, "pss": 0.2})
    assert AnyOf((says(None), says(20))).look(Taken(0)).expected is None
    assert AnyOf(()).look(Taken(10**6)) == Outlook(is_over=False)


@pytest.mark.parametrize(
    ("time_limit_ns", "narrow", "expected"),
    [(None, {}, 9), (5, {}, 5), (None, {"ready": 0.5}, 8), (3, {"ready": 0.5}, 3)],
)
def test_the_rule_of_a_request_is_whatever_it_asks_for(
    time_limit_ns: int | None, narrow: Mapping[str, float], expected: int
) -> None:
    request = Request(
        scenarios=(), blocks=9, warmup_blocks=0, seed=1, time_limit_ns=time_limit_ns,
        required_arms=frozenset(), command=(), run_id="x", steelyard="0", until=narrow,
    )  # fmt: skip
    trials = [trial("a", block, 1000) for block in range(9)]
    rule = rule_of(request)
    ends = [
        block
        for block in range(10)
        if rule.look(Taken(block, [1] * block, trials[:block], RECORDS)).is_over
    ]
    assert ends[0] == expected
    more = rule_of(request, Decided(lambda *_: True))
    assert more.look(Taken(1, [1], trials[:1], RECORDS)).is_over
