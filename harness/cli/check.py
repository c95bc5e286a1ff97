"""`steelyard check`: does a run keep its budgets, and is it as good as an earlier one?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.output import emit, format_option

if TYPE_CHECKING:
    from harness.model import Run, Scenario

_RESULTS = Path("results")


@click.command()
@click.argument("folder", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@click.option(
    "--run",
    "scenarios",
    multiple=True,
    metavar="SCENARIO",
    help="Take a run of it first, and judge that. Repeatable.",
)
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="ARM",
    help="With --run: only this arm, as for `steelyard run`. Repeatable.",
)
@click.option("--blocks", type=click.IntRange(min=1), metavar="N", help="With --run: so many.")
@click.option(
    "--baseline",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="An earlier run of the same kind of host: what `of = 'baseline'` means, and without "
    "budgets of that kind what every metric is held against.",
)
@click.option(
    "--against",
    metavar="REV|IMAGE",
    help="With --run: a paired run, in which every block has both this and what there is now: "
    "image IMAGE and the scenario's own, or with --context the folder at revision REV and as it "
    "is. Needs no earlier run; `of = 'baseline'` then means this.",
)
@click.option(
    "--context",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="With --against REV: a folder with a Containerfile, in a git repository.",
)
@click.option(
    "--within",
    metavar="PERCENT",
    default="5%",
    show_default=True,
    help="Where no budget is of the baseline: how much more than it is allowed.",
)
@format_option
def check(
    folder: Path | None,
    scenarios: tuple[str, ...],
    arms: tuple[str, ...],
    blocks: int | None,
    baseline: Path | None,
    against: str | None,
    context: Path | None,
    within: str,
    formats: tuple[tuple[str, str], ...],
) -> int:
    """Hold a run against the budgets of its scenarios.

    RUN is the folder of a run, by default the newest in results/. With --against there is no such
    run: what was before and what is now are taken in turn, until it is known whether the one is
    within what is allowed of the other. Exit code: 0 all is within its budget, 1 something is not,
    2 the question was wrong, 3 it cannot be told.
    """
    from harness.analysis.check import check as judge
    from harness.model.errors import RecordError
    from harness.records import read_run

    allowed = _percent(within)
    if scenarios and folder is not None:
        raise click.UsageError(
            "--run and a RUN exclude each other: a new run, or one that is there"
        )
    if not scenarios and (arms or blocks):
        raise click.UsageError("--arm and --blocks say how to take a run: give --run SCENARIO too")
    _refuse_half_a_pair(against, context, scenarios, baseline)
    if against is not None:
        from harness.experiment.check_against import Against, judge_against

        typed = Against(scenarios, against, context, arms, blocks, allowed)
        return emit(judge_against(typed), formats)
    # Before a run is taken: a wrong name is told at once.
    before = None if baseline is None else read_run(baseline)
    directory = _take(scenarios, arms, blocks) if scenarios else folder or _newest()
    run = _with_budgets_of_today(read_run(directory))
    if not run.trials:
        message = f"{directory} has no trials: trials.jsonl is missing or empty; copy it again"
        raise RecordError(f"{message}, or take a new run by --run SCENARIO")
    return emit(judge(run, before, within=allowed), formats)


def _refuse_half_a_pair(
    against: str | None,
    context: Path | None,
    scenarios: tuple[str, ...],
    baseline: Path | None,
) -> None:
    if against is None and context is not None:
        raise click.UsageError("--context says where a revision is: give --against REV too")
    if against == "":
        raise click.UsageError("--against is empty: name a revision or an image")
    if against is not None and not scenarios:
        message = "--against takes a new run with both: say of which scenario by --run SCENARIO"
        raise click.UsageError(message)
    if against is not None and baseline is not None:
        raise click.UsageError(
            "--against and --baseline exclude each other: a paired run, or an earlier one"
        )


def _percent(text: str) -> float:
    from harness.model.units import parse_percent

    try:
        return parse_percent(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--within") from error


def _newest() -> Path:
    from harness.model.errors import RecordError
    from harness.records import find_runs, read_info

    # A run's identifier begins with its time; others, such as `reference`, were named by somebody.
    for path in reversed(find_runs(_RESULTS)):
        # The sides of a comparison have no budgets: it was judged when it was taken.
        if path.name[:1].isdecimal() and not read_info(path).paired:
            return path
    message = f"{_RESULTS} holds no run; name one, or take one by --run SCENARIO"
    raise RecordError(message)


def _take(scenarios: tuple[str, ...], arms: tuple[str, ...], blocks: int | None) -> Path:
    """Take a run as `steelyard run` does; failed trials are judged too."""
    from harness.cli.run import run
    from harness.model.errors import RecordError
    from harness.records import find_runs

    before = set(find_runs(_RESULTS))
    arguments = list(scenarios)
    arguments += [word for arm in arms for word in ("--arm", arm)]
    arguments += [] if blocks is None else ["--blocks", str(blocks)]
    run.main(arguments, prog_name="steelyard run", standalone_mode=False)
    taken = [path for path in find_runs(_RESULTS) if path not in before]
    if not taken:
        message = f"the run left nothing in {_RESULTS} to judge; look at what it said above"
        raise RecordError(message)
    return taken[-1]


def _with_budgets_of_today(run: Run) -> Run:
    """The run with the budgets that its scenario files have now, where they are still there.

    A budget is a wish and not a circumstance of the measurement: who has just written one wants
    the run that is there to be held against it.
    """
    scenarios = tuple(_with_budgets(scenario) for scenario in run.info.scenarios)
    return replace(run, info=replace(run.info, scenarios=scenarios))


def _with_budgets(scenario: Scenario) -> Scenario:
    from harness.scenario import load_scenario

    path = Path(scenario.path)
    if not path.is_file():
        return scenario
    return replace(scenario, budgets=load_scenario(path).budgets)
