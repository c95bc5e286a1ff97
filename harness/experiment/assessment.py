"""What only a whole run shows, added to its circumstances when it ends, and taken out to go on.

The runner measures and records; it calls `assess` before its last record, however a run ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis.diagnose import run_diagnostics
from harness.model import NoiseFloor, RunInfo, Trial
from harness.records import Run


def assess(info: RunInfo, trials: Sequence[Trial]) -> RunInfo:
    """Fill in the noise floors that a run has shown, and the diagnostics of all of its trials."""
    info = replace(info, noise=_noise(info, trials))
    found = dict.fromkeys((*info.diagnostics, *run_diagnostics(info, trials)))
    return replace(info, diagnostics=tuple(found))


def without_assessment(run: Run) -> Run:
    """Take out the diagnostics that its trials gave rise to: they are found again at its end."""
    stale = set(run_diagnostics(run.info, run.trials))
    kept = tuple(found for found in run.info.diagnostics if found not in stale)
    return replace(run, info=replace(run.info, diagnostics=kept))


def _noise(info: RunInfo, trials: Sequence[Trial]) -> tuple[NoiseFloor, ...]:
    """What an arm and its twin showed in this run, and what is known of the rest."""
    measured: tuple[NoiseFloor, ...] = ()
    if any(record.arm.repeats for record in info.arms):
        from harness.analysis.noise import noise_floors

        measured = noise_floors(Run(info, tuple(trials)))
    new = {(floor.scenario, floor.metric) for floor in measured}
    old = (floor for floor in info.noise if floor.run_id != info.run_id)
    return (*measured, *(floor for floor in old if (floor.scenario, floor.metric) not in new))
