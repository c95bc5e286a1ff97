"""Takes a pinned twin of each guarded arm along: what a run is held against an earlier one by.

baseline had an anchor     that once more, so that it stays the same over the years
baseline had the arm       what it started: image by digest, command, options
no baseline                what the arm starts today, for later runs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.analysis.baseline.match import IMAGE_FACT, anchor_of, arm_record, scenario_of
from harness.experiment.run import ensure_image
from harness.experiment.sides import interruptible
from harness.model import BASELINE, Arm, RunInfo, Scenario
from harness.model.errors import PrepareError, ScenarioError

ANCHOR_SUFFIX = "-anchor"
_WITHOUT_IMAGE = frozenset({"fake", "null"})
"""Backends whose boxes have no files in them."""

Progress = Callable[[str], None]


def anchored(
    scenarios: Sequence[Scenario], earlier: Sequence[RunInfo], progress: Progress
) -> tuple[Scenario, ...]:
    """Add an anchor to every guarded arm: those with a budget of the baseline, else all.

    Scenarios in which instances grow have none: a footprint of many has no pairs.

    Args:
        scenarios: With the arms to take.
        earlier: Runs that the new one is to be held against, in any order; none: anchors are what
            the arms start today.
        progress: Called with what is being done.

    Raises:
        PrepareError: An image is not in the store any more, or cannot be made.
        ScenarioError: An arm has the name of an anchor.
        Interrupted: By a signal.
    """
    with interruptible():
        return tuple(_anchored(scenario, earlier, progress) for scenario in scenarios)


def _anchored(scenario: Scenario, earlier: Sequence[RunInfo], progress: Progress) -> Scenario:
    if scenario.scale is not None:
        progress(f"{scenario.name}: no anchor is taken, as instances grow in number there")
        return scenario
    guarded = {budget.arm for budget in scenario.budgets if budget.of == BASELINE}
    arms = [arm for arm in scenario.arms if arm.name in guarded] or scenario.arms
    arms = [arm for arm in arms if arm.anchors is None and arm.repeats is None]
    if none := ", ".join(arm.name for arm in arms if arm.backend in _WITHOUT_IMAGE):
        progress(f"{scenario.name}: no anchor is taken of {none}, as no image is started there")
    anchors = [
        anchor
        for arm in arms
        if arm.backend not in _WITHOUT_IMAGE
        if (anchor := _anchor(scenario, arm, earlier, progress)) is not None
    ]
    taken = {arm.name for arm in scenario.arms}
    if twice := [anchor.name for anchor in anchors if anchor.name in taken]:
        message = f"{scenario.path}: an anchor would be called {twice[0]}, and an arm is"
        raise ScenarioError((f"{message}; rename that arm, or take --no-anchor",))
    return replace(scenario, arms=(*scenario.arms, *anchors))


def _anchor(
    scenario: Scenario, arm: Arm, earlier: Sequence[RunInfo], progress: Progress
) -> Arm | None:
    """The anchor of an arm; None where the earlier runs have nothing of it."""
    image = scenario.for_arm(arm).image
    name = arm.name + ANCHOR_SUFFIX
    if not earlier:
        ensure_image(image, progress)
        digest = _digest(image)
        if digest is None:
            raise PrepareError(f"{image} is not in the store, so nothing can be pinned to it")
        command = scenario.for_arm(arm).workload.command
        return replace(arm, name=name, image=digest, command=command, anchors=arm.name)
    for info in sorted(earlier, key=lambda info: info.started_at, reverse=True):
        before = scenario_of(info, scenario.name)
        record = anchor_of(info, scenario.name, arm.name)
        record = record or arm_record(info, scenario.name, arm.name)
        if before is None or record is None or not (digest := record.facts.get(IMAGE_FACT)):
            continue
        if _digest(digest) is None:
            ensure_image(image, progress)  # it comes with Steelyard perhaps, and was never made
        if _digest(digest) is None:
            raise PrepareError(
                f"the image that {arm.name} of {scenario.name} is held against, {digest} of run "
                f"{info.run_id}, is not in the store any more; build or pull it again, or take "
                "--no-anchor, and then little can be told"
            )
        command = before.for_arm(record.arm).workload.command
        return replace(
            record.arm, name=name, image=digest, command=command, anchors=arm.name, repeats=None
        )
    return None


def _digest(reference: str) -> str | None:
    """The digest of an image of the store; None where it is not there."""
    import runtime

    try:
        return runtime.ImageStore.default().get(reference).digest
    except runtime.ImageNotFoundError:
        return None
    except runtime.ContainerError as error:
        raise PrepareError(str(error)) from error
