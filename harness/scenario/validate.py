"""Checks a scenario that was made in Python: the rules of files, without lines."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from harness.backends import BACKENDS, known_names
from harness.model import BASELINE, Arm, CacheState, Readiness, ReadinessKind, Scale, Scenario
from harness.model.errors import ScenarioError
from harness.model.metrics import METRICS
from harness.model.scale import scale_problems
from harness.model.suggestions import unknown
from harness.scenario.parse import ARM_NAME, ARM_NAME_RULE, option_problems
from runtime.linux.accepted import limit_problems, variable_problem, word_problem


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
    yield from _workload_problems(scenario)
    yield from _number_problems(scenario)
    yield from _readiness_problems(scenario.readiness)
    if not scenario.arms:
        yield f"arms: holds no arm; name at least one of {', '.join(known_names())}"
    seen: set[str] = set()
    arms: Sequence[object] = scenario.arms
    for arm in arms:
        if not isinstance(arm, Arm):
            yield f"arms: should hold only values of Arm, and holds {arm!r}"
            continue
        if arm.name in seen:
            yield f"arms: the arm {arm.name!r} comes twice; name it once"
        seen.add(arm.name)
        yield from _arm_problems(arm)
    if not scenario.source:  # the budgets of a file were held against all of its arms when read
        yield from _budget_problems(scenario, seen)
    if scenario.scale is not None:
        yield from _shape_problems(scenario.scale, seen)
    is_sound = len(seen) == len(arms) and (scenario.scale is None or scenario.scale.instances)
    yield from scale_problems(scenario) if is_sound else ()


def _budget_problems(scenario: Scenario, arms: AbstractSet[str]) -> Iterator[str]:
    for budget in scenario.budgets:
        others = (BASELINE, *sorted(arms - {budget.arm}))
        if budget.metric not in METRICS:
            yield f"budgets: {unknown('metric', budget.metric, tuple(METRICS))}"
        if budget.arm not in arms:
            yield f"budgets: {unknown('arm', budget.arm, sorted(arms))}"
        if budget.of is not None and budget.of not in others:
            yield f"budgets: of: {unknown('arm', budget.of, others)}"
        if not 0 <= budget.most < math.inf:
            yield f"budgets: most: {budget.most} is no limit; give a number from 0 up"


def _shape_problems(scale: Scale, arms: AbstractSet[str]) -> Iterator[str]:
    for name, numbers in (("instances", scale.instances), ("together", scale.together)):
        if any(number < 1 for number in numbers) or list(numbers) != sorted(set(numbers)):
            yield f"scale.{name}: should rise from 1 up, each number once, is {numbers}"
    if not scale.instances:
        yield "scale.instances: is empty; give numbers of instances, like (1, 2, 4)"
    for name, most in scale.most.items():
        if name not in arms:
            yield f"scale.most: {unknown('arm', name, sorted(arms))}"
        if most < 1:
            yield f"scale.most: {name} is {most}; let at least 1 live"


def _arm_problems(arm: Arm) -> Iterator[str]:
    if not ARM_NAME.fullmatch(arm.name):
        yield f"arms: {arm.name!r} cannot name an arm; {ARM_NAME_RULE}"
    if arm.cache not in (states := tuple(CacheState)):
        yield f"arms.{arm.name}.cache: {unknown('state of the cache', arm.cache, states)}"
    if arm.backend not in BACKENDS:
        yield f"arms: {unknown('backend', arm.backend, known_names())}"
        return
    for word in arm.command or ():
        if problem := word_problem(word):
            yield f"arms.{arm.name}.command: {problem}"
    for key, what in option_problems(arm):
        yield f"arms.{arm.name}{'' if key is None else f'.{key}'}: {what}"


def _readiness_problems(readiness: Readiness) -> Iterator[str]:
    kind = readiness.kind
    port: object = readiness.port
    if kind not in tuple(ReadinessKind):
        yield f"readiness: {unknown('readiness', kind, tuple(ReadinessKind))}"
        return
    if readiness.needs_network and readiness.socket is None:
        if not (isinstance(port, int) and 1 <= port <= 65_535):
            yield f"readiness.port: is {port!r}; readiness {kind!r} needs one, 1 to 65535"
    elif readiness.socket is not None and not readiness.socket.startswith("/"):
        yield f"readiness.socket: {readiness.socket!r} is not an absolute path; begin it with /"
    if readiness.address is not None and not _is_loopback(readiness.address):
        yield (
            f"readiness.address: {readiness.address!r} is no loopback address; give '127.0.0.1' "
            "or '::1', or None to ask at the box's address"
        )
    if kind is ReadinessKind.COMMAND and not readiness.command:
        yield "readiness.command: is empty; readiness 'command' needs one"
    if kind is ReadinessKind.OUTPUT and not readiness.output:
        yield "readiness.output: is missing; readiness 'output' needs it"
    if readiness.output is not None:
        try:
            re.compile(readiness.output)
        except re.error as error:
            yield f"readiness.output: {readiness.output!r} is not a regular expression: {error}"


def _workload_problems(scenario: Scenario) -> Iterator[str]:
    for word in scenario.workload.command:
        if problem := word_problem(word):
            yield f"workload.command: {problem}"
    for name, value in scenario.workload.environment.items():
        if problem := variable_problem(name, value):
            yield f"workload.environment: {problem}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _number_problems(scenario: Scenario) -> Iterator[str]:
    limits = scenario.limits
    numbers: tuple[tuple[str, object, str], ...] = (
        ("timeout_ns", scenario.timeout_ns, "a time above 0"),
        ("limits.memory_bytes", limits.memory_bytes, "a number above 0, or leave it out"),
        ("limits.cpus", limits.cpus, "a number above 0, or leave it out"),
        ("limits.pids", limits.pids, "a number above 0, or leave it out"),
    )
    is_sound = True
    for name, value, wanted in numbers:
        kinds = int | float if name == "limits.cpus" else int
        if value is not None and not isinstance(value, kinds):
            is_sound = False
            yield f"{name}: {value!r} is no number in that unit; give {wanted}"
        elif value is not None and not value > 0:
            is_sound = False
            yield f"{name}: {value} is nothing; give {wanted}"
    if is_sound:
        for name, what in limit_problems(limits.memory_bytes, limits.cpus, limits.pids):
            yield f"limits.{'memory_bytes' if name == 'memory' else name}: {what}"
