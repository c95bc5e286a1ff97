"""Finds where the series of a history changed, which of that is new, and judges it. Pure.

Series that are exact change wherever their value does. All others are judged as one family by
`harness.stats.changes`, so that the chance of any false change among all of them stays at 1 % each
time one looks.

A change for the worse is open until it is acknowledged, or until a later change takes at least
half of it back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from harness.analysis.acknowledged import FILE, Acknowledgement, stale
from harness.analysis.history import History, Point, RunRef, Series, SeriesId
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.model import units
from harness.model.units import spell
from harness.stats.changes import ALPHA, SHORTEST, ChangePoint, changes_of_many, fewest_points

DEFAULT_WITHIN = 0.01
"""A smaller change is shown and does not fail a check, if it is not of an exact metric."""
FEWEST_EXACT = 2


class State(StrEnum):
    """State of a change."""

    OPEN = "open"
    """For the worse, and not acknowledged."""
    ACKNOWLEDGED = "acknowledged"
    UNDONE = "undone"
    """For the worse, and taken back since."""
    SMALL = "small"
    """For the worse, by less than is asked about."""
    BETTER = "better"


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """One change of a series.

    Attributes:
        found: Where, from which level to which, and how likely by chance (0 of an exact series).
        first: The first point of the new level: where it began.
        last: The point before it.
        reason: Why it is meant, if it is acknowledged.
    """

    found: ChangePoint
    first: Point
    last: Point
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trend:
    """A series with its changes, in order.

    Attributes:
        wanted: Points that it needs before a change can be seen in it at all.
        is_current: Whether the newest run of its scenario has a point of it.
    """

    series: Series
    changes: tuple[SeriesChange, ...]
    wanted: int
    is_current: bool

    @property
    def is_judged(self) -> bool:
        """Whether it has enough points."""
        return len(self.series.points) >= self.wanted

    @property
    def open(self) -> tuple[SeriesChange, ...]:
        """Its changes that fail a check."""
        return tuple(change for change in self.changes if change.state is State.OPEN)

    @property
    def level_begins(self) -> int:
        """Index of the first point of the level that it is on."""
        return self.changes[-1].found.index if self.changes else 0


@dataclass(frozen=True, slots=True)
class Trends:
    """A history with one trend a series, in the same order.

    Attributes:
        stale: Of acknowledgements that acknowledge nothing, a sentence each.
    """

    history: History
    trends: tuple[Trend, ...]
    stale: tuple[str, ...] = ()

    def by_setting(self) -> list[list[Trend]]:
        """Group the trends by scenario and setting, in their order."""
        groups: dict[tuple[str, str], list[Trend]] = {}
        for trend in self.trends:
            groups.setdefault((trend.series.id.scenario, trend.series.id.setting), []).append(trend)
        return [groups[key] for key in sorted(groups)]


def trends_of(
    history: History,
    acknowledged: Sequence[Acknowledgement] = (),
    *,
    within: float = DEFAULT_WITHIN,
    alpha: float = ALPHA,
) -> Trends:
    """Find the changes of all series.

    Changes for the worse of a relative size below `within` do not matter. `alpha` is the chance of
    any false change in all of it.
    """
    noisy = {
        str(series.id): series.values
        for series in history.series
        if not series.is_exact and len(series.points) >= 2 * SHORTEST
    }
    found = changes_of_many(noisy, alpha=alpha)
    newest: dict[str, RunRef] = {}
    for series in history.series:
        last = series.points[-1].run
        if last.at > newest.setdefault(series.id.scenario, last).at:
            newest[series.id.scenario] = last
    trends = []
    for series in history.series:
        places = exact_changes(series.values) if series.is_exact else found.get(str(series.id), ())
        trends.append(
            Trend(
                series,
                _with_states(series, places, acknowledged, within),
                FEWEST_EXACT if series.is_exact else fewest_points(max(len(noisy), 1), alpha),
                series.points[-1].run == newest[series.id.scenario],
            )
        )
    begun = [(one.series, tuple(change.found.index for change in one.changes)) for one in trends]
    return Trends(history, tuple(trends), tuple(stale(acknowledged, begun)))


def exact_changes(values: Sequence[float]) -> tuple[ChangePoint, ...]:
    """Find the changes of a series in which any difference is real: each change of its value."""
    return tuple(
        ChangePoint(index, before, after, 0.0)
        for index, (before, after) in enumerate(pairwise(values), start=1)
        if before != after
    )


def _with_states(
    series: Series,
    places: Sequence[ChangePoint],
    acknowledged: Sequence[Acknowledgement],
    within: float,
) -> tuple[SeriesChange, ...]:
    changes = []
    for number, found in enumerate(places):
        entry = next((one for one in acknowledged if one.covers(series, found.index)), None)
        later = [other.after for other in places[number + 1 :]]
        if found.after <= found.before:
            state = State.BETTER
        elif entry is not None:
            state = State.ACKNOWLEDGED
        elif any(level <= _halfway(found) for level in later):
            state = State.UNDONE
        elif found.relative < within and not series.is_exact:
            state = State.SMALL
        else:
            state = State.OPEN
        reason = entry.reason if entry is not None and state is State.ACKNOWLEDGED else ""
        first, last = series.points[found.index], series.points[found.index - 1]
        changes.append(SeriesChange(found, first, last, state, reason))
    return tuple(changes)


def _halfway(found: ChangePoint) -> float:
    """Between the two levels; from one that was not reached it takes reaching it again."""
    if math.isinf(found.after):
        return max(found.before, math.nextafter(math.inf, 0))
    return (found.before + found.after) / 2


def judge(trends: Trends, question: str) -> Judgement:
    """Judge a history: one finding for each series that is current or has an open change.

    A series that is not current (another host, an arm that is gone) and too short is not asked
    about: it will not get longer.
    """
    judged = [trend for trend in trends.trends if trend.is_current or trend.open]
    settings = Counter(_without_setting(trend) for trend in judged)
    findings = [_finding(trend, settings) for trend in judged]
    left = len(trends.trends) - len(judged)
    facts = {
        "runs": str(len(trends.history.runs)),
        "series": str(len(trends.trends)),
        "chance of any false change": f"{ALPHA:.0%}".replace("%", " %"),
    }
    if left:
        facts["not asked about"] = f"{left} series that the newest run of their scenario lacks"
    if trends.history.problems:
        facts["passed over"] = "; ".join(trends.history.problems)
    if trends.stale:
        facts["acknowledged in vain"] = "; ".join(trends.stale)
    refusals = () if findings else ("no run has a value of these metrics; name others by --metric",)
    return Judgement(question, tuple(findings), refusals, facts)


def _without_setting(trend: Trend) -> SeriesId:
    return replace(trend.series.id, setting="")


def _finding(trend: Trend, settings: Mapping[SeriesId, int]) -> Finding:
    name, points = trend.series.id, trend.series.points
    # The change that decides: the first that is open, or else the last.
    change = next(iter(trend.open), trend.changes[-1] if trend.changes else None)
    several = settings[_without_setting(trend)] > 1
    return Finding(
        name.scenario,
        f"{name.arm} on {name.setting}" if several else name.arm,
        name.metric,
        _verdict(trend, change),
        _sentence(trend, change),
        value=change.found.after if change else points[-1].value,
        reference=change.found.before if change else None,
        ratio=1 + change.found.relative if change and change.found.before else None,
        blocks=len(points),
    )


def _verdict(trend: Trend, change: SeriesChange | None) -> Verdict:
    if trend.open:
        return Verdict.WORSE
    if not trend.is_judged:
        return Verdict.CANNOT_TELL
    return Verdict.BETTER if change and change.state is State.BETTER else Verdict.SAME


def _sentence(trend: Trend, change: SeriesChange | None) -> str:
    series, count = trend.series, len(trend.series.points)
    if not trend.is_judged and not trend.open:
        more = trend.wanted - count
        return (
            f"{units.count(count, 'point')} of {series.id}: a change can be seen from "
            f"{trend.wanted} on; take {units.count(more, 'more run')} on this host"
        )
    if change is None:
        level = spell(series.id.quantity.unit, series.points[-1].value)
        return f"no change in {count} points of {series.id}; the newest is {level}"
    ending = {
        State.OPEN: f"; if that is meant, acknowledge it in {FILE}, or else repair it",
        State.ACKNOWLEDGED: f"; acknowledged: {change.reason}",
        State.UNDONE: "; taken back since",
        State.SMALL: "; too small to matter",
    }
    return describe(series, change) + ending.get(change.state, "")


def describe(series: Series, change: SeriesChange) -> str:
    """Word a change without its end: how much, and where it began."""
    unit, found = series.id.quantity.unit, change.found
    levels = f"from {spell(unit, found.before)} to {spell(unit, found.after)}"
    return (
        f"{size_of(series, change)}, {levels}, began with {change.first.label} "
        f"(run {change.first.run.run_id}; the one before was {change.last.label})"
    )


def change_in_words(trend: Trend) -> str:
    """Word the last change of a series: `+5.1 %, open`."""
    if trend.changes:
        change = trend.changes[-1]
        return f"{size_of(trend.series, change)}, {change.state}"
    return "none" if trend.is_judged else f"too few points: {trend.wanted} are needed"


def size_of(series: Series, change: SeriesChange) -> str:
    """Word the size of a change: `+5.1 %`; in words without a ratio, in units if it is exact."""
    found = change.found
    if series.is_exact and math.isfinite(found.after - found.before):
        return f"{found.after - found.before:+,.0f} {series.id.quantity.unit}"
    if math.isfinite(found.relative):
        return f"{found.relative * 100:+.1f} %"
    return "no longer reached" if math.isinf(found.after) else "from zero"
