"""`steelyard check --against`: is what there is now within what is allowed of what was before?

Both are taken in one paired run, so that the noise of the host is in both alike: no earlier run is
needed, and nothing has to be comparable between hosts. `of = "baseline"` in a budget then means the
other side of each block.

    --against IMAGE                   that image against the scenario's own
    --context DIR --against REV       the image of a folder at a revision against its working tree
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.analysis.compare import Question
    from harness.analysis.judgement import Judgement
    from harness.experiment.compare import Sides, Two
    from harness.model import Scenario

_ONLY_A_REVISION = re.compile(r"HEAD\b.*|.*[~^].*|.*@\{.*", re.DOTALL)
"""No image is called so (OCI distribution: reference names are in lower case, without these)."""


@dataclass(frozen=True, slots=True)
class Against:
    """What was typed; see the options of `steelyard check` for what each means."""

    scenarios: tuple[str, ...]
    named: str
    context: Path | None
    arms: tuple[str, ...]
    blocks: int | None
    within: float


def judge_against(typed: Against) -> Judgement:
    """Take the paired run and judge it.

    Raises:
        click.UsageError: A revision without a folder.
        HarnessError: The scenario, an arm, an image or a revision cannot be had.
    """
    from harness.experiment.compare import Effort, interruptible, take

    if typed.context is None and _ONLY_A_REVISION.fullmatch(typed.named):
        message = f"{typed.named} is a revision, and of what is not said; add --context DIR"
        raise click.UsageError(f"--against: {message}, the folder with the Containerfile")
    chosen = [_chosen(name, typed.arms) for name in dict.fromkeys(typed.scenarios)]
    for scenario in chosen:
        _in_pairs(scenario, (typed.named, None))  # what is wrong with it is told before the work
    with interruptible(), _sides(typed, chosen) as sides:
        before, now = sides.told
        questions = [
            question
            for scenario in sides.scenarios
            for question in questions_of(scenario, typed.within)
        ]
        asked = f"{now} against {before}, both in one run"
        return take(sides, questions, asked, Effort(typed.blocks))


def _chosen(name: str, choices: Sequence[str]) -> Scenario:
    """The scenario with only the arms that are judged.

    Without a choice: those whose budgets are of a baseline, or the one an A/A comparison takes.
    """
    from harness.model import BASELINE
    from harness.scenario import find_scenario, load_scenario
    from harness.scenario.overrides import reference_arm, select_arms

    scenario = load_scenario(find_scenario(name))
    if choices:
        return select_arms(scenario, choices)
    wanted = {budget.arm for budget in scenario.budgets if budget.of == BASELINE}
    arms = [arm for arm in scenario.arms if arm.name in wanted] or [reference_arm(scenario)]
    return replace(scenario, arms=tuple(arms))


@contextlib.contextmanager
def _sides(typed: Against, scenarios: Sequence[Scenario]) -> Iterator[Sides]:
    """Both sides, for as long as what was made for them is there."""
    from harness.backends import get_backend
    from harness.experiment.compare import Sides, images, not_the_images_own
    from harness.experiment.revisions import WORKING_TREE

    with contextlib.ExitStack() as stack:
        both: tuple[str | None, str | None] = typed.named, None
        told: Two = typed.named, _own_images(scenarios)
        if typed.context is not None:
            both, told = stack.enter_context(images(typed.context, (typed.named, WORKING_TREE)))
        paired = tuple(_in_pairs(each, both) for each in scenarios)
        cautions = [_not_judged(scenarios)]
        if typed.context is not None:
            cautions.append(not_the_images_own(paired))
        yield Sides(paired, get_backend, told, tuple(filter(None, cautions)))


def _in_pairs(scenario: Scenario, images: tuple[str | None, str | None]) -> Scenario:
    from harness.scenario.pairing import BEFORE_AND_NOW, with_images

    return with_images(scenario, scenario.arms, images, BEFORE_AND_NOW)


def _not_judged(scenarios: Sequence[Scenario]) -> str:
    """A caution for the budgets that a paired run is not asked for."""
    from harness.model import BASELINE

    names = {(scenario.name, arm.name) for scenario in scenarios for arm in scenario.arms}
    number = sum(
        budget.of != BASELINE and (scenario.name, budget.arm) in names
        for scenario in scenarios
        for budget in scenario.budgets
    )
    if not number:
        return ""
    many = f"{number} budget{'s' * (number != 1)} not of the baseline"
    return f"{many}: not judged here, but by a `check --run` without --against"


def _own_images(scenarios: Sequence[Scenario]) -> str:
    found = (each.for_arm(arm).image for each in scenarios for arm in each.arms)
    return ", ".join(dict.fromkeys(found))


def questions_of(scenario: Scenario, within: float) -> tuple[Question, ...]:
    """What is asked of a scenario whose arms are in pairs.

    Args:
        scenario: With its budgets; each arm is judged by its own of the baseline.
        within: How much more each of `harness.analysis.check.BASELINE_METRICS` may be of an arm
            that has no such budget, as far as both sides have that metric.
    """
    from harness.analysis.check import BASELINE_METRICS
    from harness.analysis.compare import Question, questions_on
    from harness.analysis.rules import Allowance
    from harness.model import BASELINE
    from harness.scenario.pairing import pairings_of

    found: list[Question] = []
    for pairing in pairings_of(scenario):
        budgets = [b for b in scenario.budgets if (b.arm, b.of) == (pairing.arm, BASELINE)]
        found += [
            Question(pairing, b.metric, Allowance(b.most, f"{scenario.path}:{b.line}"))
            for b in budgets
        ]
        if not budgets:
            rule = Allowance(1 + within)
            found += questions_on((pairing,), BASELINE_METRICS, rule, asked=False)
    return tuple(found)
