"""A run from beginning to end: host looked at, trials taken, records written, noise remembered.

    scenarios ── run() ──> Runner ──> records in a folder ──> Run
                  │  resume() enters here with the records of an interrupted run
                  └ noise floors of this host: recalled before, remembered after

`steelyard run`, `steelyard check --run` and the library call this; none of them reads what another
printed, or looks which folder is new.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness import stats
from harness.analysis import noise
from harness.experiment.assessment import assess, without_assessment
from harness.measure import schedule
from harness.measure.request import Request
from harness.measure.resume import Resumption, refuse_unless_resumable
from harness.model import NoiseFloor, RunInfo, Scenario
from harness.model.comparability import host_class
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
from harness.scenario.overrides import reference_arm, select_arms, with_twin
from harness.scenario.validate import require_valid
from runtime import cache_home

if TYPE_CHECKING:
    from harness.environment import Environment
    from harness.model.events import Event, Listener

RESULTS = Path("results")
"""Where runs go that nobody gave a folder: below the current one."""
_FEW_PAIRS = 10
"""A noise floor that rests on fewer is measured anew by a run that has more blocks."""
_UNMEASURED = frozenset({"fake", "null"})
"""Backends that put nothing on the host: what they show of its noise is nothing."""


def unheard(event: Event) -> None:
    """Nobody listens."""


def drawn(seed: int | None) -> int:
    """The seed of an order of trials, or a new one."""
    return secrets.randbelow(2**31) if seed is None else seed


def new_directory() -> Path:
    """The folder of a new run in `RESULTS`, named by its identifier; it is not made yet."""
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
    directory: Path | str | None = None,
    listener: Listener = unheard,
    command: Sequence[str] = (),
) -> Run:
    """Take a run of scenarios and record it.

    Args:
        scenarios: What is asked, each with the arms to take.
        arms: Only these: names of the scenarios' arms, or `[NAME=]BACKEND[,OPTION=VALUE…]`.
        blocks: Trials of every arm; None: as many as fit the time limit.
        until: Metric -> relative half-width of the 95 % interval of every median (0.02 is 2 %): the
            run ends when all are that narrow.
        time_limit_ns: What the trials may take in all; None: no limit if `blocks` is given, else
            200 s.
        warmup_blocks: Blocks before those, recorded and not counted.
        seed: Of the order of trials; None: drawn.
        repeat: Whether each scenario takes an arm twice, to show the noise of this host; None: only
            where that is not known well enough.
        required: Whether an arm that cannot run here is an error; otherwise it is left out, with a
            reason in the events. None: only arms named by `arms` are required.
        directory: Folder of the run, new or empty; None: one in `results/` of the current folder.
        listener: Told each event as it happens, see `harness.model.events`.
        command: argv that the records name as what took the run.

    Returns:
        The run as it is in the records.

    Raises:
        ScenarioError: An arm or a scenario means nothing.
        BackendUnavailableError: A required arm cannot run here.
        PrepareError: A required arm, or an image, cannot be prepared.
        HookFailedError: A command of the scenario failed; after one of `cleanup` all trials are in
            the records.
        RecordError: The folder holds something, or cannot be written.
        HarnessError: No arm can run.
        Interrupted: By a signal; what was measured is recorded, and all that was made is gone.
    """
    asked = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
    if arms:
        asked = [select_arms(scenario, arms) for scenario in asked]
    require_valid(asked)
    if time_limit_ns is None and blocks is None:
        time_limit_ns = schedule.DEFAULT_TIME_LIMIT_NS
    most = schedule.UNTIL_MOST_BLOCKS if until else schedule.DEFAULT_MOST_BLOCKS
    directory = new_directory() if directory is None else Path(directory)
    names = {arm.name for scenario in asked for arm in scenario.arms}
    request = Request(
        scenarios=tuple(asked),
        blocks=blocks or most,
        warmup_blocks=warmup_blocks,
        seed=drawn(seed),
        time_limit_ns=time_limit_ns,
        required_arms=frozenset(names if (bool(arms) if required is None else required) else ()),
        command=tuple(command),
        run_id=run_id_for(directory),
        steelyard=VERSION,
        until=until,
    )
    with recording(directory) as writer:
        _take(request, writer, listener, repeat)
    return read_run(directory)


def resume(directory: Path, *, listener: Listener = unheard) -> Run:
    """Go on with an interrupted run, as it was asked for.

    Raises:
        RecordError: It ended as it should, or its host, version, image or kernel is another now.
        Others: As `run`.
    """
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
            required_arms=frozenset(),
            command=info.command,
            run_id=info.run_id,
            steelyard=info.steelyard,
            until=info.until,
            noise=info.noise,
            resumption=resumption,
        )
        _take(request, writer, listener, repeat=False)
    return read_run(directory)


def _take(request: Request, writer: RunWriter, listener: Listener, repeat: bool | None) -> None:
    from harness import environment
    from harness.backends import get_backend
    from harness.experiment.images import ensure_image
    from harness.measure.prepare import LocalArms
    from harness.measure.runner import Runner
    from harness.measure.stopping import rule_of

    captured = environment.capture()
    folder = cache_home() / "noise"
    if request.resumption is None:
        request = with_noise(request, repeat, folder, captured)
    info = Runner(
        request,
        LocalArms(get_backend),
        captured,
        writer,
        listener,
        ensure_image,
        rule=rule_of(request),
        assess=assess,
    ).run()
    _remember_noise(info, folder)


def run_id_for(directory: Path) -> str:
    """The identifier of a run in a folder: the folder's name where that is one of ours."""
    name = directory.name
    return name if directory.parent == RESULTS else new_run_id(datetime.now(UTC))


def with_noise(
    request: Request, repeat: bool | None, folder: Path, environment: Environment
) -> Request:
    """The request with the noise floors that are known here, and with twins where they are due.

    Args:
        request: As asked.
        repeat: Whether each scenario gets an arm that repeats another; None: only where no noise
            floor is known, or one of few pairs, and where there are blocks enough to find one.
        folder: Where noise floors are kept.
        environment: This host.
    """
    host = host_class(environment.facts)
    known: list[NoiseFloor] = []
    scenarios = []
    for scenario in request.scenarios:
        floors = noise.recall(folder, host, scenario.name)
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


def _remember_noise(info: RunInfo, folder: Path) -> None:
    """Keep what this run has shown of the host's noise, for later runs on it."""
    measured = tuple(floor for floor in info.noise if floor.run_id == info.run_id)
    if measured:
        noise.remember(folder, host_class(info.environment), measured)


@contextlib.contextmanager
def recording(directory: Path) -> Iterator[RunWriter]:
    """A writer of a new run's folder, which is removed if the run fails before it has a trial."""
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
