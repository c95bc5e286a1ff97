"""The paired values of two arms, taken in while a run goes on, for a comparison to judge. Pure.

What is asked after each block costs no more after many blocks than after few: the time between two
blocks is the host's own, and must not grow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.model import ArmRecord, Outcome, Pair, Trial
from harness.model.metrics import Metric, static_value, trial_value
from harness.stats.sequential import FIRST_LOOK

GIVE_UP = 3
"""After so many blocks without a pair of values, none is expected any more."""
_ALL = 1 << 62

Values = Mapping[int, float]
"""Block -> value."""


class Evidence:
    """The trials, by arm and block; what is asked after each block costs no more for many."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], ArmRecord] = {}
        self._trials: dict[tuple[str, str], dict[int, Trial]] = {}
        self._taken = 0
        self.blocks = 0

    def take(self, trials: Sequence[Trial], records: Sequence[ArmRecord]) -> None:
        """Take in what is new.

        Args:
            trials: All so far, beginning with those that were shown before.
            records: Of the arms.
        """
        self._records = {(record.scenario, record.arm.name): record for record in records}
        for trial in trials[self._taken :]:
            if trial.block >= 0:
                self._trials.setdefault((trial.scenario, trial.arm), {})[trial.block] = trial
        self._taken = len(trials)
        self.blocks = min((len(of_arm) for of_arm in self._trials.values()), default=0)

    def record(self, scenario: str, arm: str) -> ArmRecord | None:
        """What was prepared for an arm."""
        return self._records.get((scenario, arm))

    def values(self, pair: Pair, arm: str, metric: Metric, before: int = _ALL) -> Values:
        """A metric of an arm, by block, without those that are missing.

        Args:
            pair: Of which scenario.
            arm: Which arm.
            metric: What.
            before: Only of blocks below this.
        """
        record = self.record(pair.scenario, arm)
        if metric.is_static:
            return {} if record is None else {0: static_value(metric.name, record)}
        trials = self._trials.get((pair.scenario, arm), {})
        found = (
            (block, trial_value(metric.name, trials[block], record))
            for block in (range(before) if before < len(trials) else sorted(trials))
            if block in trials and block < before
        )
        return {block: value for block, value in found if not math.isnan(value)}

    def pairs(self, pair: Pair, metric: Metric, before: int = _ALL) -> list[tuple[float, float]]:
        """(B, A) of each block that has both."""
        ours = self.values(pair, pair.candidate, metric, before)
        theirs = self.values(pair, pair.reference, metric, before)
        return [(ours[block], theirs[block]) for block in ours if block in theirs]

    def telling(self, pair: Pair, metric: Metric, before: int = _ALL) -> list[tuple[float, float]]:
        """The pairs that tell the two apart: not where both failed."""
        found = self.pairs(pair, metric, before)
        return [pair for pair in found if 0 <= min(pair) < math.inf]

    def ratios(self, pair: Pair, metric: Metric) -> list[float]:
        """B / A of each block that tells them apart."""
        return [
            1.0 if ours == theirs else (ours / theirs if theirs > 0 else math.inf)
            for ours, theirs in self.telling(pair, metric)
        ]

    def has_early(self, pair: Pair, metric: Metric) -> bool:
        """Whether there is a pair among the first blocks."""
        return metric.is_static or bool(self.telling(pair, metric, GIVE_UP))

    def is_exact(self, pair: Pair, metric: Metric, fewest: int = FIRST_LOOK) -> bool:
        """Whether both arms always have the same value, by the blocks before the first look.

        Args:
            pair: Which arms.
            metric: What.
            fewest: So many blocks must say so; fewer than those of the first look only where no
                more will come.
        """
        if metric.is_static:
            return True
        if not metric.is_exact and metric.name not in ("disk", "disk-growth"):
            return False
        both = [
            self.values(pair, arm, metric, FIRST_LOOK) for arm in (pair.candidate, pair.reference)
        ]
        return all(len(values) >= fewest and len(set(values.values())) == 1 for values in both)

    def early_median(self, pair: Pair, arm: str, metric: Metric) -> float:
        """Of an arm's values in the blocks before the first look."""
        return statistics.median_low(self.values(pair, arm, metric, FIRST_LOOK).values())

    def always_fails(self, pair: Pair) -> bool:
        """Whether no trial of either arm came to its end."""
        return all(
            self._only_failures(pair.scenario, arm) for arm in (pair.reference, pair.candidate)
        )

    def _only_failures(self, scenario: str, arm: str) -> list[Trial]:
        """The trials of an arm, where every one of them failed; else none."""
        trials = list(self._trials.get((scenario, arm), {}).values())
        return [] if any(trial.outcome is Outcome.OK for trial in trials) else trials

    def why_missing(self, pair: Pair, metric: Metric) -> str:
        """Why no block has a pair of this metric, and what to do."""
        for arm in (pair.reference, pair.candidate):
            if failed := self._only_failures(pair.scenario, arm):
                return f"every trial of {arm} failed: {failed[0].error}; run it alone and mend it"
            trials = self._trials.get((pair.scenario, arm), {})
            if not self.values(pair, arm, metric):
                reasons = (
                    reading.missing
                    for trial in trials.values()
                    for reading in trial.readings
                    if reading.missing and reading.meter.startswith(metric.name.replace("-", "_"))
                )
                return f"{arm} has no such value: {next(reasons, 'nothing meters it here')}"
        return "no block has it in both arms; run each alone and look at its trials"
