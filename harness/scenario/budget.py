"""Reads the `[budget]` tables of a scenario file; see scenarios/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.model import BASELINE, Budget
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.suggestions import did_you_mean, unknown
from harness.model.toml_positions import KeyLines
from harness.model.units import parse_duration, parse_size

Field = tuple[str | int, ...]


def read_budgets(
    document: Mapping[str, Any], lines: KeyLines
) -> tuple[tuple[Budget, ...], list[tuple[Field, str]]]:
    """Read the budgets of a whole file, whose `arms` are a table of tables.

    Returns:
        The budgets in the order of the file, and a problem (field, sentence) for each that is none.
    """
    tables, arms = document.get("budget", {}), document.get("arms")
    names = tuple(arms) if isinstance(arms, Mapping) else ()
    if not isinstance(tables, Mapping):
        return (), [(("budget",), f"should be a table of tables, one an arm, is {tables!r}")]
    budgets: list[Budget] = []
    problems: list[tuple[Field, str]] = []
    for arm, table in tables.items():
        field: Field = ("budget", arm)
        if arm not in names:
            problems.append((field, f"no arm has that name; {did_you_mean(arm, names)}"))
        elif not isinstance(table, Mapping):
            problems.append((field, f"should be a table of metrics, is {table!r}"))
        else:
            for found in _of_arm(arm, table, names, lines):
                if isinstance(found, Budget):
                    budgets.append(found)
                else:
                    problems.append(found)
    return tuple(budgets), problems


def _of_arm(
    arm: str, table: Mapping[str, Any], arms: tuple[str, ...], lines: KeyLines
) -> Iterator[Budget | tuple[Field, str]]:
    for name, values in table.items():
        field: Field = ("budget", arm, name)
        if name not in METRICS:
            yield field, unknown("metric", name, tuple(METRICS))
            continue
        for value in values if isinstance(values, list) else [values]:
            try:
                most, of = _amount(METRICS[name], value, arm, arms)
            except ValueError as error:
                yield field, str(error)
                continue
            yield Budget(arm, name, most, of, lines.find(field))


def _amount(
    metric: Metric, value: object, arm: str, arms: tuple[str, ...]
) -> tuple[float, str | None]:
    """What is allowed, and of what.

    Raises:
        ValueError: It is no budget; says why.
    """
    if isinstance(value, Mapping):
        if value.keys() != {"times", "of"}:
            message = f"a relative budget is {{ times = 1.1, of = 'ARM' }}, not {dict(value)!r}"
            raise ValueError(message)
        times, of = value["times"], value["of"]
        if isinstance(times, bool) or not isinstance(times, int | float) or not times > 0:
            raise ValueError(f"times should be a number above 0, is {times!r}")
        known = (BASELINE, *(name for name in arms if name != arm))
        if of not in known:
            message = f"of should be another arm or {BASELINE!r}; {did_you_mean(str(of), known)}"
            raise ValueError(message)
        return float(times), str(of)
    return _absolute(metric, value), None


def _absolute(metric: Metric, value: object) -> float:
    if metric.unit is Unit.NANOSECONDS and isinstance(value, str):
        return float(parse_duration(value))
    if metric.unit is Unit.BYTES and isinstance(value, str):
        return float(parse_size(value))
    if metric.unit is not Unit.NANOSECONDS and isinstance(value, int) and value >= 0:
        return float(value)
    wanted = {
        Unit.NANOSECONDS: "a duration like '5ms'",
        Unit.BYTES: "a size like '64KiB'",
        Unit.COUNT: "a number",
    }[metric.unit]
    raise ValueError(f"should be {wanted}, or {{ times = …, of = … }}, is {value!r}")
