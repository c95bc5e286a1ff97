"""Collects the paired values of two arms while a run goes on, for a comparison to judge. Pure.

A look after each block costs no more after many blocks than after few: the time between two blocks
is the host's own, and must not grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.model import ArmRecord, Outcome, Pair, Trial
from harness.model.metrics import Metric, block_value, static_value, trial_value
from harness.stats.sequential import FIRST_LOOK

GIVE_UP = 3
"""After so many blocks without a pair of values, none is expected any more."""
_ALL = 1 << 62


class TrialValues:
    """Trials by arm and block, and the values that two arms have in the same block."""

    def __init__(self, trials: Sequence[Trial] = (), records: Sequence[ArmRecord] = ()) -> None:
        self._records: dict[tuple[str, str], ArmRecord] = {}
        # By block, then by repetition: one that is there twice counts once, in its last version.
        self._trials: dict[tuple[str, str], dict[int, dict[int, Trial]]] = {}
        self._taken = 0
        self.blocks = 0
        self.take(trials, records)

    def take(self, trials: Sequence[Trial], records: Sequence[ArmRecord]) -> None:
        """Take in what is new of all trials so far, beginning with those that were shown before."""
        self._records = {(record.scenario, record.arm.name): record for record in records}
        for trial in trials[self._taken :]:
            # Where instances grow in number: the first alone.
            if trial.is_counted and trial.alive == 0 and trial.together == 1:
                blocks = self._trials.setdefault((trial.scenario, trial.arm), {})
                blocks.setdefault(trial.block, {})[trial.repetition] = trial
        self._taken = len(trials)
        self.blocks = min((len(of_arm) for of_arm in self._trials.values()), default=0)

    def record(self, scenario: str, arm: str) -> ArmRecord | None:
        """Look up what was prepared for an arm."""
        return self._records.get((scenario, arm))

    def values(
        self, scenario: str, arm: str, metric: Metric, before: int = _ALL
    ) -> dict[int, float]:
        """Take a metric of an arm by block, of blocks below `before`, without missing ones.

        Where a block has several trials it is `block_value` of theirs.
        """
        record = self.record(scenario, arm)
        if metric.is_static:
            return {} if record is None else {0: static_value(metric.name, record)}
        trials = self._trials.get((scenario, arm), {})
        found = (
            (
                block,
                block_value(
                    trial_value(metric.name, one, record) for one in trials[block].values()
                ),
            )
            for block in (range(before) if before < len(trials) else sorted(trials))
            if block in trials and block < before
        )
        return {block: value for block, value in found if not math.isnan(value)}

    def pairs(self, pair: Pair, metric: Metric, before: int = _ALL) -> list[tuple[float, float]]:
        """List (B, A) of each block that has both, unless both failed."""
        ours = self.values(pair.scenario, pair.candidate, metric, before)
        theirs = self.values(pair.scenario, pair.reference, metric, before)
        both = ((ours[block], theirs[block]) for block in ours if block in theirs)
        return [values for values in both if 0 <= min(values) < math.inf]

    def ratios(self, pair: Pair, metric: Metric) -> list[float]:
        """List B / A of each of `pairs`."""
        return [
            1.0 if ours == theirs else (ours / theirs if theirs > 0 else math.inf)
            for ours, theirs in self.pairs(pair, metric)
        ]

    def has_early(self, pair: Pair, metric: Metric) -> bool:
        """Whether there is a pair among the first blocks."""
        return metric.is_static or bool(self.pairs(pair, metric, GIVE_UP))

    def is_exact(self, pair: Pair, metric: Metric, fewest: int = FIRST_LOOK) -> bool:
        """Whether both arms always have the same value, by the blocks before the first look.

        So many as `fewest` must show it; fewer than those of the first look only where no more
        will come.
        """
        if metric.is_static:
            return True
        if not metric.is_exact and metric.name not in ("disk", "disk-growth"):
            return False
        both = [
            self.values(pair.scenario, arm, metric, FIRST_LOOK)
            for arm in (pair.candidate, pair.reference)
        ]
        return all(len(values) >= fewest and len(set(values.values())) == 1 for values in both)

    def always_fails(self, pair: Pair) -> bool:
        """Whether no trial of either arm came to its end."""
        arms = (pair.reference, pair.candidate)
        return all(self._only_failures(pair.scenario, arm) for arm in arms)

    def _only_failures(self, scenario: str, arm: str) -> list[Trial]:
        """List the trials of an arm, where every one of them failed; else none."""
        trials = self._all(scenario, arm)
        return [] if any(trial.outcome is Outcome.OK for trial in trials) else trials

    def _all(self, scenario: str, arm: str) -> list[Trial]:
        blocks = self._trials.get((scenario, arm), {}).values()
        return [trial for block in blocks for trial in block.values()]

    def why_missing(self, pair: Pair, metric: Metric) -> str:
        """Say why no block has a pair of this metric, and what to do."""
        for arm in (pair.reference, pair.candidate):
            if failed := self._only_failures(pair.scenario, arm):
                return f"every trial of {arm} failed: {failed[0].error}; run it alone and mend it"
            if not self.values(pair.scenario, arm, metric):
                reasons = (
                    reading.missing
                    for trial in self._all(pair.scenario, arm)
                    for reading in trial.readings
                    if reading.missing and reading.meter.startswith(metric.name.replace("-", "_"))
                )
                return f"{arm} has no such value: {next(reasons, 'nothing meters it here')}"
        return "no block has it in both arms; run each alone and look at its trials"
