"""Compares two arms while the blocks come in, at planned looks that share one error. Pure.

A look after each block that stops at the first 5 % finds "differences" in every second pair of
equals. Here the looks are planned, and each may use up only a part of the error that is allowed:

- **Looks** at block counts that grow by a third each: early ones catch large differences cheaply.
- **Error spending** (Lan & DeMets, *Biometrika* 70, 1983; the power family, Kim & DeMets 1987):
  after a share t of the planned blocks, t^1.5 of the error may be used up, and all that is left at
  the last look, whenever that comes. The exponent trades early decisions on quiet hosts for late
  ones on noisy hosts: planning 1,000 blocks with 1.5 finds 10 % about as soon as 300 with 2 where
  pairs spread by 15 %, and in 98 % of runs instead of 50 % where they spread by 70 %. The critical
  values follow from the joint distribution of the looks by numerical integration (Armitage,
  McPherson & Rowe, 1969).
- **At each look** the signed-rank statistic of the paired log ratios (Wilcoxon 1945): no
  distribution is assumed but that the two sides of zero look alike. Inverted, it gives the
  Hodges-Lehmann estimate of the ratio and its interval, valid at all looks as a whole (a repeated
  confidence interval: Jennison & Turnbull 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from harness.stats.arrays import Array, np

FIRST_LOOK = 12
"""Fewer pairs cannot reach the first critical value: a signed-rank p-value is at least 2^-n."""
LOOK_GROWTH = 4 / 3
ERROR = 0.005
"""Chance that two equal arms are ever called different in one direction, over all looks.

Of a hundred checks of equal arms more than two then fail in one case of seventy.
"""
_SPENDING_EXPONENT = 1.5
_GRID_POINTS = 2401
_GRID_DEVIATIONS = 8.0


@dataclass(frozen=True, slots=True)
class Look:
    """The estimate of one look at the pairs.

    Attributes:
        pairs: How many blocks it rests on.
        ratio: Hodges-Lehmann estimate of arm / reference.
        low: Lower end of its interval, which holds at all looks as a whole; 0 while it is open.
        high: Upper end; infinite while it is open.
        coverage: Of the intervals of all looks as a whole.
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
    critical = critical_values(tuple(planned), error)[list(planned).index(len(ratios))]
    return _look(ratios, critical, error)


def last_look(ratios: Sequence[float], planned: Sequence[int], error: float = ERROR) -> Look:
    """Look once more at the end, at any number of pairs, with all of the error that is left.

    For a run that ends between two looks, or before the last, by its time. That is no look too
    many: how long a block took does not depend on which of its two arms was the slower, so under
    equality the moment of the end says nothing of the signs that the test counts.

    All is as for `look_at`; the planned looks before the end have been taken.
    """
    count = len(ratios)
    critical = critical_values(ends_at(planned, count), error, max(planned[-1], count))[-1]
    return _look(ratios, critical, error)


def _look(ratios: Sequence[float], critical: float, error: float) -> Look:
    logs = [math.log(ratio) if ratio > 0 else -math.inf for ratio in ratios]
    low, middle, high = (math.exp(end) for end in signed_rank_interval(logs, critical))
    return Look(len(ratios), middle, low, high, 1 - 2 * error)


def ends_at(planned: Sequence[int], count: int) -> tuple[int, ...]:
    """The looks of a run that ended with `count` pairs."""
    return (*(pairs for pairs in planned if pairs < count), count)


def signed_rank_interval(
    differences: Sequence[float], critical: float
) -> tuple[float, float, float]:
    """Invert Wilcoxon's signed-rank test.

    Args:
        differences: Paired; infinities are bounds and keep their rank.
        critical: Standard normal value that the statistic must exceed.

    Returns:
        Lower end, Hodges-Lehmann estimate, upper end; the ends are infinite when too few pairs
        cannot exclude anything.
    """
    # A difference that is only a bound counts as larger than any that was seen.
    finite = [abs(value) for value in differences if math.isfinite(value)]
    edge = 1e3 * (max(finite, default=1.0) + 1.0)
    values = np.clip(np.asarray(differences, float), -edge, edge)
    count = len(values)
    first, second = np.triu_indices(count)
    averages = np.sort((values[first] + values[second]) / 2)
    middle = float(np.median(averages))
    mean = count * (count + 1) / 4
    deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    outside = math.floor(mean - critical * deviation - 0.5)
    if outside < 0:
        return -math.inf, _opened(middle, edge), math.inf
    low, high = float(averages[outside]), float(averages[len(averages) - 1 - outside])
    return _opened(low, edge), _opened(middle, edge), _opened(high, edge)


def detectable_ratio(ratios: Sequence[float], critical: float, power: float = 0.8) -> float:
    """The smallest ratio above 1 that as many pairs with this spread find at the last look.

    They find it in a share `power` of cases. Infinite where the pairs do not show their spread.
    """
    logs = [math.log(ratio) for ratio in ratios if 0 < ratio < math.inf]
    if len(logs) < FIRST_LOOK:
        return math.inf
    # Spread from the middle half: heavy tails cost a rank test little. 1.349 = 2 × 0.6745.
    quarter, three_quarters = np.quantile(logs, [0.25, 0.75])
    spread = float(three_quarters - quarter) / 1.349
    needed = critical + NormalDist().inv_cdf(power)
    # 3/π is the signed-rank test's efficiency against the mean for normal samples.
    return math.exp(needed * spread / math.sqrt(len(logs) * 3 / math.pi))


@cache
def critical_values(
    planned: tuple[int, ...], error: float = ERROR, most: int | None = None
) -> tuple[float, ...]:
    """The value that |z| must exceed at each look, so that all looks as a whole keep the error.

    Args:
        planned: Numbers of pairs, rising. The last look may use up all that is left of the error.
        error: On each side.
        most: Pairs that there were to be, where it ended before; None is the last of `planned`.
    """
    most = most or planned[-1]
    # A Brownian motion seen at the looks: the statistic's sum has variance "pairs".
    edge = _GRID_DEVIATIONS * math.sqrt(most)
    grid = np.linspace(-edge, edge, _GRID_POINTS)
    step = float(grid[1] - grid[0])
    density = np.zeros(_GRID_POINTS)
    density[_GRID_POINTS // 2] = 1.0  # all of it at zero before the first look
    before, spent, values = 0, 0.0, []
    for pairs in planned:
        density = _moved_on(density, grid, pairs - before)
        share_used = 1.0 if pairs == planned[-1] else (pairs / most) ** _SPENDING_EXPONENT
        allowed = 2 * error * share_used - spent
        # How much lies beyond |x|, from the outside inwards, on both sides.
        beyond = 2 * np.cumsum(density)[: _GRID_POINTS // 2]
        place = int(np.searchsorted(beyond, allowed))
        below = float(beyond[place - 1]) if place else 0.0
        share = (allowed - below) / (float(beyond[place]) - below)
        bound = edge - (place - 0.5 + share) * step
        values.append(bound / math.sqrt(pairs))
        spent += allowed
        density = np.where(np.abs(grid) < bound, density, 0.0)
        before = pairs
    return tuple(values)


def _moved_on(density: Array, grid: Array, variance: float) -> Array:
    """Let a distribution on the grid diffuse."""
    step = float(grid[1] - grid[0])
    deviation = math.sqrt(variance)
    reach = math.ceil(_GRID_DEVIATIONS * deviation / step)
    offsets = np.arange(-reach, reach + 1) * step
    kernel = np.exp(-0.5 * (offsets / deviation) ** 2)
    spread: Array = np.convolve(density, kernel / kernel.sum(), mode="full")
    return spread[reach : reach + len(grid)]


def _opened(value: float, edge: float) -> float:
    # What was only a bound is one again: it lies far beyond all that was seen.
    return math.copysign(math.inf, value) if abs(value) > edge / 4 else value
