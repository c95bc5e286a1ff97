"""From records to figures to sentences: what a reader is told must be what was recorded."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from types import MappingProxyType

import pytest

from harness.diagnostics import REMEDIES, DiagnosticCode
from harness.model import (
    DiskPart,
    Limits,
    Milestone,
    Outcome,
    Readiness,
    ReadinessKind,
    Run,
    Sharing,
    Trial,
)
from harness.report import circumstances, wording
from harness.report.cells import cost_grid, disk_grid, start_grid, trial_grid
from harness.report.frame import COLUMNS, durations, trials_frame
from harness.report.tables import ScenarioTable, Summary, summarise
from harness.report.verdict import Verdict, verdict
from harness.stats import Comparison, Estimate, Interval, Method
from tests.support.synthetic import MS, synthetic_run


def hello(run: Run) -> tuple[ScenarioTable, Summary, Verdict]:
    summary = summarise(run)
    return summary.tables[0], summary, verdict(summary.tables[0], summary)


def with_trials(run: Run, *trials: Trial) -> Run:
    return dataclasses.replace(run, trials=trials)


def ready_times(run: Run, arm: str) -> list[int]:
    return [
        t.milestones_ns[Milestone.READY]
        for t in run.trials
        if t.scenario == "hello" and t.arm == arm and t.block >= 0 and t.outcome is Outcome.OK
    ]


# -- The frame ------------------------------------------------------------------------------------


def test_the_frame_is_tidy_and_in_order() -> None:
    run = synthetic_run(blocks=3, failure_rate=0.2)
    frame = trials_frame(run)
    assert tuple(frame.columns) == COLUMNS
    assert frame.shape == (len(run.trials), 18)
    assert list(frame["arm"]) == [trial.arm for trial in run.trials]
    assert list(frame["counted"]) == [trial.block >= 0 for trial in run.trials]
    for trial, ready in zip(run.trials, frame["ready_ns"], strict=True):
        expected = trial.milestones_ns.get(Milestone.READY)
        assert math.isnan(ready) if expected is None else ready == expected


def test_an_empty_frame_has_its_columns() -> None:
    frame = trials_frame(synthetic_run(blocks=0, warmup_blocks=0))
    assert (tuple(frame.columns), len(frame)) == (COLUMNS, 0)


def test_lost_marks_have_no_duration_and_failed_trials_an_infinite_one() -> None:
    run = synthetic_run(blocks=3, scenarios=("hello",), arms=("vm-micro",), warmup_blocks=0)
    lost, failed, fine = run.trials
    no_mark = {k: v for k, v in lost.milestones_ns.items() if k is not Milestone.KERNEL}
    lost = dataclasses.replace(lost, milestones_ns=no_mark)
    failed = dataclasses.replace(failed, outcome=Outcome.TIMEOUT, milestones_ns={})
    found = durations(trials_frame(with_trials(run, lost, failed, fine)), "kernel_ns")
    assert found == {1: math.inf, 2: fine.milestones_ns[Milestone.KERNEL]}


def test_a_trial_that_failed_after_it_was_ready_is_no_result_like_the_others() -> None:
    run = synthetic_run(blocks=2, scenarios=("hello",), arms=("container",), warmup_blocks=0)
    leftover, fine = run.trials
    leftover = dataclasses.replace(leftover, outcome=Outcome.FAILED, error="mount still there")
    frame = trials_frame(with_trials(run, leftover, fine))
    assert durations(frame, "ready_ns") == {0: math.inf, 1: fine.milestones_ns[Milestone.READY]}
    assert durations(frame, "started_ns")[0] == leftover.milestones_ns[Milestone.STARTED]


# -- The figures ----------------------------------------------------------------------------------


def test_figures_are_those_of_the_records() -> None:
    run = synthetic_run(blocks=9)
    table, _, _ = hello(run)
    assert [row.arm for row in table.rows] == ["process", "container", "vm-micro", "vm-classic"]
    assert table.reference == "container"
    for row in table.rows:
        assert row.ready is not None
        assert row.ready.median == statistics.median(ready_times(run, row.arm))
        assert (row.trials, row.ok, row.failed, row.timeouts) == (9, 9, 0, 0)
    ratios = map(
        lambda vm, box: vm / box, ready_times(run, "vm-micro"), ready_times(run, "container")
    )
    micro = table.rows[2]
    assert micro.ratio is not None
    assert micro.ratio.estimate.median == pytest.approx(statistics.median(ratios))
    assert Milestone.KERNEL in micro.milestones
    assert Milestone.KERNEL not in table.rows[1].milestones


def test_warm_up_blocks_count_in_no_figure() -> None:
    run = synthetic_run(blocks=4, warmup_blocks=3)
    only = with_trials(run, *(trial for trial in run.trials if trial.block >= 0))
    assert summarise(run).tables == summarise(only).tables


def test_failures_are_counted_and_push_the_median_up() -> None:
    run = synthetic_run(blocks=12, scenarios=("hello",), failure_rate=0.3)
    table, _, found = hello(run)
    bad = [trial for trial in run.trials if trial.block >= 0 and trial.outcome is not Outcome.OK]
    assert sum(row.failed + row.timeouts for row in table.rows) == len(bad) > 0
    for row in table.rows:
        assert row.ready is not None
        assert row.ready.censored == row.failed + row.timeouts
        assert row.ready.count == 12
        assert row.ready.median >= statistics.median(ready_times(run, row.arm))
        assert sum(number for _, number in row.errors) == row.failed + row.timeouts
    assert any("none was dropped" in sentence for sentence in found.certainty)


def test_disk_is_shared_once_and_exclusive_each() -> None:
    run = synthetic_run(blocks=3)
    table, _, _ = hello(run)
    micro = table.rows[2]
    record = next(r for r in run.info.arms if (r.scenario, r.arm.name) == ("hello", "vm-micro"))
    assert micro.shared_bytes == sum(part.allocated_bytes for part in record.disk)
    own = [
        t.disk[0].allocated_bytes
        for t in run.trials
        if t.arm == "vm-micro" and t.scenario == "hello" and t.block >= 0
    ]
    assert micro.exclusive is not None
    assert micro.exclusive.median == statistics.median(own)
    assert ("vm-micro", "overlay", "each instance") in [row[:3] for row in disk_grid(table).rows]


def test_reflinked_and_static_exclusive_bytes_fall_on_the_right_side() -> None:
    run = synthetic_run(blocks=1, scenarios=("hello",), arms=("vm-classic",), warmup_blocks=0)
    reflinked = DiskPart("disk copy", Sharing.EXCLUSIVE, 1000, 1000, reflinked_bytes=900)
    seed = DiskPart("seed", Sharing.EXCLUSIVE, 7, 7)
    trial = dataclasses.replace(run.trials[0], disk=(reflinked,))
    record = dataclasses.replace(run.info.arms[0], disk=(seed,))
    info = dataclasses.replace(run.info, arms=(record,))
    row = summarise(Run(info, (trial,))).tables[0].rows[0]
    assert row.shared_bytes == 0
    assert row.exclusive is not None
    assert row.exclusive.median == 107


@pytest.mark.parametrize(
    ("arms", "reference"),
    [
        (("vm-micro", "process", "container"), "container"),
        (("vm-micro", "process"), "process"),
        (("vm-classic", "vm-micro"), "vm-classic"),
    ],
)
def test_the_reference_is_the_container_or_the_next_best(
    arms: tuple[str, ...], reference: str
) -> None:
    table, _, found = hello(synthetic_run(blocks=6, arms=arms))
    assert table.reference == reference
    assert reference in found.headline


def test_trials_of_an_unknown_arm_are_shown_too() -> None:
    run = synthetic_run(blocks=2, scenarios=("hello",))
    strange = dataclasses.replace(run.trials[-1], arm="later")
    table, _, _ = hello(with_trials(run, *run.trials, strange))
    assert (table.rows[-1].arm, table.rows[-1].trials) == ("later", 1)


def test_doubts_are_gathered_with_where_and_how_often() -> None:
    summary = summarise(synthetic_run(blocks=10, failure_rate=0.4))
    by_code = {doubt.code: doubt for doubt in summary.doubts}
    assert list(by_code) == [code for code in DiagnosticCode if code in by_code]
    assert by_code[DiagnosticCode.TCG].remedy == REMEDIES[DiagnosticCode.TCG]
    (tcg,) = by_code[DiagnosticCode.TCG].occurrences
    assert "hello, vm-micro" in tcg
    assert "python-http, vm-classic" in tcg
    (forced,) = by_code[DiagnosticCode.FORCED_STOP].occurrences
    told = sum(int(number) for number in re.findall(r": (\d+) trial", forced))
    assert told == sum(t.outcome is not Outcome.OK for t in summary.run.trials)


# -- The sentences --------------------------------------------------------------------------------


def test_the_answer_names_both_costs_and_how_sure() -> None:
    table, _, found = hello(synthetic_run(blocks=20))
    micro = table.rows[2]
    assert micro.ratio is not None
    assert micro.difference is not None
    assert found.headline.startswith("The container is ready after 2.")
    assert wording.times(micro.ratio.estimate.median) in found.headline
    assert f"{wording.duration(micro.difference.estimate.median)} more" in found.headline
    assert found.is_sure
    certainty = " ".join(found.certainty)
    assert "95 % intervals for the median over 20 blocks (exact, order statistics)" in certainty
    assert "No interval contains 1 ×" in certainty
    assert "All 80 trials went well" in certainty
    assert "emulated (TCG)" in certainty


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [(1, "Not sure at all"), (3, "with 75 % only"), (5, "with 93.75 % only")],
)
def test_few_blocks_are_not_sure(blocks: int, sentence: str) -> None:
    _, _, found = hello(synthetic_run(blocks=blocks))
    assert not found.is_sure
    assert sentence in found.certainty[0]
    assert "at least 6 blocks" in found.certainty[0]


def test_equal_arms_show_no_difference() -> None:
    run = synthetic_run(blocks=15, arms=("process", "container"), scenarios=("python-http",))
    table, _, found = hello(run)
    ratio = table.rows[0].ratio
    assert ratio is not None
    assert ratio.estimate.interval is not None
    assert ratio.estimate.interval.low < 1 < ratio.estimate.interval.high
    assert "the process shows no difference to that (" in found.headline
    assert "no difference is shown" in found.findings[0]
    assert any("contains 1 ×" in sentence for sentence in found.certainty)


def test_faster_than_the_reference_is_sooner_and_less() -> None:
    _, _, found = hello(synthetic_run(blocks=12, arms=("process", "container")))
    assert " sooner than the container" in found.findings[0]
    assert " less (0." in found.headline


def test_a_reference_that_failed_compares_nothing() -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",))
    trials = [
        dataclasses.replace(t, outcome=Outcome.FAILED, milestones_ns={Milestone.REQUESTED: 0})
        if t.arm == "container"
        else t
        for t in run.trials
    ]
    table, _, found = hello(with_trials(run, *trials))
    assert not found.is_sure
    assert found.headline == (
        "The container failed in 8 of 8 trials, so there is nothing to compare the others with."
    )
    assert start_grid(table).rows[2][-1] == "cannot tell"


def test_an_open_interval_is_not_sure() -> None:
    run = synthetic_run(blocks=8, scenarios=("hello",), arms=("container", "vm-micro"))
    slow = [t for t in run.trials if t.arm == "vm-micro" and t.block >= 0][:3]
    trials = [
        dataclasses.replace(t, outcome=Outcome.TIMEOUT, milestones_ns={Milestone.REQUESTED: 0})
        if t in slow
        else t
        for t in run.trials
    ]
    table, _, found = hello(with_trials(run, *trials))
    assert not found.is_sure
    assert "–?]" in start_grid(table).rows[1][-1]


@pytest.mark.parametrize("hashes", [("aa", "aa"), ("aa", "bb")])
def test_bytes_that_differ_are_told(hashes: tuple[str, str]) -> None:
    run = synthetic_run(blocks=1, scenarios=("python-http",), warmup_blocks=0)
    trials = [
        dataclasses.replace(t, response_sha256=hashes[place % 2])
        for place, t in enumerate(run.trials)
    ]
    _, _, found = hello(with_trials(run, *trials))
    wanted = "byte for byte" if hashes[0] == hashes[1] else "did not do the same work"
    assert any(wanted in sentence for sentence in found.certainty)


def test_interrupted_and_killed_runs_say_so() -> None:
    run = synthetic_run(blocks=9, scenarios=("hello",), interrupted=True, warmup_blocks=0)
    _, _, found = hello(run)
    assert "The run was interrupted: 6 of 9 blocks are complete." in found.certainty
    killed = dataclasses.replace(run.info, interrupted=False, ended_at=None)
    _, _, found = hello(Run(killed, run.trials))
    assert "The run did not end properly: 6 of 9 blocks are complete." in found.certainty


ODD = {
    "no trials": {"blocks": 0, "warmup_blocks": 0},
    "warm-up only": {"blocks": 0, "warmup_blocks": 2},
    "one block": {"blocks": 1},
    "one arm": {"arms": ("container",)},
    "no container": {"arms": ("vm-micro", "vm-classic")},
    "only failures": {"failure_rate": 1.0},
    "interrupted": {"interrupted": True},
    "no scenario": {"scenarios": ()},
    "many": {"blocks": 45, "failure_rate": 0.45},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_runs_have_sentences_and_even_grids(odd: dict[str, object]) -> None:
    run = synthetic_run(**odd)  # type: ignore[arg-type]
    summary = summarise(run)
    for table in summary.tables:
        found = verdict(table, summary)
        told = " ".join((found.headline, *found.findings, *found.certainty))
        assert not re.search(r"\bnan\b|\binf\b|None|\[\]|\(\)", told)
        assert all(
            sentence.endswith((".", "?"))
            for sentence in (found.headline, *found.findings, *found.certainty)
        )
        for grid in (
            start_grid(table),
            cost_grid(table),
            disk_grid(table),
            trial_grid(table, run.trials),
        ):
            assert all(len(row) == len(grid.head) for row in grid.rows)
            assert not re.search(r"\bnan\b|\binf\b|None", str(grid.rows))


# -- The words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"), (7, "7 ns"), (999, "999 ns"), (1000, "1.00 µs"), (840_000, "840 µs"),
        (999_499, "999 µs"), (999_600, "1.00 ms"), (3_049_999, "3.05 ms"), (212 * MS, "212 ms"),
        (999.4 * MS, "999 ms"), (999.7 * MS, "1.00 s"), (9.999e9, "10.0 s"), (63.2e9, "63.2 s"),
        (312e9, "312 s"), (-115_000, "-115 µs"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(ns: float, text: str) -> None:
    assert wording.duration(ns) == text


def test_sizes_are_decimal() -> None:
    assert [wording.size(value) for value in (0, 512, 12_288, 52_629_504, 3e9)] == [
        "0 B", "512 B", "12.3 kB", "52.6 MB", "3.00 GB",
    ]  # fmt: skip


def test_intervals_share_their_medians_unit_and_decimals() -> None:
    interval = Interval(900 * MS, 1_236 * MS, 0.95, Method.BOOTSTRAP)
    assert wording.duration_estimate(Estimate(1_100 * MS, interval, 50)) == "1.10 s [0.90–1.24]"
    open_end = Interval(900 * MS, math.inf, 0.96, Method.ORDER_STATISTICS)
    assert wording.duration_estimate(Estimate(1_100 * MS, open_end, 9)) == "1.10 s [0.90–?]"
    assert wording.duration_estimate(Estimate(math.inf, open_end, 9, 5)) == "not reached"
    assert wording.duration_estimate(None) == "–"
    factor = Interval(39.21, 47.04, 0.95, Method.BOOTSTRAP)
    assert wording.ratio(Comparison(Estimate(43.12, factor, 50))) == "43.1 × [39.2–47.0]"
    assert wording.difference(
        Comparison(Estimate(-1.7 * MS, Interval(-2.0 * MS, -1.5 * MS, 0.95, Method.BOOTSTRAP), 50))
    ) == "1.70 ms [1.50–2.00]"  # fmt: skip


def test_lists_and_counts_read_as_sentences_do() -> None:
    assert [wording.listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert [wording.count(number, "block") for number in (0, 1, 2)] == [
        "0 blocks", "1 block", "2 blocks",
    ]  # fmt: skip


def test_every_milestone_and_backend_is_explained() -> None:
    assert set(wording.MEANING) == set(Milestone)
    assert {"process", "container", "vm-micro", "vm-classic", "fake"} <= set(wording.BACKENDS)


@pytest.mark.parametrize(
    ("typed", "repeated"),
    [
        (("/usr/bin/steelyard", "run"), "steelyard run --blocks 4 --seed 7"),
        (("steelyard", "run", "--seed", "7"), "steelyard run --seed 7 --blocks 4"),
        (("steelyard", "run", "--seed=7", "--blocks=4"), "steelyard run --seed=7 --blocks=4"),
        (("steelyard", "run", "my file.toml"), "steelyard run 'my file.toml' --blocks 4 --seed 7"),
        ((), "steelyard run --blocks 4 --seed 7"),
    ],
)
def test_the_repeating_command_fixes_seed_and_blocks(typed: tuple[str, ...], repeated: str) -> None:
    info = dataclasses.replace(synthetic_run(blocks=4, seed=7).info, command=typed)
    assert circumstances.repeat_command(info) == repeated


def test_facts_are_shown_in_units_and_missing_ones_with_their_reason() -> None:
    info = dataclasses.replace(
        synthetic_run(blocks=1).info,
        environment=MappingProxyType(
            {"memory_bytes": 8_000_000_000, "tick_ns": 4 * MS, "smt": False, "cpu_governor": None}
        ),
        environment_missing=MappingProxyType({"cpu_governor": "no cpufreq", "ksm": "no sysfs"}),
    )
    assert circumstances.environment(info) == [
        ("Memory", "8.00 GB"),
        ("Tick", "4.00 ms"),
        ("SMT", "no"),
        ("CPU governor", "not known: no cpufreq"),
        ("KSM", "not known: no sysfs"),
    ]


@pytest.mark.parametrize("kind", ReadinessKind)
def test_every_readiness_is_a_sentence(kind: ReadinessKind) -> None:
    told = circumstances.readiness(Readiness(kind, output="up", port=8000, path="/x", status=204))
    assert told.startswith("Ready when ")
    assert told.endswith(".")


def test_limits_are_told() -> None:
    assert circumstances.limits(Limits()) == "no limits"
    assert circumstances.limits(Limits(256 << 20, 1.0, 1)) == (
        "256 MiB of memory, 1 CPU and 1 process"
    )
    assert circumstances.limits(Limits(cpus=1.5, pids=64)) == "1.5 CPUs and 64 processes"
