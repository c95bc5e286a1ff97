"""What is wrong with a scenario that was made in Python: the rules of files, without lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.backends import BACKENDS, known_names
from harness.model import Readiness, ReadinessKind, Scenario
from harness.model.errors import ScenarioError
from harness.model.metrics import METRICS
from harness.model.scale import scale_problems
from harness.model.suggestions import unknown
from harness.scenario.parse import ARM_NAME, ARM_NAME_RULE, option_problems


def require_valid(scenarios: Sequence[Scenario]) -> None:
    """Refuse scenarios that cannot be run.

    Raises:
        ScenarioError: Every problem of all of them, each with its field.
    """
    problems = [
        f"{scenario.path or scenario.name}: {problem}"
        for scenario in scenarios
        for problem in _problems(scenario)
    ]
    names = [scenario.name for scenario in scenarios]
    problems += [
        f"{name}: a scenario {name} is named already; name it once"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if not scenarios:
        problems.append("there is no scenario to run; name at least one")
    if problems:
        raise ScenarioError(tuple(problems))


def require_metrics(names: Sequence[str], *, of_trials: bool = False) -> None:
    """Refuse names of no metric.

    Args:
        names: Of metrics.
        of_trials: Whether a metric of the arm alone will not do.

    Raises:
        ValueError: One of them is none.
    """
    known = [name for name, metric in METRICS.items() if not (of_trials and metric.is_static)]
    for name in names:
        if name not in known:
            raise ValueError(unknown("metric", name, known))


def _problems(scenario: Scenario) -> Iterator[str]:
    if not ARM_NAME.fullmatch(scenario.name):
        yield f"name: {scenario.name!r} cannot name a scenario; {ARM_NAME_RULE}"
    if not scenario.image:
        yield "image: is empty; name an image"
    if scenario.timeout_ns <= 0:
        yield f"timeout_ns: {scenario.timeout_ns} is nothing; give a time above 0"
    yield from _readiness_problems(scenario.readiness)
    yield from _limit_problems(scenario)
    if not scenario.arms:
        yield f"arms: holds no arm; name at least one of {', '.join(known_names())}"
    seen: set[str] = set()
    for arm in scenario.arms:
        if not ARM_NAME.fullmatch(arm.name):
            yield f"arms: {arm.name!r} cannot name an arm; {ARM_NAME_RULE}"
        if arm.name in seen:
            yield f"arms: the arm {arm.name!r} comes twice; name it once"
        seen.add(arm.name)
        if arm.backend not in BACKENDS:
            yield f"arms: {unknown('backend', arm.backend, known_names())}"
            continue
        for key, what in option_problems(arm):
            yield f"arms.{arm.name}{'' if key is None else f'.{key}'}: {what}"
    yield from scale_problems(scenario) if scenario.scale is not None else ()


def _readiness_problems(readiness: Readiness) -> Iterator[str]:
    kind = readiness.kind
    if kind not in list(ReadinessKind):
        yield f"readiness: {unknown('readiness', kind, tuple(ReadinessKind))}"
        return
    if readiness.needs_network and not 1 <= (readiness.port or 0) <= 65_535:
        yield f"readiness.port: is {readiness.port}; readiness {kind!r} needs one, 1 to 65535"
    if kind is ReadinessKind.OUTPUT and not readiness.output:
        yield "readiness.output: is missing; readiness 'output' needs it"
    if readiness.output is not None:
        try:
            re.compile(readiness.output)
        except re.error as error:
            yield f"readiness.output: {readiness.output!r} is not a regular expression: {error}"


def _limit_problems(scenario: Scenario) -> Iterator[str]:
    limits = scenario.limits
    for name, value in (
        ("memory_bytes", limits.memory_bytes),
        ("cpus", limits.cpus),
        ("pids", limits.pids),
    ):
        if value is not None and value <= 0:
            yield f"limits.{name}: {value} is nothing; give a number above 0, or leave it out"
