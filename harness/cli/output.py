"""The options `--format NAME`, `--export NAME=PATH` and `--cannot-tell`, and what they write."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from harness.cli.options import typed_command
from harness.model.suggestions import did_you_mean
from harness.report.judgement import FORMATS

if TYPE_CHECKING:
    from harness.analysis.judgement import Judgement
    from harness.analysis.summary import Summary
    from harness.experiment.compare import Conduct


Formats = tuple[tuple[str, str], ...]
"""(name, path) of each form that was asked for; an empty path is the standard output."""

TERMINAL = "terminal"


def output_options(
    forms: Collection[str], files: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--format NAME` and `--export NAME=PATH`; both arrive as `formats`.

    One form goes to the standard output, by default for a terminal; further ones go to files. What
    arrives is empty where nothing was asked for.

    Args:
        forms: Names of the forms that the standard output can have.
        files: Names of further ones, of which a file or folder is made.
    """
    names = (*forms, *files)

    def parsed(
        context: click.Context, parameter: click.Parameter, values: Sequence[str]
    ) -> Formats:
        is_export = parameter.name == "exports"
        try:
            found = tuple(_parsed(value, names, files, is_export=is_export) for value in values)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None
        if sum(not path for _, path in found) > 1:
            message = "only one of them can go to the standard output; name a file: NAME=PATH"
            raise click.BadParameter(message, context, parameter)
        return found

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def merged(*args: Any, formats: Formats, exports: Formats, **typed: Any) -> Any:
            found = (*formats, *exports)
            if found and all(path for _, path in found):
                found = ((TERMINAL, ""), *found)
            return command(*args, formats=found, **typed)

        wrapped: Callable[..., Any] = click.option(
            "--export",
            "exports",
            multiple=True,
            metavar="NAME=PATH",
            callback=parsed,
            help=f"Write this form to a file beside: {', '.join(names)}. Repeatable.",
        )(merged)
        return click.option(
            "--format",
            "formats",
            multiple=True,
            metavar="NAME",
            callback=parsed,
            help=f"What goes to the standard output: {', '.join(forms)}. NAME=PATH is the same as "
            f"--export NAME=PATH. Default: {TERMINAL}.",
        )(wrapped)

    return decorate


_CANNOT_TELL_FAILS = f"{__name__}.cannot_tell_fails"


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that ends with a judgement its options; `formats` and another for `emit`."""
    return cannot_tell_option(output_options(tuple(FORMATS))(command))


def cannot_tell_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option on what JUnit makes of an open verdict, for `emit`."""
    return click.option(
        "--cannot-tell",
        type=click.Choice(["skip", "fail"]),
        default="skip",
        show_default=True,
        expose_value=False,
        callback=_cannot_tell,
        help="What junit makes of an open verdict. The exit code is 3 with either.",
    )(command)


def _cannot_tell(context: click.Context, _: click.Parameter, value: str) -> None:
    context.meta[_CANNOT_TELL_FAILS] = value == "fail"


def _parsed(
    value: str, names: Sequence[str], files: Collection[str], *, is_export: bool
) -> tuple[str, str]:
    """Read `NAME`, `NAME=PATH`, or a file whose ending is a name in `files`; or ValueError."""
    name, equals, path = value.partition("=")
    if name not in names:
        ending = value.rpartition(".")[2]
        if is_export and ending in files and ending != value:
            return ending, value
        raise ValueError(f"there is no {name!r}; {did_you_mean(name, tuple(names))}")
    if path == "-" and (is_export or name in files):
        raise ValueError(f"{value!r}: {name} goes to a file; write {name}=PATH")
    if (equals or is_export or name in files) and not path:
        raise ValueError(f"{value!r} names no file; write {name}=PATH")
    return name, "" if path == "-" else path


def on_stdout(formats: Formats) -> str:
    """Return the name of the form that goes to the standard output."""
    return next((name for name, path in formats if not path), TERMINAL)


def refuse_pages_on_stdout(formats: Formats, runs: int) -> None:
    """Refuse several runs in a form that holds one, or raise click.UsageError."""
    for name, path in formats:
        if name == "html" and runs > 1:
            where = path or "the standard output"
            message = f"{runs} pages are no page; name one run for {where}, or a folder by --output"
            raise click.UsageError(message)


def print_text(summaries: Sequence[Summary], form: str) -> None:
    """Write runs in a form, a key of `harness.report.TEXTS`, to the standard output."""
    from harness.report import render

    data = render(summaries, form)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def write_exports(summaries: Sequence[Summary], formats: Formats) -> None:
    """Write runs in each form that has a path: a file, of charts a folder.

    Raises:
        RecordError: A file cannot be written.
    """
    from harness.report import CHARTS, render, write_report

    for name, path in formats:
        if path and name in CHARTS:
            for summary in summaries:
                folder = Path(path, *[summary.run.info.run_id] * (len(summaries) > 1))
                write_report(summary, folder, (name,))
        elif path and name == TERMINAL:
            write_text(path, _as_terminal(summaries))
        elif path:
            write_text(path, render(summaries, name))


def _as_terminal(summaries: Sequence[Summary]) -> bytes:
    import io

    from rich.console import Console

    from harness.cli.terminal import print_summary

    console = Console(file=io.StringIO(), width=80, highlight=False, legacy_windows=False)
    for summary in summaries:
        print_summary(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().encode()


def write_text(path: str, data: bytes) -> None:
    """Write a text to a path; to GitHub's summary of a step it is added."""
    from harness.report import write_files

    if path == os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(path), data)
    else:
        write_files({Path(path): data})


@contextlib.contextmanager
def conducted(**settings: Unpack[Conduct]) -> Iterator[Conduct]:
    """Conduct a comparison with further fields of `Conduct`; its progress goes to stderr."""
    from harness.cli.progress import listener_for, make_console
    from harness.measure.interruption import Interrupted

    try:
        with listener_for(make_console(stderr=True)) as listener:
            yield {
                "listener": listener,
                "notify": lambda sentence: click.echo(sentence, err=True),
                "command": typed_command(),
                **settings,
            }
    except Interrupted as error:
        click.echo(f"steelyard: {error}; there is no verdict", err=True)
        raise


def emit(judgement: Judgement, formats: Sequence[tuple[str, str]]) -> int:
    """Write a judgement in all forms that were asked for, and return the command's exit code.

    Args:
        judgement: Of the command.
        formats: (name, path) each; an empty path is the standard output. None: terminal.

    Raises:
        RecordError: A file cannot be written.
    """
    from harness.report.judgement import render_judgement

    context = click.get_current_context(silent=True)
    fails = bool(context and context.meta.get(_CANNOT_TELL_FAILS))
    for name, path in formats or ((TERMINAL, ""),):
        shown = with_places_from_top(judgement) if name == "github" else judgement
        text = render_judgement(shown, name, cannot_tell_fails=fails)
        if path:
            write_text(path, text.encode(errors="replace"))
        else:
            click.echo(text, nl=False)
    return int(judgement.exit_code)


def with_places_from_top(judgement: Judgement) -> Judgement:
    """Name the files of findings as GitHub does: from the top of the repository.

    That is $GITHUB_WORKSPACE, or where it is not set the nearest folder above with a `.git`. Files
    outside of it keep their names.
    """
    here = Path.cwd()
    workspace = os.environ.get("GITHUB_WORKSPACE")
    above = (folder for folder in (here, *here.parents) if (folder / ".git").exists())
    top = Path(workspace).resolve() if workspace else next(above, here)

    def from_top(source: str) -> str:
        path, colon, line = source.rpartition(":")
        whole = (here / path).resolve()
        return f"{whole.relative_to(top)}{colon}{line}" if whole.is_relative_to(top) else source

    findings = tuple(
        replace(finding, source=finding.source and from_top(finding.source))
        for finding in judgement.findings
    )
    return replace(judgement, findings=findings)


def _append(path: Path, data: bytes) -> None:
    """Add to GitHub's summary of a step, which gathers the text of several commands."""
    from harness.model.errors import RecordError

    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}") from error
