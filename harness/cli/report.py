"""`steelyard report`: makes reports from records alone, so that old runs have new reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli import options
from harness.cli.output import (
    TERMINAL,
    Formats,
    on_stdout,
    output_options,
    print_text,
    refuse_pages_on_stdout,
    write_exports,
)
from harness.report import CHARTS, TEXTS, render, write_files, write_report

if TYPE_CHECKING:
    from harness.analysis.summary import Summary

_STDOUT = Path("-")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@output_options((TERMINAL, *TEXTS), CHARTS)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where page, summary and charts go, instead of the run's folder. With --format the file "
    "that it goes to, instead of the standard output; of several pages the folder.",
)
@options.verbosity_options
def report(
    runs: tuple[Path, ...], formats: Formats, output: Path | None, *, verbose: bool, is_brief: bool
) -> int:
    """Make the report of earlier runs again, from their records alone.

    A RUN is the folder of a run, or a folder that holds such folders. Without --format its page,
    summary and charts are written, and it is shown on the terminal. With it there is only that
    form: html (the page), markdown (the summary), csv (every trial, a tidy table) or json (all
    figures with units).
    """
    form = on_stdout(formats)
    if form == TERMINAL and output == _STDOUT:
        message = f"only a text can go to standard output: --format {', '.join(TEXTS)}"
        raise click.BadParameter(message, param_hint="--output")
    directories = _directories(runs)
    into_folder = form == "html" and len(directories) > 1 and output not in (None, _STDOUT)
    if not into_folder:
        refuse_pages_on_stdout(formats, len(directories))
    summaries = [_summarised(directory) for directory in directories]
    if form == TERMINAL:
        _write_pages(directories, summaries, output, verbose=verbose, is_brief=is_brief)
    elif into_folder:
        assert output is not None
        for summary in summaries:
            write_report(summary, output / summary.run.info.run_id, (form,))
    elif output is None or output == _STDOUT:
        print_text(summaries, form)
    else:
        path = output / TEXTS[form] if output.is_dir() else output
        write_files({path: render(summaries, form)})
    write_exports(summaries, formats)
    return 0


def _directories(runs: tuple[Path, ...]) -> list[Path]:
    from harness.model.errors import RecordError
    from harness.records import RUN_FILE, find_runs

    directories: list[Path] = []
    for path in runs:
        found = [path] if (path / RUN_FILE).exists() else find_runs(path)
        if not found:
            raise RecordError(f"{path}: holds no run; name a folder with a {RUN_FILE}")
        directories += found
    return directories


def _summarised(directory: Path) -> Summary:
    from harness.analysis.compare import judge_records
    from harness.analysis.summary import summarise
    from harness.records import read_run
    from harness.records.scan import read_data

    data = read_data(directory)
    summary = summarise(data)
    # A verdict needs all trials, each as it was: where some are lost there is none.
    if data.info.asked is not None and not data.problems:
        summary = replace(summary, judgement=judge_records(read_run(directory)))
    return summary


def _write_pages(
    directories: Sequence[Path],
    summaries: Sequence[Summary],
    output: Path | None,
    *,
    verbose: bool,
    is_brief: bool,
) -> None:
    """Show each run, and write its pages into a folder: its own, or the named one, or one in it."""
    from harness.cli.progress import make_console
    from harness.cli.terminal import print_end, print_result
    from harness.report.judgement import render_judgement

    console = make_console()
    for directory, summary in zip(directories, summaries, strict=True):
        if len(directories) > 1 and not is_brief:
            console.rule(str(directory), align="left")
        if not is_brief and summary.judgement is not None:
            verdict = render_judgement(summary.judgement, "terminal")
            console.print(verdict, soft_wrap=True, markup=False, highlight=False)
        if not is_brief:
            print_result(summary, console, verbose=verbose)
        folder = directory if output is None else output
        if output is not None and len(directories) > 1:
            folder = output / summary.run.info.run_id
        write_report(summary, folder)
        print_end(summary, folder / TEXTS["html"], console)
