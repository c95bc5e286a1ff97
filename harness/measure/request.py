"""Defines the request for a run, and the circumstances that the run begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from harness.environment import Environment
from harness.measure.resume import Resumption
from harness.model import (
    FEWEST_BLOCKS,
    SCHEMA_VERSION,
    NoiseFloor,
    Pair,
    PairedQuestions,
    RunInfo,
    Scenario,
)


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for a run.

    Attributes:
        scenarios: In order, each with the arms to run.
        blocks: How many blocks count, at most when there is a time limit or a width to be reached.
        warmup_blocks: How many are taken before, recorded, and not counted.
        seed: Of the order of trials.
        time_limit_ns: What all blocks together may take; None is no limit.
        fewest_blocks: How many it does not cut the run below.
        cpuset: CPUs that the run is kept to, by its caller; for the records.
        quiet: The part of all CPUs that others may use when a block begins and while it is taken;
            None: whatever they use.
        required_arms: Names of arms that the user asked for: if one cannot run, that is an error.
        command: argv, for the records.
        run_id: Identifier of the run.
        steelyard: Steelyard's own version.
        until: Metric -> relative half-width of its intervals at which the run ends.
        noise: The noise floors of this host that are known from before.
        resumption: The interrupted run that is to go on; its records decide all of the above.
        pairs: The arms that it compares, of a run that is taken until that is decided.
        asked: What is to be decided about them.
    """

    scenarios: tuple[Scenario, ...]
    blocks: int
    warmup_blocks: int
    seed: int
    time_limit_ns: int | None
    required_arms: frozenset[str]
    command: tuple[str, ...]
    run_id: str
    steelyard: str
    until: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    noise: tuple[NoiseFloor, ...] = ()
    resumption: Resumption | None = None
    pairs: tuple[Pair, ...] = ()
    asked: PairedQuestions | None = None
    fewest_blocks: int = FEWEST_BLOCKS
    cpuset: tuple[int, ...] = ()
    quiet: float | None = None


def begun(request: Request, environment: Environment) -> RunInfo:
    """Make the circumstances of a run that begins, or goes on."""
    if request.resumption is not None:
        info = request.resumption.reopened(now())
        found = dict.fromkeys((*info.diagnostics, *environment.diagnostics))
        return replace(info, diagnostics=tuple(found))
    return RunInfo(
        schema=SCHEMA_VERSION,
        steelyard=request.steelyard,
        run_id=request.run_id,
        started_at=now(),
        ended_at=None,
        command=request.command,
        seed=request.seed,
        blocks=request.blocks,
        warmup_blocks=request.warmup_blocks,
        scenarios=request.scenarios,
        arms=(),
        environment=environment.facts,
        environment_missing=environment.missing,
        diagnostics=environment.diagnostics,
        until=request.until,
        noise=request.noise,
        wanted_blocks=request.blocks,
        time_limit_ns=request.time_limit_ns,
        paired=bool(request.pairs),
        pairs=request.pairs,
        asked=request.asked,
        fewest_blocks=request.fewest_blocks,
        cpuset=request.cpuset,
        quiet=request.quiet,
    )


def now() -> str:
    """Format the time as in the records: UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
