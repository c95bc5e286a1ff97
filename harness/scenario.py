"""A scenario file -> `Scenario`, or every error of the file at once, each with line and field.

```toml
question = "What does a box cost around a web server in Python?"
image = "debian-python"
timeout = "60s"
arms = ["process", "container", "vm-micro"]   # or tables [arms.NAME] with backend = "…" and options

[workload]
command = ["python3", "-m", "http.server", "8000"]
environment = { PYTHONUNBUFFERED = "1" }      # optional, as are user and working_directory

[readiness]
kind = "http"                                 # exit, output, tcp or http
port = 8000

[limits]                                      # all optional
memory = "256M"
cpus = 1
pids = 128
```

The structure is checked by pydantic, which is imported only here and only when a file is read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.backends import BACKENDS
from harness.errors import ScenarioError
from harness.model import Arm, Limits, Readiness, ReadinessKind, Scenario, Workload
from harness.toml_lines import KeyLines
from harness.words import did_you_mean

if TYPE_CHECKING:
    from harness.scenario_shape import ScenarioFile

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_NAME_RULE = "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
_Problem = tuple[tuple[str | int, ...], str]

# Which keys of [readiness] mean something for which kind, and which of them must be there.
_READINESS_KEYS: Mapping[ReadinessKind, tuple[frozenset[str], frozenset[str]]] = {
    ReadinessKind.EXIT: (frozenset({"exit_code", "output"}), frozenset()),
    ReadinessKind.OUTPUT: (frozenset({"output"}), frozenset({"output"})),
    ReadinessKind.TCP: (frozenset({"port"}), frozenset({"port"})),
    ReadinessKind.HTTP: (frozenset({"port", "path", "status"}), frozenset({"port"})),
}


def shipped_scenarios() -> tuple[Path, ...]:
    """The scenario files that come with Steelyard, by name."""
    return tuple(sorted(_shipped_folder().glob("*.toml")))


def find_scenario(name: str) -> Path:
    """The file that `name` means: a path, or the stem of a file in a `scenarios` folder.

    Raises:
        ScenarioError: There is no such file; says what there is.
    """
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise ScenarioError((f"{name}: no such scenario file; check the path",))
        return path
    folders = (Path("scenarios"), _shipped_folder())
    for folder in folders:
        if (candidate := folder / f"{name}.toml").is_file():
            return candidate
    known = sorted({file.stem for folder in folders for file in folder.glob("*.toml")})
    hint = did_you_mean(name, known)
    raise ScenarioError((f"{name}: no such scenario; {hint}",))


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file.

    Raises:
        ScenarioError: It cannot be read, or is wrong; `problems` holds all that is wrong.
    """
    try:
        source = path.read_text(encoding="utf-8")
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
    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError((_syntax_problem(error, source, path),)) from error
    problems: list[_Problem] = []
    if not _NAME.fullmatch(path.stem):
        problems.append(((), f"the file's name {path.stem!r} cannot name a scenario; {_NAME_RULE}"))
    problems += _normalise_arms(document)
    checked = _check(document, problems)
    if isinstance(document.get("readiness"), dict):
        problems += _readiness_problems(document["readiness"])
    if problems or checked is None:
        lines = KeyLines(source)
        unique = dict.fromkeys(
            (lines.find(field), ".".join(map(str, field)), what) for field, what in problems
        )
        raise ScenarioError(
            tuple(
                f"{path}:{line}: {field}: {what}" if field else f"{path}:{line}: {what}"
                for line, field, what in sorted(unique)
            )
        )
    return _build(checked, source, path)


def select_arms(scenario: Scenario, choices: Sequence[str]) -> Scenario:
    """The scenario with only the chosen arms, in that order.

    Args:
        scenario: As read.
        choices: Each the name of an arm of the scenario, the name of a backend, or a new arm as
            `NAME=BACKEND[,OPTION=VALUE…]`; two equal arms under two names make an A/A comparison.

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
            problems.append(f"--arm {choice}: {error}")
            continue
        if arm.name in arms:
            problems.append(f"--arm {choice}: the arm {arm.name} is there already; name it anew")
        arms[arm.name] = arm
    if problems:
        raise ScenarioError(tuple(problems))
    return replace(scenario, arms=tuple(arms.values()))


def _arm_from_choice(choice: str, known: Sequence[str]) -> Arm:
    name, equals, rest = choice.partition("=")
    backend, *settings = rest.split(",") if equals else [choice]
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot name an arm; {_NAME_RULE}"
        raise ValueError(message)
    if backend not in BACKENDS:
        names = sorted({*BACKENDS, *known})
        hint = did_you_mean(backend, names)
        message = f"no arm or backend is called {backend!r}; {hint}"
        raise ValueError(message)
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            message = f"{setting!r} is no option; write OPTION=VALUE"
            raise ValueError(message)
        options[key] = _toml_value(value)
    return Arm(name, backend, MappingProxyType(options))


def _toml_value(text: str) -> Any:
    """`3`, `true`, `1.5` as TOML has them; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _shipped_folder() -> Path:
    return Path(__file__).resolve().parent.parent / "scenarios"


def _syntax_problem(error: tomllib.TOMLDecodeError, source: str, path: Path) -> str:
    """The parser ends its message with `(at line 3, column 7)`, or `(at end of document)`."""
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
        problems.append((("arms",), f"holds no arm; name at least one of {', '.join(BACKENDS)}"))
    for name, table in arms.items():
        if not isinstance(table, dict):
            continue
        field: tuple[str | int, ...] = ("arms", name)
        if not _NAME.fullmatch(name):
            problems.append((field, f"{name!r} cannot name an arm; {_NAME_RULE}"))
        backend = table.setdefault("backend", name)
        if isinstance(backend, str) and backend not in BACKENDS:
            hint = did_you_mean(backend, tuple(BACKENDS))
            problems.append((field, f"no backend is called {backend!r}; {hint}"))
    return problems


def _check(document: dict[str, Any], problems: list[_Problem]) -> ScenarioFile | None:
    from pydantic import ValidationError

    from harness.scenario_shape import ScenarioFile, problems_of

    try:
        return ScenarioFile.model_validate(document)
    except ValidationError as error:
        problems += problems_of(error)
        return None


def _readiness_problems(table: Mapping[str, Any]) -> Iterator[_Problem]:
    """What only the kind decides: keys that must be there, and keys that would do nothing."""
    kind = table.get("kind")
    if kind not in list(ReadinessKind):
        return
    meaningful, needed = _READINESS_KEYS[ReadinessKind(kind)]
    for key in sorted(needed - table.keys()):
        yield ("readiness", key), f"is missing; readiness {kind!r} needs it"
    everything = frozenset().union(*(keys for keys, _ in _READINESS_KEYS.values()))
    for key in sorted((everything & table.keys()) - meaningful):
        yield ("readiness", key), f"does nothing for readiness {kind!r}; take it out"


def _build(checked: ScenarioFile, source: str, path: Path) -> Scenario:
    workload, readiness, limits = checked.workload, checked.readiness, checked.limits
    return Scenario(
        name=path.stem,
        question=checked.question,
        image=checked.image,
        workload=Workload(
            command=tuple(workload.command),
            environment=MappingProxyType(dict(workload.environment)),
            user=workload.user,
            working_directory=workload.working_directory,
        ),
        readiness=Readiness(
            kind=ReadinessKind(readiness.kind),
            output=readiness.output,
            exit_code=readiness.exit_code,
            port=readiness.port,
            path=readiness.path,
            status=readiness.status,
        ),
        limits=Limits(limits.memory, limits.cpus, limits.pids),
        arms=tuple(
            Arm(name, arm.backend, MappingProxyType(dict(arm.model_extra or {})))
            for name, arm in checked.arms.items()
        ),
        timeout_ns=int(checked.timeout),  # a duration's text has become nanoseconds
        source=source,
        path=str(path),
    )
