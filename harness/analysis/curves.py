"""Curves of scale scenarios: how footprint and start time change with the number of instances.

The slope of a curve is what one more instance costs, its intercept what is there once for all. Both
come from a regression over the readings, never from a total divided by a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import stats
from harness.model import GrowthPoint, Outcome, Sharing
from harness.model.metrics import METRICS
from harness.records.dataset import RunData

if TYPE_CHECKING:
    import pandas as pd

GROWING = ("disk", "pss", "uss", "cgroup-current", "available-delta")
"""Metrics whose value for all living instances as a whole is read in a scale scenario."""


@dataclass(frozen=True, slots=True)
class GrowthCurve:
    """One metric of one arm against the number of its instances.

    Attributes:
        metric: A key of `harness.model.metrics.METRICS`.
        points: (instances, value in the metric's unit), every reading of every block. For a
            footprint: so many live, and the value is of all of them and of what they share.
            For `ready`: so many lived already, or were requested at the same time, and the value is
            of one start; failed starts are not among them.
        line: Through the points; None with fewer than two numbers of instances, or three points.
        failed_at: The fewest instances whose last one could not be started; None if all could.
    """

    arm: str
    metric: str
    points: tuple[tuple[int, float], ...]
    line: stats.Line | None
    failed_at: int | None


def growth_curves(data: RunData, scenario: str) -> tuple[GrowthCurve, ...]:
    """Lay out the footprint of every arm of a scale scenario, metric by metric."""
    points = [point for point in data.growth if point.scenario == scenario]
    found = []
    for arm in dict.fromkeys(point.arm for point in points):
        failed_at = _failed_at(_rows(data, scenario, arm))
        for metric in GROWING:
            read = [
                (point.block, point.instances, value)
                for point in points
                if point.arm == arm and not math.isnan(value := _value(metric, point))
            ]
            if read:
                found.append(_curve(arm, metric, read, failed_at))
    return tuple(found)


def start_curves(data: RunData, scenario: str, *, burst: bool = False) -> tuple[GrowthCurve, ...]:
    """Lay out start time against the instances that lived already.

    With `burst`: against the number that was requested at the same time.
    """
    found = []
    for arm in dict.fromkeys(form.arm for form in data.forms if form.scenario == scenario):
        rows = _rows(data, scenario, arm)
        failed_at = _failed_at(rows, burst=burst)
        rows = rows[(rows["outcome"] == Outcome.OK.value) & rows["ready_ns"].notna()]
        # One that starts alone is the first of both.
        chosen = rows[rows["alive"] == 0] if burst else rows[rows["together"] == 1]
        against = chosen["together" if burst else "alive"]
        if against.nunique() > 1:
            columns = (chosen["block"], against, chosen["ready_ns"])
            read = zip(*(column.tolist() for column in columns), strict=True)
            found.append(_curve(arm, "ready", read, failed_at))
    return tuple(found)


def _rows(data: RunData, scenario: str, arm: str) -> pd.DataFrame:
    frame = data.frame
    return frame[(frame["scenario"] == scenario) & (frame["arm"] == arm) & frame["counted"]]


def _failed_at(rows: pd.DataFrame, *, burst: bool = False) -> int | None:
    failed = rows[rows["outcome"] != Outcome.OK.value]
    if burst:
        numbers = failed["together"][failed["together"] > 1]
    else:
        numbers = failed["alive"][failed["together"] == 1] + 1
    return int(numbers.min()) if len(numbers) else None


def _curve(
    arm: str, metric: str, read: Iterable[tuple[int, int, float]], failed_at: int | None
) -> GrowthCurve:
    read = sorted(read)
    several = len({instances for _, instances, _ in read}) > 1
    line = stats.line([(b, float(n), value) for b, n, value in read]) if several else None
    points = tuple((instances, value) for _, instances, value in read)
    return GrowthCurve(arm, metric, points, line, failed_at)


def _value(metric: str, point: GrowthPoint) -> float:
    if metric == "disk":
        if all(part.sharing is Sharing.SHARED for part in point.disk):
            return math.nan  # they have no files of their own: nothing says what one more takes
        # What is shared is there once; of what each has alone, reflinked extents are shared too.
        return float(
            sum(
                part.allocated_bytes if part.sharing is Sharing.SHARED else part.exclusive_bytes
                for part in point.disk
            )
        )
    column = METRICS[metric].column
    values = (r.value for r in point.readings if r.meter.value == column and r.value is not None)
    return float(next(values, math.nan))
