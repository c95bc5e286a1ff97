"""Judges the newest points of a series against the level before them, without delay. Pure.

A scan over ranks (`harness.stats.changes`) needs several points behind a change. Until it has them,
three rules watch the newest points. They look at logarithms, at points since the last change alone,
and use spreads that outliers and skewness cannot make small:

- **One point** is apart if it lies further from the level than k times the second largest distance
  seen before. One run may be an accident, so that is a question, and no answer yet.
- **Two points** have moved the level if both lie beyond c2·g spreads of it.
- **Three to eight points** have if all of them lie beyond c3·g.

c is a quantile of Student's t with three degrees of freedom, as noise of runs is heavy-tailed, and
g widens it where the spread rests on few points. Each rule has its share of an error rate per look
and over all series of a family, which k and c divide among them. Both directions are judged alike.

`tests/bench/test_newest.py` simulates error rates and power, and prints them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise

from harness.stats.arrays import Array, np
from harness.stats.distributions import student_quantile

FEWEST_EARLIER = 12
"""Earlier points that judging the newest one takes."""
FEWEST_FOR_MOVED = 20
"""Earlier points that judging several of the newest takes."""
MOST_RUNS = 8
"""So many of the newest points are judged together; the scan has found what is older."""

_ONE_ERROR = 0.0035
_ERRORS = {2: 0.0012, 3: 0.0016}
"""Chance of a false alarm in a look at a family, by how many of the newest points are judged; three
stands for three and more."""
_LEAST_FACTOR = 1.5
_FREEDOM = 3
_STUDENT_SPREAD = 1.278
"""The 90 % quantile of Student's t with three degrees, in normal ones."""
_NORMAL_90 = 1.2816
_MAD = 1.4826
_LEAST_SPREAD = 0.0025
"""Of logarithms: series of hardly any noise still move by this without a cause."""
_FEWEST_OF_LEVEL = 3
_NOT_REACHED = math.log(1000)
"""How far above all others a point that was not reached stands, as a logarithm."""


class Standing(StrEnum):
    """Where the newest points stand to the level before them."""

    WITHIN = "within"
    """Among the values seen before."""
    EXTREME = "extreme"
    """Above, or below, all seen before, and no further than chance goes."""
    APART = "apart"
    """One point, too far away for chance: a question that another run answers."""
    MOVED = "moved"
    """Several points, too far away for chance."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest points of a series, judged.

    Attributes:
        standing: Where they stand.
        runs: How many of the newest points are meant: 1 unless they have moved.
        level: Median of the points before them, since the last change; in the series' unit.
        value: Median of the newest points that are meant.
        seen: Points since the last change, the newest ones among them.
        is_upward: Whether they are above the level.
        error: Chance of such an alarm in any series of the family, in one look; 0 without one.
    """

    standing: Standing
    runs: int
    level: float
    value: float
    seen: int
    is_upward: bool
    error: float = 0.0

    @property
    def ratio(self) -> float:
        """The value as a multiple of the level: infinite from a level of zero."""
        if self.value == self.level:
            return 1.0
        return self.value / self.level if self.level else math.inf


def newest(
    series: Sequence[float],
    begins: Sequence[int] = (),
    *,
    family: int = 1,
    wandering: float = 1.0,
) -> Newest | None:
    """Judge the newest points of a series.

    Args:
        series: Shape (n,), in order; infinity stands for a point that was not reached.
        begins: Indices at which a new level begins, rising: the changes that are known.
        family: How many series are judged together.
        wandering: Of `harness.stats.changes.wandering_of`: points that are like their neighbours
            show less of their spread, and count for so many times fewer.

    Returns:
        None where fewer than `FEWEST_EARLIER` points come before the newest.
    """
    values = np.asarray(series, float)
    scaled = _scaled(values)
    one = _reference(scaled, begins, 1, wandering)
    if one is None or one.count < FEWEST_EARLIER:
        return None
    runs, sign = _moved(scaled, begins, family, wandering)
    standing, error = Standing.MOVED, _ERRORS[min(max(runs, 2), 3)]
    off = float(scaled[-1]) - one.middle
    if not runs:
        runs, sign, error = 1, 1 if off >= 0 else -1, 0.0
        outermost = one.level.max() if sign > 0 else -one.level.min()
        if abs(off) > one_run_factor(one.worth, family) * one.widening * one.distance:
            standing, error = Standing.APART, _ONE_ERROR
        else:
            is_outside = sign * float(scaled[-1]) > outermost
            standing = Standing.EXTREME if is_outside else Standing.WITHIN
    begin = begins[-1] if len(begins) else 0
    return Newest(
        standing,
        runs,
        float(np.median(values[begin : len(values) - runs])),
        float(np.median(values[-runs:])),
        len(values) - begin,
        sign > 0,
        error,
    )


@cache
def one_run_factor(earlier: int, family: int) -> float:
    """Distances of the second most distant earlier point that the newest must exceed."""
    return max(_LEAST_FACTOR, math.cbrt(family / (earlier * _ONE_ERROR)))


@cache
def moved_factor(runs: int, earlier: int, family: int) -> float:
    """Spreads from the level that each of two, or of three and more, newest points must exceed."""
    together = min(runs, max(_ERRORS))
    chance = math.pow(_ERRORS[together] / family, 1 / together)
    quantile = student_quantile(1 - chance, _FREEDOM) / _STUDENT_SPREAD
    return max(_LEAST_FACTOR, quantile) * (1 + 2 / earlier + 60 / earlier**2)


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the newest points are held against, in logarithms.

    Attributes:
        level: The earlier points since the last change.
        middle: Their median.
        residuals: Of earlier points, to the median of their own level.
        widening: For a level of few points, whose spread is that of earlier levels too.
        wandering: By how much fewer independent points they are worth.
    """

    level: Array
    middle: float
    residuals: Array
    widening: float
    wandering: float

    @property
    def count(self) -> int:
        return len(self.residuals)

    @property
    def worth(self) -> int:
        """How many independent points show as much."""
        return max(round(self.count / self.wandering), FEWEST_EARLIER)

    @property
    def distance(self) -> float:
        """The second largest distance from the level."""
        return max(float(np.sort(np.abs(self.residuals))[-2]), _LEAST_SPREAD)

    def spread(self, sign: int) -> float:
        """The deviation to one side, the largest of three that outliers cannot inflate."""
        residuals = sign * self.residuals
        low, middle, high = (float(np.quantile(residuals, share)) for share in (0.1, 0.5, 0.9))
        deviation = _MAD * float(np.median(np.abs(residuals - middle)))
        either = (high - low) / (2 * _NORMAL_90)
        return float(max(deviation, either, (high - middle) / _NORMAL_90, _LEAST_SPREAD))


def _reference(
    scaled: Array, begins: Sequence[int], runs: int, wandering: float
) -> _Reference | None:
    """Take the points before so many of the newest; None where their level has too few."""
    borders = [0, *begins, len(scaled) - runs]
    level = scaled[borders[-2] : max(borders[-1], 0)]
    if len(level) < _FEWEST_OF_LEVEL:
        return None
    levels = [level]
    if len(level) < FEWEST_FOR_MOVED:
        # A young level has the noise of those before it, until it has shown its own.
        levels = [scaled[begin:end] for begin, end in pairwise(borders)]
    residuals = np.concatenate([part - np.median(part) for part in levels])
    # The variance of a median of so many normal values is 1.57 of theirs, by their number.
    widening = math.sqrt((1 + 1.57 / len(level)) / (1 + 1.57 / len(residuals)))
    return _Reference(level, float(np.median(level)), residuals, widening, wandering)


def _moved(scaled: Array, begins: Sequence[int], family: int, wandering: float) -> tuple[int, int]:
    """Number of the newest points that have moved, the most there are, and the sign; 0: none."""
    for runs in range(MOST_RUNS, 1, -1):
        reference = _reference(scaled, begins, runs, wandering)
        if reference is None or reference.count < FEWEST_FOR_MOVED:
            continue
        factor = moved_factor(runs, reference.worth, family) * reference.widening
        for sign in (1, -1):
            nearest = float((sign * (scaled[-runs:] - reference.middle)).min())
            # The spread takes its time, and is seldom asked for.
            if nearest > factor * _LEAST_SPREAD and nearest > factor * reference.spread(sign):
                return runs, sign
    return 0, 1


def _scaled(values: Array) -> Array:
    """Logarithms; multiples of the median where a value is not above zero."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros(len(values))
    if finite.min() > 0:
        scaled = np.log(np.where(np.isfinite(values), values, finite.max()))
    else:
        unit = float(np.median(np.abs(finite))) or float(np.abs(finite).max()) or 1.0
        scaled = np.where(np.isfinite(values), values, finite.max()) / unit
    found: Array = scaled + np.where(np.isfinite(values), 0.0, _NOT_REACHED)
    return found
