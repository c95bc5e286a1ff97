"""What a comparison promises: how often "N pairs find X %" is true, and how often equals differ.

    pytest -m bench tests/bench/test_paired_power.py -s

On A/A pairs that were really measured: some say what they find, others, held out, get a true
difference of that size. Everything is seeded.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats.sequential import ERROR, detectable_ratio, ends_at, looks, pairs_outside
from tests.support.measured import Array, measured

pytestmark = [pytest.mark.bench, pytest.mark.timeout(580)]
ROUNDS = 400


def log_ratios() -> Array:
    series = measured()
    logs = np.log(series["hello/container-again"] / series["hello/container"])
    return logs - np.median(logs)


def is_worse(logs: Array, planned: tuple[int, ...]) -> bool:
    taken = ends_at(planned, len(logs))
    outside = pairs_outside(taken, ERROR, planned[-1])
    return any(
        place >= 0 and np.sort(logs[:pairs])[place] > 0
        for pairs, place in zip(taken, outside, strict=True)
    )


@pytest.mark.parametrize("most", [None, 1000])
@pytest.mark.parametrize("pairs", [20, 30, 60, 120])
def test_a_detectable_difference_is_found_in_four_of_five_cases(
    pairs: int, most: int | None
) -> None:
    pool, dice = log_ratios(), np.random.RandomState(pairs)
    planned, found, promised = looks(most or pairs), 0, 0
    for _ in range(ROUNDS):
        drawn = dice.choice(pool, 2 * pairs)
        size = detectable_ratio(np.exp(drawn[:pairs]).tolist(), planned)
        if math.isfinite(size):
            promised += 1
            found += is_worse(drawn[pairs:] + math.log(size), planned)
    print(f"{pairs} pairs of at most {planned[-1]}: found {found} of {promised} promised")
    assert promised > ROUNDS / 2
    assert 0.75 < found / promised < 0.90


@pytest.mark.parametrize("pairs", [60, 200])
def test_equals_are_called_worse_in_no_more_than_is_allowed(pairs: int) -> None:
    pool, dice, planned = log_ratios(), np.random.RandomState(pairs), looks(pairs)
    rounds = 4_000
    signs = (dice.choice([-1, 1], pairs) for _ in range(rounds))
    worse = sum(is_worse(dice.choice(pool, pairs) * sign, planned) for sign in signs)
    print(f"{pairs} pairs: {worse} of {rounds} equals called worse, at most {ERROR:.1%} allowed")
    assert worse <= rounds * ERROR + 3 * math.sqrt(rounds * ERROR)
