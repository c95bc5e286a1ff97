"""`steelyard run`: from what was typed to a run's folder with records and report."""

from __future__ import annotations

import secrets
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

import harness
from harness import schedule

if TYPE_CHECKING:
    from rich.console import Console

    from harness.model import Scenario
    from harness.runner import Request

_RESULTS = Path("results")


@click.command()
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]…")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="ARM",
    help="Only this arm: one of the scenario's, a backend, or NAME=BACKEND[,OPTION=VALUE…]. "
    "Repeatable.",
)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Trials of every arm. Default: as many as fit --time-limit, at most "
    f"{schedule.DEFAULT_MOST_BLOCKS}.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=schedule.DEFAULT_WARMUP_BLOCKS,
    show_default=True,
    metavar="N",
    help="Blocks before those, recorded and not counted.",
)
@click.option("--seed", type=int, metavar="S", help="Of the order of trials. Default: drawn.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of this run, new or empty. Default: results/ and the run's identifier.",
)
@click.option(
    "--time-limit",
    metavar="DURATION",
    help="What the trials may take in all, like 90s or 10m. "
    f"Default: {schedule.DEFAULT_TIME_LIMIT_NS // 10**9}s without --blocks, none with it.",
)
def run(
    scenarios: tuple[str, ...],
    arms: tuple[str, ...],
    blocks: int | None,
    warmup: int,
    seed: int | None,
    output: Path | None,
    time_limit: str | None,
) -> int:
    """Run scenarios in their arms, measure, and report.

    A SCENARIO is the path of a scenario file, or the name of one that comes with Steelyard. Without
    any, all of these are run.
    """
    from harness.records import new_run_id

    run_id = new_run_id(datetime.now(UTC))
    limit_ns = _time_limit(time_limit)
    if limit_ns is None and blocks is None:
        limit_ns = schedule.DEFAULT_TIME_LIMIT_NS
    from harness.runner import Request

    request = Request(
        scenarios=_load(scenarios, arms),
        blocks=blocks or schedule.DEFAULT_MOST_BLOCKS,
        warmup_blocks=warmup,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        time_limit_ns=limit_ns,
        required_arms=frozenset(choice.partition("=")[0] for choice in arms),
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        run_id=run_id,
        steelyard=harness.__version__,
    )
    return _measure_and_report(request, output or _RESULTS / run_id)


def _time_limit(text: str | None) -> int | None:
    from harness.quantities import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--time-limit") from error


def _load(names: tuple[str, ...], arms: tuple[str, ...]) -> tuple[Scenario, ...]:
    """All named scenarios, or every problem of all of them at once."""
    from harness.errors import ScenarioError
    from harness.scenario import find_scenario, load_scenario, select_arms, shipped_scenarios

    loaded: dict[str, Scenario] = {}
    problems: list[str] = []
    if not names and not shipped_scenarios():
        raise ScenarioError(("no scenario comes with this installation; name a scenario file",))
    for name in names or [str(path) for path in shipped_scenarios()]:
        try:
            scenario = load_scenario(find_scenario(name))
            if arms:
                scenario = select_arms(scenario, arms)
        except ScenarioError as error:
            problems += error.problems
            continue
        if scenario.name in loaded:
            problems.append(f"{name}: a scenario {scenario.name} is named already; name it once")
        loaded[scenario.name] = scenario
    if problems:
        raise ScenarioError(tuple(dict.fromkeys(problems)))
    return tuple(loaded.values())


def _measure_and_report(request: Request, directory: Path) -> int:
    from harness import environment
    from harness.backends import get_backend
    from harness.interruption import Interrupted
    from harness.progress import listener_for, make_console
    from harness.records import RunWriter
    from harness.runner import Runner

    console = make_console()
    captured = environment.capture()
    existed = directory.exists()
    try:
        with RunWriter(directory) as writer, listener_for(console, request) as listener:
            Runner(request, get_backend, captured, writer, listener).run()
    except Interrupted as error:
        if not _remove_if_empty(directory, existed=existed):
            click.echo(
                f"steelyard: {error}; the finished trials are in {directory}, "
                f"for: steelyard report {directory}",
                err=True,
            )
        else:
            click.echo(f"steelyard: {error} before any trial was finished", err=True)
        raise
    except BaseException:
        _remove_if_empty(directory, existed=existed)
        raise
    return _report(directory, console)


def _remove_if_empty(directory: Path, *, existed: bool) -> bool:
    """Remove the run's folder if it holds no trial; True if it is gone."""
    from harness.records import RUN_FILE, TRIALS_FILE

    trials = directory / TRIALS_FILE
    if not trials.exists() or trials.stat().st_size:
        return False
    if not existed:
        shutil.rmtree(directory)
    else:
        for name in (RUN_FILE, TRIALS_FILE):
            (directory / name).unlink(missing_ok=True)
    with suppress(OSError):
        # Only an empty `results` that this run made goes with it.
        _RESULTS.rmdir()
    return True


def _report(directory: Path, console: Console) -> int:
    from harness.model import Outcome
    from harness.records import read_run
    from harness.report import write_report
    from harness.report.terminal import print_summary

    result = read_run(directory)
    print_summary(result, console)
    written = write_report(result, directory)
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
