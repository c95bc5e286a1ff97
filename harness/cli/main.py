"""The command `steelyard`.

Each subcommand is imported when it is called, so that `--help` and the launch of a container load
nothing that they do not use. This is the only module that turns an error into a sentence on stderr
and an exit code:

| code | meaning |
|---|---|
| 0 | fine |
| 1 | something failed: trials of a run, an arm that cannot run, leftovers that doctor found |
| 2 | a mistake in what was typed or in a file that was named; where 1 is a verdict, any failure |
| 125 – 127, others | `container run`: as docker-run(1) |
| 128 + n | ended by signal n: 130 for Ctrl-C, 141 where the reader of the output has gone |
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import cast

import click

from harness.cli.elevation import MAY, go_on_as_root
from harness.cli.standard_streams import (
    RecordedOutput,
    flush_standard_streams,
    open_standard_streams,
)
from harness.model.errors import HarnessError, RecordError, ScenarioError
from harness.model.version import VERSION

_EXIT_FAILED, _EXIT_USAGE, _EXIT_INTERRUPTED, _EXIT_BROKEN_PIPE = 1, 2, 130, 141

# Name -> (module:attribute, what the list of commands says about it).
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("harness.cli.run:run", "Run scenarios in their arms, measure, and report."),
    "report": ("harness.cli.report:report", "Make the report of earlier runs again."),
    "compare": ("harness.cli.compare:compare", "Say whether B is worse than A."),
    "check": ("harness.cli.check:check", "Does a run keep its budgets? Is it as good as before?"),
    "history": ("harness.cli.history:history", "Trends over many runs, and where they changed."),
    "doctor": ("harness.cli.doctor:doctor", "What works here, and what was left behind."),
    "container": ("runtime.cli.container:container", "Run a container, or print its launch plan."),
    "image": ("runtime.cli.image:image", "Pull, build, import and look at images."),
    "version": ("harness.cli.main:version", "Print the version."),
}

# Their exit code 1 is a verdict, "worse"; no other failure may look like it.
_JUDGES = frozenset({"compare", "check", "history"})


class _LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _colon, attribute = _COMMANDS[cmd_name][0].partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="steelyard", message="%(prog)s %(version)s")
def cli() -> None:
    """Weighs the box, not the goods.

    Starts the same workload, from the same image, in virtual machines and in containers, and
    measures what each box costs: `steelyard run`.
    """


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"steelyard {VERSION}")


def main() -> None:
    """The entry point: run the command line and exit."""
    streams = open_standard_streams()
    arguments = sys.argv[1:]
    if os.environ.get(MAY):
        go_on_as_root(arguments)
    code = _run(arguments, streams)
    flush_standard_streams()
    lost = streams[0].failure
    if isinstance(lost, BrokenPipeError):
        code = _EXIT_BROKEN_PIPE  # the reader has gone, and wants no more
    elif lost is not None:
        message = f"cannot write to the standard output: {_reason(lost)}"
        code = _complain(message, _failure(arguments))
        flush_standard_streams()
    sys.exit(code)


def _run(arguments: list[str], streams: Sequence[RecordedOutput]) -> int:
    """Run the command line; every way to end becomes an exit code here."""
    try:
        with cli.make_context("steelyard", list(arguments)) as context:
            result = cli.invoke(context)
            return result if isinstance(result, int) else 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else _EXIT_FAILED
    except (Exception, KeyboardInterrupt) as error:  # the edge: no traceback goes past it
        failures = [stream.failure for stream in streams if stream.failure is not None]
        if not failures:
            return _ended_by(error, arguments)
        # For the standard output, `main` writes the message.
        is_broken_pipe = isinstance(failures[0], BrokenPipeError)
        return _EXIT_BROKEN_PIPE if is_broken_pipe else _failure(arguments)


def _ended_by(error: Exception | KeyboardInterrupt, arguments: Sequence[str]) -> int:
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return _EXIT_USAGE
        case click.ClickException():
            context = getattr(error, "ctx", None)
            hint = f"; see {context.command_path} --help" if context is not None else ""
            return _complain(_sentence(error.format_message()) + hint, error.exit_code)
        case ScenarioError():
            return _complain("\nsteelyard: ".join(error.problems), _EXIT_USAGE)
        case RecordError():
            return _complain(str(error), _EXIT_USAGE)
        case HarnessError():
            return _complain(str(error), _failure(arguments))
        case KeyboardInterrupt() | click.Abort():
            signal_number = getattr(error, "signal_number", None)
            return _EXIT_INTERRUPTED if signal_number is None else 128 + int(signal_number)
        case _:
            return _unforeseen(error, _failure(arguments))


def _failure(arguments: Sequence[str]) -> int:
    """The exit code of a command that failed."""
    return _EXIT_USAGE if _JUDGES.intersection(arguments[:1]) else _EXIT_FAILED


def _unforeseen(error: Exception, failure: int) -> int:
    """An error of the runtime carries its exit code; anything else is a mistake of ours."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _complain(str(error), code)
    if os.environ.get("STEELYARD_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OSError):
        return _complain(_reason(error), failure)
    what = f"{type(error).__name__}: {error}"
    advice = "this is a mistake in Steelyard; STEELYARD_DEBUG=1 shows where, please report it"
    return _complain(f"{what}; {advice}", failure)


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"steelyard: {message}", err=True)
    return code


def _sentence(message: str) -> str:
    """Click's messages begin with a capital and end with a stop; ours follow `steelyard: `."""
    message = message.strip().rstrip(".")
    first, stop, rest = message.partition(". ")
    # A second sentence, such as a suggestion, becomes a part of the first.
    message = f"{first}; {rest[:1].lower()}{rest[1:]}" if stop else first
    return message[:1].lower() + message[1:]


def _reason(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{(error.strerror or str(error)).lower()}"


if __name__ == "__main__":
    main()
