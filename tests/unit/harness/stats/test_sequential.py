"""Looking often without being fooled: the error of all looks together, and what they find."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from harness.stats.sequential import (
    ERROR,
    Look,
    detectable_ratio,
    ends_at,
    last_look,
    look_at,
    looks,
    pairs_outside,
)


def decided(draw: random.Random, ratio: float, most: int = 200) -> tuple[str, int]:
    """What one run of paired noise comes to, as `compare` decides without a margin."""
    planned, ratios = looks(most), []
    while len(ratios) < most:
        ratios.append(ratio * math.exp(draw.gauss(0, 0.1) - draw.gauss(0, 0.1)))
        look = look_at(ratios, planned)
        if look is not None and look.low > 1:
            return "worse", len(ratios)
        if look is not None and look.high < 1:
            return "better", len(ratios)
    return "cannot tell", most


def test_looks_grow_and_end_at_the_last_block() -> None:
    planned = looks(200)
    assert planned[0] == 12
    assert planned[-1] == 200
    assert list(planned) == sorted(set(planned))
    assert looks(12) == (12,)
    assert looks(5) == (5,)


@pytest.mark.parametrize(
    ("most", "outside"),
    [
        (60, {12: 0, 16: 1, 21: 3, 28: 5, 38: 9, 51: 15, 60: 18}),
        (
            200,
            {12: -1, 16: 0, 21: 2, 28: 4, 38: 8, 51: 13, 67: 19, 90: 29, 120: 43, 160: 61, 200: 80},
        ),
    ],
)
def test_the_pairs_outside_at_each_look(most: int, outside: dict[int, int]) -> None:
    """Worked out once by counting paths with whole numbers."""
    assert dict(zip(looks(most), pairs_outside(looks(most), 0.005), strict=True)) == outside


def counted(planned: tuple[int, ...], error: float, most: int) -> tuple[int, ...]:
    """The definition, by whole numbers: paths of pairs below and above, one pair at a time."""
    paths, spent, found = {0: 1}, Fraction(0), []
    for pairs in range(1, planned[-1] + 1):
        further: Counter[int] = Counter()
        for below, number in paths.items():
            further[below] += number
            further[below + 1] += number
        paths = dict(further)
        if pairs not in planned:
            continue
        share = 1.0 if pairs == planned[-1] else (pairs / most) ** 1.5
        outside, beyond = -1, Fraction(0)
        for below in range(pairs // 2):
            beyond += Fraction(paths.get(below, 0), 2**pairs)
            if beyond + spent > error * share:
                break
            outside = below
        spent += sum(Fraction(paths.get(k, 0), 2**pairs) for k in range(outside + 1))
        paths = {k: n for k, n in paths.items() if outside < k < pairs - outside}
        found.append(outside)
    assert spent <= error
    return tuple(found)


@pytest.mark.parametrize("error", [0.005, 0.005 / 3, 0.05])
@pytest.mark.parametrize(("most", "end"), [(12, 12), (60, 60), (90, 38), (90, 45), (1000, 130)])
def test_the_chances_are_exact(error: float, most: int, end: int) -> None:
    planned = ends_at(looks(most), end)
    assert pairs_outside(planned, error, most) == counted(planned, error, most)


def test_a_single_look_is_the_plain_sign_test() -> None:
    # 17 or fewer of 50 heads: 0.016; 16 or fewer: 0.0077; 18: 0.032.
    assert pairs_outside((50,), 0.01) == (16,)
    assert pairs_outside((50,), 0.025) == (17,)
    assert pairs_outside((5,), 0.005) == (-1,)


def test_looks_at_a_hundred_thousand_pairs_take_no_longer() -> None:
    """The distribution is cut off where it is nothing: its width grows with the root."""
    *_, last = pairs_outside(looks(100_000))
    # A look of its own would leave out 50,000 - 2.576 × 158 = 49,593; the looks before cost some.
    assert 49_500 < last < 49_593


def test_equal_arms_are_rarely_called_different() -> None:
    draw = random.Random(1)
    verdicts = [decided(draw, 1.0)[0] for _ in range(400)]
    assert verdicts.count("worse") <= 400 * ERROR * 3
    assert verdicts.count("better") <= 400 * ERROR * 3


def test_a_tenth_more_is_found_soon() -> None:
    draw = random.Random(2)
    found = [decided(draw, 1.1) for _ in range(100)]
    assert sum(verdict == "worse" for verdict, _ in found) >= 95
    assert sum(blocks for _, blocks in found) / 100 < 100
    assert all(decided(draw, 1 / 1.1)[0] == "better" for _ in range(20))


def test_the_interval_is_that_of_the_inverted_test() -> None:
    """From the (o+1)-th smallest to the (o+1)-th largest; the estimate is the median."""
    ratios = [math.exp(number / 10) for number in range(-5, 16)]
    random.Random(3).shuffle(ratios)
    look = look_at(ratios, looks(60))
    # 21 pairs of at most 60: three lie outside on each side.
    assert look == Look(
        21, pytest.approx(math.exp(0.5)), pytest.approx(math.exp(-0.2)),
        pytest.approx(math.exp(1.2)), 1 - 2 * ERROR,
    )  # fmt: skip
    even = last_look([1.0, 4.0], looks(60))
    assert (even.ratio, even.low, even.high) == (pytest.approx(2.0), 0.0, math.inf)


def test_the_interval_holds_the_median_of_skewed_pairs() -> None:
    """A median of 1, and a long tail above it: no difference, however lopsided the two sides."""
    draw, worse = random.Random(9), 0
    planned = looks(60)
    for _ in range(400):
        ratios = []
        while len(ratios) < 60:
            side = draw.random() < 0.5
            size = draw.expovariate(1.0)
            ratios.append(math.exp(size if side else -size / 10))
        found = (look_at(ratios[:pairs], planned) for pairs in planned)
        worse += any(look.low > 1 for look in found if look is not None)
    assert worse <= 400 * ERROR * 3


def test_failures_are_bounds_and_never_dropped() -> None:
    planned = (20,)
    ratios = [1.0 + 0.01 * (number % 5 - 2) for number in range(10)] + [math.inf] * 10
    look = look_at(ratios, planned)
    assert look is not None
    assert look.high == math.inf
    assert look.low >= 0.9
    only_reference_failed = look_at([0.0] * 20, planned)
    assert only_reference_failed is not None
    assert (only_reference_failed.ratio, only_reference_failed.high) == (0, 0)
    half = last_look([0.0, math.inf] * 10, planned)
    assert (half.ratio, half.low, half.high) == (1.0, 0.0, math.inf)


def test_between_looks_there_is_none() -> None:
    assert look_at([1.0] * 13, looks(200)) is None


def noise(count: int, seed: int, spread: float = 0.1) -> list[float]:
    draw = random.Random(seed)
    return [math.exp(draw.gauss(0, spread)) for _ in range(count)]


def test_the_detectable_ratio_shrinks_with_pairs() -> None:
    few, many = detectable_ratio(noise(60, 4), (60,)), detectable_ratio(noise(600, 4), (600,))
    # A sign test of 60 needs the median 0.27 sd away (18 outside), and a sample's varies by 0.16.
    assert 1.03 < few < 1.07
    assert 1.01 < many < 1 + (few - 1) / 2.5
    assert detectable_ratio(noise(60, 4), (60,)) == few
    assert detectable_ratio(noise(60, 4), (60,), limit=1.05) == pytest.approx(1.05 * few)
    # A stricter error, or a plan with more looks to come, finds less.
    assert detectable_ratio(noise(60, 4), (60,), ERROR / 3) > few
    assert detectable_ratio(noise(60, 4), looks(1000)) >= few


def test_the_detectable_ratio_is_found_in_four_of_five_cases() -> None:
    for planned in (looks(60), looks(1000)):
        found = 0
        for number in range(300):
            size = detectable_ratio(noise(60, number), planned)
            ratios = [size * ratio for ratio in noise(60, 1000 + number)]
            seen = (look_at(ratios[:pairs], planned) for pairs in ends_at(planned, 60)[:-1])
            lows = [look.low for look in seen if look is not None]
            found += max(*lows, last_look(ratios, planned).low) > 1
        assert 0.75 < found / 300 < 0.9


def test_no_difference_is_promised_where_the_pairs_do_not_show_their_spread() -> None:
    assert detectable_ratio(noise(19, 5), looks(60)) == math.inf
    assert detectable_ratio(noise(20, 5), looks(60)) < math.inf
    skewed = [math.exp(abs(math.log(ratio))) for ratio in noise(60, 5)]
    assert detectable_ratio(skewed, looks(60)) == math.inf
    # Failures of either arm are wide deviations, and with many of them nothing is promised.
    assert detectable_ratio([*noise(58, 5), math.inf, 0.0], looks(60)) < math.inf
    assert detectable_ratio([*noise(30, 5), *[math.inf, 0.0] * 15], looks(60)) == math.inf


def test_the_last_look_may_come_early_and_uses_all_of_the_error_that_is_left() -> None:
    planned = looks(300)
    taken = [pairs for pairs in planned if pairs < 40]
    assert ends_at(planned, 40) == (*taken, 40)
    outside = pairs_outside(ends_at(planned, 40), ERROR, 300)
    # The looks before it were taken by the plan for 300 pairs.
    assert outside[:-1] == pairs_outside(planned)[: len(taken)]
    assert outside[-1] == 11 == pairs_outside((40,))[0]
    assert outside[-2] < pairs_outside((38,))[0]  # they spend little of the error
    ratios = [1.05 + 0.01 * (number % 7 - 3) for number in range(40)]
    assert last_look(ratios, planned).low > 1
    assert last_look([1.5], planned) == Look(1, pytest.approx(1.5), 0.0, math.inf, 1 - 2 * ERROR)
    assert last_look([1.5] * 400, planned) == look_at([1.5] * 300, planned)


def test_an_end_that_the_time_decides_costs_no_error() -> None:
    """Equal arms, ended after so many pairs as fit a time that their own duration uses up."""
    draw, worse = random.Random(6), 0
    planned = looks(200)
    for _ in range(400):
        left, ratios = 60.0, []
        found = False
        while left > 0 and not found:
            a, b = (math.exp(draw.gauss(0, 0.4)) for _ in range(2))
            left -= a + b
            ratios.append(b / a)
            look = look_at(ratios, planned)
            found = look is not None and look.low > 1
        worse += found or last_look(ratios, planned).low > 1
    assert worse <= 400 * ERROR * 3
