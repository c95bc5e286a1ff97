"""The promises of the statistics, by simulation: tables of how often intervals hold the truth.

    pytest -m bench tests/bench/test_statistics.py -s

Everything is seeded but the samples that are taken anew from this machine. `harness.stats` chose
its methods by these tables; percentile and BCa bootstraps are here only, to be compared with.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from harness import stats
from harness.measure.stopping import is_checkpoint
from harness.stats import intervals
from harness.stats.shapes import _DIP_LIMITS, dip
from tests.support.measured import Array, measured

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.bench, pytest.mark.timeout(580)]

Draw = Callable[[np.random.RandomState, int], Array]
Ends = tuple[float, float]
Point = tuple[int, float, float]


def _container() -> tuple[Array, Array]:
    series = measured()
    return series["hello/container"], series["hello/container-again"]


def _mixture(share: float) -> Draw:
    def draw(dice: np.random.RandomState, count: int) -> Array:
        first = dice.rand(count) < share
        return np.where(first, dice.normal(1, 0.1, count), dice.normal(2, 0.1, count))

    return draw


def _log_ratios(dice: np.random.RandomState, count: int) -> Array:
    first, second = _container()
    return dice.choice(np.log(first / second), count) * dice.choice([-1, 1], count)


DISTRIBUTIONS: Mapping[str, Draw] = {
    "normal, 10 %": lambda dice, count: dice.normal(1, 0.1, count),
    "log-normal, 0.3": lambda dice, count: dice.lognormal(0, 0.3, count),
    "log-normal, 1": lambda dice, count: dice.lognormal(0, 1, count),
    "Pareto, 1.5": lambda dice, count: 1 + dice.pareto(1.5, count),
    "two groups, 60/40": _mixture(0.6),
    "two groups, 80/20": _mixture(0.8),
    "container, measured": lambda dice, count: dice.choice(_container()[0], count),
    "A/A ratio, measured": lambda dice, count: np.exp(_log_ratios(dice, count)),
}


def _truth(draw: Draw, probability: float = 0.5) -> float:
    return float(np.quantile(draw(np.random.RandomState(0), 2_000_001), probability))


def _ends(found: stats.Estimate | None) -> Ends:
    assert found is not None
    assert found.interval is not None
    return found.interval.low, found.interval.high


def _blocks(values: Array) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def _fresh(folder: Path) -> tuple[Array, Array]:
    """An arm and its twin in 200 blocks, measured now."""
    arm = "container" if os.geteuid() == 0 else "process"
    command = [str(Path(sys.executable).with_name("steelyard")), "run", "hello", "--blocks", "200"]
    command += ["--arm", arm, "--arm", f"twin={arm}", "--output", str(folder / "run"), "--no-aa"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{arm} cannot run here: {done.stderr.strip()[-200:]}")
    trials = [json.loads(line) for line in (folder / "run/trials.jsonl").read_text().splitlines()]
    first, second = (
        np.array([t["milestones_ns"]["ready"] for t in trials if t["arm"] == n and t["block"] >= 0])
        for n in (arm, "twin")
    )
    return first.astype(float), second.astype(float)


def _coverage_of_one(first: Array, second: Array, count: int, runs: int, *, paired: bool) -> float:
    """How often the interval of the ratio of an arm to itself holds 1, in per cent."""
    dice = np.random.RandomState(count)
    held = 0
    for _ in range(runs):
        if paired:
            # Blocks as they were; which of the two is the twin is no matter, so the truth is 1.
            chosen, swapped = dice.randint(0, len(first), count), dice.rand(count) < 0.5
            arm = np.where(swapped, second[chosen], first[chosen])
            reference = np.where(swapped, first[chosen], second[chosen])
        else:
            arm, reference = dice.choice(first, count), dice.choice(first, count)
        ratio = stats.paired_ratio(_blocks(arm), _blocks(reference))
        assert ratio is not None
        low, high = _ends(ratio.estimate)
        held += low <= 1 <= high
    return 100 * held / runs


def test_ratios_of_an_arm_to_itself_cover_one(tmp_path: Path) -> None:
    """1,000 runs and more of each number of blocks from 6 to 60, resampled from measured blocks."""
    series = measured()
    sources = {
        "container, blocks": (*_container(), True),
        "container, alone": (*_container(), False),
        "process, alone": (series["hello/process"], series["hello/process"], False),
        "python-http": (
            series["python-http/container"],
            series["python-http/container-again"],
            True,
        ),
        "vm-micro": (series["hello/vm-micro"], series["hello/vm-micro-again"], True),
        "taken now": (*_fresh(tmp_path), True),
    }
    print(f"\ncoverage of 1 in A/A runs, per cent\nblocks  {'  '.join(sources)}")
    wrong = []
    for count in range(6, 61):
        row = []
        for name, (first, second, paired) in sources.items():
            covered = _coverage_of_one(first, second, count, 2000, paired=paired)
            row.append(f"{covered:{len(name)}.1f}")
            if not 93 <= covered <= 97:
                wrong.append((name, count, covered))
        print(f"{count:6}  {'  '.join(row)}", flush=True)
    assert wrong == []


# What the median's interval was chosen from.


def _percentile_and_bca(samples: Array, drawn: Array) -> tuple[Ends, Ends]:
    """Both bootstraps of the median (Efron 1987).

    Args:
        samples: Rising, shape (n,).
        drawn: Places of the two middle samples of each resample, shape (resamples, 2).
    """
    count = len(samples)
    medians = samples[drawn].mean(axis=1)
    middle = float(np.median(samples))
    less = float(np.mean(medians < middle) + np.mean(medians == middle) / 2)
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(less, 1 / len(medians)), 1 - 1 / len(medians)))
    left_out = np.array([np.median(np.delete(samples, k)) for k in range(count)])
    apart = left_out.mean() - left_out
    spread = float((apart**2).sum())
    bend = float((apart**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = [bias + z for z in (-1.959964, 1.959964)]
    tails = [normal.cdf(bias + z / (1 - bend * z)) for z in shifted]
    low, high, bent_low, bent_high = np.quantile(medians, (0.025, 0.975, *tails))
    return (float(low), float(high)), (float(bent_low), float(bent_high))


@pytest.mark.parametrize("count", [6, 7, 9, 10, 15, 20, 30, 60])
def test_the_interval_of_the_median_is_the_best_of_four(count: int) -> None:
    runs, methods = 1000, ("percentile", "BCa", "exact", "interpolated")
    rank = intervals.order_statistic_rank(count)
    print(
        f"\n{count} blocks: coverage in per cent and width as a share of exact\n{'':20}", *methods
    )
    for name, draw in DISTRIBUTIONS.items():
        dice, truth = np.random.RandomState(count), _truth(draw)
        places = np.sort(dice.randint(0, count, (1000, count)), axis=1)
        middle = places[:, [(count - 1) // 2, count // 2]]
        held, widths = np.zeros(4), np.zeros((runs, 4))
        for run in range(runs):
            samples = np.sort(draw(dice, count))
            exact = (float(samples[rank - 1]), float(samples[-rank]))
            percentile, bca = _percentile_and_bca(samples, middle)
            found = [percentile, bca, exact, _ends(stats.estimate(samples.tolist()))]
            held += [low <= truth <= high for low, high in found]
            widths[run] = [high - low for low, high in found]
        shares = np.median(widths, axis=0) / np.median(widths[:, 2])
        cells = (f"{100 * h / runs:5.1f} {w:.2f}" for h, w in zip(held, shares, strict=True))
        print(f"{name:20}", "  ".join(cells), flush=True)
        least = 0.91 if "60/40" in name and count < 10 else 0.93  # the median lies at a gap's edge
        assert least <= held[3] / runs <= 0.975, name


def test_stopping_once_an_interval_is_narrow_keeps_its_coverage() -> None:
    """`--until`: looked at after 6, 8, 11, … blocks, at most 500; stopped by `relative_width`."""
    most, runs, levels = 500, 2000, (0.20, 0.10, 0.05, 0.03)
    looks = [count for count in range(6, most) if is_checkpoint(count)]
    print("\ncoverage in per cent (blocks taken); in brackets: stopped by the width as it is shown")
    for name, draw in DISTRIBUTIONS.items():
        dice, truth = np.random.RandomState(1), _truth(draw)
        held = np.zeros((len(levels), 2))
        taken = np.zeros(len(levels))
        for _ in range(runs):
            samples = draw(dice, most).tolist()
            found = {count: _narrowness(samples[:count]) for count in looks}
            last = (0.0, 0.0, _ends(stats.estimate(samples)))
            for place, level in enumerate(levels):
                for rule in (0, 1):
                    stop = next((c for c in looks if found[c][rule] <= level), most)
                    low, high = found.get(stop, last)[2]
                    held[place, rule] += low <= truth <= high
                    taken[place] += stop if rule == 0 else 0
        cells = (
            f"±{level:.0%}: {100 * held[k, 0] / runs:.1f} ({taken[k] / runs:.0f}) "
            f"[{100 * held[k, 1] / runs:.1f}]"
            for k, level in enumerate(levels)
        )
        print(f"{name:20}", "  ".join(cells), flush=True)
        # Two standard errors of the simulation below 93 %.
        assert held[:, 0].min() / runs >= 0.93 - 2 * math.sqrt(0.07 * 0.93 / runs), name


def _narrowness(samples: Sequence[float]) -> tuple[float, float, Ends]:
    """The width that decides, the width as it is shown, and the interval."""
    found = stats.estimate(samples)
    assert found is not None
    low, high = _ends(found)
    return stats.relative_width(found), (high - low) / 2 / found.median, (low, high)


def test_quantiles_cover_what_they_say() -> None:
    runs = 2000
    print("\ncoverage in per cent (claimed)")
    for probability in (0.5, 0.9, 0.99):
        for name, draw in DISTRIBUTIONS.items():
            truth = _truth(draw, probability)
            cells = []
            for count in (15, 30, 60, 200, 600):
                dice, held, claimed = np.random.RandomState(count), 0, math.nan
                for _ in range(runs):
                    found = stats.quantile_estimate(draw(dice, count).tolist(), probability)
                    if found is None:
                        break
                    low, high = _ends(found)
                    assert found.interval is not None
                    claimed = found.interval.coverage
                    held += low <= truth <= high
                if math.isnan(claimed):
                    continue
                cells.append(f"n={count}: {100 * held / runs:.1f} ({100 * claimed:.1f})")
                # Measured samples are few: the quantile is one of them, and is hit more often.
                most = claimed + (0.06 if "measured" in name else 0.025)
                assert claimed - 0.025 < held / runs < most, (name, count)
            print(f"p{probability * 100:<3.0f} {name:20}", "  ".join(cells), flush=True)


def test_cliffs_delta_covers() -> None:
    runs = 1000
    first, second = _container()
    print("\nCliff's delta of measured blocks, one arm longer: coverage in per cent (width)")
    for factor in (1.0, 1.05, 1.1, 1.3, 1.6):
        whole = stats.cliffs_delta((first * factor).tolist(), second.tolist())
        assert whole is not None
        cells = []
        for count in (6, 10, 15, 30, 60):
            dice, held, width = np.random.RandomState(count), 0, 0.0
            for _ in range(runs):
                chosen = dice.randint(0, len(first), count)
                found = stats.cliffs_delta(_blocks(first[chosen] * factor), _blocks(second[chosen]))
                assert found is not None
                assert found.interval is not None
                held += found.interval.low <= whole.delta <= found.interval.high
                width += found.interval.high - found.interval.low
            cells.append(f"n={count}: {100 * held / runs:.1f} ({width / runs:.2f})")
            assert held / runs > 0.93, (factor, count)
        print(f"x{factor:<5} delta {whole.delta:.2f}  ", "  ".join(cells), flush=True)


def _ramp(dice: np.random.RandomState, blocks: int, numbers: Array, kind: str) -> list[Point]:
    points = []
    for block in range(blocks):
        mine, slope, offset = numbers, 3.0, 0.0
        errors = dice.normal(0, 1, len(numbers))
        if kind == "adding up":
            errors = np.cumsum(errors * np.sqrt(np.diff(numbers, prepend=0.0)))
        if kind in ("blocks differ", "some end early"):
            slope, offset = 3 + dice.normal(0, 0.3), dice.normal(0, 5)
            errors = 2 * (dice.exponential(1, len(numbers)) - 1)
        if kind == "some end early":
            mine = numbers[: dice.randint(3, len(numbers) + 1)]
        values = 50 + offset + slope * mine + errors[: len(mine)]
        points += [(block, float(x), float(y)) for x, y in zip(mine, values, strict=True)]
    return points


def test_lines_cover() -> None:
    runs = 400
    print("\nslope / intercept: coverage in per cent")
    for kind in ("independent", "adding up", "blocks differ", "some end early"):
        for numbers in (np.array([1.0, 2, 4, 8, 16, 32, 64]), np.arange(60.0)):
            cells = []
            for blocks in (1, 2, 3, 6, 15):
                if blocks == 1 and kind in ("blocks differ", "some end early"):
                    continue  # one block cannot know that others differ
                dice, held = np.random.RandomState(blocks), np.zeros(2)
                for _ in range(runs):
                    found = stats.line(_ramp(dice, blocks, numbers, kind))
                    assert found is not None
                    (low, high), (least, most) = _ends(found.slope), _ends(found.intercept)
                    held += [low <= 3 <= high, least <= 50 <= most]
                slope, intercept = 100 * held / runs
                cells.append(f"{blocks} blocks: {slope:.1f} / {intercept:.1f}")
                assert min(slope, intercept) > 90, (kind, blocks)
            print(f"{kind:15} {len(numbers):2} points ", "  ".join(cells), flush=True)


def _hanging_together(dice: np.random.RandomState, count: int) -> Array:
    values = dice.normal(0, 0.1, count)
    for place in range(1, count):
        values[place] += 0.5 * values[place - 1]
    return np.exp(values)


def test_flags_are_seldom_false() -> None:
    """False alarms of 1 %, and the power against what is really there."""
    runs = 1000
    quiet = {
        name: DISTRIBUTIONS[name]
        for name in ("normal, 10 %", "log-normal, 1", "Pareto, 1.5", "container, measured")
    }
    loud: dict[str, Draw] = {
        "groups 60/40": _mixture(0.6),
        "groups 80/20": _mixture(0.8),
        "rises by 1 sigma": lambda dice, n: 1 + 0.1 * (dice.normal(0, 1, n) + np.linspace(0, 1, n)),
        "rises by 3 sigma": lambda dice, n: 1 + 0.1 * (dice.normal(0, 1, n) + np.linspace(0, 3, n)),
        "AR(1), 0.5": _hanging_together,
    }
    print("\nflags raised, per cent: two groups / drift / dependent blocks / outliers per run")
    for name, draw in (quiet | loud).items():
        cells = []
        for count in (10, 15, 30, 60, 200):
            dice = np.random.RandomState(count)
            raised = np.zeros(4)
            for _ in range(runs):
                found = stats.shape(draw(dice, count).tolist())
                raised += [
                    found.is_bimodal,
                    found.drift is not None,
                    found.is_dependent,
                    len(found.outliers),
                ]
            groups, drift, dependent, outliers = raised / runs
            cells.append(
                f"n={count}: {100 * groups:.1f} / {100 * drift:.1f} / {100 * dependent:.1f} / "
                f"{outliers:.2f}"
            )
            if name in quiet:
                assert max(groups, drift, dependent) < 0.02, (name, count)
        print(f"{name:20}", "   ".join(cells), flush=True)


def test_the_limits_of_the_dip_are_those_of_uniform_samples() -> None:
    print("\nuniform samples beyond the limit, per cent")
    for count, limit in _DIP_LIMITS:
        if count > 200:
            continue
        dice, runs = np.random.RandomState(count), 4000
        beyond = sum(
            dip(np.sort(dice.rand(count)).tolist()) * math.sqrt(count) > limit for _ in range(runs)
        )
        print(f"{count:5} {100 * beyond / runs:.2f}", flush=True)
        assert beyond / runs == pytest.approx(0.01, abs=0.006)


def test_a_million_samples_take_seconds_and_little_memory() -> None:
    dice = np.random.RandomState(0)
    first, second = dice.lognormal(0, 1, 10**6), dice.lognormal(0.01, 1, 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print()
    for name, work in {
        "median": lambda: stats.estimate(first),
        "median of a list": lambda: stats.estimate(first.tolist()),
        "p99": lambda: stats.quantile_estimate(first, 0.99),
        "Cliff's delta": lambda: stats.cliffs_delta(first, second),
        "shape": lambda: stats.shape(first),
    }.items():
        begin = time.process_time()
        assert work() is not None
        print(f"{name:20} {time.process_time() - begin:.2f} s of CPU", flush=True)
        assert time.process_time() - begin < 5
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"memory grew by {grown:.0f} MiB")
    assert grown < 300
