"""`steelyard compare`: is B worse than A? One run with both, interleaved, until that is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import harness
from harness.cli.options import parse_time_limit
from harness.cli.output import emit, format_option
from harness.experiment.compare import (
    Effort,
    Sides,
    images,
    interruptible,
    not_the_images_own,
    revisions,
    take,
)
from harness.measure import schedule

if TYPE_CHECKING:
    from harness.model import Scenario
    from harness.model.backend import Backend

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--scenario", "scenarios"),
        {
            "multiple": True,
            "default": ("hello",),
            "show_default": True,
            "metavar": "SCENARIO",
            "help": "In which both are started. Repeatable.",
        },
    ),
    (
        ("--arm", "arms"),
        {
            "multiple": True,
            "metavar": "ARM",
            "help": "Which arm of it: one of the scenario's, or BACKEND[,OPTION=VALUE…]. Default: "
            "container, or the first that knows the settings of A and B.",
        },
    ),
    (
        ("--metric", "metrics"),
        {
            "multiple": True,
            "metavar": "METRIC[,…]",
            "help": "What is compared. Repeatable. Default: ready, disk, disk-shared.",
        },
    ),
    (
        ("--within",),
        {
            "default": "5%",
            "show_default": True,
            "metavar": "PERCENT",
            "help": "Differences within this count as none.",
        },
    ),
    (
        ("--revision",),
        {
            "nargs": 2,
            "metavar": "A B",
            "help": "Compare two revisions of Steelyard itself, or of what --context names.",
        },
    ),
    (
        ("--context",),
        {
            "type": click.Path(path_type=Path, file_okay=False, exists=True),
            "metavar": "DIR",
            "help": "With --revision: build the image of this folder, with its Containerfile, at "
            "both revisions of its git repository.",
        },
    ),
    (
        ("--blocks",),
        {
            "type": click.IntRange(min=1),
            "metavar": "N",
            "help": "Trials of each at most. Default: 1000, as far as they fit --time-limit.",
        },
    ),
    (
        ("--time-limit",),
        {
            "metavar": "DURATION",
            "help": "What the trials may take in all. Default: 10m without --blocks, none with it.",
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
        ("--seed",),
        {"type": int, "metavar": "S", "help": "Of the order of trials. Default: drawn."},
    ),
    (
        ("--output",),
        {
            "type": click.Path(path_type=Path, file_okay=False),
            "metavar": "DIR",
            "help": "Folder of the run, new or empty. Default: results/ and the run's identifier.",
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, as click gives it; see the options for what each means."""

    scenarios: tuple[str, ...]
    arm: str | None
    metrics: tuple[str, ...]
    within: str
    revision: tuple[str, str] | None
    context: Path | None
    blocks: int | None
    time_limit: str | None
    warmup: int
    seed: int | None
    output: Path | None


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    for names, settings in reversed(_OPTIONS):
        command = click.option(*names, **settings)(command)
    return command


@click.command()
@click.argument("sides", nargs=-1, metavar="[A B]")
@_with_options
@format_option
def compare(sides: tuple[str, ...], formats: tuple[tuple[str, str], ...], **typed: Any) -> int:
    """Say whether B is worse than A, from one run that takes both in turn.

    A and B are two images; or settings of one arm: kernel=PATH, qemu=PATH, cache=cold; or arms with
    their settings: container,cache=cold. With --revision they are two revisions instead: of
    Steelyard itself, or of the folder that --context names.

    The run ends as soon as there is a verdict on every metric: better, worse, or the same within
    the margin. Exit code: 0 B is no worse, 1 it is worse, 2 the question was wrong, 3 it cannot be
    told; then it is said what would be needed.
    """
    from harness.analysis.compare import DEFAULT_METRICS, questions_on
    from harness.analysis.rules import Margin
    from harness.scenario.pairing import pairings_of

    options = Typed(arm=_one_arm(typed.pop("arms")), **typed)
    _refuse_nonsense(sides, options)
    metrics, within = _metrics(options.metrics), _margin(options.within)
    limit_ns = parse_time_limit(options.time_limit)
    effort = Effort(options.blocks, limit_ns, options.warmup, options.seed, options.output)
    with interruptible(), _sides(sides, options, _load(options.scenarios)) as both:
        pairings = [pairing for scenario in both.scenarios for pairing in pairings_of(scenario)]
        questions = questions_on(
            pairings, metrics or DEFAULT_METRICS, Margin(within), asked=bool(metrics)
        )
        first, second = both.told
        judgement = take(both, questions, f"is B ({second}) worse than A ({first})?", effort)
    return emit(judgement, formats)


def _refuse_nonsense(sides: Sequence[str], options: Typed) -> None:
    if options.revision is not None and sides:
        message = "A and B are the two revisions; take out what else was named"
        raise click.UsageError(f"with --revision, {message}")
    if options.revision is None and options.context is not None:
        raise click.UsageError("--context says where: give --revision A B too")
    if options.revision is None and len(sides) != 2:
        message = f"two things are compared, and {len(sides)} given; name A and B, or --revision"
        raise click.UsageError(message)


def _one_arm(arms: Sequence[str]) -> str | None:
    if len(arms) > 1:
        message = f"one arm is compared, and {len(arms)} were named: {', '.join(arms)}"
        raise click.UsageError(f"--arm: {message}; ask once for each")
    return arms[0] if arms else None


def _metrics(values: Sequence[str]) -> tuple[str, ...]:
    """Those that were asked for; none: empty."""
    from harness.model.metrics import METRICS
    from harness.model.suggestions import did_you_mean

    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        if name not in METRICS:
            message = f"no metric is called {name!r}; {did_you_mean(name, tuple(METRICS))}"
            raise click.BadParameter(message, param_hint="--metric")
    return tuple(dict.fromkeys(names))


def _margin(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        message = f"{text!r} is no margin; write it like 5%"
        raise click.BadParameter(message, param_hint="--within")
    return value


def _load(names: Sequence[str]) -> tuple[Scenario, ...]:
    from harness.scenario import find_scenario, load_scenario

    return tuple(load_scenario(find_scenario(name)) for name in dict.fromkeys(names))


@contextlib.contextmanager
def _sides(sides: Sequence[str], options: Typed, scenarios: Sequence[Scenario]) -> Iterator[Sides]:
    """Both sides, for as long as what was made for them is there."""
    from harness.backends import get_backend
    from harness.scenario.pairing import with_sides

    if options.revision is None:
        first, second = sides
        arms = (with_sides(scenario, options.arm, first, second) for scenario in scenarios)
        yield Sides(tuple(arms), get_backend, (first, second))
        return
    making = _images_of if options.context is not None else _workers_of
    with making(options, scenarios) as made:
        yield made


@contextlib.contextmanager
def _images_of(options: Typed, scenarios: Sequence[Scenario]) -> Iterator[Sides]:
    """The images of a folder at two revisions."""
    from harness.backends import get_backend
    from harness.scenario.pairing import compared_arm, with_images

    assert options.context is not None
    assert options.revision is not None
    # Before the images: what is wrong with an arm is told at once.
    arms = [compared_arm(scenario, options.arm) for scenario in scenarios]
    with images(options.context, options.revision) as (both, told):
        paired = tuple(
            with_images(scenario, [arm], both)
            for scenario, arm in zip(scenarios, arms, strict=True)
        )
        caution = not_the_images_own(paired)
        yield Sides(paired, get_backend, told, (caution,) if caution else ())


@contextlib.contextmanager
def _workers_of(options: Typed, scenarios: Sequence[Scenario]) -> Iterator[Sides]:
    """Steelyard itself at two revisions, each in a process of its own."""
    from harness.backends import get_backend
    from harness.experiment.remote import RemoteBackend, worker
    from harness.experiment.revisions import compile_extensions
    from harness.model.errors import PrepareError
    from harness.scenario.pairing import SUFFIXES, with_twins

    assert options.revision is not None
    here = Path(harness.__file__).resolve().parent.parent
    if not (here / "pyproject.toml").is_file():
        message = "Steelyard is installed here without its git repository, which has its revisions"
        raise PrepareError(f"{message}; compare them with ./steelyard in a clone")
    with contextlib.ExitStack() as stack:
        trees, told = stack.enter_context(revisions(here, options.revision))
        processes = []
        for tree, name in zip(trees, told, strict=True):
            compile_extensions(tree)
            processes.append(stack.enter_context(worker(tree, name)))
        arms = tuple(with_twins(scenario, options.arm) for scenario in scenarios)
        workers = {
            arm.name: processes[SUFFIXES.index(arm.name[-len(SUFFIXES[0]) :])]
            for scenario in arms
            for arm in scenario.arms
        }

        def backend(name: str) -> Backend:
            get_backend(name)  # an unknown one is told here
            return RemoteBackend(name, workers)

        yield Sides(arms, backend, told)
