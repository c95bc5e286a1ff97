"""`A` and `B` of a paired run: what was typed -> a scenario whose arms are in pairs.

A side of `steelyard compare` is one of

    busybox:1.36                  an image, for the arm that is compared
    kernel=PATH                   settings of that arm, as are qemu=PATH, cache=cold, image=…
    container,cache=cold          an arm or backend of its own, with settings
    container                     the same without
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.backends import BACKENDS, get_backend
from harness.model import ARM_SETTINGS, Arm, Pair, Scenario
from harness.model.errors import ScenarioError
from harness.scenario.overrides import changed_arm, reference_arm, select_arms

SUFFIXES = ("-a", "-b")
"""Of the names of the two arms of a pair."""
BEFORE_AND_NOW = ("-before", "")
"""The same, where what is now keeps its name: the one that its budgets know it by."""


@dataclass(frozen=True, slots=True)
class PairedScenario:
    """A scenario whose arms are the sides of a comparison.

    Attributes:
        scenario: With the arms of all pairs, the two of each behind each other.
        pairs: Which of them are held against each other.
    """

    scenario: Scenario
    pairs: tuple[Pair, ...]


def with_sides(scenario: Scenario, arm: str | None, first: str, second: str) -> PairedScenario:
    """Take two arms, of which the second is held against the first.

    Args:
        scenario: As read.
        arm: Which is compared: one of the scenario's, or a new one as for `--arm`; None is the one
            that an A/A comparison takes, or the first that knows the settings of both sides.
        first: What was typed for A.
        second: What was typed for B.

    Raises:
        ScenarioError: One of them means nothing, or instances grow in this scenario.
    """
    base = compared_arm(scenario, arm, (first, second))
    arms, problems = [], []
    for side in (first, second):
        try:
            arms.append(_side(scenario, base, side))
        except ScenarioError as error:
            problems += [problem.removeprefix("--arm ") for problem in error.problems]
        except ValueError as error:
            problems += [f"{side}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ScenarioError(tuple(dict.fromkeys(problems)))
    return in_pairs(scenario, [(arms[0], arms[1])])


def with_images(
    scenario: Scenario,
    arms: Sequence[Arm],
    images: tuple[str | None, str | None],
    suffixes: tuple[str, str] = SUFFIXES,
) -> PairedScenario:
    """Take each of some arms twice, each time with another image; None: its own."""
    before, now = images
    pairs = [
        (replace(arm, image=before or arm.image), replace(arm, image=now or arm.image))
        for arm in arms
    ]
    return in_pairs(scenario, pairs, suffixes)


def with_twins(scenario: Scenario, arm: str | None) -> PairedScenario:
    """Take one arm twice, the same both times."""
    base = compared_arm(scenario, arm)
    return in_pairs(scenario, [(base, base)])


def in_pairs(
    scenario: Scenario,
    pairs: Sequence[tuple[Arm, Arm]],
    suffixes: tuple[str, str] = SUFFIXES,
) -> PairedScenario:
    """Take only these arms, the two of a pair behind each other and named as such.

    Raises:
        ScenarioError: Instances grow in this scenario, or two arms would have one name.
    """
    _refuse_growth(scenario)
    arms = [
        replace(arm, name=arm.name + suffix, repeats=None)
        for pair in pairs
        for arm, suffix in zip(pair, suffixes, strict=True)
    ]
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f"two arms of the comparison would be called {', '.join(twice)}; rename one"
        raise ScenarioError((f"{scenario.path}: {message}",))
    return PairedScenario(
        replace(scenario, arms=tuple(arms)),
        tuple(
            Pair(scenario.name, before, now)
            for before, now in zip(names[::2], names[1::2], strict=True)
        ),
    )


def _refuse_growth(scenario: Scenario) -> None:
    if scenario.scale is not None:
        message = f"{scenario.path}: has a [scale]: a footprint of many instances has no pairs"
        raise ScenarioError((f"{message}; compare in a scenario without",))


def compared_arm(scenario: Scenario, arm: str | None, sides: tuple[str, ...] = ()) -> Arm:
    """Return the typed arm, or the first that knows the settings of both sides: `with_sides`."""
    _refuse_growth(scenario)
    if arm is not None:
        return select_arms(scenario, [arm]).arms[0]
    wanted = {
        part.partition("=")[0]
        for side in sides
        if "=" in side.partition(",")[0]
        for part in side.split(",")
        if "=" in part
    }.difference(ARM_SETTINGS)
    usual = reference_arm(scenario)
    for candidate in (usual, *scenario.arms):
        if wanted <= set(get_backend(candidate.backend).options):
            return candidate
    return usual


def _side(scenario: Scenario, base: Arm, side: str) -> Arm:
    head = side.partition(",")[0]
    if "=" in head:
        return changed_arm(base, side)
    if head in BACKENDS or any(known.name == head for known in scenario.arms):
        name, _, settings = side.partition(",")
        arm = select_arms(scenario, [name]).arms[0]
        return changed_arm(arm, settings) if settings else arm
    if not side or side.startswith(("/", ".")):
        message = "is no image, no arm and no setting; write image=…, kernel=PATH, or build a "
        raise ValueError(f"{message}folder's image by --context DIR --revision A B")
    return replace(base, image=side)
