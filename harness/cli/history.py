"""`steelyard history`: what many runs say together, and with which commit each change began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli.options import parse_metrics, parse_percent
from harness.cli.output import TERMINAL, cannot_tell_option, emit, output_options
from harness.report.judgement import FORMATS

if TYPE_CHECKING:
    from harness.analysis.trends import Trend, Trends

_RESULTS = Path("results")
_ALL = "all"
_TABLE = "parquet"
"""The form of all trials as one table, which can be named as DIR later."""


@click.command()
@click.argument("places", nargs=-1, metavar="[DIR…]", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC",
    help="Follow this one; `all` for every one. Repeatable. Default: ready, cpu, pss, disk, "
    "disk-shared.",
)
@click.option(
    "--commit-of",
    default="steelyard_revision",
    show_default=True,
    metavar="FACT",
    help="The recorded fact that names what was measured: of the host, or of an arm, such as "
    "`image`.",
)
@click.option("--check", is_flag=True, help="Fail if a change for the worse is open.")
@click.option(
    "--acknowledged",
    default="steelyard-acknowledged.toml",
    show_default=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Which changes are meant, and why.",
)
@click.option(
    "--within",
    metavar="PERCENT",
    default="1%",
    show_default=True,
    help="A smaller change for the worse does not fail; of exact figures (disk) any does.",
)
@click.option(
    "--site",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write pages: all series, one page each, and the report of each run.",
)
@click.option(
    "--charts",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the chart of each series as SVG.",
)
@cannot_tell_option
@output_options(tuple(FORMATS), (_TABLE,))
def history(places: tuple[Path, ...], formats: tuple[tuple[str, str], ...], **typed: Any) -> int:
    """Follow medians over many runs, and find where they changed.

    DIR is a run, a folder that holds runs at any depth, or a Parquet table; by default results/.
    A series is a scenario, an arm, a metric and a class of host: other hosts have series of their
    own. With --check, exit code: 0 no change for the worse is open, 1 one is, 2 the question was
    wrong, 3 it cannot be told: a series has too few points, or its newest one is so high that
    another run has to say whether that is a change.
    """
    from harness.analysis.acknowledged import read_acknowledged
    from harness.analysis.gather import export_runs, gather
    from harness.analysis.trend_words import judge
    from harness.analysis.trends import trends_of

    tables = [Path(path) for name, path in formats if name == _TABLE]
    formats = tuple((name, path) for name, path in formats if name != _TABLE)
    if not typed["check"] and any(form != (TERMINAL, "") for form in formats):
        name = next(name for name, path in formats if (name, path) != (TERMINAL, ""))
        raise click.UsageError(f"{name} is a form of the verdict: give --check too")
    places = places or (_RESULTS,)
    acknowledged, commit_of = typed["acknowledged"], typed["commit_of"]
    if _is_typed("acknowledged") and not acknowledged.exists():
        message = f"{acknowledged} is not there; name the file, or leave the option out"
        raise click.BadParameter(message, param_hint="--acknowledged")
    entries = read_acknowledged(acknowledged)  # before the work: a mistake is reported at once
    small = parse_percent(typed["within"], "--within")
    gathered = gather(places, _metrics(typed["metrics"]), commit_of)
    if _is_typed("commit_of") and not any(p.commit for one in gathered.series for p in one.points):
        message = f"no run has a fact {commit_of!r}; run.json names those that there are"
        raise click.BadParameter(message, param_hint="--commit-of")
    found = trends_of(gathered, entries, within=small)
    for sentence in (*found.history.problems, *found.stale):
        click.echo(_printable(f"steelyard: {sentence}"), err=True)
    _write(found, typed["site"], typed["charts"])
    for table in tables:
        trials = export_runs(places, found.history, table)
        click.echo(f"written: {table}, {trials} trials", err=True)
    if typed["check"]:
        return emit(judge(found, f"history of {', '.join(map(str, places))}"), formats)
    if not (typed["site"] or typed["charts"] or tables):
        for line in lines_of(found):
            click.echo(_printable(line))
    return 0


def _is_typed(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def _printable(line: str) -> str:
    """Replace characters in names of the records that no terminal should get."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in line)


def _metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    from harness.analysis.history import METRICS_OF_INTEREST
    from harness.model.metrics import METRICS

    if _ALL in names:
        return tuple(METRICS)
    return parse_metrics(names, "there is no metric", _ALL) or METRICS_OF_INTEREST


def _write(found: Trends, site: Path | None, charts: Path | None) -> None:
    if charts is not None:
        from harness.report import write_files
        from harness.report.charts.trend import trend_chart

        drawn = [trend_chart(trend) for trend in found.trends]
        write_files({charts / f"{chart.name}.svg": chart.svg for chart in drawn})
        click.echo(f"written: {len(drawn)} charts in {charts}", err=True)
    if site is not None:
        from harness.report.site import write_site

        pages = write_site(found, site)
        click.echo(f"written: {site / 'index.html'} and {len(pages) - 1} more pages", err=True)


def lines_of(found: Trends) -> Iterator[str]:
    """Write the history as text: a table for each scenario and setting, then the changes."""
    from harness.analysis.acknowledged import entry_for
    from harness.analysis.trend_words import describe, in_short

    for group in found.by_setting():
        series = group[0].series
        yield f"{series.id.scenario} on {series.id.setting} ({series.host})"
        yield from _table(group)
        yield ""
    changed = [(trend, change) for trend in found.trends for change in trend.changes]
    for trend, change in changed:
        reason = f": {change.reason}" if change.reason else ""
        yield f"{trend.series.id}: {change.state}{reason}"
        yield f"    {describe(trend.series, change)}"
    if changed:
        yield ""
    yield in_short(found)
    opened = [(trend, change) for trend in found.trends for change in trend.open]
    if opened:
        yield "\nTo acknowledge what is meant, add to steelyard-acknowledged.toml, with a reason:"
    for trend, change in opened:
        yield f"\n{entry_for(trend.series, change.found.index).rstrip()}"


def _table(trends: Sequence[Trend]) -> Iterator[str]:
    head = ("arm", "metric", "points", "newest", "level since", "last change")
    rows = [head, *(_row(trend) for trend in trends)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _row(trend: Trend) -> tuple[str, ...]:
    from harness.analysis.trend_words import change_in_words
    from harness.model.units import spell

    series = trend.series
    return (
        series.id.arm,
        series.id.what,
        str(len(series.points)),
        spell(series.id.quantity.unit, series.points[-1].value),
        series.points[trend.level_begins].label[:16],
        change_in_words(trend),
    )
