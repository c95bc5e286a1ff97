"""Finds where a series changed its level: a scan over ranks, judged by permutation. Pure.

A history of medians is short (tens of points), skewed, with outliers, and its noise is not known
beforehand. So the test looks at ranks alone and draws its null distribution from the series itself:

1. Each value becomes the normal score of its rank (van der Waerden, *Indagationes Mathematicae* 14,
   1952): no outlier can weigh more than a rank does, and nothing is lost where noise is normal.
   For each place k, how far the scores before k are from those after it, in units of the standard
   deviation under exchangeability. The maximum over all places is the statistic (Pettitt, *Applied
   Statistics* 28, 1979, in its standardised form).
2. The same maximum for permutations of the series says how often chance alone reaches that: the
   p-value counts the series itself as one of them (Phipson & Smyth, 2010), so it is never zero.
   What no permutation reached is judged more finely: the chance of each place's sum, counted
   exactly, summed over all places, which can only be too cautious. Without that, the correction
   for hundreds of series would ask for more permutations than there is time for.
   A level that has returned to where it was before leaves no two parts that differ. So a fifth of
   each question's error rate goes to the newer half alone.
3. If it is small enough, the series is cut there and both parts are searched again (binary
   segmentation). Each further question is asked at a stricter level, so that the chance of any
   false change in a series stays at what was asked for.
4. Once all are found, each is placed again by the same scan, between its neighbours alone: the
   first cut of a series was made across all the others.

Many series are one family (`changes_of_many`): Holm's step-down over the first question of each
(*Scandinavian Journal of Statistics* 6, 1979), valid under any dependence between series, with one
half of the error rate; the further questions of all share the other half.

Permutations stand for independent points. Where the host wanders, neighbours are alike, and sums of
them swing wider by √((1 + r) / (1 - r)), r being the correlation of neighbours. The series of a
family share their host: so r is their median one, each without its strongest change, and all
differences are divided by that. Few series do not tell a wandering host from a second change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise, takewhile
from statistics import NormalDist

from harness.stats.arrays import Array, np

ALPHA = 0.01
"""Chance of a false change anywhere in a series that has none."""
SHORTEST = 4
"""Points that a level needs on either side of a change: with fewer, ranks show nothing."""
PERMUTATIONS = 4000
_WHOLE = 0.8
"""Of the error rate, for the question about the whole; the rest for that about its newer half."""
_COUNTED_MOST = 64
"""Up to so many points sums are counted exactly; beyond, a normal tail is above the truth."""
_FEWEST_FOR_WANDERING = 8
"""Series that it takes to tell how much the host wanders."""
_MOST_ALIKE = 0.9
_LEAST_ALIKE, _FEWEST_FOR_ALIKE = 0.15, 16
"""Less, or in fewer points, is as likely chance."""
_TAKEN, _TAKEN_OF_ALIKE = 3.4, 8.0
"""By n, what removing the strongest change takes from the correlation of n points: simulated for 20
to 60 points and correlations of 0 to 0.8."""
_GRAIN = 10
"""Scores are whole tenths, so that sums of them can be counted."""


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """One change of level.

    Attributes:
        index: Of the first point of the new level.
        before: Median of the level before it, in the unit of the series.
        after: Median of the level from it on.
        p: How often chance alone would look like that.
    """

    index: int
    before: float
    after: float
    p: float

    @property
    def relative(self) -> float:
        """Change of the level: 0.05 is 5 % up; infinite from a level of zero."""
        return self.after / self.before - 1 if self.before else math.inf


def change_points(
    series: Sequence[float],
    *,
    alpha: float = ALPHA,
    further: float | None = None,
    seed: int = 0,
    wandering: float = 1.0,
) -> tuple[ChangePoint, ...]:
    """Find the changes of level of a series.

    Args:
        series: Shape (n,), in order; infinity stands for a point that was not reached. Equal values
            share their rank.
        alpha: Chance of any false change in a series that has none.
        further: Chance of any false change beside the first, true one; None: `alpha`.
        seed: Of the permutations; the same series and seed give the same answer.
        wandering: By how much sums swing wider than those of independent points.

    Returns:
        In order; none for fewer than 2 × `SHORTEST` points.
    """
    values = np.asarray(series, float)
    found: dict[int, float] = {}
    pending = [(0, len(values), alpha)]
    while pending:
        begin, end, level = pending.pop()
        part = values[begin:end]
        if len(part) < 2 * SHORTEST:
            continue
        place, p = _asked(part, seed + begin, wandering)
        if p > level:
            continue
        found[begin + place] = p
        if len(part) == len(values) and further is not None:
            level = further
        # Both halves may err as often as the question that led to them.
        pending += [(begin, begin + place, level / 2), (begin + place, end, level / 2)]
    return _with_levels(values, _placed(values, found))


def changes_of_many(
    series: Mapping[str, Sequence[float]], *, alpha: float = ALPHA
) -> dict[str, tuple[ChangePoint, ...]]:
    """Find the changes of level of many series, by name.

    `alpha` is the chance of any false change in any of them.
    """
    wandering = wandering_of(series.values())
    strongest = {
        name: strongest_change(values, wandering=wandering) for name, values in series.items()
    }
    changed = corrected({name: one.p for name, one in strongest.items() if one}, alpha / 2)
    further = alpha / 2 / max(len(series), 1)
    return {
        name: change_points(values, alpha=alpha, further=further, wandering=wandering)
        if name in changed
        else ()
        for name, values in series.items()
    }


def wandering_of(family: Iterable[Sequence[float]]) -> float:
    """By how much sums of these series swing wider than those of independent points, at least 1."""
    alike = []
    for series in family:
        values = np.asarray(series, float)
        count = len(values)
        if count < _FEWEST_FOR_ALIKE or values.min() == values.max():
            continue
        scores = _scores(values)
        place = SHORTEST + int(np.argmax(_scan(scores)))
        rest = np.concatenate([part - part.mean() for part in (scores[:place], scores[place:])])
        if square := float(np.square(rest).sum()):
            found = float((rest[1:] * rest[:-1]).sum()) / square
            alike.append((found + _TAKEN / count) / (1 - _TAKEN_OF_ALIKE / count))
    if len(alike) < _FEWEST_FOR_WANDERING:
        return 1.0
    middle = min(float(np.median(alike)), _MOST_ALIKE)
    return math.sqrt((1 + middle) / (1 - middle)) if middle > _LEAST_ALIKE else 1.0


@cache
def fewest_points(series: int, alpha: float = ALPHA) -> int:
    """Points that one of so many series needs before `changes_of_many` can see any step in it."""
    count = 2 * SHORTEST
    while _asked(np.arange(count, dtype=np.float64), 0)[1] > alpha / 2 / max(series, 1):
        count += 1
    return count


def strongest_change(
    series: Sequence[float], *, seed: int = 0, wandering: float = 1.0
) -> ChangePoint | None:
    """The most likely change of a series, however weak: for `corrected`; None if too short."""
    values = np.asarray(series, float)
    if len(values) < 2 * SHORTEST:
        return None
    place, p = _asked(values, seed, wandering)
    return _with_levels(values, {place: p})[0]


def corrected(p_values: Mapping[str, float], alpha: float = ALPHA) -> frozenset[str]:
    """Name the series that have changed, by the p-values of their strongest changes.

    `alpha` is the chance that any is named wrongly (family-wise).
    """
    rising = sorted(p_values, key=lambda name: p_values[name])
    limits = {name: alpha / (len(rising) - place) for place, name in enumerate(rising)}
    return frozenset(takewhile(lambda name: p_values[name] <= limits[name], rising))


def _placed(values: Array, found: Mapping[int, float]) -> dict[int, float]:
    """Move each change to the likeliest place between its neighbours, where there is one."""
    placed: dict[int, float] = {}
    begin = 0
    for place, end in pairwise([*sorted(found), len(values)]):
        part = values[begin:end]
        if part.min() < part.max():
            begin += SHORTEST + int(np.argmax(_scan(_scores(part))))
            placed[begin] = found[place]
    return placed


def _with_levels(values: Array, found: Mapping[int, float]) -> tuple[ChangePoint, ...]:
    places = sorted(found)
    borders = [0, *places, len(values)]
    levels = [float(np.median(values[a:b])) for a, b in pairwise(borders)]
    return tuple(
        ChangePoint(place, levels[number], levels[number + 1], found[place])
        for number, place in enumerate(places)
    )


def _asked(values: Array, seed: int, wandering: float = 1.0) -> tuple[int, float]:
    """Place and p-value of the likeliest change of a series, or of its newer half."""
    place, p = _strongest(values, seed, wandering)
    p = min(1.0, p / _WHOLE)
    half = len(values) // 2
    if len(values) - half >= 2 * SHORTEST:
        newer, newer_p = _strongest(values[half:], seed + half, wandering)
        if newer_p / (1 - _WHOLE) < p:
            return half + newer, newer_p / (1 - _WHOLE)
    return place, p


def _strongest(values: Array, seed: int, wandering: float) -> tuple[int, float]:
    """Place and p-value of the largest difference of scores."""
    if values.min() == values.max():
        return SHORTEST, 1.0  # nothing changed
    scores = _scores(values)
    scan = _scan(scores)
    best = int(np.argmax(scan))
    if len(np.unique(values)) == len(values):
        null = _untied_null(len(values))
    else:
        null = _null(scores, np.random.RandomState(seed % 2**32))
    reached = float(scan[best]) / wandering
    as_large = int(np.sum(null >= reached - 1e-9))
    p = (as_large + 1) / (len(null) + 1)
    return best + SHORTEST, p if as_large else min(p, _counted(scores, reached))


def _scores(values: Array) -> Array:
    """Normal scores in whole tenths, centred; equal values share that of their middle rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    twice = 2 * np.cumsum(counts) - counts + 1  # twice the middle rank
    scores = _normal_scores(len(values))[twice[inverse]]
    centred: Array = scores - scores.mean()
    return centred


@cache
def _normal_scores(count: int) -> Array:
    """The score of each half rank from 1 on, by twice that."""
    normal = NormalDist()
    halves = range(2, 2 * count + 1)
    scores = [0.0, 0.0, *(normal.inv_cdf(half / 2 / (count + 1)) for half in halves)]
    whole: Array = np.rint(_GRAIN * np.array(scores))
    return whole


def _scan(scores: Array) -> Array:
    """The standardised difference at each allowed place, for one series or a row of them each."""
    count = scores.shape[-1]
    before = np.arange(SHORTEST, count - SHORTEST + 1)
    sums = np.cumsum(scores, axis=-1)[..., before - 1]
    # Var of a sum of k of n values drawn without replacement: k (n-k) / (n-1) times theirs.
    variance = np.mean(np.square(scores), axis=-1, keepdims=True)
    deviation = np.sqrt(before * (count - before) / (count - 1) * variance)
    scan: Array = np.abs(sums) / deviation
    return scan


def _counted(scores: Array, reached: float) -> float:
    """An upper bound of the chance that a permutation reaches so large a difference anywhere."""
    count = len(scores)
    places = range(SHORTEST, count - SHORTEST + 1)
    if count > _COUNTED_MOST:
        return min(1.0, len(places) * math.erfc(reached / math.sqrt(2)))
    whole = np.rint(scores - scores.min()).astype(int)
    numbers = _subsets(tuple(np.sort(whole).tolist()))
    variance = float(np.mean(np.square(scores)))
    chance = 0.0
    for place in places:
        taken = min(place, count - place)  # what is not taken lies as far on the other side
        off = np.abs(np.arange(numbers.shape[1]) - taken * float(whole.mean()))
        bound = reached * math.sqrt(taken * (count - taken) / (count - 1) * variance)
        chance += float(numbers[taken][off >= bound - 1e-6].sum()) / math.comb(count, taken)
    return min(1.0, chance)


@lru_cache(maxsize=32)
def _subsets(weights: tuple[int, ...]) -> Array:
    """How many subsets of each size (up to half) have each sum: shape (sizes, sums)."""
    numbers = np.zeros((len(weights) // 2 + 1, sum(weights) + 1))
    numbers[0, 0] = 1
    for weight in weights:
        numbers[1:, weight:] += numbers[:-1, : numbers.shape[1] - weight]
    return numbers


def _null(scores: Array, random: np.random.RandomState) -> Array:
    """The largest differences of random permutations of the scores: shape (PERMUTATIONS,)."""
    order = np.argsort(random.random_sample((PERMUTATIONS, len(scores))), axis=1)
    largest: Array = _scan(scores[order]).max(axis=1)
    return largest


@cache
def _untied_null(count: int) -> Array:
    """Without ties the null depends on the number of points alone: one table for all series."""
    scores = _scores(np.arange(count, dtype=np.float64))
    return _null(scores, np.random.RandomState(count))
