"""Change points against two known libraries, on histories drawn from measured noise.

    pip install 'steelyard[bench]'
    pytest -m bench tests/bench/test_changes.py -s

A history is 40 to 100 medians of trials that were really measured (`tests/support/measured.json`);
every other one has a step of 5 % somewhere. Two kinds of noise: the trials of a run drawn one by
one, and runs of consecutive trials, whose medians wander with the host. All detectors see the same
series. ruptures has no penalty of its own, so it gets the one that gives it 1 % of false alarms
on other histories without a step; Otava is taken as it comes, and with a level set in that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import numpy as np
import pytest

from harness.stats.changes import ALPHA, change_points, changes_of_many
from tests.support.measured import Array, measured

pytestmark = [pytest.mark.bench, pytest.mark.timeout(590)]
needs_rivals = pytest.mark.skipif(
    not (find_spec("ruptures") and find_spec("otava")),
    reason="ruptures or apache-otava is not here: pip install 'steelyard[bench]'",
)

Detector = Callable[[Array], Sequence[int]]
STEP = 1.05
FIRST, HISTORIES = 200, 1000
"""Told after the first, judged after all: of 200 a detector is one up by chance alone."""
CALIBRATION = 600
NEAR = 3
"""A change within so many points of the step is the step, found."""


@dataclass(frozen=True)
class Noise:
    """How the trials of a run are drawn."""

    name: str
    trials: int
    consecutive: bool

    def points(self, pool: Array, count: int, dice: np.random.RandomState) -> Array:
        if not self.consecutive:
            return np.median(dice.choice(pool, (count, self.trials)), axis=1)
        starts = dice.randint(0, len(pool) - self.trials + 1, count)
        return np.median(pool[starts[:, None] + np.arange(self.trials)], axis=1)


NOISES = (Noise("30 trials, one by one", 30, False), Noise("60 consecutive trials", 60, True))


def histories(
    noise: Noise, count: int, seed: int, *, steps: bool = True
) -> Iterator[tuple[Array, int | None]]:
    """Series, each with the index of the first point after its step; None: it has none."""
    dice = np.random.RandomState(seed)
    pools = list(measured().values())
    for number in range(count):
        values = noise.points(pools[number // 2 % len(pools)], dice.randint(40, 101), dice)
        at = int(dice.randint(10, len(values) - 9))
        if steps and number % 2:
            values[at:] *= STEP
            yield values, at
        else:
            yield values, None


@dataclass
class Score:
    """Out of so many series with a step, and as many without."""

    found: int = 0
    right: int = 0
    beside: int = 0
    false: int = 0

    def add(self, at: int | None, changes: Sequence[int]) -> None:
        if at is None:
            self.false += bool(changes)
            return
        distances = [abs(change - at) for change in changes]
        hit = any(distance <= NEAR for distance in distances)
        self.found += hit
        self.right += any(distance <= 1 for distance in distances)
        self.beside += len(changes) - hit


def ours(level: float) -> Detector:
    return lambda values: [one.index for one in change_points(values, alpha=level)]


def otava(level: float) -> Detector:
    from otava.analysis import compute_change_points

    def detect(values: Array) -> list[int]:
        changes, _ = compute_change_points(list(values), max_pvalue=level)
        return [one.index for one in changes]

    return detect


def ruptures(model: str, factor: float) -> Detector:
    import ruptures as rpt

    def detect(values: Array) -> list[int]:
        penalty = factor * math.log(len(values))
        if model == "l2":  # in squares of the noise's deviation, robustly from differences
            penalty *= (1.4826 / math.sqrt(2) * median(np.abs(np.diff(values)))) ** 2
        found: list[int] = rpt.Pelt(model, min_size=4, jump=1).fit(values).predict(pen=penalty)
        return found[:-1]

    return detect


def calibrated(make: Callable[[float], Detector], settings: Sequence[float], noise: Noise) -> float:
    """The most sensitive of the settings (they come first) with at most 1 % of false alarms."""
    series = [values for values, _ in histories(noise, CALIBRATION, seed=99, steps=False)]
    for setting in settings:
        detect = make(setting)
        false = 0
        for values in series:
            false += bool(detect(values))
            if false > ALPHA * CALIBRATION:
                break
        else:
            return setting
    pytest.fail("no setting has so few false alarms")


@needs_rivals
@pytest.mark.filterwarnings("ignore")  # what the rivals warn of is theirs
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_as_good_as_others(noise: Noise) -> None:
    import functools

    rank = functools.partial(ruptures, "rank")
    least_squares = functools.partial(ruptures, "l2")
    penalties = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0)
    levels = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-8, 1e-10)
    rank_at = calibrated(rank, penalties, noise)
    least_squares_at = calibrated(least_squares, penalties, noise)
    otava_at = calibrated(otava, levels, noise)
    detectors: dict[str, Detector] = {
        "ours": ours(ALPHA),
        "Otava as it comes": otava(1e-3),
        f"Otava at {otava_at:g}": otava(otava_at),
        f"ruptures rank, {rank_at:g} log n": rank(rank_at),
        f"ruptures l2, {least_squares_at:g} log n": least_squares(least_squares_at),
    }
    scores = {name: Score() for name in detectors}
    print(f"\n{noise.name}, half of the histories with a step of {STEP - 1:.0%}")
    for number, (values, at) in enumerate(histories(noise, HISTORIES, seed=1), 1):
        for name, detect in detectors.items():
            scores[name].add(at, detect(values))
        if number in (FIRST, HISTORIES):
            print_table(scores, number)
    mine = scores.pop("ours")
    for name, score in scores.items():
        assert mine.found >= score.found, name
        assert mine.right >= score.right, name
        assert mine.false <= max(score.false, 0.015 * HISTORIES / 2), name


def print_table(scores: Mapping[str, Score], histories: int) -> None:
    print(f"{histories:6} histories{'':12}{'found':>8}{'within 1':>10}{'others':>9}{'false':>8}")
    for name, score in scores.items():
        told = (score.found, score.right, score.beside, score.false)
        shares = [f"{100 * count / (histories / 2):.1f} %" for count in told]
        print(f"{name:28}{shares[0]:>8}{shares[1]:>10}{shares[2]:>9}{shares[3]:>8}")


def test_looking_at_many_series_errs_as_seldom_as_at_one() -> None:
    """A project's history, looked at a hundred times: 20 series without a change."""
    noise, looks, false = NOISES[0], 100, 0
    pools = list(measured().values())
    dice = np.random.RandomState(5)
    for _ in range(looks):
        series = {
            str(number): noise.points(pools[number % len(pools)], 60, dice) for number in range(20)
        }
        false += any(changes_of_many(series).values())
    print(f"\n{false} of {looks} looks at 20 series see a change where there is none")
    assert false <= 5  # 1 is expected at most; 6 or more have a chance of 0.05 %


def test_a_gate_that_is_asked_after_every_run() -> None:
    """How often a series without a change is red at any time, and how soon a step is seen."""
    noise = NOISES[0]
    pools = list(measured().values())
    dice = np.random.RandomState(6)
    histories_, ever, delays = 60, 0, []
    for number in range(histories_):
        values = noise.points(pools[number % len(pools)], 100, dice)
        ever += any(change_points(values[:end]) for end in range(20, 101))
        stepped = values.copy()
        stepped[60:] *= 1.15
        seen = (end - 60 for end in range(61, 101) if change_points(stepped[:end]))
        delays.append(next(seen, 41))
    print(f"\n{ever} of {histories_} series were red at any of 81 looks after one another;")
    print(f"a step of 15 % is seen after {median(delays):g} runs (median)")
    assert ever <= histories_ * 0.2
    assert median(delays) <= 8
