"""A value with its unit, as people write it: three significant digits, and no more.

The report spells all its figures with these, and so do those who must not import the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from harness.model.metrics import Unit

Scales = tuple[tuple[float, str], ...]
"""Length of each unit and its name, the largest first; the last one is 1."""
TIMES: Scales = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
SIZES: Scales = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
SCALES: Mapping[Unit, Scales] = MappingProxyType({Unit.NANOSECONDS: TIMES, Unit.BYTES: SIZES})


def spell(unit: Unit, value: float) -> str:
    """Spell a value of a metric: `2.41 s`, `52.6 MB`, `3`; infinity is `not reached`."""
    if not math.isfinite(value):
        return "not reached"
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
