"""A run from beginning to end: host looked at, trials taken, records written, noise remembered.

    scenarios ── run() ──> Runner ──> records in a folder ──> Run
                  │  resume() enters here with the records of an interrupted run
                  └ noise floors of this host: recalled before, remembered after

`steelyard run`, `steelyard check --run` and the library call this.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from harness import stats
from harness.analysis import noise
from harness.experiment.assessment import assess, without_assessment
from harness.measure import schedule
from harness.measure.capacity import pinned_to, refuse_cpus
from harness.measure.request import Request
from harness.measure.resume import Resumption, refuse_unless_resumable
from harness.model import FEWEST_BLOCKS, NoiseFloor, RunInfo, Scenario
from harness.model.comparability import company, host_class
from harness.model.errors import PrepareError, RecordError, ScenarioError
from harness.model.version import VERSION
from harness.records import (
    HOOKS_FILE,
    RUN_FILE,
    TRIALS_FILE,
    Run,
    RunWriter,
    new_run_id,
    read_run,
)
from harness.scenario.overrides import impossible_growth, reference_arm, select_arms, with_twin
from harness.scenario.validate import require_metrics, require_valid
from runtime import cache_home

if TYPE_CHECKING:
    from harness.environment import Environment
    from harness.measure.prepare import ArmSource
    from harness.measure.stopping import StoppingRule
    from harness.model.events import Event, Listener

_T = TypeVar("_T")

RESULTS = Path("results")
"""Where runs go that nobody gave a folder: below the current one."""
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
"""As `harness.records.new_run_id` makes them; a folder that a user named is no identifier."""
_FEW_PAIRS = 10
"""A noise floor that rests on fewer is measured anew by a run that has more blocks."""
_UNMEASURED = frozenset({"fake", "null"})
"""Backends that put nothing on the host: what they show of its noise is nothing."""


def unheard(event: Event) -> None:
    """Nobody listens."""


def sequence_of(things: _T | Sequence[_T]) -> tuple[_T, ...]:
    """Take one thing, or a string, for a sequence that holds it alone."""
    if isinstance(things, str) or not isinstance(things, Sequence):
        return (things,)
    return tuple(things)


def refuse_numbers(
    *,
    blocks: int | None = None,
    time_limit_ns: int | None = None,
    warmup_blocks: int = 0,
    within: float = 0.0,
) -> None:
    """Refuse what no run can be taken with.

    Raises:
        ValueError: Names the argument.
    """
    if blocks is not None and blocks < 1:
        raise ValueError(f"blocks is {blocks}; take at least 1, or None for as many as fit")
    if time_limit_ns is not None and time_limit_ns < 1:
        raise ValueError(f"time_limit_ns is {time_limit_ns}; give nanoseconds above 0, or None")
    if warmup_blocks < 0:
        raise ValueError(f"warmup_blocks is {warmup_blocks}; take 0 or more")
    if not within >= 0:
        raise ValueError(f"within is {within}; give a share of 0 or more, like 0.05 for 5 %")


def drawn(seed: int | None) -> int:
    """Draw the seed of an order of trials where none is given."""
    return secrets.randbelow(2**31) if seed is None else seed


def new_directory() -> Path:
    """Name the folder of a new run in `RESULTS` by its identifier; it is not made yet."""
    return RESULTS / new_run_id(datetime.now(UTC))


def run(
    scenarios: Scenario | Sequence[Scenario],
    *,
    arms: Sequence[str] = (),
    blocks: int | None = None,
    until: Mapping[str, float] = MappingProxyType({}),
    time_limit_ns: int | None = None,
    warmup_blocks: int = schedule.DEFAULT_WARMUP_BLOCKS,
    seed: int | None = None,
    repeat: bool | None = None,
    required: bool | None = None,
    quiet: float | None = None,
    cpuset: Sequence[int] = (),
    directory: Path | str | None = None,
    listener: Listener = unheard,
    command: Sequence[str] = (),
) -> Run:
    """Take a run of scenarios and record it.

    Args:
        scenarios: What is asked, each with the arms to take.
        arms: Only these: names of the scenarios' arms, or `[NAME=]BACKEND[,OPTION=VALUE…]`.
        blocks: Trials of every arm, from 1; None: as many as fit the time limit.
        until: Metric -> relative half-width of the 95 % interval of every median (0.02 is 2 %): the
            run ends when all are that narrow.
        time_limit_ns: What the trials may take in all, from three blocks on; None: no limit if
            `blocks` is given, else 200 s, and six blocks in any case.
        warmup_blocks: Blocks before those, recorded and not counted.
        seed: Of the order of trials; None: drawn.
        repeat: Whether each scenario takes an arm twice, to show the noise of this host; None: only
            where that is not known well enough.
        required: Whether an arm that cannot run here is an error; otherwise it is left out, with a
            reason in the events. None: only arms named by `arms` are required.
        quiet: Before each block, wait up to a minute until other processes use less than this part
            of all CPUs (0.1 is 10 %), and take a block again, at most twice, in which they used
            more; None: wait for nothing.
        cpuset: Numbers of the CPUs that the run and its boxes are kept to; none: all.
        directory: Folder of the run, new or empty; None: one in `results/` of the current folder.
        listener: Called with each event as it happens, see `harness.model.events`.
        command: argv that the records name as what took the run.

    Returns:
        The run as it is in the records.

    Raises:
        ScenarioError: An arm or a scenario is wrong; `problems` holds all that is.
        ValueError: A number is out of its range, `until` names no metric, or `cpuset` a CPU that
            this process may not use.
        BackendUnavailableError: A required arm cannot run here.
        PrepareError: A required arm, or an image, cannot be prepared.
        HookFailedError: A command of the scenario failed; after one of `cleanup` all trials are in
            the records.
        RecordError: The folder holds something, or cannot be written.
        HarnessError: No arm can run.
        Interrupted: By a signal; what was measured is recorded, and all that was made is gone.
    """
    refuse_numbers(blocks=blocks, time_limit_ns=time_limit_ns, warmup_blocks=warmup_blocks)
    require_metrics(tuple(until), of_trials=True)
    refuse_cpus(cpuset)
    if quiet is not None and not 0 < quiet <= 1:
        raise ValueError(f"quiet is {quiet}; give a share up to 1, like 0.1 for 10 %")
    for metric, width in until.items():
        if not 0 < width < 1:
            raise ValueError(f"until: {metric} is {width}; give a share between 0 and 1, like 0.02")
    asked = sequence_of(scenarios)
    require_valid(asked)
    if arms:
        asked = tuple(select_arms(scenario, sequence_of(arms)) for scenario in asked)
        if problems := [each for scenario in asked for each in impossible_growth(scenario)]:
            raise ScenarioError(tuple(problems))
    fewest = FEWEST_BLOCKS
    if time_limit_ns is None and blocks is None:
        # Nobody has set a limit: fewer would have no interval of the level that is reported.
        time_limit_ns, fewest = schedule.DEFAULT_TIME_LIMIT_NS, stats.FEWEST_FOR_LEVEL
    has_anchor = any(arm.anchors for scenario in asked for arm in scenario.arms)
    most = schedule.ANCHORED_MOST_BLOCKS if has_anchor else schedule.DEFAULT_MOST_BLOCKS
    most = schedule.UNTIL_MOST_BLOCKS if until else most
    directory = new_directory() if directory is None else Path(directory)
    names = {arm.name for scenario in asked for arm in scenario.arms}
    request = Request(
        scenarios=asked,
        blocks=blocks or most,
        warmup_blocks=warmup_blocks,
        seed=drawn(seed),
        time_limit_ns=time_limit_ns,
        fewest_blocks=fewest,
        cpuset=tuple(sorted(cpuset)),
        quiet=quiet,
        required_arms=frozenset(names if (bool(arms) if required is None else required) else ()),
        command=tuple(command),
        run_id=run_id_for(directory),
        steelyard=VERSION,
        until=until,
    )
    with recording(directory) as writer, pinned_to(cpuset):
        _take_noted(request, writer, listener, repeat)
    return read_run(directory)


def resume(directory: Path | str, *, listener: Listener = unheard) -> Run:
    """Go on with an interrupted run, as it was asked for.

    Args:
        directory: Folder of the run.
        listener: Called with each event as it happens, see `harness.model.events`.

    Raises:
        RecordError: It ended as it should, or its host, version, image or kernel is another now, or
            another process writes to it.
        Others: As `run`.
    """
    directory = Path(directory)
    with RunWriter.resume(directory) as writer:
        resumption = Resumption(without_assessment(read_run(directory)), directory)
        refuse_unless_resumable(resumption, VERSION)
        info = resumption.run.info
        request = Request(
            scenarios=info.scenarios,
            blocks=resumption.wanted_blocks,
            warmup_blocks=info.warmup_blocks,
            seed=info.seed,
            time_limit_ns=info.time_limit_ns,
            fewest_blocks=info.fewest_blocks,
            cpuset=info.cpuset,
            quiet=info.quiet,
            required_arms=frozenset(),
            command=info.command,
            run_id=info.run_id,
            steelyard=info.steelyard,
            until=info.until,
            noise=info.noise,
            resumption=resumption,
        )
        _refuse_cpus_of(resumption)
        with pinned_to(info.cpuset):
            _take_noted(request, writer, listener, repeat=False)
    return read_run(directory)


def _refuse_cpus_of(resumption: Resumption) -> None:
    try:
        refuse_cpus(resumption.run.info.cpuset)
    except ValueError as error:
        raise RecordError(f"{resumption.directory} cannot go on: {error}") from None


def _take_noted(
    request: Request, writer: RunWriter, listener: Listener, repeat: bool | None
) -> None:
    """Take a run with what is known of this host's noise, and keep what it shows of that."""
    from harness import environment
    from harness.backends import get_backend
    from harness.measure.prepare import LocalArms

    folder = cache_home() / "noise"
    captured = environment.capture()
    if request.resumption is None:
        request = with_noise(request, repeat, folder, captured)
    info = take(request, writer, listener, LocalArms(get_backend), captured=captured)
    measured = tuple(floor for floor in info.noise if floor.run_id == info.run_id)
    for scenario in request.scenarios:
        if floors := [floor for floor in measured if floor.scenario == scenario.name]:
            noise.remember(folder, noise_host(info.environment, scenario), floors)


def take(
    request: Request,
    writer: RunWriter,
    listener: Listener,
    source: ArmSource,
    *rules: StoppingRule,
    captured: Environment | None = None,
) -> RunInfo:
    """Take the trials of a run.

    Args:
        request: What is asked for.
        writer: Of its records.
        listener: Called with each event.
        source: Where arms come from.
        rules: What ends it besides its request.
        captured: This host; None: it is looked at now.
    """
    from harness import environment
    from harness.measure.runner import Runner
    from harness.measure.stopping import rule_of

    return Runner(
        request,
        source,
        captured or environment.capture(),
        writer,
        listener,
        ensure_image,
        rule=rule_of(request, *rules),
        assess=assess,
    ).run()


def ensure_image(reference: str, progress: Callable[[str], None]) -> None:
    """Have an image in the store: one that comes with Steelyard is made if it is not there yet.

    Raises:
        PrepareError: There is no such image, or it cannot be made.
    """
    import runtime

    try:
        runtime.ensure_image(reference, progress=progress)
    except runtime.ContainerError as error:
        raise PrepareError(str(error)) from error


def run_id_for(directory: Path) -> str:
    """Name a run as its folder where that is one of `new_directory`, else anew."""
    return directory.name if _RUN_ID.fullmatch(directory.name) else new_directory().name


def with_noise(
    request: Request, repeat: bool | None, folder: Path, environment: Environment
) -> Request:
    """Add the noise floors that are known here to a request, and twins where they are due.

    Args:
        request: As asked.
        repeat: As `run`: None adds twins where no noise floor is known, or one of few pairs, and
            where there are blocks enough to find one.
        folder: Where noise floors are kept.
        environment: This host.
    """
    known: list[NoiseFloor] = []
    scenarios = []
    for scenario in request.scenarios:
        host = noise_host(environment.facts, scenario)
        floors = noise.look_up(folder, host, scenario.name).floors
        known += floors
        pairs = max((floor.blocks for floor in floors), default=0)
        # With a time limit it is not known how many blocks there will be.
        has_more = request.time_limit_ns is None and pairs < min(_FEW_PAIRS, request.blocks)
        is_due = (
            (not floors or has_more)
            and request.blocks >= stats.FEWEST_FOR_LEVEL
            and reference_arm(scenario).backend not in _UNMEASURED
        )
        scenarios.append(
            with_twin(scenario) if (is_due if repeat is None else repeat) else scenario
        )
    return replace(request, scenarios=tuple(scenarios), noise=tuple(known))


def noise_host(facts: Mapping[str, object], scenario: Scenario) -> str:
    """Name what a noise floor holds for: a class of hosts, and the company of the light arms.

    Beside machines a light arm is taken several times a block, so that it differs less from itself.
    """
    return "-".join(filter(None, (host_class(facts), company(scenario.arms))))


@contextlib.contextmanager
def recording(directory: Path) -> Iterator[RunWriter]:
    """Write a new run's folder, and remove it if the run fails before it has a trial."""
    existed = directory.exists()
    with RunWriter(directory) as writer:
        try:
            yield writer
        except BaseException:
            _remove_if_empty(directory, existed=existed)
            raise


def _remove_if_empty(directory: Path, *, existed: bool) -> None:
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
        RESULTS.rmdir()
