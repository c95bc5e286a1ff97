"""A value with its unit, as people write it; for those who must not import the report."""

from __future__ import annotations

import math

from harness.metrics import Unit

_SCALES = {
    Unit.NANOSECONDS: ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    Unit.BYTES: ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


def spell(unit: Unit, value: float) -> str:
    """Three significant digits and a unit: `2.41 s`, `52.6 MB`, `3`; infinity is `not reached`."""
    if not math.isfinite(value):
        return "not reached"
    if unit is Unit.COUNT or value == 0:
        return f"{value:g}" if unit is Unit.COUNT else f"0 {_SCALES[unit][-1][1]}"
    for scale, name in _SCALES[unit]:
        # 999.6 ms would be rounded to 1000 ms: that is the next unit's 1.00.
        if abs(value) >= scale * 0.9995 or name == _SCALES[unit][-1][1]:
            scaled = value / scale
            digits = max(0, 2 - math.floor(math.log10(abs(scaled) * 1.0005)))
            return f"{scaled:.{0 if scale == 1.0 else min(digits, 4)}f} {name}"
    raise AssertionError(value)
