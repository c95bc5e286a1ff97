"""`A` and `B` of `steelyard compare`: what was typed -> a scenario with exactly two arms.

A side is one of

    busybox:1.36                  an image, for the arm that is compared
    kernel=PATH                   settings of that arm, as are qemu=PATH, cache=cold, image=…
    container,cache=cold          an arm or backend of its own, with settings
    container                     the same without
"""

from __future__ import annotations

from dataclasses import replace

from harness.backends import BACKENDS, get_backend
from harness.choices import changed_arm, reference_arm, select_arms
from harness.errors import ScenarioError
from harness.evidence import Pairing
from harness.model import Arm, Scenario

SUFFIXES = ("-a", "-b")
"""Of the names of the two arms."""
_OWN_SETTINGS = frozenset({"image", "command", "cache"})


def with_sides(scenario: Scenario, arm: str | None, first: str, second: str) -> Scenario:
    """The scenario with two arms, of which the second is to be held against the first.

    Args:
        scenario: As read.
        arm: Which is compared: one of the scenario's, or a new one as for `--arm`; None is the one
            that an A/A comparison takes, or the first that knows the settings of both sides.
        first: What was typed for A.
        second: What was typed for B.

    Raises:
        ScenarioError: One of them means nothing, or instances grow in this scenario.
    """
    base = _base(scenario, arm, (first, second))
    arms, problems = [], []
    for side, suffix in zip((first, second), SUFFIXES, strict=True):
        try:
            found = _side(scenario, base, side)
        except ScenarioError as error:
            problems += [problem.removeprefix("--arm ") for problem in error.problems]
            continue
        except ValueError as error:
            problems += [f"{side}: {line}" for line in str(error).splitlines()]
            continue
        arms.append(replace(found, name=found.name + suffix, repeats=None))
    if problems:
        raise ScenarioError(tuple(dict.fromkeys(problems)))
    return replace(scenario, arms=tuple(arms))


def with_images(scenario: Scenario, arm: str | None, images: tuple[str, str]) -> Scenario:
    """The scenario with one arm twice, each time with another image."""
    return with_sides(scenario, arm, *(f'image="{image}"' for image in images))


def with_twins(scenario: Scenario, arm: str | None) -> Scenario:
    """The scenario with one arm twice, the same both times."""
    base = _base(scenario, arm, ("", ""))
    return replace(
        scenario, arms=tuple(replace(base, name=base.name + suffix) for suffix in SUFFIXES)
    )


def pairing_of(scenario: Scenario) -> Pairing:
    """What is compared in a scenario with two arms."""
    reference, arm = scenario.arms
    return Pairing(scenario.name, reference.name, arm.name)


def _base(scenario: Scenario, arm: str | None, sides: tuple[str, str]) -> Arm:
    if scenario.scale is not None:
        message = f"{scenario.path}: has a [scale]: a footprint of many instances has no pairs"
        raise ScenarioError((f"{message}; compare in a scenario without",))
    if arm is not None:
        return select_arms(scenario, [arm]).arms[0]
    wanted = {
        part.partition("=")[0]
        for side in sides
        if "=" in side.partition(",")[0]
        for part in side.split(",")
        if "=" in part
    } - _OWN_SETTINGS
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
