"""Quantities as people write and read them: sizes, durations, percentages, three digits and a unit.

Everything that reads a quantity from a person, or spells one for a person, comes here, so that one
spelling means the same in a scenario file, on the command line and in every report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from harness.model.metrics import Unit
from runtime import parse_size as parse_size  # noqa: PLC0414 - exported from here

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|min|h)")
_DURATION_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}

MOST_CPUS = 8191
"""The highest number of a CPU that any kernel is built for (CONFIG_NR_CPUS)."""


def parse_duration(text: str) -> int:
    """Nanoseconds from `500ms`, `30s`, `1.5m` or `1h`.

    Raises:
        ValueError: Not a duration, or one without a unit.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a duration; write it with its unit, like 500ms, 30s or 2m"
        raise ValueError(message)
    duration = round(float(match.group(1)) * _DURATION_NS[match.group(2)])
    if duration <= 0:
        raise ValueError(f"{text!r} is nothing; write a duration above 0")
    return duration


def parse_percent(text: str) -> float:
    """A share from `5%` or `5`: 0.05; below 100 times the whole.

    Raises:
        ValueError: Not a percentage, or negative.
    """
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise ValueError(f"{text!r} is no percentage; write it like 5%")
    return value


def format_duration(duration_ns: int) -> str:
    """A duration for a sentence: `950 us`, `12.3 ms`, `4.21 s`, `3 min 20 s`."""
    if duration_ns < 1_000_000:
        return f"{duration_ns / 1e3:.0f} us"
    if duration_ns < 1_000_000_000:
        return f"{duration_ns / 1e6:.1f} ms"
    if duration_ns < 100_000_000_000:
        return f"{duration_ns / 1e9:.2f} s"
    minutes, seconds = divmod(round(duration_ns / 1e9), 60)
    return f"{minutes} min {seconds} s"


Scales = tuple[tuple[float, str], ...]
"""Length of each unit and its name, the largest first; the last one is 1."""
TIMES: Scales = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
SIZES: Scales = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
SCALES: Mapping[Unit, Scales] = MappingProxyType({Unit.NANOSECONDS: TIMES, Unit.BYTES: SIZES})


def spell(unit: Unit, value: float) -> str:
    """Spell a value of a metric: `2.41 s`, `52.6 MB`, `3`, `1.04 ×`; infinity: `not reached`."""
    if not math.isfinite(value):
        return "not reached"
    if unit is Unit.RATIO:
        return f"{digits(value, value)} ×"
    return quantity(value, SCALES[unit]) if unit in SCALES else f"{value:g}"


def quantity(value: float, scales: Scales) -> str:
    """Spell a value in the unit that suits its size."""
    if value == 0:
        return f"0 {scales[-1][1]}"
    scale, name = unit_of(value, scales)
    return f"{digits(value / scale, value / scale, whole=scale == 1.0)} {name}"


def unit_of(value: float, scales: Scales) -> tuple[float, str]:
    """Choose the unit that suits a value: its length and its name."""
    for scale, name in scales:
        # 999.6 ms would be rounded to 1000 ms: that is the next unit's 1.00.
        if abs(value) >= scale * 0.9995:
            return scale, name
    return scales[-1]


def digits(value: float, measure: float, *, whole: bool = False) -> str:
    """Spell a number with as many decimals as `measure` needs for three significant digits."""
    if whole or measure == 0 or not math.isfinite(measure):
        decimals = 0
    else:
        decimals = min(max(2 - math.floor(math.log10(abs(measure) * 1.0005)), 0), 4)
    return f"{value:.{decimals}f}"


def cpu_list(cpus: Iterable[int]) -> str:
    """Spell numbers of CPUs as the kernel does (cpuset(7), "List format"): `0-3,8`."""
    rising = sorted(set(cpus))
    starts = [cpu for cpu in rising if cpu - 1 not in rising]
    ends = [cpu for cpu in rising if cpu + 1 not in rising]
    return ",".join(
        f"{start}-{end}" if end > start else f"{start}"
        for start, end in zip(starts, ends, strict=True)
    )


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read numbers of CPUs as the kernel's list format has them; raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
            raise ValueError(f"{text!r} is no list of CPUs; write it like 0-3,8")
        low, high = int(first), int(last or first)
        if high < low or high > MOST_CPUS:
            raise ValueError(
                f"{part.strip()} is no range of CPUs; they rise, up to {MOST_CPUS}, like 0-3"
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def count(number: int, noun: str) -> str:
    """Spell a count with its noun: `1 block`, `20 blocks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
