"""Scenarios made in Python are held to the rules of files."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.model import (
    BASELINE,
    Budget,
    Limits,
    Readiness,
    ReadinessKind,
    Scale,
    Scenario,
    Workload,
)
from harness.model.errors import ScenarioError
from harness.scenario.validate import require_valid
from tests.support.scenarios import fake, scenario

MADE = replace(
    scenario(fake(), fake("other")),
    readiness=Readiness(ReadinessKind.OUTPUT, output="ready"),
    source="",
    path="",
)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (replace(MADE, budgets=(Budget("fak", "ready", 1.0),)), "did you mean 'fake'?"),
        (replace(MADE, budgets=(Budget("fake", "redy", 1.0),)), "did you mean 'ready'?"),
        (replace(MADE, budgets=(Budget("fake", "ready", 1.1, "basline"),)), "'baseline'?"),
        (replace(MADE, budgets=(Budget("fake", "ready", 1.1, "fake"),)), "budgets: of:"),
        (replace(MADE, budgets=(Budget("fake", "ready", math.nan),)), "is no limit"),
        (replace(MADE, scale=Scale(())), "scale.instances: is empty"),
        (replace(MADE, scale=Scale((4, 2, 1))), "should rise from 1 up"),
        (replace(MADE, scale=Scale((1, 2), (0, 1))), "scale.together: should rise"),
        (replace(MADE, scale=Scale((1, 2), most={"otter": 1})), "did you mean 'other'?"),
    ],
)
def test_a_gate_or_a_growth_that_means_nothing_is_refused(wrong: Scenario, sentence: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        require_valid([wrong])
    assert sentence in " ".join(caught.value.problems)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (replace(MADE, workload=Workload(("a\0b",))), "workload.command: 'a\\x00b' holds a NUL"),
        (
            replace(MADE, workload=Workload(("a",), {"A=B": ""})),
            "workload.environment: 'A=B' cannot name a variable",
        ),
        (replace(MADE, arms=(replace(fake(), command=("\0",)),)), "arms.fake.command: '\\x00'"),
        (
            replace(MADE, limits=Limits(memory_bytes=1)),
            "limits.memory_bytes: 1 bytes is less than 1m",
        ),
        (replace(MADE, limits=Limits(cpus=1e-9)), "limits.cpus: 1e-09 CPUs is no limit"),
    ],
)
def test_what_the_kernel_does_not_take_is_refused(wrong: Scenario, sentence: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        require_valid([wrong])
    assert sentence in " ".join(caught.value.problems)


def test_what_means_something_is_taken() -> None:
    budgets = (Budget("fake", "ready", 1.1, BASELINE), Budget("other", "ready", 0.5, "fake"))
    require_valid([replace(MADE, budgets=budgets, scale=Scale((1, 2, 4), (1, 2), {"other": 1}))])
