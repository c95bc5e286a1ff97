"""The few distributions that intervals need, from the standard library alone.

The binomial's tails are summed term by term from its mode outwards, so they are exact to rounding
and a million samples cost a few thousand terms. Student's t is inverted from the incomplete beta
function (Press et al., *Numerical Recipes*, 3rd ed., 6.4: the continued fraction of Lentz).
"""

from __future__ import annotations

import functools
import itertools
import math

_NEGLIGIBLE = 1e-18
"""Terms below this share of the largest one are left out: a double would not show them."""


@functools.lru_cache(maxsize=512)
def binomial(count: int, probability: float) -> tuple[int, tuple[float, ...]]:
    """The cumulative distribution of a binomial, where it is neither 0 nor 1.

    Args:
        count: Trials, at least 1.
        probability: Of success, above 0 and below 1.

    Returns:
        The first number of successes that is not negligible, and from there on the probability of
        so many or fewer.
    """
    odds = probability / (1 - probability)
    mode = min(int((count + 1) * probability), count)
    above = [1.0]
    for k in range(mode, count):
        above.append(above[-1] * (count - k) / (k + 1) * odds)
        if above[-1] < _NEGLIGIBLE:
            break
    below = [1.0]
    for k in range(mode, 0, -1):
        below.append(below[-1] * k / (count - k + 1) / odds)
        if below[-1] < _NEGLIGIBLE:
            break
    terms = below[:0:-1] + above
    total = math.fsum(terms)
    return mode - len(below) + 1, tuple(
        min(sum_ / total, 1.0) for sum_ in itertools.accumulate(terms)
    )


def binomial_cdf(successes: int, count: int, probability: float) -> float:
    """Probability of so many successes or fewer."""
    first, cumulative = binomial(count, probability)
    if successes < first:
        return 0.0
    return cumulative[successes - first] if successes - first < len(cumulative) else 1.0


@functools.lru_cache(maxsize=512)
def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, by a probability above 0.5; freedom need not be whole."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if student_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def student_cdf(value: float, freedom: float) -> float:
    """Probability that Student's t is at most `value`, which is not negative."""
    return 1 - _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + value * value)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1 - front * _continued_fraction(b, a, 1 - x) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value
