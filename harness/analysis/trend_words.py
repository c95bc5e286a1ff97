"""Puts the trends of a history into words, and makes the judgement of them. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from harness.analysis.acknowledged import FILE
from harness.analysis.history import Series, SeriesId
from harness.analysis.judgement import Finding, Judgement
from harness.analysis.trends import SeriesChange, State, Trend, Trends
from harness.model import units
from harness.model.units import spell
from harness.stats.changes import ALPHA
from harness.stats.newest import Newest, Standing


def judge(trends: Trends, question: str) -> Judgement:
    """Judge a history: one finding for each series that is asked about."""
    judged = [trend for trend in trends.trends if trend.is_asked_about]
    settings = Counter(_without_setting(trend) for trend in judged)
    findings = [_finding(trend, settings) for trend in judged]
    replaced = sum(trend.is_shown_only for trend in trends.trends)
    left = len(trends.trends) - len(judged) - replaced
    facts = {
        "runs": str(len(trends.history.runs_with_points)),
        "series": str(len(trends.trends)),
        "chance of any false change": f"{ALPHA:.0%}".replace("%", " %"),
    }
    if replaced:
        facts["shown only"] = (
            f"{replaced} series; of an arm and its ratios to an anchor one is judged"
        )
    if left:
        facts["not asked about"] = f"{left} series that the newest run of their scenario lacks"
    if trends.history.problems:
        facts["passed over"] = "; ".join(trends.history.problems)
    if trends.stale:
        facts["acknowledged in vain"] = "; ".join(trends.stale)
    if findings:
        facts["in short"] = in_short(trends)
    refusals = () if findings else ("no run has a value of these metrics; name others by --metric",)
    return Judgement(question, tuple(findings), refusals, facts)


def in_short(trends: Trends) -> str:
    """Word the whole history in a line or two: what is open, and what cannot be told."""
    asked = [trend for trend in trends.trends if trend.is_asked_about]
    opened = sum(len(trend.open) for trend in asked)
    sentences = []
    if opened:
        verb = "is" if opened == 1 else "are"
        sentences.append(f"{units.count(opened, 'change')} for the worse {verb} open.")
    questions = sum(trend.is_question and not trend.open for trend in asked)
    if questions:
        verb = "is" if questions == 1 else "are"
        sentences.append(
            f"{questions} of {len(asked)} series {verb} far above the level in the newest run; "
            "take another run."
        )
    young = [trend for trend in asked if not (trend.is_judged or trend.open)]
    if young:
        sentences.append(
            f"{len(young)} of {len(asked)} series cannot be judged yet ({_how_young(young)})."
        )
    if not asked:
        return "There is no series to judge."
    return " ".join(sentences) or "No change for the worse is open."


def _how_young(young: list[Trend]) -> str:
    """Word how many runs there are of how many needed: `7 of 13 runs`."""
    counts = {(len(trend.series.points), trend.wanted) for trend in young}
    have, wanted = max(counts, key=lambda one: one[1] - one[0])
    return f"{'' if len(counts) == 1 else 'the shortest has '}{have} of {wanted} runs"


def _without_setting(trend: Trend) -> SeriesId:
    return replace(trend.series.id, setting="", anchor="")


def _finding(trend: Trend, settings: Mapping[SeriesId, int]) -> Finding:
    name, points = trend.series.id, trend.series.points
    # The change that decides: the first that is open, or else the last.
    change = next(iter(trend.open), trend.changes[-1] if trend.changes else None)
    apart = None if trend.open else trend.apart
    several = settings[_without_setting(trend)] > 1
    value, reference, ratio = points[-1].value, None, None
    if apart is not None:
        value, reference, ratio = apart.value, apart.level, apart.ratio
    elif change is not None:
        value, reference = change.found.after, change.found.before
        ratio = 1 + change.found.relative if change.found.before else None
    return Finding(
        name.scenario,
        f"{name.arm} on {name.setting}" if several else name.arm,
        name.metric,
        trend.verdict,
        _sentence(trend, change),
        value=value,
        reference=reference,
        ratio=ratio,
        blocks=len(points),
        is_ratio=bool(name.anchor),
    )


def _sentence(trend: Trend, change: SeriesChange | None) -> str:
    series, count = trend.series, len(trend.series.points)
    if not trend.is_judged and not trend.open:
        more = trend.wanted - count
        return (
            f"{units.count(count, 'point')} of {series.id}: a change can be seen from "
            f"{trend.wanted} on; take {units.count(more, 'more run')} on this host"
        )
    if change is None or (trend.apart is not None and not trend.open):
        return f"{newest_in_words(trend)}; {units.count(count, 'point')} of {series.id}"
    ending = {
        State.OPEN: f"; if that is meant, acknowledge it in {FILE}, or else repair it",
        State.ACKNOWLEDGED: f"; acknowledged: {change.reason}",
        State.UNDONE: "; taken back since",
        State.SMALL: "; too small to matter",
    }
    said = describe(series, change) + ending.get(change.state, "")
    is_outside = trend.newest is not None and trend.newest.standing is Standing.EXTREME
    return f"{said}; {newest_in_words(trend)}" if is_outside or trend.accepted else said


def _multiple(found: Newest) -> str:
    if math.isinf(found.value):
        return "not reached, as the level was"
    if found.level > 0 and found.value > 0 and math.isfinite(found.level):
        return f"{units.digits(found.ratio, found.ratio)} × the level"
    return "reached again" if math.isinf(found.level) else "far from the level"


def newest_in_words(trend: Trend) -> str:
    """Word where the newest point of a series stands to the level before it."""
    found, point, unit = trend.newest, trend.series.points[-1], trend.series.id.quantity.unit
    value = spell(unit, point.value)
    if found is None or found.standing in (Standing.WITHIN, Standing.MOVED):
        return f"no change; the newest is {value}"
    if found.standing is Standing.APART:
        levels = f"{value} after {spell(unit, found.level)}, run {point.run.run_id}"
        said = f"the newest is {_multiple(found)} ({levels})"
        if trend.accepted:
            return f"{said}; acknowledged: {trend.accepted}"
        if found.is_upward:
            return f"{said}; one run alone shows no change: take another run"
        return f"{said}; a change for the better, if another run agrees"
    by = f"{(found.ratio - 1) * 100:+.3g} %" if math.isfinite(found.ratio) else "not reached before"
    if found.error:  # it stands apart, by less than is asked about
        return f"the newest, {value}, is {by} off the level, too small to matter"
    end = "highest" if found.is_upward else "lowest"
    return f"the newest, {value}, is the {end} of {found.seen} ({by}), within chance"


def describe(series: Series, change: SeriesChange) -> str:
    """Word a change without its end: how much, and where it began."""
    unit, found = series.id.quantity.unit, change.found
    levels = f"from {spell(unit, found.before)} to {spell(unit, found.after)}"
    recent = len(series.points) - found.index if change.is_recent else 0
    return (
        f"{size_of(series, change)}, {levels}"
        f"{f' in the newest {recent} runs' if recent else ''}, began with {change.first.label} "
        f"(run {change.first.run.run_id}; the one before was {change.last.label})"
    )


def change_in_words(trend: Trend) -> str:
    """Word the last change of a series: `+5.1 %, open`."""
    if trend.is_shown_only and trend.instead is not None:
        return f"judged by its {trend.instead.what}" if trend.instead.anchor else "not judged"
    if trend.is_question and trend.apart is not None:
        return f"cannot tell: the newest is {_multiple(trend.apart)}"
    if trend.changes:
        change = trend.changes[-1]
        return f"{size_of(trend.series, change)}, {change.state}"
    return (
        "none"
        if trend.is_judged
        else f"cannot tell: {len(trend.series.points)} of {trend.wanted} runs"
    )


def size_of(series: Series, change: SeriesChange) -> str:
    """Word the size of a change: `+5.1 %`; in words without a ratio, in units if it is exact."""
    found = change.found
    if series.is_exact and math.isfinite(found.after - found.before):
        return f"{found.after - found.before:+,.0f} {series.id.quantity.unit}"
    if math.isfinite(found.relative):
        return f"{found.relative * 100:+.1f} %"
    return "no longer reached" if math.isinf(found.after) else "from zero"
