"""Estimates of one arm from its rows: medians, comparisons, what is missing and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from harness import stats
from harness.model import ArmRecord, DiskPart, Outcome
from harness.model.metrics import METRICS, Metric, Unit, is_flushed
from harness.model.units import spell
from harness.records.columns import Form
from harness.records.dataset import MEASURED, RunData, samples, trial_samples
from harness.stats.arrays import Array, np

if TYPE_CHECKING:
    import pandas as pd

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

QUANTILES = (0.5, 0.9, 0.99)

DIFFERENCES = ("ready", "disk", "pss", "cgroup-current", "cpu")
"""Metrics whose difference to the reference is shown beside its ratio."""
_OF_SOME_ARMS = frozenset({"file-system"})
"""Metrics that the others do not lack: they have nothing of the kind."""


_OF_THE_HOST = "available-delta"
"""Counts what everybody on the host did, not this arm alone."""


@dataclass(frozen=True, slots=True)
class ArmData:
    """The rows of one arm of one scenario, ready to be judged.

    Attributes:
        taken: All its counted trials.
        rows: Those that its estimates are made of: all of them, but in a scale scenario those that
            started alone and first.
        forms: Those of `taken`, each with how many trials have it, in the order of their first.
    """

    name: str
    taken: pd.DataFrame
    rows: pd.DataFrame
    record: ArmRecord | None
    forms: Mapping[Form, int]


def arm_data(
    data: RunData, counted: pd.DataFrame, name: str, record: ArmRecord | None, *, is_scale: bool
) -> ArmData:
    """Pick the rows of an arm from the counted trials of its scenario.

    In a scale scenario (`is_scale`) instances live side by side.
    """
    taken = counted[counted["arm"] == name]
    rows = taken[(taken["alive"] == 0) & (taken["together"] == 1)] if is_scale else taken
    numbers = taken["form"].value_counts(sort=False)
    order = taken["form"].unique().tolist()
    return ArmData(
        name=name,
        taken=taken,
        # What is in the records twice counts once, in its last version.
        rows=rows[~rows.duplicated(["block", "repetition"], keep="last")],
        record=record,
        forms={data.forms[form]: int(numbers[form]) for form in order},
    )


def estimates(arm: ArmData) -> Mapping[str, stats.Estimate]:
    """Estimate the median of every metric that the arm has, by the metric's name.

    A milestone that no trial reached does not exist for the arm; `ready` exists for every arm with
    a trial, so if no trial reached it, its median is infinite.
    """
    existing = (metric for metric in MEASURED if _exists(arm, metric))
    return _present({m.name: stats.estimate(values(arm, m.column)) for m in existing})


def _exists(arm: ArmData, metric: Metric) -> bool:
    """Whether any trial has it: of failed ones all milestones would be infinite otherwise."""
    is_there = metric.name == "ready" or bool(arm.rows[metric.column].notna().any())
    return is_there and not (metric.name == _OF_THE_HOST and _is_noise(values(arm, metric.column)))


def _is_noise(falls: Array) -> bool:
    """Whether falls of the host's memory cannot be told from none: others use it as well."""
    estimate = stats.estimate(falls)
    interval = None if estimate is None else estimate.interval
    return (float(np.nanmin(falls)) if interval is None else interval.low) <= 0


def comparisons(
    arm: ArmData, reference: ArmData
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
            ratios[metric.name] = stats.paired_ratio(ours, theirs)
        if metric.name in DIFFERENCES:
            differences[metric.name] = stats.paired_difference(ours, theirs)
    return _present(ratios), _present(differences)


def _present(found: Mapping[_Key, _Value | None]) -> Mapping[_Key, _Value]:
    return MappingProxyType({key: value for key, value in found.items() if value is not None})


def by_block(arm: ArmData, column: str) -> dict[int, float]:
    """One metric of an arm by block, failures censored."""
    blocks, values = samples(arm.rows, column)
    return dict(zip(blocks.tolist(), values.tolist(), strict=True))


def quantiles(arm: ArmData) -> Mapping[float, stats.Estimate]:
    """Estimate the quantiles of `ready` that there are enough trials for.

    The median is that of the blocks. The higher ones are those of all trials, as a block's median
    hides just the slow start that they are there to show; their intervals go by block.
    """
    found = {0.5: stats.quantile_estimate(values(arm, "ready_ns"), 0.5)}
    blocks, ready = trial_samples(arm.rows, "ready_ns")
    for p in QUANTILES[1:]:
        found[p] = stats.quantile_estimate(ready, p, blocks.tolist())
    return _present(found)


def missing(arm: ArmData, found: Mapping[str, stats.Estimate]) -> Mapping[str, str]:
    """Say of every metered metric without a value why it has none, in the words of its meter."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for form, number in arm.forms.items():
        for meter, _, reason in form.readings:
            if reason is not None:
                reasons[meter.value][reason] += number
    missing_reasons = {}
    falls = arm.rows[METRICS[_OF_THE_HOST].column]
    if _OF_THE_HOST not in found and bool(falls.notna().any()):
        low, high = (spell(Unit.BYTES, float(fall)) for fall in (falls.min(), falls.max()))
        missing_reasons[_OF_THE_HOST] = f"within noise: from {low} to {high}"
    went_well = [form for form in arm.forms if form.outcome is Outcome.OK]
    if "disk-growth" not in found and went_well and not any(f.has_disk for f in went_well):
        missing_reasons["disk-growth"] = "its instances have no files of their own"
    if went_well and not any(is_flushed(form.diagnostics) for form in went_well):
        why = "no guest wrote out what it held in memory"
        missing_reasons |= dict.fromkeys(("disk", "disk-growth"), why)
    for metric in MEASURED:
        is_known = metric.name in found or metric.name in missing_reasons
        if is_known or metric.meter is None or not len(arm.taken):
            continue
        known = reasons[metric.meter.value].most_common(1)
        if not known and metric.name in _OF_SOME_ARMS:
            continue
        missing_reasons[metric.name] = known[0][0] if known else "not measured"
    return MappingProxyType(missing_reasons)


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


def parts(data: RunData, arm: ArmData) -> tuple[DiskPart, ...]:
    """List the static parts of an arm, then what an instance has alone, at its median."""
    found = list(arm.record.disk) if arm.record is not None else []
    for name, sharing in dict.fromkeys((name, sharing) for name, sharing, _ in data.parts):
        sizes = []
        for what in ("apparent", "allocated"):
            column = data.parts[name, sharing, what][arm.rows.index]
            there = column[~np.isnan(column)]
            sizes += [round(float(np.median(there)))] if len(there) else []
        if len(sizes) == 2:
            found.append(DiskPart(name, sharing, *sizes))
    return tuple(found)


def values(arm: ArmData, column: str) -> Array:
    """One metric of an arm by block in the order taken, failures censored."""
    return samples(arm.rows, column)[1]
