"""A paired run: both sides of a comparison taken in turn, until there is a verdict on everything.

`steelyard compare` and `steelyard check --against` differ in what they ask and of what; here is
what they have in common:

revisions   a folder of a git repository at both revisions -> two folders
images      the same, built by their Containerfile         -> two images
take        run, report, judgement

What was made for a comparison is gone when its context ends; a caller holds `interruptible` around
all of them, so that a signal is no way around that.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

import harness
from harness.cli.options import invoked_as
from harness.cli.run import folder_only_with_trials
from harness.measure import schedule

if TYPE_CHECKING:
    from harness.analysis.compare import Question
    from harness.analysis.judgement import Judgement
    from harness.measure.prepare import GetBackend
    from harness.model import Run, Scenario

_RESULTS = Path("results")
_TIME_LIMIT_NS = 600_000_000_000
"""Where neither a number of blocks nor a time is given."""

Two = tuple[str, str]
"""Something of A and of B."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared.

    Attributes:
        scenarios: Each with its arms in pairs, see `harness.scenario.pairing`.
        get_backend: Where backends come from.
        told: What A and B are, for the judgement.
        cautions: What the verdict does not cover, a sentence each.
    """

    scenarios: tuple[Scenario, ...]
    get_backend: GetBackend
    told: Two
    cautions: tuple[str, ...] = ()


def not_the_images_own(scenarios: Sequence[Scenario]) -> str:
    """A caution for images that are held against each other: what starts in them is not theirs."""
    own = [
        f"{scenario.name} starts {shlex.join(command)!r}"
        for scenario in scenarios
        for command in dict.fromkeys(
            scenario.for_arm(arm).workload.command for arm in scenario.arms
        )
        if command
    ]
    if not own:
        return ""
    return (
        f"{' and '.join(own)} in both images: how their own programs start is not measured; for "
        "that, leave workload.command out of the scenario"
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured, and where it is recorded.

    Attributes:
        blocks: Trials of each arm at most; None: as many as a comparison may take.
        time_limit_ns: What they may take in all; None: no limit if `blocks` is given.
        warmup: Blocks before those.
        seed: Of the order of trials; None: drawn.
        directory: Of the run; None: in results/, under its identifier.
    """

    blocks: int | None = None
    time_limit_ns: int | None = None
    warmup: int = schedule.DEFAULT_WARMUP_BLOCKS
    seed: int | None = None
    directory: Path | None = None


@contextlib.contextmanager
def revisions(folder: Path, typed: Two) -> Iterator[tuple[tuple[Path, Path], Two]]:
    """A folder of a repository at both revisions, and the words for them.

    Raises:
        PrepareError: It is in no repository, or a revision is not there.
    """
    from harness.experiment.images import temporary_folder
    from harness.experiment.revisions import export, find_revision, repository_of

    repository = repository_of(folder)
    first, second = (find_revision(repository, name) for name in typed)
    with contextlib.ExitStack() as stack:
        trees = []
        for revision in (first, second):
            tree = stack.enter_context(temporary_folder("revision"))
            export(revision, folder, tree)
            trees.append(tree)
        yield (trees[0], trees[1]), (first.told, second.told)


@contextlib.contextmanager
def images(folder: Path, typed: Two) -> Iterator[tuple[Two, Two]]:
    """The images of a folder at both revisions, and the words for them.

    Raises:
        PrepareError: As `revisions`, or an image cannot be built.
    """
    with contextlib.ExitStack() as stack:
        trees, told = stack.enter_context(revisions(folder, typed))
        first, second = (
            stack.enter_context(_image(tree, folder, name))
            for tree, name in zip(trees, told, strict=True)
        )
        yield (first, second), told


@contextlib.contextmanager
def _image(tree: Path, folder: Path, told: str) -> Iterator[str]:
    """The image of a copy of a folder; what is wrong with it is told of the folder itself."""
    from harness.experiment.images import temporary_image
    from harness.model.errors import PrepareError

    with contextlib.ExitStack() as stack:
        try:
            image = stack.enter_context(temporary_image(tree, _say_step))
        except PrepareError as error:
            where = str(error).replace(str(tree), str(folder))
            raise PrepareError(f"{told}: {where}") from error
        yield image


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Every signal to end is an exception, so that what was made for a comparison is removed."""
    from harness.measure.interruption import Interruption

    with Interruption() as interruption, interruption.safe():
        yield


def _say_step(message: str) -> None:
    click.echo(message, err=True)


def take(sides: Sides, questions: Sequence[Question], asked: str, effort: Effort) -> Judgement:
    """Take the run, write its report, and judge it.

    Args:
        sides: What is compared.
        questions: What is asked of their metrics.
        asked: The question in one line.
        effort: How much may be measured.

    Raises:
        Interrupted: By a signal; what was measured is recorded.
        HarnessError: An arm cannot be had.
    """
    from harness import environment
    from harness.analysis.compare import DEFAULT_MOST_BLOCKS, Comparer
    from harness.cli.progress import listener_for, make_console
    from harness.experiment.images import ensure_image
    from harness.measure.interruption import Interrupted
    from harness.measure.request import Request
    from harness.measure.runner import Runner
    from harness.records import RunWriter, new_run_id, read_run
    from harness.report import write_report

    for caution in sides.cautions:
        click.echo(f"steelyard: {caution}", err=True)
    most, limit_ns = effort.blocks or DEFAULT_MOST_BLOCKS, effort.time_limit_ns
    if limit_ns is None and effort.blocks is None:
        limit_ns = _TIME_LIMIT_NS
    comparer = Comparer(questions, most)
    run_id = new_run_id(datetime.now(UTC))
    directory = effort.directory or _RESULTS / run_id
    existed = directory.exists()
    request = Request(
        scenarios=sides.scenarios,
        blocks=most,
        warmup_blocks=effort.warmup,
        seed=secrets.randbelow(2**31) if effort.seed is None else effort.seed,
        time_limit_ns=limit_ns,
        required_arms=frozenset(arm.name for scenario in sides.scenarios for arm in scenario.arms),
        command=(invoked_as(), *sys.argv[1:]),
        run_id=run_id,
        steelyard=harness.__version__,
        decided=comparer.is_decided,
    )
    with RunWriter(directory) as writer, folder_only_with_trials(directory, existed=existed):
        try:
            with listener_for(make_console(stderr=True), request) as listener:
                captured = environment.capture()
                runner = Runner(
                    request, sides.get_backend, captured, writer, listener, ensure_image
                )
                runner.run()
        except Interrupted as error:
            click.echo(f"steelyard: {error}; there is no verdict", err=True)
            raise
        run = read_run(directory)
        write_report(run, directory)
    facts = _facts(run, sides.told, str(directory))
    if sides.cautions:
        facts["caution"] = "; ".join(sides.cautions)
    return comparer.judgement(asked, run.trials, run.info.arms, facts)


def _facts(run: Run, told: Two, directory: str) -> dict[str, str]:
    info = run.info
    names = [record.arm.name for record in info.arms]
    first, second = (", ".join(dict.fromkeys(names[side::2])) for side in (0, 1))
    return {
        "A": f"{told[0]} ({first})",
        "B": f"{told[1]} ({second})",
        "blocks": f"{info.blocks} of at most {info.wanted_blocks}",
        "seed": str(info.seed),
        "run": directory,
    }
