"""`steelyard compare`: is B worse than A? One run with both, interleaved, until that is known."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import harness
from harness import schedule
from harness.outputs.emit import emit, format_option
from harness.run_command import folder_only_with_trials
from harness.run_options import invoked_as, parse_time_limit

if TYPE_CHECKING:
    from harness.backend import Backend
    from harness.judgement import Judgement
    from harness.model import Run, RunInfo, Scenario
    from harness.preparing import GetBackend

_RESULTS = Path("results")
_TIME_LIMIT_NS = 600_000_000_000
"""Without --blocks and --time-limit."""

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
        ("--arm",),
        {
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


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared.

    Attributes:
        scenarios: Each with its two arms.
        get_backend: Where backends come from.
        told: What A and B are, for the judgement.
    """

    scenarios: tuple[Scenario, ...]
    get_backend: GetBackend
    told: tuple[str, str]


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
    from harness.records import RunWriter, new_run_id

    options = Typed(**typed)
    _refuse_nonsense(sides, options)
    metrics, within = _metrics(options.metrics), _margin(options.within)
    scenarios = _load(options.scenarios)
    run_id = new_run_id(datetime.now(UTC))
    directory = options.output or _RESULTS / run_id
    existed = directory.exists()
    with contextlib.ExitStack() as stack:
        both = stack.enter_context(_sides(sides, options, scenarios))
        writer = stack.enter_context(RunWriter(directory))
        stack.enter_context(folder_only_with_trials(directory, existed=existed))
        judgement = _compare(both, options, metrics, within, run_id, writer)
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


def _metrics(values: Sequence[str]) -> tuple[str, ...]:
    """Those that were asked for; none: empty."""
    from harness.metrics import METRICS
    from harness.words import did_you_mean

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
    from harness.sides import with_sides

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
    from harness.backends import get_backend, host
    from harness.sides import with_images

    assert options.context is not None
    with _revisions(options, options.context) as (stack, trees, told):
        with _interruptible():
            first, second = (
                stack.enter_context(host.temporary_image(tree, _say_step)) for tree in trees
            )
        arms = (with_images(scenario, options.arm, (first, second)) for scenario in scenarios)
        yield Sides(tuple(arms), get_backend, told)


@contextlib.contextmanager
def _workers_of(options: Typed, scenarios: Sequence[Scenario]) -> Iterator[Sides]:
    """Steelyard itself at two revisions, each in a process of its own."""
    from harness.backends import get_backend
    from harness.remote import RemoteBackend, worker
    from harness.revisions import compile_extensions
    from harness.sides import SUFFIXES, with_twins

    here = Path(harness.__file__).resolve().parent.parent
    with _revisions(options, here) as (stack, trees, told):
        processes = []
        with _interruptible():
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


@contextlib.contextmanager
def _revisions(
    options: Typed, folder: Path
) -> Iterator[tuple[contextlib.ExitStack, tuple[Path, Path], tuple[str, str]]]:
    """A folder of a repository at both revisions, and the words for them."""
    from harness.backends.host import temporary_folder
    from harness.revisions import export, find_revision, repository_of

    assert options.revision is not None
    repository = repository_of(folder)
    first, second = (find_revision(repository, typed) for typed in options.revision)
    with contextlib.ExitStack() as stack:
        trees = []
        with _interruptible():
            for revision in (first, second):
                tree = stack.enter_context(temporary_folder("revision"))
                export(revision, folder, tree)
                trees.append(tree)
        yield stack, (trees[0], trees[1]), (first.told, second.told)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Every signal to end is an exception while things are made, so that they are removed."""
    from harness.interruption import Interruption

    with Interruption() as interruption, interruption.safe():
        yield


def _say_step(message: str) -> None:
    click.echo(message, err=True)


def _compare(
    sides: Sides,
    options: Typed,
    metrics: Sequence[str],
    within: float,
    run_id: str,
    writer: Any,
) -> Judgement:
    from harness import environment
    from harness.compare import DEFAULT_METRICS, DEFAULT_MOST_BLOCKS, Comparer
    from harness.interruption import Interrupted
    from harness.progress import listener_for, make_console
    from harness.records import read_run
    from harness.report import write_report
    from harness.request import Request
    from harness.runner import Runner
    from harness.sides import pairing_of

    most = options.blocks or DEFAULT_MOST_BLOCKS
    limit_ns = parse_time_limit(options.time_limit)
    if limit_ns is None and options.blocks is None:
        limit_ns = _TIME_LIMIT_NS
    pairings = [pairing_of(scenario) for scenario in sides.scenarios]
    comparer = Comparer(pairings, metrics or DEFAULT_METRICS, within, most, asked=bool(metrics))
    request = Request(
        scenarios=sides.scenarios,
        blocks=most,
        warmup_blocks=options.warmup,
        seed=secrets.randbelow(2**31) if options.seed is None else options.seed,
        time_limit_ns=limit_ns,
        required_arms=frozenset(arm.name for scenario in sides.scenarios for arm in scenario.arms),
        command=(invoked_as(), *sys.argv[1:]),
        run_id=run_id,
        steelyard=harness.__version__,
        decided=comparer.is_decided,
    )
    console = make_console(stderr=True)
    try:
        with listener_for(console, request) as listener:
            captured = environment.capture()
            Runner(request, sides.get_backend, captured, writer, listener).run()
    except Interrupted as error:
        click.echo(f"steelyard: {error}; there is no verdict", err=True)
        raise
    run = read_run(writer.directory)
    write_report(run, writer.directory)
    first, second = sides.told
    question = f"is B ({second}) worse than A ({first})?"
    return comparer.judgement(question, run.trials, run.info.arms, _facts(run, sides, writer))


def _facts(run: Run, sides: Sides, writer: Any) -> Mapping[str, str]:
    info: RunInfo = run.info
    first, second = sides.told
    return {
        "A": f"{first} ({info.arms[0].arm.name})",
        "B": f"{second} ({info.arms[1].arm.name})",
        "blocks": f"{info.blocks} of at most {info.wanted_blocks}",
        "seed": str(info.seed),
        "run": str(writer.directory),
    }
