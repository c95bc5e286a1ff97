"""The newest points of a history: false alarms and power of the whole verdict, by simulation.

    pytest -m bench tests/bench/test_newest.py -s

A look is `history --check` over 24 series of 30 runs and a newest one, with 4 % of noise. An alarm
is a look that does not end well: something is worse, or cannot be told. The last test holds the
step of one newest run against Otava and ruptures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

import numpy as np
import pytest

from harness.analysis.history import History, Point, RunRef, Series, SeriesId
from harness.analysis.judgement import Verdict
from harness.analysis.trends import Trends, trends_of
from tests.support.measured import Array

pytestmark = [pytest.mark.bench, pytest.mark.timeout(590)]
needs_rivals = pytest.mark.skipif(
    not (find_spec("ruptures") and find_spec("otava")),
    reason="ruptures or apache-otava is not here: pip install 'steelyard[bench]'",
)

SERIES, EARLIER, NOISE = 24, 30, 0.04
LOOKS = 200
Noise = Callable[[np.random.RandomState, int], Array]
BAD = (Verdict.WORSE, Verdict.CANNOT_TELL)


def independent(dice: np.random.RandomState, count: int) -> Array:
    return dice.normal(size=(SERIES, count))


def heavy_tailed(dice: np.random.RandomState, count: int) -> Array:
    """Student's t with three degrees of freedom."""
    return dice.standard_t(3, size=(SERIES, count))


def alternating(dice: np.random.RandomState, count: int) -> Array:
    """Two hosts by turns, A-B-A-B, three deviations apart."""
    return np.arange(count) % 2 * 3.0 + dice.normal(size=(SERIES, count))


def day_and_night(dice: np.random.RandomState, count: int) -> Array:
    """Eight runs a day; the swing has twice the deviation."""
    return 2 * np.sin(np.arange(count) * math.pi / 4) + dice.normal(size=(SERIES, count))


def alike(dice: np.random.RandomState, count: int) -> Array:
    """Each run like the one before it, by 0.6."""
    values = dice.normal(size=(SERIES, count))
    for place in range(1, count):
        values[:, place] = 0.6 * values[:, place - 1] + 0.8 * values[:, place]
    return values


def look(logarithms: Array) -> Trends:
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    runs = [
        RunRef(f"run-{number}", begin + timedelta(days=number), None, 20, ended=True)
        for number in range(logarithms.shape[1])
    ]
    series = tuple(
        Series(
            SeriesId("hello", "container", "ready", f"{number:02}"),
            "a host",
            tuple(
                Point(run, None, float(value), None, 20, is_exact=False)
                for run, value in zip(runs, row, strict=True)
            ),
        )
        for number, row in enumerate(3e6 * np.exp(logarithms))
    )
    return trends_of(History(tuple(runs), series))


@pytest.mark.parametrize(
    ("noise", "most"),
    [
        (independent, 0.01),
        (heavy_tailed, 0.01),
        (alternating, 0.01),
        (day_and_night, 0.01),
        (alike, 0.05),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_false_alarms(noise: Noise, most: float) -> None:
    dice = np.random.RandomState(21)
    alarms = sum(look(NOISE * noise(dice, EARLIER + 1)).verdict in BAD for _ in range(LOOKS))
    print(f"\n{noise.__name__}: {alarms} of {LOOKS} looks at {SERIES} series alarm")
    expected = most * LOOKS
    assert alarms <= expected + 2.6 * math.sqrt(expected)  # exceeded by chance once in a hundred


@pytest.mark.parametrize(("step", "runs", "least"), [(2.0, 1, 0.95), (3.0, 1, 0.95), (1.2, 3, 0.9)])
def test_power(step: float, runs: int, least: float) -> None:
    """How often one series of the 24 alarms by so many runs at another level."""
    dice = np.random.RandomState(22)
    found = dict.fromkeys(range(1, runs + 1), 0)
    for _ in range(LOOKS):
        values = NOISE * independent(dice, EARLIER + runs)
        values[5, EARLIER:] += math.log(step)
        seen = [look(values[:, : EARLIER + n]).trends[5].verdict in BAD for n in found]
        for n in found:
            found[n] += any(seen[:n])
    shares = ", ".join(f"{count} by run {n}" for n, count in found.items())
    print(f"\n{step - 1:+.0%}: of {LOOKS} looks found {shares}")
    assert found[runs] >= least * LOOKS


@needs_rivals
@pytest.mark.filterwarnings("ignore")  # what the rivals warn of is theirs
def test_a_step_of_the_newest_run_beside_others() -> None:
    """One series, 30 runs before: the newest doubled, and nothing changed."""
    import ruptures
    from otava.analysis import compute_change_points

    def by_otava(values: Array) -> bool:
        changes, _ = compute_change_points(list(values), max_pvalue=1e-3)
        return any(change.index >= EARLIER for change in changes)

    def by_ruptures(values: Array) -> bool:
        penalty = 4 * math.log(len(values))
        search = ruptures.Pelt("rank", min_size=1, jump=1)
        return any(place >= EARLIER for place in search.fit(values).predict(pen=penalty)[:-1])

    def by_ours(values: Array) -> bool:
        return look(np.log(values / 3e6)[None]).verdict in BAD

    detectors = {"ours": by_ours, "Otava": by_otava, "ruptures rank, 4 log n": by_ruptures}
    dice = np.random.RandomState(23)
    found, false = dict.fromkeys(detectors, 0), dict.fromkeys(detectors, 0)
    for _ in range(LOOKS):
        values = 3e6 * np.exp(NOISE * dice.normal(size=EARLIER + 1))
        stepped = np.append(values[:-1], 2 * values[-1])
        for name, detect in detectors.items():
            false[name] += detect(values)
            found[name] += detect(stepped)
    for name in detectors:
        print(f"\n{name:24} found {found[name]:4} of {LOOKS}, false {false[name]:4}", end="")
    assert found["ours"] >= 0.95 * LOOKS
    assert false["ours"] <= 0.01 * LOOKS + 2.6 * math.sqrt(0.01 * LOOKS)
