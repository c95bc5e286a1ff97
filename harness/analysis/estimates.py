"""Figures of one arm from its rows: medians, comparisons, what is missing and why."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness import stats
from harness.model import ArmRecord, Outcome, Sharing
from harness.model.metrics import Metric
from harness.records.columns import Form
from harness.records.dataset import MEASURED, RunData, samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from harness.records.dataset import Floats

    Samples = tuple[npt.NDArray[np.int64], Floats]

QUANTILES = (0.5, 0.9, 0.99)

DIFFERENCES = ("ready", "disk", "pss", "cgroup-current", "cpu")
"""Metrics whose difference to the reference is told beside its ratio."""


@dataclass(frozen=True, slots=True)
class Part:
    """One named thing on disk, for a table.

    Attributes:
        name: As in the record.
        sharing: Whether all instances share it.
        allocated_bytes: Of the static part, or the median over instances.
        apparent_bytes: The same.
    """

    name: str
    sharing: Sharing
    allocated_bytes: int
    apparent_bytes: int


@dataclass(frozen=True, slots=True)
class ArmData:
    """The rows of one arm of one scenario, ready to be judged.

    Attributes:
        name: Of the arm.
        taken: All its counted trials.
        rows: Those that its figures are made of: all of them, but in a scale scenario those that
            started alone and first.
        places: Row numbers of `rows` in the frame of the run, shape (rows,).
        record: What was prepared for it.
        forms: Those of `taken`, each with how many trials have it, in the order of their first.
    """

    name: str
    taken: pd.DataFrame
    rows: pd.DataFrame
    places: npt.NDArray[np.int64]
    record: ArmRecord | None
    forms: Mapping[Form, int]


def arm_data(
    data: RunData, counted: pd.DataFrame, name: str, record: ArmRecord | None, *, is_scale: bool
) -> ArmData:
    """Pick the rows of an arm.

    Args:
        data: The run.
        counted: Counted trials of the scenario.
        name: Of the arm.
        record: What was prepared for it.
        is_scale: Whether the scenario lets instances live side by side.
    """
    taken = counted[counted["arm"] == name]
    rows = taken[(taken["alive"] == 0) & (taken["together"] == 1)] if is_scale else taken
    numbers = taken["form"].value_counts(sort=False)
    order = taken["form"].unique().tolist()
    return ArmData(
        name=name,
        taken=taken,
        # A block that is in the records twice counts once, in its last version.
        rows=rows[~rows["block"].duplicated(keep="last")],
        places=rows.index.to_numpy(),
        record=record,
        forms={data.forms[form]: int(numbers[form]) for form in order},
    )


def estimates(arm: ArmData, seed: int) -> Mapping[str, stats.Estimate]:
    """Estimate the median of every metric that the arm has, by the metric's name.

    A milestone that no trial reached does not exist for the arm; `ready` exists for every arm with
    a trial, so if no trial reached it, its median is infinite.
    """
    found = {}
    for metric in MEASURED:
        if not _exists(arm, metric):
            continue
        value = stats.estimate(samples(arm.rows, metric.column)[1], seed)
        if value is not None:
            found[metric.name] = value
    return MappingProxyType(found)


def _exists(arm: ArmData, metric: Metric) -> bool:
    """Whether any trial has it: of failed ones all milestones would be infinite otherwise."""
    return metric.name == "ready" or bool(arm.rows[metric.column].notna().any())


def comparisons(
    arm: ArmData, reference: ArmData, seed: int
) -> tuple[Mapping[str, stats.Comparison], Mapping[str, stats.Comparison]]:
    """Compare every metric that both arms have, within blocks.

    Returns:
        By the metric's name: as a multiple of the reference's, and minus the reference's (the
        latter for `DIFFERENCES` alone).
    """
    ratios, differences = {}, {}
    for metric in MEASURED:
        if not (_exists(arm, metric) and _exists(reference, metric)):
            continue
        ours, theirs = (samples(which.rows, metric.column) for which in (arm, reference))
        if theirs[1].any():
            ratios[metric.name] = _paired(ours, theirs, _quotient, seed)
        if metric.name in DIFFERENCES:
            differences[metric.name] = _paired(ours, theirs, _minus, seed)
    return _present(ratios), _present(differences)


def ratio(arm: ArmData, reference: ArmData, column: str, seed: int) -> stats.Comparison | None:
    """Compare one metric within blocks: as a multiple of the reference's."""
    ours, theirs = (samples(which.rows, column) for which in (arm, reference))
    return _paired(ours, theirs, _quotient, seed)


def _paired(
    ours: Samples, theirs: Samples, compare: Callable[[Floats, Floats], Floats], seed: int
) -> stats.Comparison | None:
    """Compare within blocks, as `stats.paired_ratio` and `paired_difference` do it, by columns."""
    import numpy as np

    a, b = ours[1], theirs[1]
    if not np.array_equal(ours[0], theirs[0]):
        common = np.intersect1d(ours[0], theirs[0], assume_unique=True, return_indices=True)
        a, b = a[common[1]], b[common[2]]
    told = np.isfinite(a) | np.isfinite(b)
    a, b = a[told], b[told]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(np.isfinite(b), compare(a, b), -math.inf)
    found = stats.estimate(values, seed)  # which leaves out those that are NaN
    return stats.Comparison(found, len(told) - found.count) if found is not None else None


def _quotient(a: Floats, b: Floats) -> Floats:
    import numpy as np

    quotient = np.where(b > 0, a / b, math.inf)
    quotient[(a < 0) | (b < 0)] = math.nan  # available memory may grow meanwhile: no ratio
    quotient[a == b] = 1.0
    return quotient


def _minus(a: Floats, b: Floats) -> Floats:
    return a - b


def _present(
    found: Mapping[str, stats.Comparison | None],
) -> Mapping[str, stats.Comparison]:
    return MappingProxyType({name: value for name, value in found.items() if value is not None})


def by_block(arm: ArmData, column: str) -> dict[int, float]:
    """One metric of an arm by block, failures censored."""
    blocks, values = samples(arm.rows, column)
    return dict(zip(blocks.tolist(), values.tolist(), strict=True))


def quantiles(arm: ArmData, seed: int) -> Mapping[float, stats.Estimate]:
    """Estimate the quantiles of `ready` that there are enough trials for."""
    ready = values(arm, "ready_ns")
    found = {p: stats.quantile_estimate(ready, p, seed) for p in QUANTILES}
    return MappingProxyType({p: value for p, value in found.items() if value is not None})


def delta(arm: ArmData, reference: ArmData, seed: int) -> stats.Effect | None:
    """Compare all trials of an arm with all of the reference, by Cliff's delta of `ready`."""
    return stats.cliffs_delta(by_block(arm, "ready_ns"), by_block(reference, "ready_ns"), seed)


def shape(arm: ArmData) -> stats.Shape | None:
    """Look at the samples of `ready`, in the order taken, for what a median hides."""
    ready = values(arm, "ready_ns").tolist()
    return stats.shape(ready) if ready else None


def missing(arm: ArmData, found: Mapping[str, stats.Estimate]) -> Mapping[str, str]:
    """Say of every metered metric without a value why it has none, in the words of its meter."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for form, number in arm.forms.items():
        for meter, _, reason in form.readings:
            if reason is not None:
                reasons[meter.value][reason] += number
    told = {}
    went_well = [form for form in arm.forms if form.outcome is Outcome.OK]
    if "disk-growth" not in found and went_well and not any(f.has_disk for f in went_well):
        told["disk-growth"] = "its instances have no files of their own"
    for metric in MEASURED:
        if metric.name in found or metric.meter is None or not len(arm.taken):
            continue
        known = reasons[metric.meter.value].most_common(1)
        told[metric.name] = known[0][0] if known else "not measured"
    return MappingProxyType(told)


def scopes(arm: ArmData) -> Mapping[str, str]:
    """Say of every metered metric whose use it is; several scopes are listed."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    for form in arm.forms:
        for meter, scope, reason in form.readings:
            if reason is None:
                seen[meter.value][scope] = None
    return MappingProxyType(
        {
            metric.name: " and ".join(seen[metric.meter.value])
            for metric in MEASURED
            if metric.meter is not None and seen[metric.meter.value]
        }
    )


def errors(arm: ArmData) -> tuple[tuple[str, int], ...]:
    """Count the distinct sentences of failed trials, most frequent first."""
    found: Counter[str] = Counter()
    for form, number in arm.forms.items():
        if form.outcome is not Outcome.OK:
            found[form.error or "no reason was recorded"] += number
    return tuple(found.most_common())


def console(arm: ArmData) -> str:
    """Take the last lines of the first failed trial that left any."""
    left = (f.console for f in arm.forms if f.console and f.outcome is not Outcome.OK)
    return next(left, "")


def parts(data: RunData, arm: ArmData) -> tuple[Part, ...]:
    """List the static parts of an arm, then what an instance has alone, at its median."""
    import numpy as np

    static = arm.record.disk if arm.record is not None else ()
    found = [Part(p.name, p.sharing, p.allocated_bytes, p.apparent_bytes) for p in static]
    for name, sharing in dict.fromkeys((name, sharing) for name, sharing, _ in data.parts):
        sizes = []
        for what in ("allocated", "apparent"):
            column = data.parts[name, sharing, what][arm.places]
            there = column[~np.isnan(column)]
            sizes += [round(float(np.median(there)))] if len(there) else []
        if len(sizes) == 2:
            found.append(Part(name, sharing, *sizes))
    return tuple(found)


def values(arm: ArmData, column: str) -> Floats:
    """One metric of an arm in the order taken, failures censored."""
    return samples(arm.rows, column)[1]
