"""What the command line changes in a scenario."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.model import Arm, CacheState, Hooks, Scale, Scenario
from harness.model.errors import ScenarioError
from harness.scenario import parse_scenario
from harness.scenario.overrides import (
    doubling,
    impossible_growth,
    select_arms,
    with_cache,
    with_hooks,
    with_scale,
    with_twin,
)
from tests.support.scenarios import fake, scenario

GOOD = """
question = "Why?"
image = "busybox"
arms = ["process", "container"]

[workload]
command = ["echo", "hello"]

[readiness]
kind = "exit"
"""


def good(more: str = "") -> Scenario:
    return parse_scenario(GOOD + more, Path("good.toml"))


def test_arms_are_selected_and_defined_on_the_command_line() -> None:
    scenario = good()
    choices = ["container", "a=fake,work_ms=1.5,output=hi", "vm-micro", "fake,work_ms=2"]
    chosen = select_arms(scenario, choices)
    assert chosen.arms == (
        Arm("container", "container"),
        Arm("a", "fake", {"work_ms": 1.5, "output": "hi"}),
        Arm("vm-micro", "vm-micro"),
        Arm("fake", "fake", {"work_ms": 2}),
    )


def test_a_new_arm_may_have_its_own_cache_image_and_command() -> None:
    (arm,) = select_arms(
        good(), ['a=fake,cache=cold,image=x:1,command=["sh","-c","a,b"],output="c,d",work_ms=2']
    ).arms
    assert arm == Arm(
        "a", "fake", {"output": "c,d", "work_ms": 2}, CacheState.COLD, "x:1", ("sh", "-c", "a,b")
    )


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        (["contain"], "did you mean 'container'"),
        (["a=nothing"], "no arm or backend is called 'nothing'"),
        (["a=fake,x"], "OPTION=VALUE"),
        (["A B=fake"], "cannot name an arm"),
        (["fake", "fake"], "there already"),
        (["a=fake,wrok_ms=1"], "--arm a=fake,wrok_ms=1: wrok_ms: unknown option 'wrok_ms'"),
        (["a=process,x=1"], "x: unknown option 'x'"),
        (["a=fake,cache=clod"], "cache: no state of the cache is called 'clod'"),
        (["a=fake,image=3"], "image: should be a reference, is 3"),
        (["a=fake,command=[]"], "command: should be a list"),
    ],
)
def test_arms_that_mean_nothing_are_refused(choices: list[str], what: str) -> None:
    scenario = good()
    with pytest.raises(ScenarioError, match=re.escape(what)):
        select_arms(scenario, choices)


def test_every_mistake_of_an_arm_is_told_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        select_arms(good(), ["a=fake,x=1,fail=now", "b=nothing"])
    assert [problem.split(": ", 1)[0] for problem in caught.value.problems] == [
        "--arm a=fake,x=1,fail=now", "--arm a=fake,x=1,fail=now", "--arm b=nothing",
    ]  # fmt: skip


def states(found: Scenario) -> dict[str, str]:
    return {arm.name: str(arm.cache) for arm in found.arms}


def test_the_cache_is_a_factor() -> None:
    asked = good()
    assert states(with_cache(asked, "cold")) == {"process": "cold", "container": "cold"}
    both = with_cache(asked, "both")
    assert states(both) == {
        "process": "warm", "process-cold": "cold", "container": "warm", "container-cold": "cold",
    }  # fmt: skip
    assert both.arms[1].backend == "process"
    assert with_cache(both, "both") == both
    assert states(with_cache(both, "warm")) == dict.fromkeys(states(both), "warm")


def test_a_cold_twin_needs_a_name_and_keeps_its_limits() -> None:
    taken = scenario(fake("a"), fake("a-cold", work_ms=9))
    with pytest.raises(ScenarioError, match="needs the name a-cold"):
        with_cache(taken, "both")
    grown = with_scale(good("[scale]\ninstances = [1, 2]\n"), None, {"process": 1})
    assert with_cache(grown, "both").scale == Scale((1, 2), (), {"process": 1, "process-cold": 1})


def test_hooks_replace_those_of_the_scenario() -> None:
    asked = good("[hooks]\nsetup = 'a'\nprepare = 'b'\n")
    assert with_hooks(asked, {"setup": "c", "prepare": None, "cleanup": "d"}).hooks == Hooks(
        setup="c", prepare="b", cleanup="d"
    )


@pytest.mark.parametrize(
    ("largest", "numbers"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (20, (1, 2, 4, 8, 16, 20))],
)
def test_growth_doubles(largest: int, numbers: tuple[int, ...]) -> None:
    assert doubling(largest) == numbers


def test_growth_is_asked_for_on_the_command_line() -> None:
    asked = with_scale(good(), 4, {"container": 2})
    assert asked.scale == Scale((1, 2, 4), (), {"container": 2})
    own = good("[scale]\ninstances = [1, 9]\ntogether = [2, 6]\nmost = {process = 1}\n")
    assert with_scale(own, 4, {}).scale == Scale((1, 2, 4), (2,), {"process": 1})
    assert with_scale(own, None, {"process": 3}).scale == Scale((1, 9), (2, 6), {"process": 3})
    assert with_scale(good(), None, {}).scale is None
    with pytest.raises(ScenarioError, match="--most limits growth, and there is none"):
        with_scale(good(), None, {"process": 3})
    with pytest.raises(ScenarioError, match="--most proces: good has no arm of that name"):
        with_scale(good(), 4, {"proces": 3})


def test_growth_that_cannot_be_is_told_with_its_line() -> None:
    told = impossible_growth(with_scale(good(), 4, {}))
    assert len(told) == 1
    assert told[0].startswith("good.toml:10: readiness.kind: 'exit'")
    assert impossible_growth(good()) == ()


def test_a_twin_repeats_the_container_or_else_the_first_arm() -> None:
    twin = with_twin(good()).arms[-1]
    assert twin == Arm("container-again", "container", repeats="container")
    alone = with_twin(scenario(fake("a"), fake("b")))
    assert [arm.name for arm in alone.arms] == ["a", "b", "a-again"]
    assert alone.arms[-1].options == alone.arms[0].options
    assert with_twin(alone) == alone
    grown = with_scale(good(), 4, {})
    assert with_twin(grown) == grown
