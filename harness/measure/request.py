"""What a run was asked for, and the circumstances that it begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from harness.analysis.diagnose import run_diagnostics
from harness.environment import Environment
from harness.measure.resume import Resumption
from harness.model import SCHEMA_VERSION, ArmRecord, NoiseFloor, Pair, RunInfo, Scenario, Trial

Decided = Callable[[Sequence[Trial], Sequence[ArmRecord]], bool]
"""Asked after each block that counts, with all trials and arms: whether the run may end."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        scenarios: In order, each with the arms to run.
        blocks: How many blocks count, at most when there is a time limit or a width to be reached.
        warmup_blocks: How many are taken before, recorded, and not counted.
        seed: Of the order of trials.
        time_limit_ns: What all blocks together may take; None is no limit.
        required_arms: Names of arms that the user asked for: if one cannot run, that is an error.
        command: argv, for the records.
        run_id: Identifier of the run.
        steelyard: Steelyard's own version.
        until: Metric -> relative half-width of its intervals at which the run ends.
        noise: The noise floors of this host that are known from before.
        resumption: The interrupted run that is to go on; its records decide all of the above.
        decided: A question that the run is taken for, and ends when it is answered.
        pairs: The arms that the question holds against each other.
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
    decided: Decided | None = None
    pairs: tuple[Pair, ...] = ()


def begun(request: Request, environment: Environment) -> RunInfo:
    """The circumstances of a run that begins, or goes on."""
    if request.resumption is not None:
        before = request.resumption.run
        info = request.resumption.reopened(now())
        # Those that the trials gave rise to are found again when all of them are there.
        stale = set(run_diagnostics(before.info, before.trials))
        found = (*before.info.diagnostics, *environment.diagnostics)
        kept = dict.fromkeys(doubt for doubt in found if doubt not in stale)
        return replace(info, diagnostics=tuple(kept))
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
        paired=request.decided is not None,
        pairs=request.pairs,
    )


def now() -> str:
    """UTC, ISO 8601, in whole seconds, as the records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
