"""`steelyard compare`: is B worse than A? One run with both, interleaved, until that is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from harness.cli import options
from harness.cli.output import conducted, emit, format_option


@click.command()
@click.argument("sides", nargs=-1, metavar="[A B]")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    default=("hello",),
    show_default=True,
    metavar="SCENARIO",
    help="In which both are started. Repeatable.",
)
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="ARM",
    help="Which arm of it: one of the scenario's, or BACKEND[,OPTION=VALUE…]. Default: container, "
    "or the first that knows the settings of A and B.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC[,…]",
    help="What is compared. Repeatable. Default: ready, cpu, disk, disk-shared.",
)
@click.option(
    "--within",
    default="5%",
    show_default=True,
    metavar="PERCENT",
    help="Differences within this count as none.",
)
@click.option(
    "--revision",
    nargs=2,
    metavar="A B",
    help="Compare two revisions of Steelyard itself, or of what --context names.",
)
@click.option(
    "--context",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="With --revision: build the image of this folder, with its Containerfile, at both "
    "revisions of its git repository.",
)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Trials of each at most. Default: 1000, as far as they fit --time-limit.",
)
@click.option(
    "--time-limit",
    metavar="DURATION",
    help="What the trials may take in all. Default: 10m without --blocks, none with it.",
)
@options.warmup_option
@options.seed_option
@options.output_option
@format_option
def compare(sides: tuple[str, ...], formats: tuple[tuple[str, str], ...], **typed: Any) -> int:
    """Say whether B is worse than A, from one run that takes both in turn.

    A and B are two images; or settings of one arm: kernel=PATH, qemu=PATH, cache=cold; or arms with
    their settings: container,cache=cold. With --revision they are two revisions instead: of
    Steelyard itself, or of the folder that --context names.

    The run ends as soon as there is a verdict on every metric: better, worse, or the same within
    the margin. Exit code: 0 B is no worse, 1 it is worse, 2 the question was wrong, 3 it cannot be
    told; then the output says what would be needed.
    """
    from harness.experiment.compare import compare, compare_revisions
    from harness.scenario import load_scenario

    revision, context = typed["revision"], typed["context"]
    arm = _one_arm(typed["arms"])
    _refuse_nonsense(sides, revision, context)
    names = (name.strip() for value in typed["metrics"] for name in value.split(","))
    asked: dict[str, Any] = {
        "arm": arm,
        "metrics": options.parse_metrics(names, "no metric is called"),
        "within": options.parse_percent(typed["within"], "--within", above_zero=True),
    }
    time_limit_ns = options.parse_time_limit(typed["time_limit"])
    scenarios = tuple(load_scenario(name) for name in dict.fromkeys(typed["scenarios"]))
    with conducted(
        blocks=typed["blocks"],
        time_limit_ns=time_limit_ns,
        warmup_blocks=typed["warmup"],
        seed=typed["seed"],
        directory=typed["output"],
    ) as conduct:
        if revision is not None:
            judgement = compare_revisions(scenarios, *revision, context=context, **asked, **conduct)
        else:
            first, second = sides
            judgement = compare(scenarios, first, second, **asked, **conduct)
    return emit(judgement, formats)


def _refuse_nonsense(
    sides: Sequence[str], revision: tuple[str, str] | None, context: Path | None
) -> None:
    if revision is not None and sides:
        message = "A and B are the two revisions; take out what else was named"
        raise click.UsageError(f"with --revision, {message}")
    if revision is None and context is not None:
        raise click.UsageError("--context says where: give --revision A B too")
    if revision is None and len(sides) != 2:
        message = f"two things are compared, and {len(sides)} given; name A and B, or --revision"
        raise click.UsageError(message)


def _one_arm(arms: Sequence[str]) -> str | None:
    if len(arms) > 1:
        message = f"one arm is compared, and {len(arms)} were named: {', '.join(arms)}"
        raise click.UsageError(f"--arm: {message}; ask once for each")
    return arms[0] if arms else None
