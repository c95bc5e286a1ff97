"""A scenario file -> `Scenario`, or every error of the file at once, each with line and field.

scenarios/README.md says what a file may hold. pydantic checks the structure; it is imported only
when a file is read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.backends import BACKENDS, get_backend, known_names
from harness.model import (
    ARM_SETTINGS,
    Arm,
    CacheState,
    Hooks,
    Limits,
    Readiness,
    ReadinessKind,
    Scale,
    Scenario,
    Workload,
)
from harness.model.errors import ScenarioError
from harness.model.suggestions import did_you_mean, unknown
from harness.model.toml_positions import KeyLines
from harness.scenario.budget import read_budgets
from runtime.linux.git_text import damage_by_git

if TYPE_CHECKING:
    from harness.scenario.schema import ScenarioFile

ARM_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
ARM_NAME_RULE = "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
_Problem = tuple[tuple[str | int, ...], str]

_ARM_KEYS = frozenset({"backend", *ARM_SETTINGS})
"""Keys of an arm's table that are the arm's own; all others are its backend's options."""

# Which keys of [readiness] mean something for which kind, and which of them must be there.
_READINESS_KEYS: Mapping[ReadinessKind, tuple[frozenset[str], frozenset[str]]] = {
    ReadinessKind.EXIT: (frozenset({"exit_code", "output"}), frozenset()),
    ReadinessKind.OUTPUT: (frozenset({"output"}), frozenset({"output"})),
    ReadinessKind.TCP: (frozenset({"port", "address", "socket"}), frozenset({"port"})),
    ReadinessKind.HTTP: (
        frozenset({"port", "address", "socket", "path", "status", "tls"}),
        frozenset({"port"}),
    ),
    ReadinessKind.COMMAND: (frozenset({"command"}), frozenset({"command"})),
}


def shipped_scenarios() -> tuple[Path, ...]:
    """List the scenario files that come with Steelyard, by name."""
    return tuple(sorted(_shipped_folder().glob("*.toml")))


def find_scenario(name: str) -> Path:
    """Find the file that `name` means: a path, or the stem of a file in a `scenarios` folder.

    Raises:
        ScenarioError: There is no such file; says what there is.
    """
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise ScenarioError((f"{name}: no such scenario file; check the path",))
        return path
    folders = Path("scenarios"), _shipped_folder()
    for folder in folders:
        if (candidate := folder / f"{name}.toml").is_file():
            return candidate
    known = sorted({file.stem for folder in folders for file in folder.glob("*.toml")})
    raise ScenarioError((f"{name}: no such scenario; {did_you_mean(name, known)}",))


def load_scenario(name: str | Path) -> Scenario:
    """Read and check a scenario file.

    Args:
        name: Its path; or, as a string, the name of one in `./scenarios` or of one that comes with
            Steelyard.

    Raises:
        ScenarioError: It cannot be read, or is wrong; `problems` holds all that is wrong.
    """
    path = find_scenario(name) if isinstance(name, str) else name
    try:
        source = path.read_text(encoding="utf-8-sig")  # editors on Windows begin with a BOM
    except OSError as error:
        message = f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"
        raise ScenarioError((message,)) from error
    except UnicodeDecodeError as error:
        message = f"{path}: is not UTF-8 text; save it as UTF-8"
        raise ScenarioError((message,)) from error
    return parse_scenario(source, path)


def parse_scenario(source: str, path: Path) -> Scenario:
    """Check a scenario's text; `path` names it in errors and in the result.

    Raises:
        ScenarioError: Everything that is wrong with it.
    """
    from pydantic import ValidationError

    from harness.scenario import schema

    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError((_syntax_problem(error, source, path),)) from error
    problems: list[_Problem] = []
    if not ARM_NAME.fullmatch(path.stem):
        problems.append(
            ((), f"the file's name {path.stem!r} cannot name a scenario; {ARM_NAME_RULE}")
        )
    problems += _normalise_arms(document)
    checked = None
    try:
        checked = schema.ScenarioFile.model_validate(document)
    except ValidationError as error:
        problems += schema.problems_of(error)
    if isinstance(document.get("readiness"), dict):
        problems += _readiness_problems(document["readiness"])
    problems += _problems_of_arms(document)
    lines = KeyLines(source)
    budgets, wrong = read_budgets(document, lines)
    problems += wrong
    if problems or checked is None:
        unique = dict.fromkeys(
            (lines.find(field), ".".join(map(str, field)), what) for field, what in problems
        )
        raise ScenarioError(
            tuple(
                f"{path}:{line}: {field}: {what}" if field else f"{path}:{line}: {what}"
                for line, field, what in sorted(unique)
            )
        )
    return replace(_build(checked, source, path), budgets=budgets)


def option_problems(arm: Arm) -> list[tuple[str | None, str]]:
    """Ask an arm's backend for what is wrong with its options.

    Returns:
        For each problem the option that it is about (None: several, or none) and a sentence.
    """
    if not arm.options:
        return []
    backend = get_backend(arm.backend)  # imported only now
    found: list[tuple[str | None, str]] = []
    for problem in backend.check_options(arm.options):
        alone = (
            key
            for key, value in arm.options.items()
            if problem in backend.check_options({key: value})
        )
        found.append((next(alone, None), problem))
    return found


def _shipped_folder() -> Path:
    """Package data of an installation; in a clone, the folder that these are made from."""
    from importlib.resources import files

    package = Path(str(files("harness")))
    installed = package / "shipped_scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def _syntax_problem(error: tomllib.TOMLDecodeError, source: str, path: Path) -> str:
    """The parser ends its message with `(at line 3, column 7)`, or `(at end of document)`."""
    if known := damage_by_git(source):
        begins, problem = known
        return f"{path}:{begins}: {problem}"
    text = str(error)
    what, _, place = text.partition(" (at ")
    match = re.match(r"line (\d+), column (\d+)", place)
    line = match.group(1) if match else str(source.rstrip("\n").count("\n") + 1)
    column = f", column {match.group(2)}" if match else ", the end of the file"
    return f"{path}:{line}: not TOML: {what[:1].lower()}{what[1:]}{column}; see https://toml.io"


def _normalise_arms(document: dict[str, Any]) -> list[_Problem]:
    """Turn `arms = ["a", "b"]` into tables, and let `backend` default to the arm's name."""
    arms = document.get("arms")
    problems: list[_Problem] = []
    if isinstance(arms, list):
        tables: dict[str, Any] = {}
        for number, name in enumerate(arms):
            if not isinstance(name, str):
                problems.append((("arms", number), f"should be the name of a backend, is {name!r}"))
            elif name in tables:
                problems.append((("arms", number), f"the arm {name!r} comes twice; name it once"))
            else:
                tables[name] = {"backend": name}
        document["arms"] = arms = tables
    if not isinstance(arms, dict):
        return problems
    if not arms:
        names = ", ".join(known_names())
        problems.append((("arms",), f"holds no arm; name at least one of {names}"))
    for name, table in arms.items():
        if not isinstance(table, dict):
            continue
        field: tuple[str | int, ...] = ("arms", name)
        if not ARM_NAME.fullmatch(name):
            problems.append((field, f"{name!r} cannot name an arm; {ARM_NAME_RULE}"))
        backend = table.setdefault("backend", name)
        if isinstance(backend, str) and backend not in BACKENDS:
            problems.append((field, unknown("backend", backend, known_names())))
    return problems


def _readiness_problems(table: Mapping[str, Any]) -> Iterator[_Problem]:
    """What only the kind decides: keys that must be there, and keys that would do nothing."""
    kind = table.get("kind")
    if kind not in list(ReadinessKind):
        return
    meaningful, needed = _READINESS_KEYS[ReadinessKind(kind)]
    if "socket" in table and "socket" in meaningful:
        needed -= {"port"}
        for key in sorted({"port", "address"} & table.keys()):
            yield ("readiness", key), "does nothing beside 'socket'; take one of the two out"
    for key in sorted(needed - table.keys()):
        yield ("readiness", key), f"is missing; readiness {kind!r} needs it"
    everything = frozenset().union(*(keys for keys, _ in _READINESS_KEYS.values()))
    for key in sorted((everything & table.keys()) - meaningful):
        yield ("readiness", key), f"does nothing for readiness {kind!r}; take it out"


def _problems_of_arms(document: Mapping[str, Any]) -> Iterator[_Problem]:
    """What is known only once arms and backends are: options, and limits of arms that are not."""
    arms, scale = document.get("arms"), document.get("scale")
    if not isinstance(arms, dict):
        return
    for name, table in arms.items():
        if not isinstance(table, dict) or table.get("backend") not in tuple(BACKENDS):
            continue
        options = {key: value for key, value in table.items() if key not in _ARM_KEYS}
        for key, what in option_problems(Arm(name, table["backend"], options)):
            yield ("arms", name, *(() if key is None else (key,))), what
    most = scale.get("most") if isinstance(scale, dict) else None
    for name in most if isinstance(most, dict) else ():
        if name not in arms:
            hint = did_you_mean(name, tuple(arms))
            yield ("scale", "most", name), f"no arm has that name; {hint}"


def _build(checked: ScenarioFile, source: str, path: Path) -> Scenario:
    return Scenario(
        name=path.stem,
        question=checked.question,
        image=checked.image,
        workload=Workload(**checked.workload.model_dump()),
        readiness=Readiness(**checked.readiness.model_dump()),
        limits=Limits(checked.limits.memory, checked.limits.cpus, checked.limits.pids),
        arms=tuple(
            Arm(
                name=name,
                backend=arm.backend,
                options=MappingProxyType(dict(arm.model_extra or {})),
                cache=CacheState(arm.cache),
                image=arm.image,
                command=None if arm.command is None else tuple(arm.command),
            )
            for name, arm in checked.arms.items()
        ),
        timeout_ns=int(checked.timeout),  # a duration's text has become nanoseconds
        source=source,
        path=str(path),
        hooks=Hooks(**checked.hooks.model_dump()),
        scale=None if checked.scale is None else Scale(**checked.scale.model_dump()),
    )
