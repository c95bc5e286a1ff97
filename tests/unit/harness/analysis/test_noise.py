"""The noise floor of a host: what it is, and that it is remembered whatever is on the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from harness import stats
from harness.analysis import noise
from harness.model import (
    SCHEMA_VERSION,
    Arm,
    ArmRecord,
    Meter,
    Milestone,
    NoiseFloor,
    Outcome,
    Reading,
    RunInfo,
    Trial,
    comparability,
)
from harness.model.errors import RecordError
from harness.records import Run
from tests.support.measured import measured

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
FLOOR = NoiseFloor("hello", "container", "ready", 30, 0.16, 0.05, "20261124T120335Z-1a2b3c")
HOST = "0123456789ab"


def trial(arm: str, block: int, ready_ns: float, pss_bytes: int | None = None) -> Trial:
    """A trial of the scenario `hello`; infinite: it failed."""
    is_ok = math.isfinite(ready_ns)
    return Trial(
        scenario="hello",
        arm=arm,
        block=block,
        position=0,
        outcome=Outcome.OK if is_ok else Outcome.FAILED,
        milestones_ns={Milestone.REQUESTED: 0}
        | ({Milestone.READY: int(ready_ns)} if is_ok else {}),
        readings=(Reading(Meter.PSS_BYTES, pss_bytes, "workload"),)
        if pss_bytes is not None
        else (),
    )


def run_of(trials: Sequence[Trial], *arms: Arm) -> Run:
    arms = arms or (
        Arm("container", "container"),
        Arm("container-again", "container", repeats="container"),
    )
    info = RunInfo(
        schema=SCHEMA_VERSION,
        steelyard="0.1.0",
        run_id=FLOOR.run_id,
        started_at="2026-11-24T12:03:35Z",
        ended_at=None,
        command=("steelyard", "run"),
        seed=1,
        blocks=2,
        warmup_blocks=0,
        scenarios=(),
        arms=tuple(ArmRecord("hello", arm, 0, (), {}) for arm in arms),
        environment={},
        environment_missing={},
    )
    return Run(info, tuple(trials))


def twins(first: Sequence[float], second: Sequence[float]) -> Run:
    return run_of(
        [trial("container", block, value) for block, value in enumerate(first)]
        + [trial("container-again", block, value) for block, value in enumerate(second)]
    )


def floors(run: Run) -> dict[str, NoiseFloor]:
    return {floor.metric: floor for floor in noise.noise_floors(run)}


def test_the_floor_is_above_95_of_100_pairs() -> None:
    """Differences of 1 to 100 %, in both directions: 96 % is the 96th of 100 (of 101 with the next
    one).
    """
    first = [1e6] * 100
    second = [1e6 * (1 + k / 100) if k % 2 else 1e6 / (1 + k / 100) for k in range(1, 101)]
    found = floors(twins(first, second))["ready"]
    assert found.blocks == 100
    assert found.floor == pytest.approx(0.96, abs=1e-4)
    assert (found.scenario, found.arm, found.run_id) == ("hello", "container", FLOOR.run_id)


def test_few_pairs_give_their_largest_difference_and_too_few_give_none() -> None:
    first, second = [1e6] * 6, [1e6, 1.1e6, 1.2e6, 0.9e6, 0.5e6, 1e6]
    assert floors(twins(first, second))["ready"].floor == pytest.approx(1.0, abs=1e-4)
    assert "ready" not in floors(twins(first[:5], second[:5]))


def test_warm_up_and_other_arms_do_not_count() -> None:
    run = twins([1e6] * 8, [1e6] * 8)
    strangers = [trial("container", -1, 9e9), trial("container-again", -1, 1.0)]
    strangers += [trial("process", block, 5e5) for block in range(8)]
    found = floors(run_of([*run.trials, *strangers]))["ready"]
    assert (found.blocks, found.floor, found.detectable) == (8, 0.0, 0.0)


def test_without_an_arm_that_repeats_there_is_no_floor() -> None:
    run = run_of(twins([1e6] * 8, [1e6] * 8).trials, Arm("container", "container"))
    assert noise.noise_floors(run) == ()
    orphan = run_of(run.trials, Arm("container-again", "container", repeats="container"))
    assert noise.noise_floors(orphan) == ()


def test_detectable_is_found_in_80_of_100_runs() -> None:
    """Lengthen one arm by what is said to be detectable, and look how often it is seen."""
    first, second = (measured()[f"hello/{name}"][:30] for name in ("container", "container-again"))
    found = floors(twins(first.tolist(), second.tolist()))["ready"]
    random_ = np.random.RandomState(5)
    rounds, seen = 600, 0
    for _ in range(rounds):
        chosen = random_.randint(0, 30, 30)
        swapped = random_.rand(30) < 0.5
        arm = np.where(swapped, second[chosen], first[chosen]) * (1 + found.detectable)
        reference = np.where(swapped, first[chosen], second[chosen])
        ratio = stats.paired_ratio(
            dict(enumerate(arm.tolist())), dict(enumerate(reference.tolist()))
        )
        assert ratio is not None
        assert ratio.estimate.interval is not None
        seen += ratio.estimate.interval.low > 1
    assert seen / rounds == pytest.approx(0.80, abs=0.05)
    assert 0.01 < found.detectable < found.floor < 1


def test_failures_count_until_they_decide() -> None:
    quiet = [1e6 + 1e3 * k for k in range(40)]
    one_failed = [*quiet[:-1], math.inf]
    assert floors(twins(quiet, one_failed))["ready"].floor < 0.1
    half_failed = [value if k % 2 else math.inf for k, value in enumerate(quiet)]
    assert "ready" not in floors(twins(quiet, half_failed))
    # Where both failed there is no pair.
    assert floors(twins(one_failed, one_failed))["ready"].blocks == 39


def test_each_metric_has_its_own_floor_and_zero_has_no_ratio() -> None:
    trials = [
        trial(arm, block, 1e6, pss_bytes=4096 * (100 + (block * step) % 3))
        for arm, step in (("container", 1), ("container-again", 2))
        for block in range(20)
    ]
    found = floors(run_of(trials))
    assert found["pss"].floor == pytest.approx(1 / 101)  # of 101 and 102 pages
    assert found["ready"].floor == 0.0
    zeros = [trial(t.arm, t.block, 1e6, pss_bytes=4096 * (t.block % 2)) for t in trials]
    assert floors(run_of(zeros))["pss"].floor == 0.0
    mixed = [
        trial(t.arm, t.block, 1e6, pss_bytes=0 if t.arm == "container" else 4096) for t in trials
    ]
    assert "pss" not in floors(run_of(mixed))


def test_a_host_class_is_stable_and_tells_hosts_apart() -> None:
    facts = {
        "cpu_model": "AMD EPYC",
        "cpus": 2,
        "kernel": "6.1.0-28-amd64",
        "hypervisor": "none",
        "memory_bytes": 8 * 2**30 - 200_000_000,
        "load_1min": 0.3,
    }
    name = comparability.host_class(facts)
    assert name == "222ce7a5abfa"
    assert comparability.host_class({**facts, "load_1min": 7.0, "memory_bytes": 8 * 2**30}) == name
    for other in (
        {"cpu_model": "other"},
        {"cpus": 4},
        {"kernel": "6.12"},
        {"hypervisor": "KVM"},
        {"memory_bytes": 2**34},
        {"cpu_model": None},
    ):
        assert comparability.host_class({**facts, **other}) != name
    assert comparability.host_class({}) != name


def test_what_is_remembered_is_recalled(tmp_path: Path) -> None:
    other = NoiseFloor("python-http", "container", "ready", 12, 0.3, 0.1, FLOOR.run_id)
    folder = tmp_path / "cache" / "noise"
    noise.remember(folder, HOST, [FLOOR, other], NOW)
    assert noise.look_up(folder, HOST, "hello", NOW).floors == (FLOOR,)
    assert noise.look_up(folder, HOST, "python-http", NOW) == noise.KnownNoise((other,), NOW)
    newer = NoiseFloor("hello", "container", "ready", 60, 0.1, 0.02, "later")
    noise.remember(folder, HOST, [newer], NOW + timedelta(days=1))
    assert noise.look_up(folder, HOST, "hello", NOW + timedelta(days=2)).floors == (newer,)
    # Nothing of the writing is left aside.
    assert sorted(p.name for p in folder.rglob("*.*")) == ["hello.json", "python-http.json"]


def test_nothing_known_is_no_problem(tmp_path: Path) -> None:
    noise.remember(tmp_path, HOST, [FLOOR], NOW)
    assert noise.look_up(tmp_path, "another", "hello", NOW) == noise.KnownNoise(())
    assert noise.look_up(tmp_path, HOST, "other", NOW) == noise.KnownNoise(())
    assert noise.look_up(tmp_path / "none", HOST, "hello") == noise.KnownNoise(())


def test_what_is_old_is_measured_anew(tmp_path: Path) -> None:
    noise.remember(tmp_path, HOST, [FLOOR], NOW)
    assert noise.look_up(tmp_path, HOST, "hello", NOW + timedelta(days=29)).floors == (FLOOR,)
    late = noise.look_up(tmp_path, HOST, "hello", NOW + timedelta(days=31))
    assert (late.floors, late.measured_at) == ((), NOW)
    assert late.problem == "the noise floor of hello was measured 31 days ago"
    early = noise.look_up(tmp_path, HOST, "hello", NOW - timedelta(days=1))
    assert early.problem == "the noise floor of hello was measured in the future"


GOOD = {
    "schema": 1,
    "scenario": "hello",
    "measured_at": NOW.isoformat(),
    "floors": [
        {
            "scenario": "hello",
            "arm": "container",
            "metric": "ready",
            "blocks": 30,
            "floor": 0.16,
            "detectable": 0.05,
            "run_id": FLOOR.run_id,
        }
    ],
}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b'{"\xff": 1}', "decode"),
        (b"[" * 100_000, "damaged"),
        (b"[]", "no object"),
        (json.dumps(GOOD).encode()[:-30], "damaged"),
        (json.dumps({**GOOD, "schema": 2}).encode(), "schema: 2 is not known"),
        (json.dumps({**GOOD, "scenario": "x"}).encode(), "'x' is another one"),
        (json.dumps({**GOOD, "measured_at": "today"}).encode(), "isoformat"),
        (json.dumps({**GOOD, "measured_at": "2026-11-24T12:00:00"}).encode(), "no time zone"),
        (json.dumps({**GOOD, "measured_at": 5}).encode(), "measured_at"),
        (json.dumps({**GOOD, "floors": [{"arm": 1}]}).encode(), "floors[0]"),
        (json.dumps({**GOOD, "floors": None}).encode(), "floors"),
        (json.dumps(GOOD).replace("0.16", "NaN").encode(), "no size"),
        (json.dumps(GOOD).replace("0.16", "-1.0").encode(), "no size"),
    ],
)
def test_a_damaged_file_is_passed_over_with_a_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    noise.remember(tmp_path, HOST, [FLOOR], NOW)
    (path,) = tmp_path.rglob("hello.json")
    path.write_bytes(json.dumps(GOOD).encode())
    assert noise.look_up(tmp_path, HOST, "hello", NOW).floors == (FLOOR,)
    path.write_bytes(content)
    found = noise.look_up(tmp_path, HOST, "hello", NOW)
    assert found.floors == ()
    assert found.problem is not None
    assert problem in found.problem
    assert str(path) in found.problem
    noise.remember(tmp_path, HOST, [FLOOR], NOW)  # and is replaced by the next
    assert noise.look_up(tmp_path, HOST, "hello", NOW).floors == (FLOOR,)


def test_a_folder_in_the_file_s_place_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / HOST / "hello.json").mkdir(parents=True)
    found = noise.look_up(tmp_path, HOST, "hello", NOW)
    assert found.problem is not None
    assert "cannot be read" in found.problem


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "é", "x" * 300, ".", "a b"])
def test_any_scenario_name_is_a_file_below_the_folder(tmp_path: Path, name: str) -> None:
    floor = NoiseFloor(name, "container", "ready", 30, 0.16, 0.05, "run")
    folder = tmp_path / "noise"
    noise.remember(folder, HOST, [floor], NOW)
    assert noise.look_up(folder, HOST, name, NOW).floors == (floor,)
    assert [p.name for p in tmp_path.iterdir()] == ["noise"]
    assert len(list((folder / HOST).iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot keep the noise floor in"):
        noise.remember(tmp_path / "file" / "noise", HOST, [FLOOR], NOW)


def test_what_can_be_found_shrinks_with_the_root_of_the_blocks() -> None:
    floor = NoiseFloor("sample", "a", "ready", 10, 0.5, 0.21, "x")
    assert floor.detectable_with(10) == pytest.approx(0.21)
    assert floor.detectable_with(40) == pytest.approx(0.1)  # 1.21 ** (1 / 2)
    assert NoiseFloor("sample", "a", "disk", 10, 0.0, 0.0, "x").detectable_with(3) == 0
