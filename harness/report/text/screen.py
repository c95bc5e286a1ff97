"""The end of a run in a terminal: the answer of each scenario in a few lines. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import stats
from harness.analysis.summary import ArmRow, ScenarioTable, Summary
from harness.model import RunInfo, units
from harness.model.diagnostics import DiagnosticCode
from harness.model.metrics import METRICS
from harness.report.text import sentences, wording
from harness.report.text.tables import Grid

EMULATED, FAILED, CHARGED = "*", "!", "†"
"""Marks behind an arm's name or a figure; a note below the table says what each means."""

MOST_NAMED = 4
"""No more arms with failures than these are named."""

_MOST_OF_ERROR = 90
"""Characters of an error on the screen; the report has all of it."""


@dataclass(frozen=True, slots=True)
class Screen:
    """One scenario's share of the screen.

    Attributes:
        title: The scenario and its question.
        grids: The same table with intervals and without: the first that fits is printed. A cell
            that holds a value and its interval is padded so that intervals stand in line.
        notes: Lines below it: marks, blocks and what they can detect; then one a failing arm.
    """

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]


def screen(table: ScenarioTable, summary: Summary) -> Screen:
    """Lay out one scenario in a table of a row an arm, and a note or two."""
    name, question = table.scenario.name, table.scenario.question
    grids = tuple(_cost_grid(table, summary, with_intervals=each) for each in (True, False))
    if slopes := sentences.slopes(table):
        grids = tuple(_slope_grid(slopes, with_intervals=each) for each in (True, False))
    return Screen(
        title=f"{name}: {question}" if question else name,
        grids=grids,
        notes=(
            " ".join((*_marks(table, bool(slopes)), certainty(table, summary))),
            *_failures(table),
        ),
    )


def certainty(table: ScenarioTable, summary: Summary) -> str:
    """Say in a sentence how many blocks there are, how they went, and what they can detect."""
    blocks = units.count(table.complete_blocks, "block")
    info = summary.run.info
    if info.interrupted or info.ended_at is None:
        blocks = f"interrupted: {table.complete_blocks} of {info.asked_blocks} blocks"
    if table.complete_blocks < stats.FEWEST_FOR_LEVEL:
        blocks += f", too few for 95 % intervals (take {stats.FEWEST_FOR_LEVEL})"
    bad = sum(row.trials - row.ok for row in table.rows)
    well = "all trials well" if not bad else f"{bad} of {units.count(table.trials, 'trial')} failed"
    if table.failed_beside:
        well = f"{well if bad else 'all that count well'}, {table.failed_beside} failed beside them"
    if not table.trials:
        return "No trial was taken."
    found = f"{blocks[:1].upper()}{blocks[1:]}, {well}"
    if (limit := detectable(table)) is not None:
        found += f"; differences in ready below {wording.share(limit)} could be missed"
    return f"{found}."


def detectable(table: ScenarioTable) -> float | None:
    """Return the smallest relative difference in `ready` that so many blocks detect, if known.

    Fewer blocks than an interval needs detect none.
    """
    if table.complete_blocks < stats.FEWEST_FOR_LEVEL:
        return None
    floors = (floor for floor in table.noise if floor.metric == "ready")
    found = [floor.detectable_with(table.blocks) for floor in floors]
    return min((limit for limit in found if math.isfinite(limit)), default=None)


def warnings_line(summary: Summary, width: int = 80) -> str:
    """Name the kinds of warnings, each once, as many as fit a line; empty without any."""
    names = [warning_name(warning.code) for warning in summary.diagnostics]
    line = ""
    for named in range(len(names), 0, -1):
        rest = [f"{len(names) - named} more"] if named < len(names) else []
        listed = ", ".join((*names[:named], *rest))
        line = f"{units.count(len(names), 'warning')} ({listed}): -v, or the report"
        if len(line) <= width:
            break
    return line


def reading_line(summary: Summary) -> str:
    """Say how to read brackets and ratios; empty where there are none."""
    rows = [row for table in summary.tables for row in table.shown if not table.growth]
    if not any(row.ratio is not None and not row.is_reference for row in rows):
        return ""
    return "Brackets: 95 % intervals, of this run. ×: median of the ratios within blocks."


def left_out(info: RunInfo) -> tuple[str, ...]:
    """List the arms that could not run, each once with its reason: `vm-micro (no QEMU)`."""
    found: dict[str, str] = {}
    for diagnostic in info.diagnostics:
        if diagnostic.code is DiagnosticCode.ARM_SKIPPED:
            place, _, reason = diagnostic.detail.partition(": ")
            found.setdefault(place.rpartition(", ")[2], reason)
    return tuple(f"{arm} ({reason})" for arm, reason in found.items())


def half_left_out(summary: Summary) -> str:
    """Say which arms remained and why others did not, where half of them or more were left out."""
    out = left_out(summary.run.info)
    shown = [row for table in summary.tables for row in table.shown]
    ran = list(dict.fromkeys(row.arm for row in shown if row.trials))
    asked = len({row.arm for row in shown})
    if not out or 2 * len(out) < asked:
        return ""
    remained = f"only {wording.listed(ran)} ran" if ran else "none ran"
    return f"{len(out)} of {units.count(asked, 'arm')} left out, {remained}: {'; '.join(out)}"


def warning_name(code: DiagnosticCode) -> str:
    """Spell a kind of warning: `emulated CPU`."""
    return code.value.replace("-", " ").replace("cpu", "CPU")


def _cost_grid(table: ScenarioTable, summary: Summary, *, with_intervals: bool) -> Grid:
    rows = table.shown
    prepared = {r.arm.name for r in summary.run.info.arms if r.scenario == table.scenario.name}
    mixed = _is_mixed(rows)
    columns = [
        [_arm(row) for row in rows],
        _in_line([_ready(row, is_prepared=row.arm in prepared) for row in rows], with_intervals),
    ]
    head = ["", "ready"]
    if any(row.ratio is not None for row in rows):
        columns.append(_in_line([_ratio(table, row) for row in rows], with_intervals))
        head.append(f"× {table.reference}")
    columns.append([_amount(row, "disk") for row in rows])
    columns.append([_memory(row, is_mixed=mixed) for row in rows])
    cells = tuple(zip(*columns, strict=True))
    return Grid((*head, "disk each", "memory"), cells, estimates=frozenset(head))


def _arm(row: ArmRow) -> str:
    marks = [EMULATED] * row.is_emulated + [FAILED] * (row.trials > row.ok)
    return " ".join((row.arm, *marks))


def _ready(row: ArmRow, *, is_prepared: bool) -> tuple[str, str]:
    if row.ready is None:
        return ("no trial" if is_prepared else "left out"), ""
    if not row.ready.is_reached:
        return f"failed, {row.trials - row.ok} of {row.trials}", ""
    return _split(wording.duration_estimate(row.ready))


def _ratio(table: ScenarioTable, row: ArmRow) -> tuple[str, str]:
    if row.is_reference:
        return "1", ""
    if row.ratio is None or not row.ratio.estimate.is_reached:
        return wording.NONE, ""
    if table.is_upper_bound(row):
        return f"≤ {wording.times(row.ratio.estimate.median).removesuffix(' ×')}", ""
    return _split(wording.ratio(row.ratio).replace(" ×", ""))


def _split(text: str) -> tuple[str, str]:
    value, bracket, interval = text.partition(" [")
    return value, f"[{interval}" if bracket else ""


def _in_line(cells: Sequence[tuple[str, str]], with_intervals: bool) -> list[str]:
    """Join values with their intervals, which all begin in the same column."""
    if not with_intervals:
        return [value for value, _ in cells]
    widest = max((len(value) for value, interval in cells if interval), default=0)
    return [f"{value:{widest}} {interval}" if interval else value for value, interval in cells]


def _amount(row: ArmRow, metric: str) -> str:
    found = row.metrics.get(metric)
    # Nothing of its own reads as nothing there.
    if found is None or not found.median:
        return wording.NONE
    return wording.amount(found.median, METRICS[metric].unit)


def _memory(row: ArmRow, *, is_mixed: bool) -> str:
    metric = sentences.memory(row)
    amount = _amount(row, metric) if metric else wording.NONE
    if not is_mixed or amount == wording.NONE:
        return amount
    return f"{amount} {CHARGED if metric == 'cgroup-current' else ' '}"


def _is_mixed(rows: Sequence[ArmRow]) -> bool:
    """Whether the memory of some arms is the charge of a cgroup, and of others pages mapped."""
    kinds = {sentences.memory(row) == "cgroup-current" for row in rows if sentences.memory(row)}
    return len(kinds) > 1


def _slope_grid(slopes: Sequence[sentences.Slope], *, with_intervals: bool) -> Grid:
    columns = [
        [slope.arm for slope in slopes],
        *(
            _in_line([_split(wording.size_estimate(each)) for each in amounts], with_intervals)
            for amounts in ([slope.disk for slope in slopes], [slope.memory for slope in slopes])
        ),
        [str(slope.most) for slope in slopes],
    ]
    head = ("each further", "costs on disk", "in memory", "up to")
    return Grid(head, tuple(zip(*columns, strict=True)), estimates=frozenset(head[1:3]))


def _marks(table: ScenarioTable, is_growth: bool) -> Iterator[str]:
    if is_growth:
        return
    if any(row.is_emulated for row in table.shown):
        bound = any(table.is_upper_bound(row) for row in table.shown)
        means = "times are an upper bound" if bound else "times are longer than with KVM"
        yield f"{EMULATED} emulated CPU: {means}."
    if _is_mixed(table.shown):
        yield f"{CHARGED} charged to its cgroup, other memory is PSS."


def _failures(table: ScenarioTable) -> Iterator[str]:
    """Say where trials failed, and the most frequent error of each arm."""
    bad = [row for row in table.rows if row.trials > row.ok]
    for row in bad[:MOST_NAMED]:
        error = textwrap.shorten(row.errors[0][0], _MOST_OF_ERROR, placeholder=" …")
        number = f"{row.trials - row.ok} of {units.count(row.trials, 'trial')}"
        yield f"{FAILED} {row.arm} failed in {number}: {error.rstrip('.')}."
    if len(bad) > MOST_NAMED:
        yield f"{FAILED} {units.count(len(bad) - MOST_NAMED, 'further arm')} failed: see -v."
    for arm, failed_at in {c.arm: c.failed_at for c in table.growth if c.failed_at}.items():
        yield f"{FAILED} the {wording.ordinal(failed_at)} {arm} could not be started."
