"""What the command line changes in a scenario: its arms, the state of the cache, the growth.

Every function takes a scenario and gives a new one, or every problem at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from harness.backends import BACKENDS, known_names
from harness.model import Arm, CacheState, Hooks, Scale, Scenario
from harness.model.errors import ScenarioError
from harness.model.scale import scale_problems
from harness.model.suggestions import did_you_mean, unknown
from harness.model.toml_positions import KeyLines
from harness.scenario.parse import (
    ARM_NAME,
    ARM_NAME_RULE,
    load_scenario,
    option_problems,
    shipped_scenarios,
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """Changes to a scenario file.

    Attributes:
        arms: Only these; none: those of the file.
        cache: `warm`, `cold`, `both`; None: as in the file.
        hooks: Field of `Hooks` -> command, None where the file's stays.
        scale: Let up to so many instances live at once; None: as in the file.
        most: Arm name -> no more instances of it than this.
    """

    arms: tuple[str, ...] = ()
    cache: str | None = None
    hooks: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))
    scale: int | None = None
    most: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


TWIN_SUFFIX = "-again"
COLD_SUFFIX = "-cold"


def load_scenarios(names: Sequence[str], overrides: Overrides) -> tuple[Scenario, ...]:
    """Load all named scenarios and change them, or report every problem of all of them at once.

    Args:
        names: Paths, and names of those that are shipped; none: all shipped ones, but for those in
            which many instances live at once: growth takes long, and is asked for.
        overrides: The changes.

    Raises:
        ScenarioError: A scenario is not there, or is wrong, or cannot be changed as asked.
    """
    shipped = shipped_scenarios()
    if not names and not shipped:
        raise ScenarioError(("no scenario comes with this installation; name a scenario file",))
    chosen = names or [str(path) for path in shipped if load_scenario(path).scale is None]
    loaded: dict[str, Scenario] = {}
    problems: list[str] = []
    for name in chosen:
        try:
            scenario = _overridden(load_scenario(name), overrides)
        except ScenarioError as error:
            problems += error.problems
            continue
        if scenario.name in loaded:
            problems.append(f"{name}: a scenario {scenario.name} is named already; name it once")
        loaded[scenario.name] = scenario
    if problems:
        raise ScenarioError(tuple(dict.fromkeys(problems)))
    return tuple(loaded.values())


def _overridden(scenario: Scenario, overrides: Overrides) -> Scenario:
    if overrides.arms:
        scenario = select_arms(scenario, overrides.arms)
    if overrides.cache is not None:
        scenario = with_cache(scenario, overrides.cache)
    scenario = with_hooks(scenario, overrides.hooks)
    scenario = with_scale(scenario, overrides.scale, overrides.most)
    if problems := impossible_growth(scenario):
        raise ScenarioError(problems)
    return scenario


def select_arms(scenario: Scenario, choices: Sequence[str]) -> Scenario:
    """Take only the chosen arms, in that order.

    Args:
        scenario: As read.
        choices: Each the name of an arm of the scenario, or a new arm as
            `[NAME=]BACKEND[,OPTION=VALUE…]`; two equal arms under two names make an A/A comparison.

    Raises:
        ScenarioError: A choice means nothing, or a name comes twice.
    """
    by_name = {arm.name: arm for arm in scenario.arms}
    arms: dict[str, Arm] = {}
    problems = []
    for choice in choices:
        try:
            arm = by_name.get(choice) or _arm_from_choice(choice, sorted(by_name))
        except ValueError as error:
            problems += [f"--arm {choice}: {line}" for line in str(error).splitlines()]
            continue
        if arm.name in arms:
            problems.append(f"--arm {choice}: the arm {arm.name} is there already; name it anew")
        arms[arm.name] = arm
    if problems:
        raise ScenarioError(tuple(problems))
    return replace(scenario, arms=tuple(arms.values()))


def _arm_from_choice(choice: str, known: Sequence[str]) -> Arm:
    """A new arm; the ValueError has a line for each problem."""
    name, equals, rest = choice.partition("=")
    if not equals or "," in name:
        # A backend by its own name, perhaps with options.
        name, rest = choice.partition(",")[0], choice
    backend, *settings = _split_settings(rest)
    if not ARM_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an arm; {ARM_NAME_RULE}")
    if backend not in BACKENDS:
        names = sorted({*known_names(), *known})
        raise ValueError(unknown("arm or backend", backend, names))
    return _arm(name, backend, _parsed(settings))


def changed_arm(arm: Arm, settings: str) -> Arm:
    """Replace settings of an arm: `OPTION=VALUE[,…]`, with `image`, `command`, `cache` among them.

    Raises:
        ValueError: A setting means nothing; has a line for each problem.
    """
    changes = _parsed(_split_settings(settings))
    command = None if arm.command is None else list(arm.command)
    own = {"cache": arm.cache, "image": arm.image, "command": command}
    kept = {key: value for key, value in own.items() if value is not None}
    return _arm(arm.name, arm.backend, {**arm.options, **kept, **changes})


def _parsed(settings: Iterable[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{setting!r} is no option; write OPTION=VALUE")
        options[key] = _toml_value(value)
    return options


def _split_settings(text: str) -> Iterator[str]:
    """The parts between commas, except those inside brackets or quotes, as in `a=[1,2],b="x,y"`."""
    depth, quote, begin = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "," and depth <= 0:
            yield text[begin:place]
            begin = place + 1
        else:
            depth += (character in "[{") - (character in "]}")
    yield text[begin:]


def _arm(name: str, backend: str, settings: dict[str, Any]) -> Arm:
    """Take out what is an arm's own; the rest are the backend's options.

    Raises:
        ValueError: A setting means nothing; has a line for each problem.
    """
    cache, image = settings.pop("cache", CacheState.WARM), settings.pop("image", None)
    command = settings.pop("command", None)
    if cache not in list(CacheState):
        what = unknown("state of the cache", cache, list(CacheState))
        raise ValueError(f"cache: {what}")
    if image is not None and (not isinstance(image, str) or not image):
        raise ValueError(f"image: should be a reference, is {image!r}")
    if command is not None:
        words = command if isinstance(command, list) else [command]
        if not words or not all(isinstance(word, str) and word for word in words):
            message = f'command: should be a list like ["echo","hello"], is {command!r}'
            raise ValueError(message)
        command = tuple(words)
    arm = Arm(name, backend, MappingProxyType(settings), CacheState(cache), image, command)
    problems = [f"{key}: {what}" if key else what for key, what in option_problems(arm)]
    if problems:
        raise ValueError("\n".join(problems))
    return arm


def _toml_value(text: str) -> Any:
    """`3`, `true`, `1.5` as TOML has them; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def with_cache(scenario: Scenario, choice: str) -> Scenario:
    """Set the page cache of every arm: `warm`, `cold`, or `both`.

    With `both`, each arm that is warm gets a twin `NAME-cold` behind it.

    Raises:
        ScenarioError: The name of a cold twin is another arm's already.
    """
    if choice != "both":
        arms = tuple(replace(arm, cache=CacheState(choice)) for arm in scenario.arms)
        return replace(scenario, arms=arms)
    names = {arm.name: arm for arm in scenario.arms}
    together: list[Arm] = []
    most: dict[str, str] = {}
    problems = []
    for arm in scenario.arms:
        together.append(arm)
        if arm.cache is CacheState.COLD:
            continue
        cold = replace(arm, name=arm.name + COLD_SUFFIX, cache=CacheState.COLD)
        if names.get(cold.name) == cold:
            continue
        if cold.name in names:
            problems.append(
                f"{scenario.path}: --cache both needs the name {cold.name} for the cold twin of "
                f"{arm.name}, and an arm has it; rename that arm"
            )
        together.append(cold)
        most[cold.name] = arm.name
    if problems:
        raise ScenarioError(tuple(problems))
    return replace(scenario, arms=tuple(together), scale=_like(scenario.scale, most))


def _like(scale: Scale | None, originals: Mapping[str, str]) -> Scale | None:
    if scale is None:
        return None
    more = {new: scale.most[old] for new, old in originals.items() if old in scale.most}
    return replace(scale, most=MappingProxyType({**scale.most, **more}))


def with_hooks(scenario: Scenario, given: Mapping[str, str | None]) -> Scenario:
    """Replace the commands of some fields of `Hooks`; None keeps the scenario's."""
    changes = {name: command for name, command in given.items() if command is not None}
    hooks: Hooks = replace(scenario.hooks, **changes)
    return replace(scenario, hooks=hooks)


def with_scale(scenario: Scenario, largest: int | None, most: Mapping[str, int]) -> Scenario:
    """Let instances grow up to `largest`, and up to `most` in single arms.

    Args:
        scenario: With its final arms.
        largest: Grow to 1, 2, 4, … and this many; None keeps the scenario's numbers.
        most: Arm name -> the most instances of that arm; adds to the scenario's.

    Raises:
        ScenarioError: There is nothing to be limited, or no such arm.
    """
    problems = []
    names = [arm.name for arm in scenario.arms]
    scale = scenario.scale
    if largest is not None:
        together = tuple(n for n in scale.together if n <= largest) if scale else ()
        known = scale.most if scale else MappingProxyType({})
        scale = Scale(doubling(largest), together, known)
    if most and scale is None:
        problems.append(
            f"{scenario.path}: --most limits growth, and there is none; add --scale or a [scale]"
        )
    problems += [
        f"--most {name}: {scenario.name} has no arm of that name; {did_you_mean(name, names)}"
        for name in most
        if name not in names
    ]
    if problems:
        raise ScenarioError(tuple(problems))
    if scale is not None and most:
        scale = replace(scale, most=MappingProxyType({**scale.most, **most}))
    return replace(scenario, scale=scale)


def doubling(largest: int) -> tuple[int, ...]:
    """List 1, 2, 4, … below `largest`, and `largest`."""
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def reference_arm(scenario: Scenario) -> Arm:
    """Return the arm that an A/A comparison repeats: the first `container`, else the first."""
    containers = (arm for arm in scenario.arms if arm.backend == "container")
    return next(containers, scenario.arms[0])


def with_twin(scenario: Scenario) -> Scenario:
    """Add the reference arm once more, under another name, as the last arm.

    Unchanged where an arm repeats another already, where the name is taken, and where instances
    grow: a footprint of many has no pairs to compare.
    """
    arm = reference_arm(scenario)
    twin = replace(arm, name=arm.name + TWIN_SUFFIX, repeats=arm.name)
    is_there = any(other.repeats or other.name == twin.name for other in scenario.arms)
    if scenario.scale is not None or is_there:
        return scenario
    return replace(scenario, arms=(*scenario.arms, twin))


def impossible_growth(scenario: Scenario) -> tuple[str, ...]:
    """List what makes a `[scale]` impossible, as sentences with file, line and field."""
    lines = KeyLines(scenario.source)
    return tuple(
        f"{scenario.path}:{lines.find(tuple(problem.partition(': ')[0].split('.')))}: {problem}"
        for problem in scale_problems(scenario)
    )
