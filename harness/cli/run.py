"""`steelyard run`: from what was typed to a run's folder with records and report."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import harness
from harness.cli.options import Typed, invoked_as, request_from, with_noise
from harness.measure import schedule

if TYPE_CHECKING:
    from rich.console import Console

    from harness.measure.request import Request
    from harness.model import RunInfo
    from harness.records import RunWriter

_RESULTS = Path("results")
_HOOKS = {
    "setup": "once before the first trial of a scenario",
    "prepare": "before each trial",
    "conclude": "after each trial",
    "cleanup": "once after the last trial, however the run ends",
}

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--arm", "arms"),
        {
            "multiple": True,
            "metavar": "ARM",
            "help": "Only this arm: one of the scenario's, or "
            "[NAME=]BACKEND[,OPTION=VALUE…]. Repeatable.",
        },
    ),
    (
        ("--cache",),
        {
            "type": click.Choice(["warm", "cold", "both"]),
            "help": "State of the page cache before each trial: what earlier trials left, nothing "
            "of the image, or each arm once in either. Default: as the scenario says, warm.",
        },
    ),
    (
        ("--blocks",),
        {
            "type": click.IntRange(min=1),
            "metavar": "N",
            "help": f"Trials of every arm. Default: as many as fit --time-limit, at most "
            f"{schedule.DEFAULT_MOST_BLOCKS}, with --until {schedule.UNTIL_MOST_BLOCKS}.",
        },
    ),
    (
        ("--until",),
        {
            "multiple": True,
            "metavar": "[METRIC=]WIDTH%",
            "help": "End as soon as the 95 % interval of every median is this narrow: plus and "
            "minus so many percent, of ready or of the metric named. Repeatable.",
        },
    ),
    (
        ("--warmup",),
        {
            "type": click.IntRange(min=0),
            "default": schedule.DEFAULT_WARMUP_BLOCKS,
            "show_default": True,
            "metavar": "N",
            "help": "Blocks before those, recorded and not counted.",
        },
    ),
    (
        ("--time-limit",),
        {
            "metavar": "DURATION",
            "help": "What the trials may take in all, like 90s or 10m. Default: "
            f"{schedule.DEFAULT_TIME_LIMIT_NS // 10**9}s without --blocks, none with it.",
        },
    ),
    (
        ("--aa/--no-aa",),
        {
            "default": None,
            "help": "Take an arm twice and compare it with itself, which shows the noise of this "
            "host. Default: where that is not known, or older than 30 days.",
        },
    ),
    (
        ("--scale",),
        {
            "type": click.IntRange(min=1),
            "metavar": "N",
            "help": "Let 1, 2, 4, … N instances of each arm live at once.",
        },
    ),
    (
        ("--most",),
        {
            "multiple": True,
            "metavar": "ARM=N",
            "help": "With --scale or a scenario that has it: no more of this arm. Repeatable.",
        },
    ),
    *(
        ((f"--{hook}",), {"metavar": "CMD", "help": f"Shell command {when}."})
        for hook, when in _HOOKS.items()
    ),
    (
        ("--seed",),
        {"type": int, "metavar": "S", "help": "Of the order of trials. Default: drawn."},
    ),
    (
        ("--output",),
        {
            "type": click.Path(path_type=Path, file_okay=False),
            "metavar": "DIR",
            "help": "Folder of this run, new or empty. Default: results/ and the run's identifier.",
        },
    ),
    (
        ("--resume",),
        {
            "type": click.Path(path_type=Path, file_okay=False),
            "metavar": "RUN",
            "help": "Go on with an interrupted run in this folder, as it was asked for.",
        },
    ),
)


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    for names, settings in reversed(_OPTIONS):
        command = click.option(*names, **settings)(command)
    return command


@click.command()
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]…")
@_with_options
@click.pass_context
def run(context: click.Context, /, **typed: Any) -> int:
    """Run scenarios in their arms, measure, and report.

    A SCENARIO is the path of a scenario file, or the name of one that comes with Steelyard. Without
    any, all of these are run, but for those in which many instances live at once.
    """
    output, resume = typed.pop("output"), typed.pop("resume")
    if resume is not None:
        _refuse_more(context)
        return _resume(resume)
    from harness.records import RunWriter, new_run_id

    run_id = new_run_id(datetime.now(UTC))
    hooks = {hook: typed.pop(hook) for hook in _HOOKS}
    options = Typed(hooks=hooks, **typed)
    request = request_from(options, run_id)
    directory = output or _RESULTS / run_id
    existed = directory.exists()
    with RunWriter(directory) as writer, folder_only_with_trials(directory, existed=existed):
        return _measure_and_report(request, writer, options.aa)


def _refuse_more(context: click.Context) -> None:
    """What else was typed beside `--resume`: the records say all of that."""
    for name in context.params:
        is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name == "resume" or not is_typed or not context.params[name]:
            continue
        what = "SCENARIO" if name == "scenarios" else f"--{name.replace('_', '-')}"
        message = f"--resume takes everything from the records; take out {what}"
        raise click.UsageError(message)


def _resume(directory: Path) -> int:
    from harness.measure.request import Request
    from harness.measure.resume import Resumption, refuse_unless_resumable
    from harness.records import RunWriter, read_run

    with RunWriter.resume(directory) as writer:
        resumption = Resumption(read_run(directory), directory)
        refuse_unless_resumable(resumption, harness.__version__)
        info = resumption.run.info
        request = Request(
            scenarios=info.scenarios,
            blocks=resumption.wanted_blocks,
            warmup_blocks=info.warmup_blocks,
            seed=info.seed,
            time_limit_ns=info.time_limit_ns,
            required_arms=frozenset(),
            command=info.command,
            run_id=info.run_id,
            steelyard=info.steelyard,
            until=info.until,
            noise=info.noise,
            resumption=resumption,
        )
        return _measure_and_report(request, writer, aa=False)


def _measure_and_report(request: Request, writer: RunWriter, aa: bool | None) -> int:
    from harness import environment
    from harness.backends import get_backend
    from harness.cli.progress import listener_for, make_console
    from harness.experiment import images
    from harness.measure.hooks import HookFailedError
    from harness.measure.interruption import Interrupted
    from harness.measure.runner import Runner
    from runtime import cache_home

    console = make_console()
    captured = environment.capture()
    noise_folder = cache_home() / "noise"
    if request.resumption is None:
        request = with_noise(request, aa, noise_folder, captured)
    failure: HookFailedError | None = None
    try:
        with listener_for(console, request) as listener:
            info = Runner(
                request, get_backend, captured, writer, listener, images.ensure_image
            ).run()
    except Interrupted as error:
        _tell_interruption(error, writer.directory)
        raise
    except HookFailedError as error:
        if error.hook != "cleanup":
            raise
        failure = error  # all trials are there: they are reported all the same
    else:
        _remember_noise(info, noise_folder)
    code = _report(writer.directory, console)
    if failure is not None:
        raise failure
    return code


def _tell_interruption(error: KeyboardInterrupt, directory: Path) -> None:
    from harness.records import TRIALS_FILE

    if getattr(error, "signal_number", None) == signal.SIGPIPE:
        return  # whoever read has gone, and nobody is there to be told
    if not (directory / TRIALS_FILE).stat().st_size:
        click.echo(f"steelyard: {error} before any trial was finished", err=True)
        return
    name, folder = invoked_as(), shlex.quote(str(directory))
    click.echo(
        f"steelyard: {error}; the finished trials are in {directory}, for: {name} report {folder}, "
        f"or to go on: {name} run --resume {folder}",
        err=True,
    )


@contextlib.contextmanager
def folder_only_with_trials(directory: Path, *, existed: bool) -> Iterator[None]:
    """Remove the run's folder if the run fails before it holds any trial."""
    try:
        yield
    except BaseException:
        _remove_if_empty(directory, existed=existed)
        raise


def _remove_if_empty(directory: Path, *, existed: bool) -> None:
    from harness.records import HOOKS_FILE, RUN_FILE, TRIALS_FILE

    trials, hooks = directory / TRIALS_FILE, directory / HOOKS_FILE
    if not trials.exists() or trials.stat().st_size:
        return
    for name in (RUN_FILE, TRIALS_FILE):
        (directory / name).unlink(missing_ok=True)
    if hooks.exists():
        return  # what the user's commands printed may say why there are no trials
    if not existed:
        shutil.rmtree(directory)
    with contextlib.suppress(OSError):
        # Only an empty `results` that this run made goes with it.
        _RESULTS.rmdir()


def _remember_noise(info: RunInfo, folder: Path) -> None:
    """Keep what this run has shown of the host's noise, for later runs on it."""
    from harness.analysis import noise
    from harness.model import comparability

    measured = tuple(floor for floor in info.noise if floor.run_id == info.run_id)
    if measured:
        noise.remember(folder, comparability.host_class(info.environment), measured)


def _report(directory: Path, console: Console) -> int:
    from harness.analysis.summary import summarise
    from harness.cli.terminal import print_summary
    from harness.model import Outcome
    from harness.records import read_run
    from harness.report import write_report

    result = read_run(directory)
    summary = summarise(result)
    try:
        print_summary(summary, console)
    finally:
        written = write_report(summary, directory)  # also when nobody reads any more
    console.print()
    for path in written:
        if path.suffix in (".html", ".md"):
            console.print(f"written: {path}", soft_wrap=True)
    failed = sum(trial.outcome is not Outcome.OK for trial in result.trials)
    if failed:
        click.echo(
            f"steelyard: {failed} of {len(result.trials)} trials failed; their errors are in "
            f"{directory / 'trials.jsonl'}",
            err=True,
        )
    return 1 if failed else 0
