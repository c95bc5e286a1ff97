"""Compares two arms while the blocks come in, at planned looks that share one error. Pure.

A look after each block that stops at the first 5 % finds "differences" in every second pair of
equals. Here the looks are planned, and each may use up only a part of the error that is allowed:

- **Looks** at block counts that grow by a third each: early ones catch large differences cheaply.
- **Error spending** (Lan & DeMets, *Biometrika* 70, 1983; the power family, Kim & DeMets 1987):
  after a share t of the planned blocks, t^1.5 of the error may be used up, and all that is left at
  the last look, whenever that comes. The exponent trades early decisions on quiet hosts for late
  ones on noisy hosts.
- **At each look** the sign test of the paired log ratios: under equality a pair is as likely below
  zero as above it, so how many are below is a walk whose distribution at all looks is a binomial's
  and needs no approximation (Armitage, McPherson & Rowe, 1969). Inverted, it gives two order
  statistics as the ends of an interval of the median ratio, valid at all looks as a whole (a
  repeated confidence interval: Jennison & Turnbull 1989). It judges the median, which is printed.

Wilcoxon's signed rank finds a little more where pairs are symmetric, but it tests their symmetry
too: with a median ratio of 1 and a tail ten times as long above it as below, it called the arm
worse in 44 % of 300 simulated runs of 60 blocks, the sign test in 0.5 % of 5,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from harness.stats.arrays import Array, np

FIRST_LOOK = 12
"""Fewer pairs exclude nothing at the first look: all on one side has a chance of 2^-n."""
LOOK_GROWTH = 4 / 3
ERROR = 0.005
"""Chance that two equal arms are ever called different in one direction, over all looks.

Of a hundred checks of equal arms more than two then fail in one case of seventy.
"""
FEWEST_DETECTABLE = 20
"""Fewer pairs do not show their spread well enough to promise what they find."""
_SPENDING_EXPONENT = 1.5
_DEVIATIONS = 10.0
"""A binomial is cut off so far from its mean; beyond lies 1e-23."""
_SAMPLES = 400
_NOMINAL_POWER = 0.87
"""What is drawn again from N pairs spreads less than what they were drawn from: with 0.87 here, the
difference is found in 0.76 to 0.83 of cases, with 0.81 in 0.73 to 0.77: by 20 to 120 pairs that
were really measured, and the next as many of the same series (see also
`tests/bench/test_paired_power.py`)."""
_MOST_SKEWED = 0.5
_LARGEST_DRAW = 1 << 22


@dataclass(frozen=True, slots=True)
class Look:
    """The estimate of one look at the pairs.

    Attributes:
        pairs: How many blocks it rests on.
        ratio: Median of arm / reference.
        low: Lower end of its interval, which holds at all looks as a whole; 0 while it is open.
        high: Upper end; infinite while it is open.
        coverage: Of the intervals of all looks as a whole, at least.
    """

    pairs: int
    ratio: float
    low: float
    high: float
    coverage: float


def looks(most: int) -> tuple[int, ...]:
    """The numbers of pairs at which to look, the last of them `most`."""
    planned: list[int] = []
    at = float(FIRST_LOOK)
    while at < most / 1.1:
        planned.append(round(at))
        at *= LOOK_GROWTH
    return (*planned, most)


def look_at(ratios: Sequence[float], planned: Sequence[int], error: float = ERROR) -> Look | None:
    """Look at the pairs taken so far, if now is the time.

    Args:
        ratios: Arm / reference of each block in which not both failed, in order; infinity where
            only the arm failed, 0 where only the reference failed.
        planned: From `looks`.
        error: As `ERROR`; divide it by the number of metrics that share it.

    Returns:
        None between looks. Blocks beyond a look do not change it: pass them at the next.
    """
    if len(ratios) not in planned:
        return None
    outside = pairs_outside(tuple(planned), error)[list(planned).index(len(ratios))]
    return _look(ratios, outside, error)


def last_look(ratios: Sequence[float], planned: Sequence[int], error: float = ERROR) -> Look:
    """Look once more at the end, at any number of pairs, with all of the error that is left.

    For a run that ends between two looks, or before the last, by its time. That is no look too
    many: how long a block took does not depend on which of its two arms was the slower, so under
    equality the moment of the end says nothing of the signs that the test counts.

    All is as for `look_at`; the planned looks before the end have been taken. Pairs beyond the last
    planned look do not count.
    """
    ratios = ratios[: planned[-1]]
    outside = pairs_outside(ends_at(planned, len(ratios)), error, planned[-1])[-1]
    return _look(ratios, outside, error)


def ends_at(planned: Sequence[int], count: int) -> tuple[int, ...]:
    """The looks of a run that ended with `count` pairs."""
    return (*(pairs for pairs in planned if pairs < count), count)


def _look(ratios: Sequence[float], outside: int, error: float) -> Look:
    logs = sorted(_log(ratio) for ratio in ratios)
    count = len(logs)
    first, second = logs[(count - 1) // 2], logs[count // 2]
    # As many failures of the one as of the other are no difference: the sum of ±infinity is NaN.
    middle = first if first == second else (first + second) / 2
    low, high = (logs[outside], logs[-1 - outside]) if outside >= 0 else (-math.inf, math.inf)
    ratio = 1.0 if math.isnan(middle) else math.exp(middle)
    return Look(count, ratio, math.exp(low), math.exp(high), 1 - 2 * error)


@cache
def pairs_outside(
    planned: tuple[int, ...], error: float = ERROR, most: int | None = None
) -> tuple[int, ...]:
    """Count the pairs that lie outside the interval on each side, at each look.

    With o of them the interval reaches from the (o+1)-th smallest to the (o+1)-th largest ratio,
    and lies above 1 where at most o pairs do not. Of each look, o is the largest by which equal
    arms have been called different in one direction with a chance of at most the error that may be
    used up by then. The chance is exact: the distribution of the number of pairs below 1, of the
    runs that no earlier look has ended, is carried from look to look.

    Args:
        planned: Numbers of pairs, rising. The last look may use up all that is left of the error.
        error: On each side.
        most: Pairs that there were to be, where it ended before; None is the last of `planned`.

    Returns:
        A number for each look; -1 where nothing can be excluded yet.
    """
    most = most or planned[-1]
    chances, first = np.ones(1), 0  # of `first` pairs below 1, of one more, …
    before, spent, found = 0, 0.0, []
    for pairs in planned:
        start, further = _binomial(pairs - before)
        chances, first = np.convolve(chances, further), first + start
        share = 1.0 if pairs == planned[-1] else (pairs / most) ** _SPENDING_EXPONENT
        beyond = np.cumsum(chances[: max(pairs // 2 - first, 0)])
        reached = int(np.searchsorted(beyond, error * share - spent, side="right"))
        outside = first + reached - 1
        found.append(outside)
        if reached:
            spent += float(beyond[reached - 1])
        chances = chances[reached : pairs - outside - first]
        first, before = outside + 1, pairs
    return tuple(found)


def _binomial(count: int) -> tuple[int, Array]:
    """Chances of the successes in `count` even trials, and the number that the first belongs to."""
    reach = _DEVIATIONS * math.sqrt(count) / 2
    low, high = max(0, math.floor(count / 2 - reach)), min(count, math.ceil(count / 2 + reach))
    all_ways = math.lgamma(count + 1) - count * math.log(2)
    return low, np.array(
        [
            math.exp(all_ways - math.lgamma(k + 1) - math.lgamma(count - k + 1))
            for k in range(low, high + 1)
        ]
    )


def detectable_ratio(
    ratios: Sequence[float],
    planned: Sequence[int],
    error: float = ERROR,
    *,
    limit: float = 1.0,
) -> float:
    """The smallest ratio that as many pairs with this spread find above a limit.

    They find it in four of five cases: in so many of 400 samples that are drawn from the pairs'
    deviations from their median, and these with the other sign, some look's interval lies above the
    limit. The samples are the same each time.

    Args:
        ratios: As for `look_at`, those of a run that ends with them.
        planned: From `looks`.
        error: As for `look_at`.
        limit: What the interval is to be above.

    Returns:
        Infinite where the pairs do not show their spread: fewer than 20, very skewed ones, or ones
        of which too many failed.
    """
    logs = np.array([_log(ratio) for ratio in ratios[: planned[-1]]])
    finite, count = logs[np.isfinite(logs)], len(logs)
    if len(finite) < FEWEST_DETECTABLE:
        return math.inf
    low, middle, high = np.quantile(finite, [0.1, 0.5, 0.9])
    if abs(low + high - 2 * middle) > _MOST_SKEWED * (high - low):
        return math.inf
    deviations = np.concatenate([logs - middle, middle - logs])
    taken = ends_at(planned, count)
    outside = pairs_outside(taken, error, planned[-1])
    # RandomState's stream is frozen for good (NEP 19): the same pairs give the same figure.
    random = np.random.RandomState(0)
    at_once = max(1, min(_SAMPLES, _LARGEST_DRAW // count))
    lows = []
    for begin in range(0, _SAMPLES, at_once):
        samples = min(at_once, _SAMPLES - begin)
        drawn = deviations[random.randint(0, len(deviations), (samples, count))]
        ends = [
            np.partition(drawn[:, :pairs], place, axis=1)[:, place]
            for pairs, place in zip(taken, outside, strict=True)
            if place >= 0
        ]
        lows.append(np.max(ends, axis=0) if ends else np.full(samples, -math.inf))
    found = np.quantile(np.concatenate(lows), 1 - _NOMINAL_POWER, method="inverted_cdf")
    return limit * math.exp(-float(found))


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf
