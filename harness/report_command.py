"""`steelyard report`: reports are made from records alone, so old runs can be told anew."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> int:
    """Make the report of earlier runs again.

    A RUN is the folder of a run, or a folder that holds such folders.
    """
    from harness.errors import RecordError
    from harness.progress import make_console
    from harness.records import RUN_FILE, find_runs, read_run
    from harness.report import write_report
    from harness.report.terminal import print_summary

    console = make_console()
    directories: list[Path] = []
    for path in runs:
        found = [path] if (path / RUN_FILE).exists() else find_runs(path)
        if not found:
            message = f"{path}: holds no run; name a folder with a {RUN_FILE}"
            raise RecordError(message)
        directories += found
    for directory in directories:
        result = read_run(directory)
        console.rule(str(directory), align="left")
        print_summary(result, console)
        for written in write_report(result, directory):
            if written.suffix in (".html", ".md"):
                console.print(f"written: {written}", soft_wrap=True)
    return 0
