"""What was typed after `steelyard run`, as a `Request`; every mistake of it at once."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

import harness
from harness.measure import schedule

if TYPE_CHECKING:
    from harness.environment import Environment
    from harness.measure.request import Request
    from harness.model import NoiseFloor, Scenario

_FEW_PAIRS = 10
"""A noise floor that rests on fewer is measured anew by a run that has more blocks."""
_UNMEASURED = frozenset({"fake", "null"})
"""Backends that put nothing on the host: what they show of its noise is nothing."""
COMMAND_VARIABLE = "STEELYARD_COMMAND"
"""Set by the script `steelyard` of a clone: what a user types to come by it."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The options of `steelyard run`, as click gives them; see there for what each means.

    Attributes:
        scenarios: Names and paths; none means all that are shipped.
        arms: Of `--arm`.
        cache: `warm`, `cold`, `both`, or None for what the scenario says.
        hooks: Field of `Hooks` -> command, None where none was given.
        scale: Of `--scale`.
        most: Of `--most`.
        until: Of `--until`.
        aa: Whether to compare an arm with itself; None: as is due.
        blocks: Of `--blocks`.
        warmup: Of `--warmup`.
        seed: Of `--seed`.
        time_limit: Of `--time-limit`.
    """

    scenarios: tuple[str, ...]
    arms: tuple[str, ...]
    cache: str | None
    hooks: Mapping[str, str | None]
    scale: int | None
    most: tuple[str, ...]
    until: tuple[str, ...]
    aa: bool | None
    blocks: int | None
    warmup: int
    seed: int | None
    time_limit: str | None


def request_from(typed: Typed, run_id: str) -> Request:
    """The request, but for what depends on this host: see `with_noise`.

    Raises:
        click.BadParameter: A value means nothing.
        ScenarioError: A scenario is not there, or is wrong, or cannot be changed as asked.
    """
    limit_ns = parse_time_limit(typed.time_limit)
    if limit_ns is None and typed.blocks is None:
        limit_ns = schedule.DEFAULT_TIME_LIMIT_NS
    until = parse_until(typed.until)
    most = schedule.UNTIL_MOST_BLOCKS if until else schedule.DEFAULT_MOST_BLOCKS
    scenarios = _load(typed)
    from harness.measure.request import Request

    return Request(
        scenarios=scenarios,
        blocks=typed.blocks or most,
        warmup_blocks=typed.warmup,
        seed=secrets.randbelow(2**31) if typed.seed is None else typed.seed,
        time_limit_ns=limit_ns,
        required_arms=frozenset(arm.name for scenario in scenarios for arm in scenario.arms)
        if typed.arms
        else frozenset(),
        command=(invoked_as(), *sys.argv[1:]),
        run_id=run_id,
        steelyard=harness.__version__,
        until=until,
    )


def with_noise(
    request: Request, aa: bool | None, folder: Path, environment: Environment
) -> Request:
    """The request with the noise floors that are known here, and with twins where they are due.

    Args:
        request: As typed.
        aa: Whether each scenario gets an arm that repeats another; None: only where no noise floor
            is known, or one of few pairs, and where there are blocks enough to find one.
        folder: Where noise floors are kept.
        environment: This host.
    """
    from harness import stats
    from harness.analysis import noise
    from harness.model import comparability
    from harness.scenario.overrides import reference_arm, with_twin

    host = comparability.host_class(environment.facts)
    known: list[NoiseFloor] = []
    scenarios = []
    for scenario in request.scenarios:
        floors = noise.recall(folder, host, scenario.name)
        known += floors
        pairs = max((floor.blocks for floor in floors), default=0)
        # With a time limit it is not known how many blocks there will be.
        has_more = request.time_limit_ns is None and pairs < min(_FEW_PAIRS, request.blocks)
        is_due = (
            (not floors or has_more)
            and request.blocks >= stats.FEWEST_FOR_LEVEL
            and reference_arm(scenario).backend not in _UNMEASURED
        )
        scenarios.append(with_twin(scenario) if (is_due if aa is None else aa) else scenario)
    return replace(request, scenarios=tuple(scenarios), noise=tuple(known))


def invoked_as() -> str:
    """The command as its user can type it again."""
    if command := os.environ.get(COMMAND_VARIABLE):
        return command
    name = Path(sys.argv[0]).name
    # `python -m harness` and `python -c …` have no name of their own.
    return "steelyard" if name in ("-c", "") or name.endswith(".py") else name


def parse_until(values: Sequence[str]) -> Mapping[str, float]:
    """`2%`, or `ready=2%,pss=5%`, as metric -> relative half-width.

    Raises:
        click.BadParameter: It is neither.
    """
    from harness.model.metrics import METRICS
    from harness.model.suggestions import did_you_mean

    known = [name for name, metric in METRICS.items() if not metric.is_static]
    found: dict[str, float] = {}
    for part in (part for value in values for part in value.split(",")):
        name, equals, width = part.rpartition("=")
        name = name.strip() if equals else "ready"
        if name not in known:
            raise _bad("--until", f"no metric is called {name!r}; {did_you_mean(name, known)}")
        try:
            percent = float(width.strip().removesuffix("%"))
        except ValueError:
            percent = 0.0
        if not width.strip().endswith("%") or not 0 < percent < 100:
            raise _bad("--until", f"{width!r} is no width of an interval; write it like 2%")
        found[name] = percent / 100
    return MappingProxyType(found)


def _parse_most(values: Sequence[str]) -> dict[str, int]:
    found = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        if not equals or not name or not number.isdecimal() or int(number) < 1:
            raise _bad("--most", f"{value!r} is no limit of an arm; write it like vm-micro=4")
        found[name] = int(number)
    return found


def parse_time_limit(text: str | None) -> int | None:
    """Read `--time-limit`; None where it was not given.

    Raises:
        click.BadParameter: It is no duration.
    """
    from harness.model.units import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise _bad("--time-limit", str(error)) from error


def _bad(option: str, message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=option)


def _load(typed: Typed) -> tuple[Scenario, ...]:
    """All named scenarios, or every problem of all of them at once."""
    from harness.model.errors import ScenarioError
    from harness.scenario import find_scenario, load_scenario, shipped_scenarios

    most = _parse_most(typed.most)
    loaded: dict[str, Scenario] = {}
    problems: list[str] = []
    if not typed.scenarios and not shipped_scenarios():
        raise ScenarioError(("no scenario comes with this installation; name a scenario file",))
    for name in typed.scenarios or _shipped():
        try:
            scenario = _changed(load_scenario(find_scenario(name)), typed, most)
        except ScenarioError as error:
            problems += error.problems
            continue
        if scenario.name in loaded:
            problems.append(f"{name}: a scenario {scenario.name} is named already; name it once")
        loaded[scenario.name] = scenario
    if problems:
        raise ScenarioError(tuple(dict.fromkeys(problems)))
    return tuple(loaded.values())


def _shipped() -> list[str]:
    """Those that are run when none is named: growth takes long, and is asked for."""
    from harness.scenario import load_scenario, shipped_scenarios

    return [str(path) for path in shipped_scenarios() if load_scenario(path).scale is None]


def _changed(scenario: Scenario, typed: Typed, most: Mapping[str, int]) -> Scenario:
    """The scenario as the options want it."""
    from harness.model.errors import ScenarioError
    from harness.scenario import overrides

    if typed.arms:
        scenario = overrides.select_arms(scenario, typed.arms)
    if typed.cache is not None:
        scenario = overrides.with_cache(scenario, typed.cache)
    scenario = overrides.with_hooks(scenario, typed.hooks)
    scenario = overrides.with_scale(scenario, typed.scale, most)
    if problems := overrides.impossible_growth(scenario):
        raise ScenarioError(problems)
    return scenario
