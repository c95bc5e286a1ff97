"""Every doubt that facts and trials together give rise to: raised when it should be, else not."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.analysis.diagnose import run_diagnostics
from harness.environment.diagnose import host_diagnostics
from harness.model import (
    SCHEMA_VERSION,
    Arm,
    ArmRecord,
    CacheState,
    Milestone,
    NoiseFloor,
    Outcome,
    RunInfo,
    Scale,
    Trial,
)
from harness.model.diagnostics import REMEDIES, Diagnostic, DiagnosticCode
from tests.support.scenarios import scenario

MS = 1_000_000
QUIET_HOST: Mapping[str, str | int | float | bool | None] = {
    "cpus": 8,
    "cpus_online": 8,
    "load_1min": 0.3,
    "memory_bytes": 16 << 30,
    "memory_available_bytes": 12 << 30,
    "cpu_governor": "performance",
    "cpu_frequency_driver": "intel_pstate",
    "cpu_turbo": False,
    "smt": False,
    "same_page_merging": False,
    "clock_source": "tsc",
    "clock_read_ns": 50,
    "transparent_huge_pages": "never",
    "hypervisor": "none",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (
            {"load_1min": 5.0},
            [
                Diagnostic(
                    DiagnosticCode.LOADED_HOST, "load average 5.00 on 8 CPUs when the run began"
                )
            ],
        ),
        (
            {"memory_available_bytes": 1 << 30},
            [
                Diagnostic(
                    DiagnosticCode.MEMORY_PRESSURE,
                    "1024 MiB of 16384 MiB were available when the run began",
                )
            ],
        ),
        (
            {"cpu_governor": "powersave"},
            [Diagnostic(DiagnosticCode.GOVERNOR, "governor powersave (driver intel_pstate)")],
        ),
        (
            {"cpu_governor": "performance, schedutil", "cpu_frequency_driver": None},
            [Diagnostic(DiagnosticCode.GOVERNOR, "governor performance, schedutil")],
        ),
        ({"cpu_turbo": True}, [Diagnostic(DiagnosticCode.TURBO)]),
        ({"smt": True}, [Diagnostic(DiagnosticCode.SMT)]),
        ({"same_page_merging": True}, [Diagnostic(DiagnosticCode.KSM)]),
        (
            {"clock_source": "hpet", "clock_read_ns": 1800},
            [Diagnostic(DiagnosticCode.CLOCK_SOURCE, "clock source hpet: 1.8 us a reading")],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_the_host_is(changes: dict[str, object], expected: list[Diagnostic]) -> None:
    assert list(host_diagnostics({**QUIET_HOST, **changes})) == expected  # type: ignore[dict-item]


def test_facts_that_could_not_be_had_raise_no_doubt() -> None:
    assert host_diagnostics(dict.fromkeys(QUIET_HOST)) == ()
    assert host_diagnostics({}) == ()


def arm(name: str, backend: str = "container", cache: str = "warm", **more: object) -> Arm:
    return Arm(name, backend, cache=CacheState(cache), **more)  # type: ignore[arg-type]


def run_of(
    *arms: Arm,
    facts: Mapping[str, Mapping[str, str]] | None = None,
    environment: Mapping[str, str | int | float | bool | None] | None = None,
    has_noise: bool = True,
) -> RunInfo:
    """A run of one scenario, `sample`, whose noise is known and whose host is quiet."""
    return RunInfo(
        schema=SCHEMA_VERSION,
        steelyard="0",
        run_id="test",
        started_at="2026-11-24T12:00:00Z",
        ended_at=None,
        command=("steelyard", "run"),
        seed=1,
        blocks=10,
        warmup_blocks=1,
        scenarios=(scenario(*arms),),
        arms=tuple(ArmRecord("sample", a, 0, (), (facts or {}).get(a.name, {})) for a in arms),
        environment={**QUIET_HOST, **(environment or {})},
        environment_missing={},
        noise=(NoiseFloor("sample", arms[0].name, "ready", 30, 0.1, 0.03, "t"),)
        if has_noise
        else (),
    )


def trials_of(
    info: RunInfo, blocks: int = 10, ready_ms: Mapping[str, float] | None = None
) -> list[Trial]:
    """Trials that all went well, the warm-up among them; 20 ms each, with a little life in it."""
    return [
        Trial(
            scenario="sample",
            arm=record.arm.name,
            block=block,
            position=0,
            outcome=Outcome.OK,
            milestones_ns={
                Milestone.REQUESTED: 0,
                Milestone.READY: round(
                    (ready_ms or {}).get(record.arm.name, 20.0) * MS * (1 + block * 7 % 5 / 100)
                ),
            },
        )
        for block in range(-1, blocks)
        for record in info.arms
    ]


def failing(trials: list[Trial], arm_name: str, blocks: range) -> list[Trial]:
    return [
        replace(trial, outcome=Outcome.FAILED, error="no", milestones_ns={Milestone.REQUESTED: 0})
        if trial.arm == arm_name and trial.block in blocks
        else trial
        for trial in trials
    ]


A, B = arm("a"), arm("b", "process")


def test_a_good_run_has_no_doubts() -> None:
    info = run_of(A, B)
    assert run_diagnostics(info, trials_of(info)) == []


@pytest.mark.parametrize(
    ("blocks", "detail"), [(0, "none was taken"), (1, "1 block"), (5, "5 blocks")]
)
def test_too_few_blocks(blocks: int, detail: str) -> None:
    info = run_of(A, B)
    found = run_diagnostics(info, trials_of(info, blocks=blocks))
    assert found == [Diagnostic(DiagnosticCode.FEW_BLOCKS, detail)]
    assert run_diagnostics(info, trials_of(info, blocks=6)) == []


@pytest.mark.parametrize(
    ("blocks", "detail"),
    [
        (range(3, 4), "sample: a: 1 of 10"),
        (range(5), "sample: a: 5 of 10, so that its median was not reached"),
        (range(10), "sample: a: all 10"),
    ],
)
def test_blocks_that_ran_and_failed_are_failures_and_not_few(blocks: range, detail: str) -> None:
    info = run_of(A, B)
    found = run_diagnostics(info, failing(trials_of(info), "a", blocks))
    assert found == [Diagnostic(DiagnosticCode.FAILED_TRIALS, detail)]


def test_a_failure_in_the_warm_up_is_none_of_the_run() -> None:
    info = run_of(A, B)
    assert run_diagnostics(info, failing(trials_of(info), "a", range(-1, 0))) == []


def test_different_answers() -> None:
    info = run_of(A, B)
    digests = {"a": "0" * 64, "b": "f" * 64}
    trials = [replace(trial, response_sha256=digests[trial.arm]) for trial in trials_of(info)]
    assert run_diagnostics(info, trials) == [
        Diagnostic(
            DiagnosticCode.RESPONSE_DIFFERS,
            "sample: a served sha256 000000000000 / b served sha256 ffffffffffff",
        )
    ]
    same = [replace(trial, response_sha256="0" * 64) for trial in trials]
    assert run_diagnostics(info, same) == []


@pytest.mark.parametrize(
    ("fact", "values", "expected"),
    [
        ("accelerator", ("tcg", "kvm"), DiagnosticCode.ACCELERATOR_MIX),
        ("accelerator", ("tcg", "tcg"), None),
        ("kernel_format", ("elf", "bzimage"), DiagnosticCode.KERNEL_FORMAT),
        ("kernel_format", ("elf", "elf"), None),
    ],
)
def test_machines_that_differ_in_more_than_their_kind(
    fact: str, values: tuple[str, str], expected: DiagnosticCode | None
) -> None:
    arms = arm("m", "vm-micro"), arm("c", "vm-classic")
    info = run_of(*arms, facts={"m": {fact: values[0]}, "c": {fact: values[1]}})
    found = run_diagnostics(info, trials_of(info))
    detail = f"sample: m {values[0]}, c {values[1]}"
    assert found == ([Diagnostic(expected, detail)] if expected else [])


@pytest.mark.parametrize(
    ("arms", "is_mixed"),
    [
        ((arm("a"), arm("b", "process", "cold")), True),
        ((arm("a"), arm("a-cold", cache="cold"), arm("b", "process")), True),
        ((arm("a", cache="cold"), arm("b", "process", "cold")), False),
        # --cache both: every arm in both states.
        ((arm("a"), arm("a-cold", cache="cold")), False),
        # The null arm reads nothing, and a repetition is the same arm again.
        ((arm("a", cache="cold"), arm("nothing", "null")), False),
        ((arm("a", cache="cold"), arm("again", cache="cold", repeats="a")), False),
    ],
)
def test_cold_and_warm_side_by_side(arms: tuple[Arm, ...], *, is_mixed: bool) -> None:
    info = run_of(*arms)
    trials = trials_of(info, ready_ms={"nothing": 0.01})
    codes = [found.code for found in run_diagnostics(info, trials)]
    assert codes == ([DiagnosticCode.CACHE_MIX] if is_mixed else [])


@pytest.mark.parametrize(
    ("accelerator", "hypervisor", "is_nested"),
    [("kvm", "Xen", True), ("kvm", "none", False), ("kvm", None, False), ("tcg", "Xen", False)],
)
def test_a_machine_in_a_machine(
    accelerator: str, hypervisor: str | None, *, is_nested: bool
) -> None:
    facts = {"m": {"accelerator": accelerator}}
    info = run_of(A, arm("m", "vm-micro"), facts=facts, environment={"hypervisor": hypervisor})
    expected = Diagnostic(
        DiagnosticCode.NESTED, "sample: m on KVM, on a host that is itself a guest (Xen)"
    )
    assert run_diagnostics(info, trials_of(info)) == ([expected] if is_nested else [])


@pytest.mark.parametrize(
    ("setting", "arms", "detail"),
    [
        ("always", (A, B), "sample: set to always"),
        (
            "madvise",
            (A, arm("m", "vm-micro")),
            "sample: set to madvise: in effect for m, and not for the other arms",
        ),
        ("madvise", (A, B), None),
        ("madvise", (arm("m", "vm-micro"), arm("m2", "vm-micro")), None),
        ("never", (A, arm("m", "vm-micro")), None),
        (None, (A, arm("m", "vm-micro")), None),
    ],
)
def test_huge_pages_where_they_favour_some(
    setting: str | None, arms: tuple[Arm, ...], detail: str | None
) -> None:
    facts = {a.name: {"accelerator": "tcg"} for a in arms if a.backend == "vm-micro"}
    info = run_of(*arms, facts=facts, environment={"transparent_huge_pages": setting})
    expected = [Diagnostic(DiagnosticCode.THP, detail)] if detail else []
    assert run_diagnostics(info, trials_of(info)) == expected


def test_a_comparison_whose_noise_nobody_knows() -> None:
    info = run_of(A, B, has_noise=False)
    assert run_diagnostics(info, trials_of(info)) == [
        Diagnostic(DiagnosticCode.NOISE_UNKNOWN, "sample: no noise floor")
    ]
    alone = run_of(A, has_noise=False)
    assert run_diagnostics(alone, trials_of(alone)) == []
    growing = replace(info, scenarios=(replace(info.scenarios[0], scale=Scale((1, 2))),))
    assert run_diagnostics(growing, trials_of(growing)) == []


@pytest.mark.parametrize(("null_ms", "is_dear"), [(0.05, False), (0.15, False), (0.3, True)])
def test_the_cost_of_measuring(null_ms: float, *, is_dear: bool) -> None:
    """1 % of 20 ms is 0.2 ms."""
    info = run_of(A, B, arm("nothing", "null"))
    trials = trials_of(info, ready_ms={"nothing": null_ms, "b": 50})
    found = run_diagnostics(info, trials)
    expected = Diagnostic(
        DiagnosticCode.PROBER_COST, "sample: nothing took 0.31 ms, 1.5 % of the 20.40 ms of a"
    )
    assert found == ([expected] if is_dear else [])


def test_a_tenth_of_a_millisecond_is_never_too_dear() -> None:
    info = run_of(A, arm("nothing", "null"))
    assert run_diagnostics(info, trials_of(info, ready_ms={"nothing": 0.08, "a": 1})) == []


def shaped(info: RunInfo, times_ms: Sequence[float]) -> list[Trial]:
    """Trials of the arm `a` that took these times, beside those of the other arms."""
    others = [trial for trial in trials_of(info, len(times_ms)) if trial.arm != "a"]
    ours = [
        Trial(
            scenario="sample",
            arm="a",
            block=block,
            position=0,
            outcome=Outcome.OK,
            milestones_ns={Milestone.REQUESTED: 0, Milestone.READY: round(time * MS)},
        )
        for block, time in enumerate(times_ms)
    ]
    return sorted([*others, *ours], key=lambda trial: trial.block)


def scattered(count: int) -> list[float]:
    chance = random.Random(4)
    return [chance.gauss(0, 1) for _ in range(count)]


SHAPES = {
    "as it should be": ([20 + x for x in scattered(40)], None),
    "one far out": ([20 + x for x in scattered(39)] + [90], None),
    "two groups": (
        [20 + x + 12 * (number * 7 % 10 < 5) for number, x in enumerate(scattered(40))],
        (DiagnosticCode.BIMODAL, "sample: a"),
    ),
    "a drift": (
        [20 + x / 2 + number / 10 for number, x in enumerate(scattered(40))],
        (DiagnosticCode.DRIFT, r"sample: a: \+1\d % from the first block to the last"),
    ),
    "waves": (
        [20 + x / 4 + math.sin(number / 2) for number, x in enumerate(scattered(60))],
        (DiagnosticCode.DEPENDENT, r"sample: a: rank correlation 0\.\d\d with the next sample"),
    ),
}


@pytest.mark.parametrize(("times_ms", "expected"), SHAPES.values(), ids=SHAPES)
def test_what_a_median_hides(
    times_ms: list[float], expected: tuple[DiagnosticCode, str] | None
) -> None:
    info = run_of(A, B)
    # The other arm repeats five times over and over, which is a pattern too.
    found = [d for d in run_diagnostics(info, shaped(info, times_ms)) if ": a" in d.detail]
    if expected is None:
        assert found == []
    else:
        assert [diagnostic.code for diagnostic in found] == [expected[0]]
        assert re.fullmatch(expected[1], found[0].detail)
    # Where instances live on, the next one has more company: a trend is the question there.
    growing = replace(info, scenarios=(replace(info.scenarios[0], scale=Scale((1, 2))),))
    assert run_diagnostics(growing, shaped(growing, times_ms)) == []


def test_every_doubt_says_what_to_do() -> None:
    assert set(REMEDIES) == set(DiagnosticCode)
    # What to do is a clause of its own, behind what it means.
    for code, remedy in REMEDIES.items():
        assert len(remedy) > 40, code
        assert any(mark in remedy for mark in (":", ";", ",")), code


def test_every_doubt_can_be_raised() -> None:
    """A code that nothing raises would be a promise that nobody keeps."""
    root = Path(__file__).resolve().parents[4] / "harness"
    sources = "".join(
        path.read_text() for path in root.rglob("*.py") if path.name != "diagnostics.py"
    )
    unused = [code.name for code in DiagnosticCode if f"DiagnosticCode.{code.name}" not in sources]
    assert unused == []
