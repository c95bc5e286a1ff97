"""`check --against`: what a paired run allows under a limit, and what is asked."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

import pytest

from harness.analysis.judgement import Verdict
from harness.analysis.limits import Allowance, Margin
from harness.experiment.check import questions_of
from harness.experiment.sides import not_the_images_own
from harness.model import BASELINE, Budget, Pair, Scale
from harness.model.errors import ScenarioError
from harness.scenario.pairing import BEFORE_AND_NOW, in_pairs, with_images
from harness.stats.sequential import Look
from tests.support.scenarios import fake, scenario


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.11, 1.30, Verdict.WORSE),
        (1.01, 1.09, Verdict.SAME),  # more than before, and allowed
        (0.80, 0.99, Verdict.BETTER),
        (0.90, 1.10, Verdict.SAME),
        (1.05, 1.11, Verdict.CANNOT_TELL),
        (0.0, math.inf, Verdict.CANNOT_TELL),
    ],
)
def test_an_allowance_is_judged_by_the_whole_interval(
    low: float, high: float, verdict: Verdict
) -> None:
    assert Allowance(1.1).verdict(low, high) is verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (115, 100, Verdict.SAME),  # 1.15 is not the binary number next to it
        (116, 100, Verdict.WORSE),
        (99, 100, Verdict.BETTER),
        (100, 100, Verdict.SAME),
        (1, 0, Verdict.WORSE),
        (0, 0, Verdict.SAME),
    ],
)
def test_what_has_no_noise_is_held_against_the_limit_exactly(
    ours: float, theirs: float, verdict: Verdict
) -> None:
    assert Allowance(1.15).exact(ours, theirs) is verdict
    assert Margin(1.15).exact(100, 99) is Verdict.WORSE  # any difference is one


def test_advice_is_more_blocks_and_a_wider_limit_where_that_helps() -> None:
    look = Look(40, 1.08, 1.02, 1.14, 0.98)
    budget = Allowance(1.1, "hello.toml:12")
    assert "or allow times = 1.141" in budget.advice(look)
    assert "or be content with --within 14.1%" in Allowance(1.1).advice(look)
    beyond = Look(40, 1.12, 1.06, 1.18, 0.98)
    assert "allow" not in budget.advice(beyond)
    assert "take about" in budget.advice(beyond)
    on_it = Look(40, 1.1, 1.06, 1.14, 0.98)
    assert "widen the budget" in budget.advice(on_it)
    assert "take more blocks (--blocks)" in budget.advice(Look(4, 1.1, 0.0, math.inf, 0.0))


# What is asked.


def test_budgets_of_the_baseline_are_asked_with_their_lines_and_others_by_default() -> None:
    budgets = (
        Budget("fake", "ready", 1.2, BASELINE, 12),
        Budget("fake", "ready", 5e6, None, 13),  # absolute: not of what was before
        Budget("gone", "ready", 1.2, BASELINE, 14),
    )
    asked = replace(scenario(fake(), fake("other")), budgets=budgets)
    paired = with_images(asked, asked.arms, ("old", None), BEFORE_AND_NOW)
    assert [(arm.name, arm.image) for arm in paired.scenario.arms] == [
        ("fake-before", "old"), ("fake", None), ("other-before", "old"), ("other", None),
    ]  # fmt: skip
    first, *rest = questions_of(paired, 0.05)
    assert first.pair == Pair("sample", "fake-before", "fake")
    assert (first.name, first.rule, first.is_asked) == (
        "ready", Allowance(1.2, f"{asked.path}:12"), True,
    )  # fmt: skip
    assert {question.pair.candidate for question in rest} == {"other"}
    assert {question.rule for question in rest} == {Allowance(1.05)}
    assert not any(question.is_asked for question in rest)
    assert [question.name for question in rest] == ["ready", "cpu", "pss", "disk", "disk-shared"]


def test_pairs_cannot_share_a_name_or_grow() -> None:
    asked = scenario(fake(), fake("fake-before"))
    with pytest.raises(ScenarioError, match="would be called fake-before; rename one"):
        in_pairs(asked, [(arm, arm) for arm in asked.arms], BEFORE_AND_NOW)
    growing = replace(asked, scale=Scale((1, 2), (), MappingProxyType({})))
    with pytest.raises(ScenarioError, match="has no pairs"):
        in_pairs(growing, [(fake(), fake())])
    two = in_pairs(scenario(fake()), [(fake(), fake())])
    assert two.pairs == (Pair("sample", "fake-a", "fake-b"),)


def test_what_starts_in_both_images_is_said_where_it_is_not_theirs() -> None:
    asked = scenario(fake(), command=("echo", "hello"))
    assert "sample starts 'echo hello' in both images" in not_the_images_own([asked])
    assert not_the_images_own([scenario(fake(), command=())]) == ""
