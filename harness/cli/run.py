"""`steelyard run`: from what was typed to a run's folder with records and report."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli import options
from harness.cli.output import (
    TERMINAL,
    Formats,
    on_stdout,
    output_options,
    print_text,
    write_exports,
)
from harness.measure import schedule
from harness.report import CHARTS, TEXTS

if TYPE_CHECKING:
    from harness.model import RunInfo, Scenario
    from harness.model.events import Listener
    from harness.records import Run

_SHOWN = frozenset({"resume", "formats", "exports", "verbose", "is_brief"})
"""Options that may stand beside `--resume`: they are about the result."""
_HOOKS = ("setup", "prepare", "conclude", "cleanup")


class _Run(click.Command):
    """Takes what follows `--quiet` for a scenario; its value stands behind an equals sign."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--quiet=10%" if a == "--quiet" else a for a in args])


@click.command(cls=_Run)
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]…")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="ARM",
    help="Only this arm: one of the scenario's, or [NAME=]BACKEND[,OPTION=VALUE…]. Repeatable.",
)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold", "both"]),
    help="State of the page cache before each trial: what earlier trials left, nothing of the "
    "image, or each arm once in either. Default: as the scenario says, warm.",
)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Trials of every arm. Default: as many as fit --time-limit, at most "
    f"{schedule.DEFAULT_MOST_BLOCKS}, with --anchor {schedule.ANCHORED_MOST_BLOCKS}, with --until "
    f"{schedule.UNTIL_MOST_BLOCKS}.",
)
@click.option(
    "--until",
    multiple=True,
    metavar="[METRIC=]WIDTH%",
    help="End as soon as the 95 % interval of every median is this narrow: plus and minus so many "
    "percent, of ready or of the metric named. Repeatable.",
)
@options.warmup_option
@click.option(
    "--time-limit",
    metavar="DURATION",
    help="What the trials may take in all, like 90s or 10m; 3 blocks are taken whatever they take. "
    f"Default: {schedule.DEFAULT_TIME_LIMIT_NS // 10**9}s without --blocks, and at least 6 blocks; "
    "none with it.",
)
@click.option(
    "--quiet",
    metavar="[=X%]",
    help="Before each block wait, up to a minute, until other processes use less than X percent of "
    "all CPUs, and take a block in which they used more again, at most twice. Default of X: 10.",
)
@click.option(
    "--cpuset",
    metavar="LIST",
    help="Keep Steelyard and all boxes that it starts to these CPUs, like 2-3 or 0,2. A container "
    "engine's daemon starts boxes elsewhere.",
)
@click.option(
    "--aa/--no-aa",
    default=None,
    help="Take an arm twice and compare it with itself, which shows the noise of this host. "
    "Default: where that is not known, or older than 30 days.",
)
@click.option(
    "--anchor/--no-anchor",
    default=False,
    help="Take each arm once more, pinned to today's image by its digest, so that later runs can "
    "be held against this one: `steelyard check --baseline`. Default: --no-anchor.",
)
@click.option(
    "--scale",
    type=click.IntRange(min=1),
    metavar="N",
    help="Let 1, 2, 4, … N instances of each arm live at once.",
)
@click.option(
    "--most",
    multiple=True,
    metavar="ARM=N",
    help="With --scale or a scenario that has it: no more of this arm. Repeatable.",
)
@click.option(
    "--setup",
    metavar="CMD",
    help="Shell command once before the first trial of a scenario.",
)
@click.option("--prepare", metavar="CMD", help="Shell command before each trial.")
@click.option("--conclude", metavar="CMD", help="Shell command after each trial.")
@click.option(
    "--cleanup",
    metavar="CMD",
    help="Shell command once after the last trial, however the run ends.",
)
@options.seed_option
@options.output_option
@output_options((TERMINAL, *TEXTS), CHARTS)
@options.verbosity_options
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="Go on with an interrupted run in this folder, as it was asked for.",
)
@click.pass_context
def run(context: click.Context, /, **typed: Any) -> int:
    """Run scenarios in their arms, measure, and report.

    A SCENARIO is the path of a scenario file, or the name of one that comes with Steelyard. Without
    any, all of these are run, but for those in which many instances live at once.

    The standard output gets the result, the standard error what is being done. Exit code: 0 fine,
    1 a trial failed, or an arm named by --arm could not run.
    """
    from harness.experiment.run import new_directory

    if typed["resume"] is not None:
        _refuse_more(context)
    take = _prepared(typed)
    directory = typed["resume"] or typed["output"] or new_directory()
    shown = Shown(typed["formats"], typed["verbose"], typed["is_brief"])
    result, code = measure_and_report(take, directory, shown)
    return max(code, refuse_left_out(result.info))


@dataclass(frozen=True, slots=True)
class Shown:
    """How a run's result is shown.

    Attributes:
        formats: (name, path) of each form that was asked for.
        verbose: On a terminal all tables and warnings.
        is_brief: On a terminal the last line alone.
        stderr: What is for a terminal goes to the standard error: something else is the result.
    """

    formats: Formats = ()
    verbose: bool = False
    is_brief: bool = False
    stderr: bool = False


def measure_and_report(
    take: Callable[[Path, Listener], Run], directory: Path, shown: Shown | None = None
) -> tuple[Run, int]:
    """Take a run, show on stderr how it goes on, write its report, and show what it came to.

    Args:
        take: Takes the run into a folder.
        directory: The folder.
        shown: How the result is shown; None: beside another result, on the standard error.

    Returns:
        The run, and the exit code of `steelyard run`: 1 if a trial failed.

    Raises:
        Interrupted: By a signal, after saying where the finished trials are.
        HookFailedError: As `take`; where it was `cleanup`, after the report.
    """
    from harness.cli.progress import listener_for, make_console
    from harness.measure.hooks import HookFailedError
    from harness.measure.interruption import Interrupted
    from harness.records import read_run

    failure: HookFailedError | None = None
    try:
        with listener_for(make_console(stderr=True)) as listener:
            result = take(directory, listener)
    except Interrupted as error:
        _report_interruption(error, directory)
        raise
    except HookFailedError as error:
        if error.hook != "cleanup":
            raise
        failure, result = error, read_run(directory)  # all trials are there: they are reported
    code = _report(result, directory, shown or Shown(stderr=True))
    if failure is not None:
        raise failure
    return result, code


def _prepared(typed: Mapping[str, Any]) -> Callable[[Path, Listener], Run]:
    """Read everything typed, and report what is wrong with it, before anything is made."""
    from harness.experiment.anchors import anchored
    from harness.experiment.run import resume, run
    from harness.scenario.overrides import Overrides, load_scenarios

    if typed["resume"] is not None:
        return lambda directory, listener: resume(directory, listener=listener)
    time_limit_ns = options.parse_time_limit(typed["time_limit"])
    until = options.parse_until(typed["until"])
    quiet, cpuset = options.parse_quiet(typed["quiet"]), options.parse_cpuset(typed["cpuset"])
    overrides = Overrides(
        arms=typed["arms"],
        cache=typed["cache"],
        hooks={hook: typed[hook] for hook in _HOOKS},
        scale=typed["scale"],
        most=options.parse_most(typed["most"]),
    )
    scenarios = load_scenarios(typed["scenarios"], overrides)

    def chosen() -> Sequence[Scenario]:
        if not typed["anchor"]:
            return scenarios
        return anchored(scenarios, (), lambda sentence: click.echo(sentence, err=True))

    return lambda directory, listener: run(
        chosen(),
        blocks=typed["blocks"],
        until=until,
        time_limit_ns=time_limit_ns,
        warmup_blocks=typed["warmup"],
        seed=typed["seed"],
        repeat=typed["aa"],
        required=bool(typed["arms"]),
        quiet=quiet,
        cpuset=cpuset,
        directory=directory,
        listener=listener,
        command=options.typed_command(),
    )


def _refuse_more(context: click.Context) -> None:
    """Refuse what else was typed beside `--resume`: the records say all of that."""
    for name in context.params:
        is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name in _SHOWN or not is_typed or not context.params[name]:
            continue
        what = "SCENARIO" if name == "scenarios" else f"--{name.replace('_', '-')}"
        raise click.UsageError(f"--resume takes everything from the records; take out {what}")


def _report_interruption(error: KeyboardInterrupt, directory: Path) -> None:
    from harness.records import TRIALS_FILE

    if getattr(error, "signal_number", None) == signal.SIGPIPE:
        return  # the reader has gone
    trials = directory / TRIALS_FILE
    if not trials.exists() or not trials.stat().st_size:
        click.echo(f"steelyard: {error} before any trial was finished", err=True)
        return
    name, folder = options.invoked_as(), shlex.quote(str(directory))
    click.echo(
        f"steelyard: {error}; the finished trials are in {directory}, for: {name} report {folder}, "
        f"or to go on: {name} run --resume {folder}",
        err=True,
    )


def _report(result: Run, directory: Path, shown: Shown) -> int:
    """Show a run's result, write its report, and return the exit code: 1 if a trial failed."""
    from harness.analysis.summary import summarise
    from harness.cli.progress import make_console
    from harness.cli.terminal import print_end, print_result
    from harness.model import Outcome
    from harness.report import write_report

    summary = summarise(result)
    form = on_stdout(shown.formats)
    console = make_console(stderr=shown.stderr or form != TERMINAL)
    is_brief = shown.is_brief or form != TERMINAL
    try:
        if form != TERMINAL:
            print_text([summary], form)
        elif not is_brief:
            print_result(summary, console, verbose=shown.verbose)
    finally:
        write_report(summary, directory)  # also when nobody reads any more
    write_exports([summary], shown.formats)
    print_end(summary, directory / TEXTS["html"], console)
    failed = sum(trial.outcome is not Outcome.OK for trial in result.trials)
    if failed and is_brief:
        click.echo(
            f"steelyard: {failed} of {len(result.trials)} trials failed; their errors are in "
            f"{directory / 'trials.jsonl'}",
            err=True,
        )
    return 1 if failed else 0


def refuse_left_out(info: RunInfo) -> int:
    """Return 1, and say so, where arms that were named by `--arm` did not run."""
    from harness.report.text.screen import left_out

    named = any(word == "--arm" or word.startswith("--arm=") for word in info.command)
    out = left_out(info) if named else ()
    if out:
        click.echo(f"steelyard: asked for by --arm, and left out: {'; '.join(out)}", err=True)
    return 1 if out else 0
