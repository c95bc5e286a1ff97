"""Which runs and arms may be held against each other, and what an anchor is pinned to. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from harness.model import ArmRecord, RunInfo, Scenario
from harness.model.comparability import ARM_CLASS_FACTS, company, host_class

IMAGE_FACT = "image"
"""Of `ArmRecord.facts`: the digest of the image that ran."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What an arm started, down to the digest: two arms with the same pin are the same thing.

    Attributes:
        backend: Kind of the arm.
        options: Its settings, in the order of their names.
        cache: State of the page cache.
        image: Digest.
        command: argv; empty is the image's own.
    """

    backend: str
    options: tuple[tuple[str, str], ...]
    cache: str
    image: str
    command: tuple[str, ...]


def scenario_of(info: RunInfo, name: str) -> Scenario | None:
    """Find a scenario of a run."""
    return next((scenario for scenario in info.scenarios if scenario.name == name), None)


def pin_of(info: RunInfo, record: ArmRecord) -> Pin | None:
    """Say what an arm of a run is pinned to; None where the digest was not recorded."""
    scenario, image = scenario_of(info, record.scenario), record.facts.get(IMAGE_FACT)
    if scenario is None or not image:
        return None
    arm = record.arm
    options = tuple(sorted((key, repr(value)) for key, value in arm.options.items()))
    command = scenario.for_arm(arm).workload.command
    return Pin(arm.backend, options, arm.cache, image, command)


def anchor_of(info: RunInfo, scenario: str, arm: str) -> ArmRecord | None:
    """Find the anchor of an arm."""
    return next(
        (one for one in info.arms if (one.scenario, one.arm.anchors) == (scenario, arm)), None
    )


_BESIDE = {"": "without machines", "beside-vm": "with machines"}


def comparability(run: RunInfo, baseline: RunInfo, scenario: str, arm: str) -> str | None:
    """Say why an arm's times and memory in two runs cannot be compared; None if they can."""
    ours, theirs = host_class(run.environment), host_class(baseline.environment)
    if ours != theirs:
        named = " and ".join(
            f"{info.environment.get('cpu_model')} with kernel {info.environment.get('kernel')}"
            for info in (baseline, run)
        )
        return (
            f"the baseline {baseline.run_id} is from another host ({named}): times and memory "
            "do not travel between hosts; take a baseline here, pair the two by `steelyard "
            "check --run SCENARIO --against IMAGE`, or set a budget relative to another arm"
        )
    before, now = (arm_record(info, scenario, arm) for info in (baseline, run))
    if before is None or now is None:
        which = "baseline" if before is None else "run"
        return f"the {which} has no arm {arm} in scenario {scenario}; measure that arm in both"
    conditions = [
        *((fact, before.facts.get(fact), now.facts.get(fact)) for fact in ARM_CLASS_FACTS),
        ("backend", before.arm.backend, now.arm.backend),
        ("page cache", before.arm.cache, now.arm.cache),
        (
            "set of arms",
            *(
                _BESIDE[company(info.arms_in(scenario), record.arm)]
                for info, record in ((baseline, before), (run, now))
            ),
        ),
        *_of_scenario(scenario_of(baseline, scenario), scenario_of(run, scenario)),
    ]
    for condition, old, new in conditions:
        if old != new:
            return (
                f"{scenario}, {arm}: the {condition} was {old} in the baseline and is {new} now; "
                "take a baseline with the same"
            )
    return None


def _of_scenario(before: Scenario | None, now: Scenario | None) -> list[tuple[str, object, object]]:
    if before is None or now is None:
        return []
    limits = zip(("memory", "cpus", "pids"), _limits(before), _limits(now), strict=True)
    return [
        *((f"limit of {name}", old, new) for name, old, new in limits),
        ("readiness", before.readiness.kind, now.readiness.kind),
    ]


def _limits(scenario: Scenario) -> tuple[object, ...]:
    limits = scenario.limits
    return limits.memory_bytes, limits.cpus, limits.pids


def arm_record(info: RunInfo, scenario: str, arm: str) -> ArmRecord | None:
    """Find what was prepared for an arm of a run."""
    return next((one for one in info.arms if (one.scenario, one.arm.name) == (scenario, arm)), None)
