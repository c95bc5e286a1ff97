"""Cliff's delta: how often one arm's trial is longer than the other's, minus how often shorter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.stats.arrays import Array, np
from harness.stats.distributions import student_quantile
from harness.stats.intervals import LEVEL, Interval, Method


@dataclass(frozen=True, slots=True)
class Effect:
    """The distance of two arms' samples, under any distributions.

    Attributes:
        delta: Between -1 (every trial of the first is shorter than every one of the second) and 1;
            0 when either is as often the longer one.
        interval: None with fewer than two samples of either.
    """

    delta: float
    interval: Interval | None


def cliffs_delta(
    a: Mapping[int, float] | Sequence[float], b: Mapping[int, float] | Sequence[float]
) -> Effect | None:
    """Compare every trial of `a` with every trial of `b`.

    The interval is that of Cliff (*Ordinal Methods for Behavioral Data Analysis*, 1996; Feng &
    Cliff, "Monte Carlo evaluation of ordinal d with improved confidence interval", 2004), which
    bends with delta and does not shrink to nothing when the two do not overlap. Its variance is
    that of the dominances summed over blocks, so that arms which one disturbance hits are
    not taken for independent.

    Args:
        a: Block number to value, which uses the pairing; or values alone, taken as independent.
            Infinity stands for a failed trial (two failed ones are equal), NaN is left out.
        b: The same of the other arm.

    Returns:
        None when either has no samples.
    """
    paired = isinstance(a, Mapping) and isinstance(b, Mapping)
    first, first_blocks = _arrays(a)
    second, second_blocks = _arrays(b)
    if not len(first) or not len(second):
        return None
    rows, columns = _dominances(first, second), -_dominances(second, first)
    delta = float(rows.mean())
    fewest = min(len(first), len(second))
    if fewest < 2:
        return Effect(delta, None)
    own, other = (rows - delta) / len(first), (columns - delta) / len(second)
    if paired:
        _, places = np.unique(np.concatenate([first_blocks, second_blocks]), return_inverse=True)
        shares = np.bincount(places, np.concatenate([own, other]))
        number = len(shares)
        variance = float((shares**2).sum()) * number / (number - 1)
    else:
        variance = sum(
            float((part**2).sum()) * len(part) / (len(part) - 1) for part in (own, other)
        )
    return Effect(delta, _interval(delta, variance, fewest))


def _interval(delta: float, variance: float, fewest: int) -> Interval:
    z = student_quantile((1 + LEVEL) / 2, fewest - 1)
    spread = z * z * variance
    # Where the samples hardly overlap the variance is too small to believe: no end is nearer to 1
    # than where they do not overlap at all.
    furthest = (fewest - z * z) / (fewest + z * z)
    if abs(delta) == 1:
        low, high = furthest, 1.0
    else:
        skew = 1 - delta * delta
        half = z * math.sqrt(variance * (skew * skew + spread))
        middle = abs(delta) * skew
        low, high = (middle - half) / (skew + spread), (middle + half) / (skew + spread)
        low, high = min(low, furthest) if spread else low, min(high, 1.0)
    if delta < 0:
        low, high = -high, -low
    return Interval(max(low, -1.0), high, LEVEL, Method.DOMINANCE)


def _arrays(values: Mapping[int, float] | Sequence[float]) -> tuple[Array, Array]:
    if isinstance(values, Mapping):
        blocks, samples = np.array(list(values), float), np.array(list(values.values()), float)
    else:
        samples = np.asarray(values, float)
        blocks = np.arange(len(samples), dtype=float)
    kept = ~np.isnan(samples)
    return samples[kept], blocks[kept]


def _dominances(samples: Array, others: Array) -> Array:
    """For each sample: the share of the others that are smaller, minus the share that are larger.

    By sorting: a million against a million takes a second, not a terabyte.
    """
    ordered = np.sort(others)
    smaller = np.searchsorted(ordered, samples, "left")
    larger = len(ordered) - np.searchsorted(ordered, samples, "right")
    return np.asarray((smaller - larger) / len(ordered), float)
