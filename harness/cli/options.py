"""What several commands read from the command line, and how a command is typed again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

COMMAND_VARIABLE = "STEELYARD_COMMAND"
"""Set by the script `steelyard` of a clone: what a user types to come by it."""


def invoked_as() -> str:
    """The command as its user can type it again."""
    if command := os.environ.get(COMMAND_VARIABLE):
        return command
    name = Path(sys.argv[0]).name
    # `python -m harness` and `python -c …` have no name of their own.
    return "steelyard" if name in ("-c", "") or name.endswith(".py") else name


def typed_command() -> tuple[str, ...]:
    """The whole command line, for the records."""
    return (invoked_as(), *sys.argv[1:])


def parse_percent(text: str, option: str, *, above_zero: bool = False) -> float:
    """A share from a percentage.

    Raises:
        click.BadParameter: It is none.
    """
    from harness.model import units

    try:
        value = units.parse_percent(text)
    except ValueError as error:
        raise _bad(option, str(error)) from error
    if above_zero and not 0 < value < 1:
        raise _bad(option, f"{text!r} is no margin: it lies between 0 and 100 %; write it like 5%")
    return value


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


def parse_most(values: Sequence[str]) -> dict[str, int]:
    """Read `--most ARM=N`.

    Raises:
        click.BadParameter: One of them is no limit.
    """
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
