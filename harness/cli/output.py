"""The options `--format NAME[=PATH]` and `--cannot-tell`, and the writing of a judgement."""

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


_CANNOT_TELL_FAILS = f"{__name__}.cannot_tell_fails"


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option; it arrives as `formats`, for `emit`, which also finds another."""
    command = click.option(
        "--cannot-tell",
        type=click.Choice(["skip", "fail"]),
        default="skip",
        show_default=True,
        expose_value=False,
        callback=_cannot_tell,
        help="What junit makes of an open verdict. The exit code is 3 with either.",
    )(command)
    return click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="NAME[=PATH]",
        callback=_parsed,
        help=f"{', '.join(FORMATS)}; to a file, or to the standard output. Repeatable. "
        "Default: terminal.",
    )(command)


def _cannot_tell(context: click.Context, _: click.Parameter, value: str) -> None:
    context.meta[_CANNOT_TELL_FAILS] = value == "fail"


def _parsed(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    found, message = [], ""
    for value in values:
        name, equals, path = value.partition("=")
        if name not in FORMATS:
            message = message or f"there is no {name!r}; {did_you_mean(name, tuple(FORMATS))}"
        elif equals and not path:
            message = message or f"{value!r} names no file; write {name}=PATH"
        found.append((name, "" if path == "-" else path))
    if sum(not path for _, path in found) > 1:
        message = (
            message or "only one of them can go to the standard output; name a file: NAME=PATH"
        )
    if message:
        raise click.BadParameter(message, context, parameter)
    return tuple(found)


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
    from harness.report import write_files
    from harness.report.judgement import render_judgement

    fails = bool(click.get_current_context().meta.get(_CANNOT_TELL_FAILS))
    for name, path in formats or (("terminal", ""),):
        text = render_judgement(judgement, name, cannot_tell_fails=fails)
        if not path:
            click.echo(text, nl=False)
        elif path == os.environ.get("GITHUB_STEP_SUMMARY"):
            _append(Path(path), text)
        else:
            write_files({Path(path): text.encode(errors="replace")})
    return int(judgement.exit_code)


def _append(path: Path, text: str) -> None:
    """Add to GitHub's summary of a step, which gathers the text of several commands."""
    from harness.model.errors import RecordError

    try:
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}") from error
