"""`steelyard report`: makes reports from records alone, so that old runs have new reports."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.report import CHARTS, PAGES, TEXTS, render, write_files, write_report

if TYPE_CHECKING:
    from harness.analysis.summary import Summary

_STDOUT = Path("-")

_JOINED = ("csv", "json", "markdown")
"""Formats that hold several runs in one file."""


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice([*TEXTS, *CHARTS]),
    help="Only this: html (the page), markdown (the summary), csv (every trial, a tidy table), "
    "json (all figures with units), png or svg (the charts). Without it: page, summary and charts, "
    "and the summary on the terminal.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where to, instead of the run's folder: a file; a folder where it takes several files; "
    "- for standard output (texts).",
)
def report(runs: tuple[Path, ...], form: str | None, output: Path | None) -> int:
    """Make the report of earlier runs again, from their records alone.

    A RUN is the folder of a run, or a folder that holds such folders.
    """
    directories = _directories(runs)
    is_one_file = form in _JOINED or (form in TEXTS and len(directories) == 1)
    if output == _STDOUT:
        _print(directories, form)
    elif output is not None and form is not None and is_one_file:
        if output.is_dir():
            output /= TEXTS[form]
        write_files({output: render([_summarised(directory) for directory in directories], form)})
        click.echo(f"written: {output}")
    else:
        _write_folders(directories, form, output)
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


def _print(directories: list[Path], form: str | None) -> None:
    if form is None or form not in TEXTS:
        message = f"only a text can go to standard output: --format {', '.join(TEXTS)}"
        raise click.BadParameter(message, param_hint="--output")
    if form not in _JOINED and len(directories) > 1:
        message = f"{len(directories)} pages are no page; name a folder, or one run"
        raise click.BadParameter(message, param_hint="--output")
    data = render([_summarised(directory) for directory in directories], form)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def _write_folders(directories: list[Path], form: str | None, output: Path | None) -> None:
    """Write a folder of files for each run: its own, or the named one, or one in that."""
    from harness.cli.progress import make_console
    from harness.cli.terminal import print_summary
    from harness.report.judgement import render_judgement

    console = make_console()
    for directory in directories:
        summary = _summarised(directory)
        if form is None:
            console.rule(str(directory), align="left")
            if summary.judgement is not None:
                verdict = render_judgement(summary.judgement, "terminal")
                console.print(verdict, soft_wrap=True, markup=False, highlight=False)
            print_summary(summary, console)
        folder = directory if output is None else output
        if output is not None and len(directories) > 1:
            folder = output / summary.run.info.run_id
        for written in write_report(summary, folder, PAGES if form is None else (form,)):
            if form is not None or written.suffix in (".html", ".md"):
                console.print(f"written: {written}", soft_wrap=True, markup=False)
