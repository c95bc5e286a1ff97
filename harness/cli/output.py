"""Where the forms of a judgement go: the option `--format NAME[=PATH]`, for every command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from harness.cli.options import typed_command
from harness.model.suggestions import did_you_mean
from harness.report.judgement import FORMATS

if TYPE_CHECKING:
    from harness.analysis.judgement import Judgement
    from harness.experiment.compare import Conduct


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option; it arrives as `formats`, for `emit`."""
    option = click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="NAME[=PATH]",
        callback=_parsed,
        help=f"{', '.join(FORMATS)}; to a file, or to the standard output. Repeatable. "
        "Default: terminal.",
    )
    return option(command)


def _parsed(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    found = []
    for value in values:
        name, equals, path = value.partition("=")
        if name not in FORMATS:
            message = f"there is no {name!r}; {did_you_mean(name, tuple(FORMATS))}"
            raise click.BadParameter(message, context, parameter)
        if equals and not path:
            message = f"{value!r} names no file; write {name}=PATH"
            raise click.BadParameter(message, context, parameter)
        found.append((name, "" if path == "-" else path))
    if sum(not path for _, path in found) > 1:
        message = "only one of them can go to the standard output; name a file: NAME=PATH"
        raise click.BadParameter(message, context, parameter)
    return tuple(found)


@contextlib.contextmanager
def conducted(**settings: Unpack[Conduct]) -> Iterator[Conduct]:
    """How a comparison is taken from the command line: its progress goes to the standard error.

    Args:
        settings: Further fields of `Conduct`.
    """
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
    """Write a judgement in all forms that were asked for.

    Args:
        judgement: What to tell.
        formats: (name, path) each; an empty path is the standard output. None: terminal.

    Returns:
        The exit code of the command.

    Raises:
        RecordError: A file cannot be written.
    """
    from harness.report.judgement import render_judgement

    for name, path in formats or (("terminal", ""),):
        text = render_judgement(judgement, name)
        if not path:
            click.echo(text, nl=False)
        elif path == os.environ.get("GITHUB_STEP_SUMMARY"):
            _append(Path(path), text)
        else:
            _write(Path(path), text)
    return int(judgement.exit_code)


def _write(path: Path, text: str) -> None:
    from harness.model.errors import RecordError
    from harness.records import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, text.encode(errors="replace"))


def _append(path: Path, text: str) -> None:
    """GitHub's summary of a step gathers what its commands add."""
    from harness.model.errors import RecordError

    try:
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}") from error
