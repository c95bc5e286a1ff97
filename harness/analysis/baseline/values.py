"""The values of a run by arm and block, out of its columns; a million trials cost no object each.

The first instance alone counts where instances grow in number, and only what is counted at all.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from harness.model import ArmRecord, RunInfo
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.metrics import Metric, static_value
from harness.records.dataset import RunData, samples
from harness.stats.arrays import Array, Integers, np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]

Values = tuple[Integers, Array]
"""Distinct blocks and the value of each, both of shape (blocks,)."""

DISTURBANCES = frozenset(
    {
        DiagnosticCode.LOADED_HOST,
        DiagnosticCode.CPU_STOLEN,
        DiagnosticCode.CGROUP_THROTTLED,
        DiagnosticCode.MEMORY_PRESSURE,
        DiagnosticCode.SWAPPING,
        DiagnosticCode.THERMAL,
        DiagnosticCode.SUSPENDED,
    }
)
"""Of a trial: something else on the host took part in it."""


class RunValues:
    """Looks up what a run has of an arm.

    Attributes:
        info: The run's circumstances.
    """

    def __init__(self, data: RunData) -> None:
        self.info: RunInfo = data.info
        self._data = data
        self._rows: dict[tuple[str, str], pd.DataFrame] = {}
        self._records = {(one.scenario, one.arm.name): one for one in data.info.arms}

    def record(self, scenario: str, arm: str) -> ArmRecord | None:
        """Look up what was prepared for an arm."""
        return self._records.get((scenario, arm))

    def judged(self, scenario: str) -> list[ArmRecord]:
        """List the arms of a scenario that are judged: no twins of others, and no anchors."""
        return [
            one
            for one in self.info.arms
            if one.scenario == scenario and one.arm.repeats is None and one.arm.anchors is None
        ]

    def values(self, scenario: str, arm: str, metric: Metric) -> Values:
        """Take a metric of an arm by block, failures as infinity; a static one as block 0."""
        if metric.is_static:
            record = self.record(scenario, arm)
            found = [] if record is None else [static_value(metric.name, record)]
            return np.zeros(len(found), np.int64), np.array(found, float)
        return samples(self._trials(scenario, arm), metric.column)

    def disturbed_share(self, scenario: str, *arms: str) -> float:
        """Share of the trials of some arms that something else disturbed; 0 without trials."""
        marks = [self._disturbed(scenario, arm) for arm in arms]
        together = np.concatenate(marks) if marks else np.zeros(0, bool)
        return float(together.mean()) if len(together) else 0.0

    def undisturbed(self, scenario: str, values: Values, *arms: str) -> Values:
        """Leave out blocks in which any trial of the arms was disturbed."""
        bad = [
            self._trials(scenario, arm)["block"].to_numpy()[self._disturbed(scenario, arm)]
            for arm in arms
        ]
        blocks, found = values
        kept = ~np.isin(blocks, np.concatenate(bad)) if bad else np.ones(len(blocks), bool)
        return blocks[kept], found[kept]

    def _disturbed(self, scenario: str, arm: str) -> Flags:
        marks: Flags = self._is_disturbed[self._trials(scenario, arm)["form"].to_numpy()]
        return marks

    @cached_property
    def _is_disturbed(self) -> Flags:
        forms = (_disturbs(form.diagnostics) for form in self._data.forms)
        return np.fromiter(forms, bool, len(self._data.forms))

    def _trials(self, scenario: str, arm: str) -> pd.DataFrame:
        key = (scenario, arm)
        if key not in self._rows:
            frame = self._data.frame
            is_of_arm = (frame["scenario"] == scenario) & (frame["arm"] == arm)
            first = (frame["alive"] == 0) & (frame["together"] == 1)
            self._rows[key] = frame[is_of_arm & frame["counted"] & first]
        return self._rows[key]


def _disturbs(diagnostics: tuple[Diagnostic, ...]) -> bool:
    return any(one.code in DISTURBANCES for one in diagnostics)


def constant(values: Values) -> float:
    """The value that all blocks have; NaN where they differ, or there is none."""
    _, found = values
    return float(found[0]) if len(found) and bool((found == found[0]).all()) else math.nan
