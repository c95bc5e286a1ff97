"""Options of several commands, the values they take, and how a command is typed again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from harness.measure import schedule

COMMAND_VARIABLE = "STEELYARD_COMMAND"
"""Set by the script `steelyard` of a clone: the command that a user types to run it."""

warmup_option = click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=schedule.DEFAULT_WARMUP_BLOCKS,
    show_default=True,
    metavar="N",
    help="Blocks before those, recorded and not counted.",
)
seed_option = click.option(
    "--seed", type=int, metavar="S", help="Of the order of trials. Default: drawn."
)
output_option = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of this run, new or empty. Default: results/ and the run's identifier.",
)


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-v` and `-q`; `--quiet` is about the host."""
    quiet = click.option("-q", "is_brief", is_flag=True, help="On a terminal the last line alone.")
    verbose = click.option(
        "--verbose",
        "-v",
        is_flag=True,
        help="On a terminal all tables and warnings in full.",
    )
    return verbose(quiet(command))


def invoked_as() -> str:
    """Return the command as its user can type it again."""
    if command := os.environ.get(COMMAND_VARIABLE):
        return command
    name = Path(sys.argv[0]).name
    # `python -m harness` and `python -c …` have no name of their own.
    return "steelyard" if name in ("-c", "") or name.endswith(".py") else name


def typed_command() -> tuple[str, ...]:
    """Return the whole command line, for the records."""
    return (invoked_as(), *sys.argv[1:])


def parse_percent(text: str, option: str, *, above_zero: bool = False) -> float:
    """Read a percentage as a share, or raise click.BadParameter."""
    from harness.model import units

    try:
        value = units.parse_percent(text)
    except ValueError as error:
        raise _bad(option, str(error)) from error
    if above_zero and not 0 < value < 1:
        raise _bad(option, f"{text!r} is no margin: it lies between 0 and 100 %; write it like 5%")
    return value


def parse_metrics(names: Iterable[str], problem: str, *others: str) -> tuple[str, ...]:
    """Check names of metrics, or raise click.BadParameter; each name is returned once.

    Args:
        names: As typed.
        problem: Begin of the error's sentence.
        others: Further names that a suggestion may have.
    """
    from harness.model.metrics import METRICS
    from harness.model.suggestions import did_you_mean

    found = tuple(dict.fromkeys(names))
    for name in found:
        if name not in METRICS:
            raise _bad("--metric", f"{problem} {name!r}; {did_you_mean(name, (*METRICS, *others))}")
    return found


def parse_until(values: Sequence[str]) -> Mapping[str, float]:
    """Read `2%`, or `ready=2%,pss=5%`, as metric -> relative half-width.

    Raises click.BadParameter if it is neither.
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
    """Read `--most ARM=N` as arm -> limit, or raise click.BadParameter."""
    found = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        if not equals or not name or not number.isdecimal() or int(number) < 1:
            raise _bad("--most", f"{value!r} is no limit of an arm; write it like vm-micro=4")
        found[name] = int(number)
    return found


def parse_time_limit(text: str | None) -> int | None:
    """Read `--time-limit` in ns, None where it was not given, or raise click.BadParameter."""
    from harness.model.units import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise _bad("--time-limit", str(error)) from error


def parse_quiet(text: str | None) -> float | None:
    """Read `--quiet=X%` as a share, None where it was not given, or raise click.BadParameter."""
    if text is None:
        return None
    value = parse_percent(text, "--quiet")
    if not 0 < value <= 1:
        raise _bad("--quiet", f"{text!r} is no part of the CPUs; write it like 10%")
    return value


def parse_cpuset(text: str | None) -> tuple[int, ...]:
    """Read `--cpuset`, empty where it was not given, or raise click.BadParameter."""
    from harness.measure.capacity import refuse_cpus
    from harness.model.units import parse_cpu_list

    try:
        cpus = () if text is None else parse_cpu_list(text)
        refuse_cpus(cpus)
    except ValueError as error:
        raise _bad("--cpuset", str(error)) from error
    return cpus


def _bad(option: str, message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=option)
