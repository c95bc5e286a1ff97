"""The shape of a scenario file, as pydantic models.

Imported by `harness.scenario` when a file is read, and by nothing else: pydantic costs 190 ms.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.model import DEFAULT_TIMEOUT_NS, CacheState, ReadinessKind
from harness.model.suggestions import did_you_mean, unknown
from harness.model.units import parse_duration, parse_size
from runtime.linux.accepted import limit_problems, variable_problem, word_problem

DEFAULT_TIMEOUT = f"{DEFAULT_TIMEOUT_NS // 10**9}s"

_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError(f"should be a size like '256M', is {value!r}")


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path; begin it with /")
    return value


def _without_space(value: str) -> str:
    if any(character <= " " for character in value):
        raise ValueError(
            f"{value!r} holds a space or a control character; write it as %20 and the like"
        )
    return value


def _loopback(value: str) -> str:
    try:
        is_loopback = ipaddress.ip_address(value).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            f"{value!r} is no loopback address; write '127.0.0.1' or '::1', or take it out to ask "
            "at the box's address"
        )
    return value


def _socket_path(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{value!r} holds a NUL; take it out")
    return _absolute(value)


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    return value


def _one_of(noun: str, names: type[StrEnum]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in tuple(names):
            raise ValueError(unknown(noun, value, tuple(names)))
        return value

    return AfterValidator(check)


def _rising(values: list[int]) -> list[int]:
    if any(value < 1 for value in values):
        raise ValueError(f"should hold numbers of instances from 1 up, is {values}")
    if values != sorted(set(values)):
        raise ValueError(f"should rise, each number once, is {values}")
    return values


def _word(value: str) -> str:
    if problem := word_problem(value):
        raise ValueError(problem)
    return value


def _variables(values: dict[str, str]) -> dict[str, str]:
    problems = [variable_problem(*variable) for variable in values.items()]
    if found := "; ".join(filter(None, problems)):
        raise ValueError(found)
    return values


_Text = Annotated[str, Field(min_length=1), AfterValidator(_word)]
_AbsolutePath = Annotated[str, AfterValidator(_absolute), AfterValidator(_word)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class WorkloadTable(_Table):
    """`[workload]`."""

    command: list[_Text] = Field(default_factory=list)
    environment: Annotated[dict[str, str], AfterValidator(_variables)] = Field(default_factory=dict)
    user: _Text | None = None
    working_directory: _AbsolutePath | None = None


class ReadinessTable(_Table):
    """`[readiness]`; which key goes with which kind is checked by `harness.scenario`."""

    kind: Annotated[str, _one_of("readiness", ReadinessKind)]
    output: Annotated[_Text, AfterValidator(_pattern)] | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    path: Annotated[_AbsolutePath, AfterValidator(_without_space)] = "/"
    status: Annotated[int, Field(ge=100, le=599)] = 200
    address: Annotated[str, AfterValidator(_loopback)] | None = None
    socket: Annotated[str, AfterValidator(_socket_path)] | None = None
    tls: bool = False
    command: Annotated[list[_Text], Field(min_length=1)] = Field(default_factory=list)


def _limit(name: str) -> AfterValidator:
    """Refuse what no control group takes, and what nothing runs in."""

    def check(value: Any) -> Any:
        asked = {"memory_bytes": None, "cpus": None, "pids": None} | {name: value}
        for _, problem in limit_problems(**asked):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


class LimitsTable(_Table):
    """`[limits]`."""

    memory: Annotated[Any, AfterValidator(_size), _limit("memory_bytes")] = None
    cpus: Annotated[float, _limit("cpus")] | None = None
    pids: Annotated[int, _limit("pids")] | None = None


class HooksTable(_Table):
    """`[hooks]`."""

    setup: _Text | None = None
    prepare: _Text | None = None
    conclude: _Text | None = None
    cleanup: _Text | None = None


class ScaleTable(_Table):
    """`[scale]`; whether its arms exist is checked by `harness.scenario`."""

    instances: Annotated[list[int], Field(min_length=1), AfterValidator(_rising)]
    together: Annotated[list[int], AfterValidator(_rising)] = Field(default_factory=list)
    most: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class ArmTable(BaseModel):
    """`[arms.NAME]`: all keys but these are the backend's options."""

    model_config = ConfigDict(strict=True, extra="allow")

    backend: _Text
    cache: Annotated[str, _one_of("state of the cache", CacheState)] = CacheState.WARM.value
    image: _Text | None = None
    command: Annotated[list[_Text], Field(min_length=1)] | None = None


class ScenarioFile(_Table):
    """The whole file."""

    question: _Text = ""
    image: _Text
    timeout: Annotated[str, AfterValidator(parse_duration)] = Field(
        default=DEFAULT_TIMEOUT, validate_default=True
    )
    arms: dict[str, ArmTable]
    workload: WorkloadTable = Field(default_factory=WorkloadTable)
    readiness: ReadinessTable
    limits: LimitsTable = Field(default_factory=LimitsTable)
    hooks: HooksTable = Field(default_factory=HooksTable)
    scale: ScaleTable | None = None
    budget: dict[str, Any] = Field(default_factory=dict)
    """Checked by `harness.scenario.budget`."""


_TABLES: Mapping[tuple[str | int, ...], type[BaseModel]] = {
    (): ScenarioFile,
    ("workload",): WorkloadTable,
    ("readiness",): ReadinessTable,
    ("limits",): LimitsTable,
    ("hooks",): HooksTable,
    ("scale",): ScaleTable,
}


def problems_of(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Pydantic's errors in our words: (field, what is wrong and what to do)."""
    return [_problem(item) for item in error.errors(include_url=False)]


def _problem(item: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str]:
    field: tuple[str | int, ...] = item["loc"]
    kind, value = item["type"], item["input"]
    if kind == "missing":
        return field, "is missing; add it"
    if kind == "extra_forbidden":
        return (
            field,
            f"unknown key; {did_you_mean(str(field[-1]), tuple(_TABLES[field[:-1]].model_fields))}",
        )
    if kind in _TYPES:
        return field, f"should be {_TYPES[kind]}, is {value!r}"
    if kind == "value_error":
        return field, str(item["ctx"]["error"])
    if kind in ("string_too_short", "too_short"):
        return field, "is empty; write something"
    what = item["msg"].removeprefix("Input ").rstrip(".")
    return field, f"{what}, is {value!r}"
