"""Where the series of a history changed, which of that is news, and what it comes to. Pure.

Series that are exact change wherever their value does. All others are judged together by
`harness.stats.changes`, so that the chance of any false change among all of them stays at 1 % each
time one looks.

A change for the worse is open until it is acknowledged, or until a later change takes at least
half of it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from harness.analysis.acknowledged import FILE, Acknowledgement, stale
from harness.analysis.history import History, Point, Series
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.model.units import spell
from harness.stats.changes import ALPHA, SHORTEST, ChangePoint, changes_of_many, fewest_points

DEFAULT_WITHIN = 0.01
"""A smaller change is shown and does not fail a check, if it is not of an exact figure."""
FEWEST_EXACT = 2


class State(StrEnum):
    """What has become of a change."""

    OPEN = "open"
    """For the worse, and nobody has said that it is meant."""
    ACKNOWLEDGED = "acknowledged"
    UNDONE = "undone"
    """For the worse, and taken back since."""
    SMALL = "small"
    """For the worse, by less than is asked about."""
    BETTER = "better"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a series.

    Attributes:
        found: Where, from which level to which, and how likely by chance (0 of an exact series).
        first: The first point of the new level: where it began.
        last: The point before it.
        state: What has become of it.
        reason: Why it is meant, if it is acknowledged.
    """

    found: ChangePoint
    first: Point
    last: Point
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trend:
    """A series with its changes.

    Attributes:
        series: It.
        changes: In order.
        wanted: Points that it needs before a change can be seen in it at all.
        is_current: Whether the newest run of its scenario has a point of it.
    """

    series: Series
    changes: tuple[Change, ...]
    wanted: int
    is_current: bool

    @property
    def is_judged(self) -> bool:
        """Whether it has enough points."""
        return len(self.series.points) >= self.wanted

    @property
    def open(self) -> tuple[Change, ...]:
        """Its changes that fail a check."""
        return tuple(change for change in self.changes if change.state is State.OPEN)

    @property
    def level_begins(self) -> int:
        """Index of the first point of the level that it is on."""
        return self.changes[-1].found.index if self.changes else 0


@dataclass(frozen=True, slots=True)
class Trends:
    """A history with its changes.

    Attributes:
        history: It.
        trends: One a series, in the same order.
        stale: Of acknowledgements that acknowledge nothing, a sentence each.
    """

    history: History
    trends: tuple[Trend, ...]
    stale: tuple[str, ...] = field(default=())


def trends_of(
    history: History,
    acknowledged: Sequence[Acknowledgement] = (),
    *,
    within: float = DEFAULT_WITHIN,
    alpha: float = ALPHA,
) -> Trends:
    """Find the changes of all series.

    Args:
        history: As gathered.
        acknowledged: Entries of the file.
        within: Relative size below which a change for the worse does not matter.
        alpha: Chance of any false change in all of it.
    """
    noisy = {
        str(series.id): series.values
        for series in history.series
        if not series.is_exact and len(series.points) >= 2 * SHORTEST
    }
    found = changes_of_many(noisy, alpha=alpha)
    newest: dict[str, Point] = {}
    for series in history.series:
        last = series.points[-1]
        known = newest.get(series.id.scenario)
        if known is None or last.run.at > known.run.at:
            newest[series.id.scenario] = last
    trends = []
    for series in history.series:
        places = exact_changes(series.values) if series.is_exact else found.get(str(series.id), ())
        trends.append(
            Trend(
                series,
                _with_states(series, places, acknowledged, within),
                FEWEST_EXACT if series.is_exact else fewest_points(max(len(noisy), 1), alpha),
                series.points[-1].run == newest[series.id.scenario].run,
            )
        )
    begun = [(one.series, tuple(change.found.index for change in one.changes)) for one in trends]
    return Trends(history, tuple(trends), tuple(stale(acknowledged, begun)))


def exact_changes(values: Sequence[float]) -> tuple[ChangePoint, ...]:
    """The changes of a series in which any difference is real: wherever its value changes."""
    return tuple(
        ChangePoint(index, values[index - 1], values[index], 0.0)
        for index in range(1, len(values))
        if values[index] != values[index - 1]
    )


def _with_states(
    series: Series,
    places: Sequence[ChangePoint],
    acknowledged: Sequence[Acknowledgement],
    within: float,
) -> tuple[Change, ...]:
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
        changes.append(Change(found, first, last, state, reason))
    return tuple(changes)


def _halfway(found: ChangePoint) -> float:
    """Between the two levels; from one that was not reached it takes reaching it again."""
    if math.isinf(found.after):
        return max(found.before, math.nextafter(math.inf, 0))
    return (found.before + found.after) / 2


def judge(trends: Trends, question: str) -> Judgement:
    """Put a history into findings: one for each series that is current or has an open change.

    A series that is not current (another host, an arm that is gone) and too short is not asked
    about: it will not get longer.
    """
    told = [trend for trend in trends.trends if trend.is_current or trend.open]
    settings: dict[tuple[str, str, str], set[str]] = {}
    for trend in told:
        told_of = trend.series.id
        key = (told_of.scenario, told_of.arm, told_of.metric)
        settings.setdefault(key, set()).add(told_of.setting)
    findings = [_finding(trend, settings) for trend in told]
    left = len(trends.trends) - len(told)
    facts = {
        "runs": str(len(trends.history.runs)),
        "series": str(len(trends.trends)),
        "chance of any false change": f"{ALPHA:.0%}".replace("%", " %"),
    }
    if left:
        facts["not asked about"] = f"{left} series that the newest run of their scenario lacks"
    for name, sentences in (
        ("passed over", trends.history.problems),
        ("acknowledged in vain", trends.stale),
    ):
        if sentences:
            facts[name] = "; ".join(sentences)
    refusals = () if findings else ("no run has a value of these metrics; name others by --metric",)
    return Judgement(question, tuple(findings), refusals, facts)


def _finding(trend: Trend, settings: dict[tuple[str, str, str], set[str]]) -> Finding:
    series = trend.series
    name, points = series.id, series.points
    change = _telling(trend)
    several = len(settings[name.scenario, name.arm, name.metric]) > 1
    return Finding(
        scenario=name.scenario,
        arm=f"{name.arm} on {name.setting}" if several else name.arm,
        metric=name.metric,
        verdict=_verdict(trend),
        sentence=_sentence(trend, change),
        value=change.found.after if change else points[-1].value,
        reference=change.found.before if change else None,
        ratio=1 + change.found.relative if change and change.found.before else None,
        blocks=len(points),
    )


def _telling(trend: Trend) -> Change | None:
    """The change that decides: the first that is open, or else the last."""
    return next(iter(trend.open), trend.changes[-1] if trend.changes else None)


def _verdict(trend: Trend) -> Verdict:
    if trend.open:
        return Verdict.WORSE
    if not trend.is_judged:
        return Verdict.CANNOT_TELL
    change = _telling(trend)
    return Verdict.BETTER if change and change.state is State.BETTER else Verdict.SAME


def _sentence(trend: Trend, change: Change | None) -> str:
    series, count = trend.series, len(trend.series.points)
    if not trend.is_judged and not trend.open:
        more = trend.wanted - count
        return (
            f"{count} point{'s'[: count != 1]} of {series.id}: a change can be seen from "
            f"{trend.wanted} on; take {more} more run{'s'[: more != 1]} on this host"
        )
    if change is None:
        level = spell(series.id.quantity.unit, series.points[-1].value)
        return f"no change in {count} points of {series.id}; the newest is {level}"
    text = describe(series, change)
    if change.state is State.OPEN:
        return f"{text}; if that is meant, acknowledge it in {FILE}, or else repair it"
    if change.state is State.ACKNOWLEDGED:
        return f"{text}; acknowledged: {change.reason}"
    ending = {State.UNDONE: "; taken back since", State.SMALL: "; too small to matter"}
    return text + ending.get(change.state, "")


def describe(series: Series, change: Change) -> str:
    """Say a change in a sentence without its end: how much, and where it began."""
    unit, found = series.id.quantity.unit, change.found
    levels = f"from {spell(unit, found.before)} to {spell(unit, found.after)}"
    return (
        f"{size_of(series, change)}, {levels}, began with {change.first.label} "
        f"(run {change.first.run.run_id}; the one before was {change.last.label})"
    )


def change_in_words(trend: Trend) -> str:
    """The last change of a series in a few words: `+5.1 %, open`."""
    if trend.changes:
        change = trend.changes[-1]
        return f"{size_of(trend.series, change)}, {change.state}"
    if not trend.is_judged:
        return f"too few points: {trend.wanted} are needed"
    return "none"


def size_of(series: Series, change: Change) -> str:
    """How much, with its sign: `+5.1 %`; in words where there is no ratio, exactly if it is so."""
    found = change.found
    if series.is_exact and math.isfinite(found.after - found.before):
        return f"{found.after - found.before:+,.0f} {series.id.quantity.unit}"
    if math.isfinite(found.relative):
        return f"{found.relative * 100:+.1f} %"
    return "no longer reached" if math.isinf(found.after) else "from zero"
