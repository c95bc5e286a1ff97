"""Finds the noise floor of a host, how much an arm differs from itself, and keeps it.

An A/A comparison runs one arm twice in every block, under two names. Any difference of the two is
noise, so a difference between other arms that is no larger means nothing.

There is one small file for each class of hosts and scenario. A file that is damaged or cannot be
read does not end a run: it is passed over, and `look_up` says why.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from harness import stats
from harness.model import NoiseFloor, Trial, latest
from harness.model.errors import RecordError
from harness.model.metrics import METRICS, block_value, trial_value
from harness.records import Run, write_atomically
from harness.records.codec import ShapeError, decode, encode
from harness.stats.arrays import np
from harness.stats.intervals import interpolated_rank

FRESH = timedelta(days=30)
"""For so long a noise floor is taken as that of the host; then it is measured again."""
SHARE = 0.95
"""Of single pairs, which the floor is to be above."""
POWER = 0.80
"""How often a difference of the size `detectable` is found."""
_ROUNDS = 2_000
_MOST = 1_000
"""With more pairs, so many are simulated and the result is scaled by the square root."""
_SCHEMA = 1


def noise_floors(run: Run) -> tuple[NoiseFloor, ...]:
    """Compare every arm that repeats another one with that one, metric by metric.

    `floor` is the value that 95 % of further pairs will stay below, taken from the sorted relative
    differences of the pairs seen (with fewer than 19 pairs: the largest). A difference counts
    alike in both directions: half as much again and two thirds are both 50 %.

    `detectable` comes from 2,000 simulated runs of as many blocks, drawn from the ratios seen and
    their inverses (which of the two arms was the twin is no matter): the smallest true difference
    whose interval excludes 1 in 80 % of them.

    Args:
        run: With arms whose `Arm.repeats` names another of the same scenario. Warm-up blocks do not
            count.

    Returns:
        By scenario, arm and metric. Not for metrics with fewer than 6 pairs, and not where so many
        trials failed, or so many amounts are zero or negative, that there is no such ratio.
    """
    records = {(record.scenario, record.arm.name): record for record in run.info.arms}
    found = []
    for (scenario, name), record in records.items():
        original = record.arm.repeats
        if original is None or (scenario, original) not in records:
            continue
        pairs = _pairs(latest(run.trials), scenario, original, name)
        for metric in METRICS.values():
            if metric.is_static:
                continue
            value = partial(trial_value, metric.name)
            both = (
                (
                    block_value(value(one, records[scenario, original]) for one in ours),
                    block_value(value(one, record) for one in theirs),
                )
                for ours, theirs in pairs
            )
            floor = _floor([pair for pair in both if not any(map(math.isnan, pair))])
            if floor is not None:
                found.append(
                    NoiseFloor(scenario, original, metric.name, *floor, run_id=run.info.run_id)
                )
    return tuple(found)


def _pairs(
    trials: Iterable[Trial], scenario: str, original: str, twin: str
) -> list[tuple[list[Trial], list[Trial]]]:
    """Match the trials of two arms that were taken under the same circumstances.

    Those of one block are together, which makes one pair; of a burst each instance is one.
    """
    taken: dict[str, dict[tuple[int, int, int, int], list[Trial]]] = {original: {}, twin: {}}
    times: Counter[tuple[str, int, int, int, int]] = Counter()
    for trial in trials:
        if trial.scenario == scenario and trial.is_counted and trial.arm in taken:
            place = (trial.block, trial.alive, trial.together)
            number = times[trial.arm, *place, trial.repetition]
            times[trial.arm, *place, trial.repetition] += 1
            taken[trial.arm].setdefault((*place, number), []).append(trial)
    return [(first, taken[twin][k]) for k, first in taken[original].items() if k in taken[twin]]


def _floor(pairs: list[tuple[float, float]]) -> tuple[int, float, float] | None:
    """Number of pairs, floor and detectable difference; None where they are unknown."""
    ratios = []
    for first, second in pairs:
        if first == second:
            if math.isfinite(first):
                ratios.append(0.0)
        elif first <= 0 or second <= 0:
            return None
        else:
            ratios.append(math.log(second / first) if math.isfinite(first) else -math.inf)
    count = len(ratios)
    if count < stats.FEWEST_FOR_LEVEL:
        return None
    distances = sorted(map(abs, ratios))
    floor = distances[min(math.ceil((count + 1) * SHARE - 1e-9), count) - 1]
    detectable = _detectable(ratios)
    if not math.isfinite(floor) or not math.isfinite(detectable):
        return None
    return count, math.expm1(floor), math.expm1(detectable)


def _detectable(ratios: list[float]) -> float:
    """The smallest shift of logarithms that an interval sets apart from 0 in `POWER` of cases."""
    both = np.array([*ratios, *(-ratio for ratio in ratios)])
    count = min(len(ratios), _MOST)
    rank, weight = interpolated_rank(count)
    # RandomState's stream is frozen for good (NEP 19): the same run gives the same floor.
    random = np.random.RandomState(0)
    lows = []
    for _ in range(20):  # in parts, so that a thousand pairs do not take two million at once
        drawn = both[random.randint(0, len(both), (_ROUNDS // 20, count))]
        drawn.partition((rank - 1, rank), axis=1)
        here, there = drawn[:, rank - 1], drawn[:, rank]
        with np.errstate(invalid="ignore"):
            between = here + weight * (there - here)
        lows.append(np.where(np.isfinite(between), between, here))
    low = float(np.quantile(np.concatenate(lows), 1 - POWER, method="inverted_cdf"))
    return max(-low, 0.0) * math.sqrt(count / len(ratios))


@dataclass(frozen=True, slots=True)
class KnownNoise:
    """The kept noise floors of a scenario on a class of hosts.

    Attributes:
        floors: Empty where nothing is known, or nothing recent enough.
        measured_at: When they were kept; None where nothing is known.
        problem: Why the kept ones are not used, in a sentence; None where there is no problem.
    """

    floors: tuple[NoiseFloor, ...]
    measured_at: datetime | None = None
    problem: str | None = None


def remember(
    folder: Path, host: str, floors: Iterable[NoiseFloor], now: datetime | None = None
) -> None:
    """Keep noise floors in a folder, replacing the older ones of the same scenarios.

    The folder is made if it is not there. `host` is as `host_class` names it, `now` aware.

    Raises:
        RecordError: They cannot be written.
    """
    floors = tuple(floors)
    for scenario in dict.fromkeys(floor.scenario for floor in floors):
        path = _path(folder, host, scenario)
        document = {
            "schema": _SCHEMA,
            "scenario": scenario,
            "measured_at": (now or datetime.now(UTC)).isoformat(),
            "floors": encode(tuple(f for f in floors if f.scenario == scenario), "floors"),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise RecordError(f"cannot keep the noise floor in {folder}: {reason}") from error
        write_atomically(path, (json.dumps(document, indent=1) + "\n").encode("ascii"))


def look_up(folder: Path, host: str, scenario: str, now: datetime | None = None) -> KnownNoise:
    """Look up the floors of a scenario on a class of hosts, of the last 30 days. Raises nothing."""
    path = _path(folder, host, scenario)
    try:
        measured_at, floors = _read(path, scenario)
    except FileNotFoundError:
        return KnownNoise(())
    except OSError as error:
        return KnownNoise((), None, f"{path} cannot be read: {error.strerror or error}")
    except ShapeError as error:
        return KnownNoise((), None, f"{path} is damaged: {error.field}: {error.problem}")
    except (ValueError, TypeError, RecursionError) as error:
        return KnownNoise((), None, f"{path} is damaged: {error}")
    age = (now or datetime.now(UTC)) - measured_at
    if not timedelta(minutes=-5) <= age <= FRESH:
        when = "in the future" if age < timedelta() else f"{age.days} days ago"
        return KnownNoise((), measured_at, f"the noise floor of {scenario} was measured {when}")
    return KnownNoise(floors, measured_at)


def _read(path: Path, scenario: str) -> tuple[datetime, tuple[NoiseFloor, ...]]:
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ShapeError("the file", "no object")
    if document.get("schema") != _SCHEMA:
        raise ShapeError("schema", f"{document.get('schema')!r} is not known")
    if document.get("scenario") != scenario:
        raise ShapeError("scenario", f"{document.get('scenario')!r} is another one")
    when = decode(str, document.get("measured_at"), "measured_at")
    measured_at = datetime.fromisoformat(when)
    if measured_at.tzinfo is None:
        raise ShapeError("measured_at", "has no time zone")
    floors = decode(tuple[NoiseFloor, ...], document.get("floors"), "floors")
    for floor in floors:
        if floor.scenario != scenario:
            raise ShapeError("floors", f"one is of {floor.scenario!r}")
        if not (0 <= floor.floor < math.inf and 0 <= floor.detectable < math.inf):
            raise ShapeError("floors", f"that of {floor.metric} is no size")
    return measured_at, floors


def _path(folder: Path, host: str, scenario: str) -> Path:
    # Any name of a scenario gives a file name, and no two the same.
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", scenario)[:60]
    if plain != scenario:
        digest = hashlib.sha256(scenario.encode(errors="surrogateescape")).hexdigest()[:12]
        plain = f"{plain}.{digest}"
    return folder / host / f"{plain}.json"
