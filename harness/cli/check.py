"""`steelyard check`: does a run keep its budgets, and is it as good as an earlier one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import parse_percent, typed_command
from harness.cli.output import conducted, emit, format_option
from harness.measure import schedule

if TYPE_CHECKING:
    from harness.analysis.judgement import Judgement
    from harness.model.events import Listener
    from harness.records import Run
    from harness.records.dataset import RunData


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
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --run: so many. Default: as many as fit 200 s, at most "
    f"{schedule.DEFAULT_MOST_BLOCKS}, with anchors {schedule.ANCHORED_MOST_BLOCKS}.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="An earlier run of the same kind of host, or a folder with many: what `of = 'baseline'` "
    "means, and without budgets of that kind what every metric is held against. Times and memory "
    "need an anchor that both runs hold, or two or more earlier runs. Repeatable.",
)
@click.option(
    "--anchor/--no-anchor",
    default=None,
    help="With --run: take each guarded arm once more on the image that the baseline ran, found by "
    "its digest, or without a baseline on that of today: a host's level differs from run to run, "
    "and the ratio to an anchor hardly. Default: with --baseline.",
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
    help="Where no budget is of the baseline: how much more than it is allowed. Default: 10%; 5% "
    "of what is on disk, and with --against, as a paired run tells smaller differences.",
)
@format_option
def check(folder: Path | None, formats: tuple[tuple[str, str], ...], **typed: Any) -> int:
    """Hold a run against the budgets of its scenarios.

    RUN is the folder of a run, by default the newest in results/. With --against there is no such
    run: what was before and what is now are taken in turn, until it is known whether the one is
    within what is allowed of the other. Exit code: 0 all is within its budget, 1 something is not,
    2 the question was wrong, 3 it cannot be told.
    """
    from harness.experiment.check import check, earlier_runs, newest_run
    from harness.model.errors import RecordError
    from harness.records.dataset import run_data
    from harness.records.scan import read_data

    scenarios, baselines = typed["scenarios"], typed["baselines"]
    within = typed["within"]
    allowed = {} if within is None else {"within": parse_percent(within, "--within")}
    if scenarios and folder is not None:
        raise click.UsageError(
            "--run and a RUN exclude each other: a new run, or one that is there"
        )
    if not scenarios and (typed["arms"] or typed["blocks"] or typed["anchor"] is not None):
        message = "--arm, --blocks and --anchor say how to take a run: give --run SCENARIO too"
        raise click.UsageError(message)
    _refuse_half_a_pair(**typed)
    if typed["against"] is not None:
        return emit(_check_against(typed, allowed), formats)
    folder = None if scenarios else folder or newest_run()
    # Before a run is taken: a wrong name is reported at once.
    before = earlier_runs(baselines, folder, _notify)
    run = run_data(_take(typed, before)) if folder is None else read_data(folder)
    if run.frame.empty:
        where = folder or run.info.run_id
        message = f"{where} has no trials: trials.jsonl is missing or empty; copy it again"
        raise RecordError(f"{message}, or take a new run by --run SCENARIO")
    return emit(check(run, before, **allowed), formats)


def _notify(sentence: str) -> None:
    click.echo(sentence, err=True)


def _take(typed: Mapping[str, Any], before: Sequence[RunData]) -> Run:
    """Take a run, and show it, as `steelyard run` does; failed trials are judged too."""
    from harness.cli.run import measure_and_report
    from harness.experiment.anchors import anchored
    from harness.experiment.run import new_directory, run
    from harness.scenario.overrides import Overrides, load_scenarios

    chosen = load_scenarios(typed["scenarios"], Overrides(arms=typed["arms"]))
    if bool(before) if typed["anchor"] is None else typed["anchor"]:
        chosen = anchored(chosen, [run.info for run in before], _notify)

    def take(directory: Path, listener: Listener) -> Run:
        return run(
            chosen,
            blocks=typed["blocks"],
            required=bool(typed["arms"]),
            directory=directory,
            listener=listener,
            command=typed_command(),
        )

    taken, _ = measure_and_report(take, new_directory())
    return taken


def _check_against(typed: Mapping[str, Any], allowed: Mapping[str, float]) -> Judgement:
    from harness.experiment.check import check_against, is_surely_a_revision
    from harness.scenario import load_scenario

    against, context = typed["against"], typed["context"]
    if context is None and is_surely_a_revision(against):
        message = f"{against} is a revision, and of what is not said; add --context DIR"
        raise click.UsageError(f"--against: {message}, the folder with the Containerfile")
    loaded = tuple(load_scenario(name) for name in dict.fromkeys(typed["scenarios"]))
    with conducted(blocks=typed["blocks"]) as conduct:
        return check_against(
            loaded, against, context=context, arms=typed["arms"], **allowed, **conduct
        )


def _refuse_half_a_pair(
    against: str | None,
    context: Path | None,
    scenarios: object,
    baselines: object,
    anchor: bool | None,
    **_: object,
) -> None:
    if against is None and context is not None:
        raise click.UsageError("--context says where a revision is: give --against REV too")
    if against == "":
        raise click.UsageError("--against is empty: name a revision or an image")
    if against is not None and not scenarios:
        message = "--against takes a new run with both: say of which scenario by --run SCENARIO"
        raise click.UsageError(message)
    if against is not None and anchor is not None:
        raise click.UsageError("--against pairs both within a run, which needs no anchor")
    if against is not None and baselines:
        raise click.UsageError(
            "--against and --baseline exclude each other: a paired run, or an earlier one"
        )
