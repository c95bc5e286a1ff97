"""Finds where the series of a history changed, which of that is new, and judges it. Pure.

Series that are exact change wherever their value does. All others are judged as one family: by
`harness.stats.changes`, so that the chance of any false change among all of them stays at 1 % each
time one looks, and their newest points by `harness.stats.newest`, before the scan can see a change.
Newest points that have moved are a change like any other; when the scan finds it, it is the same
one. A single newest point that stands above all chance is a question, which another run answers.
One below is better, as a check asks for changes for the worse.

A change for the worse is open until it is acknowledged, or until a later change takes at least
half of it back.

Of a series and those of its ratios to an anchor, one is judged: the newest ratios, or the arm's own
values while the ratios are too few. Which one it is can change from run to run. A change that is
open stays so where the series that is judged from then on has no points to show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import pairwise

from harness.analysis.acknowledged import Acknowledgement, stale
from harness.analysis.history import History, Point, RunRef, Series, SeriesId
from harness.analysis.judgement import Verdict
from harness.stats.changes import (
    ALPHA,
    SHORTEST,
    ChangePoint,
    changes_of_many,
    fewest_points,
    wandering_of,
)
from harness.stats.newest import FEWEST_EARLIER, Newest, Standing, newest

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
        is_recent: Whether it rests on the newest points alone: the scan does not see it yet.
    """

    found: ChangePoint
    first: Point
    last: Point
    state: State
    reason: str = ""
    is_recent: bool = False


@dataclass(frozen=True, slots=True)
class Trend:
    """A series with its changes, in order.

    Attributes:
        wanted: Points that it needs before a change can be seen in it at all.
        is_current: Whether the newest run of its scenario has a point of it.
        newest: Where its newest points stand; None if it is exact, too short, or not judged. One
            point that stands apart, by less than is asked about, is `EXTREME` with an `error`.
        accepted: Why a newest point that stands apart is meant, if it is acknowledged.
        instead: The series that is judged in its place. Its own changes are then only those that
            are open, and that the other one cannot show.
    """

    series: Series
    changes: tuple[SeriesChange, ...]
    wanted: int
    is_current: bool
    newest: Newest | None = None
    accepted: str = ""
    instead: SeriesId | None = None

    @property
    def is_judged(self) -> bool:
        """Whether it has enough points, and no other series is judged in its place."""
        return self.instead is None and len(self.series.points) >= self.wanted

    @property
    def is_asked_about(self) -> bool:
        """Whether a check judges it.

        A series that is not current (another host, an arm that is gone) is not asked about unless
        a change in it is open: it will not get longer.
        """
        return bool(self.open) or (self.instead is None and self.is_current)

    @property
    def is_shown_only(self) -> bool:
        """Whether another series says all about it."""
        return self.instead is not None and not self.open

    @property
    def apart(self) -> Newest | None:
        """Its newest point, if it stands apart and is not acknowledged."""
        is_apart = self.newest is not None and self.newest.standing is Standing.APART
        return self.newest if is_apart and not self.accepted else None

    @property
    def is_question(self) -> bool:
        """Whether its newest point is so high that another run has to say what it is."""
        return self.apart is not None and self.apart.is_upward

    @property
    def verdict(self) -> Verdict:
        """What a check says of it."""
        if self.open:
            return Verdict.WORSE
        if not self.is_judged or self.is_question:
            return Verdict.CANNOT_TELL
        has_improved = self.changes and self.changes[-1].state is State.BETTER
        return Verdict.BETTER if has_improved or self.apart else Verdict.SAME

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

    @property
    def verdict(self) -> Verdict:
        """The gravest of all series that are asked about; cannot tell where there is none."""
        verdicts = {trend.verdict for trend in self.trends if trend.is_asked_about}
        grave = (Verdict.WORSE, Verdict.CANNOT_TELL, Verdict.SAME, Verdict.BETTER)
        return next((one for one in grave if one in verdicts), Verdict.CANNOT_TELL)

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
    judged = _judged(history, alpha)
    noisy = [one for one in judged.values() if not one.is_exact]
    before = _judged_before(history, judged, _fewest(len(noisy), alpha))
    # Those judged before are a family of their own, as they were then: each keeps its changes.
    now = _Family.of(noisy, alpha)
    then = _Family.of((one for one in history.series if one.id in before), alpha)
    last_runs: dict[str, RunRef] = {}
    for series in history.series:
        last = series.points[-1].run
        if last.at > last_runs.setdefault(series.id.scenario, last).at:
            last_runs[series.id.scenario] = last
    trends = []
    for series in history.series:
        trend = Trend(
            series,
            (),
            FEWEST_EXACT if series.is_exact else _fewest(len(noisy), alpha),
            series.points[-1].run == last_runs[series.id.scenario],
            instead=_instead(series, judged),
        )
        if trend.instead is None:
            trend = _with_changes(trend, now, acknowledged, within)
        elif series.id in before:
            changes = _with_changes(trend, then, acknowledged, within).open
            kept = (one for one in changes if one.first.run not in before[series.id])
            trend = replace(trend, changes=tuple(kept))
        trends.append(trend)
    begun = [(one.series, _begun(one)) for one in trends if one.instead is None]
    shown = [one.series for one in trends if one.instead is not None]
    asked = [entry for entry in acknowledged if not any(map(entry.is_of, shown))]
    return Trends(history, tuple(trends), tuple(stale(asked, begun)))


@dataclass(frozen=True, slots=True)
class _Family:
    """Series among which the chance of a false change is shared.

    Attributes:
        changes: What the scan finds, by the name of the series.
        newest_of: Judges the newest points of one, whose levels begin at some indices.
    """

    changes: Mapping[str, tuple[ChangePoint, ...]]
    newest_of: Callable[[Sequence[float], Sequence[int]], Newest | None]

    @classmethod
    def of(cls, series: Iterable[Series], alpha: float) -> _Family:
        """Scan all of them that are long enough."""
        named = {str(one.id): one.values for one in series if not one.is_exact}
        long = {name: values for name, values in named.items() if len(values) >= 2 * SHORTEST}
        size = max(sum(len(values) > FEWEST_EARLIER for values in long.values()), 1)
        newest_of = partial(newest, family=size, wandering=wandering_of(long.values()))
        return cls(changes_of_many(long, alpha=alpha), newest_of)


def _fewest(family: int, alpha: float) -> int:
    """Points that a series of so many needs to be judged: by the scan, and by its newest point."""
    return max(fewest_points(max(family, 1), alpha), FEWEST_EARLIER + 1)


def _judged(history: History, alpha: float) -> dict[SeriesId, Series]:
    """Choose which series are judged, by the name of the arm's own: one of each arm and metric."""
    alike: dict[SeriesId, list[Series]] = {}
    for series in history.series:
        alike.setdefault(series.id.own, []).append(series)
    wanted = _fewest(sum(not those[0].is_exact for those in alike.values()), alpha)
    judged = {}
    for own, those in alike.items():
        first = judged[own] = those[0]  # the arm's own, by the order of names
        newest_ratios = max(those[1:], key=lambda one: one.points[-1].run.at, default=first)
        is_current = newest_ratios.points[-1].run == first.points[-1].run
        if is_current and (len(newest_ratios.points) >= wanted or len(first.points) < wanted):
            judged[own] = newest_ratios
    return judged


def _judged_before(
    history: History, judged: Mapping[SeriesId, Series], wanted: int
) -> dict[SeriesId, frozenset[RunRef]]:
    """Find the series that may hold changes from when they were judged, and are not any more.

    Returns:
        For each the runs whose changes other series show: those of the ratios for the arm's own,
        as far as enough points stand before them; none for ratios to an earlier anchor.
    """
    shown: dict[SeriesId, set[RunRef]] = {}
    for series in history.series:
        if series.id.anchor and len(series.points) >= wanted:
            runs = (point.run for point in series.points[SHORTEST:])
            shown.setdefault(series.id.own, set()).update(runs)
    found = {}
    for series in history.series:
        if _instead(series, judged) is None or len(series.points) < wanted:
            continue
        runs_shown = frozenset() if series.id.anchor else frozenset(shown.get(series.id, ()))
        if any(point.run not in runs_shown for point in series.points[SHORTEST:]):
            found[series.id] = runs_shown
    return found


def _instead(series: Series, judged: Mapping[SeriesId, Series]) -> SeriesId | None:
    name = judged[series.id.own].id
    return None if name == series.id else name


def _with_changes(
    trend: Trend, family: _Family, acknowledged: Sequence[Acknowledgement], within: float
) -> Trend:
    """Find the changes of a series, and where its newest points stand if it has noise."""
    series = trend.series
    if series.is_exact:
        exact = exact_changes(series.values)
        return replace(trend, changes=_with_states(series, exact, acknowledged, within))
    scanned = family.changes.get(str(series.id), ())
    found = family.newest_of(series.values, [one.index for one in scanned])
    places = list(scanned)
    if found is not None and found.standing is Standing.MOVED:
        begin = len(series.points) - found.runs
        places.append(ChangePoint(begin, found.level, found.value, found.error))
    changes = _with_states(series, places, acknowledged, within)
    if len(places) > len(scanned):
        changes = (*changes[:-1], replace(changes[-1], is_recent=True))
    accepted = ""
    if found is not None and found.standing is Standing.APART:
        entry = _entry_at(series, len(series.points) - 1, acknowledged)
        accepted = entry.reason if entry else ""
        if abs(found.ratio - 1) < within:
            found = replace(found, standing=Standing.EXTREME)
    return replace(trend, changes=changes, newest=found, accepted=accepted)


def _begun(trend: Trend) -> tuple[int, ...]:
    """Where its changes begin, and its newest point if that stands apart."""
    places = tuple(change.found.index for change in trend.changes)
    is_apart = trend.newest is not None and trend.newest.standing is Standing.APART
    return (*places, len(trend.series.points) - 1) if is_apart else places


def _entry_at(
    series: Series, index: int, acknowledged: Sequence[Acknowledgement]
) -> Acknowledgement | None:
    return next((one for one in acknowledged if one.covers(series, index)), None)


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
        entry = _entry_at(series, found.index, acknowledged)
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
