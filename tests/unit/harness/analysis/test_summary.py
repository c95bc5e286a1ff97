"""From records to figures: what a reader is told must be what was recorded."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics

import pytest

from harness import stats
from harness.analysis import estimates
from harness.analysis.summary import ScenarioTable, Summary, summarise
from harness.model import (
    Arm,
    DiskPart,
    Meter,
    Milestone,
    Outcome,
    Sharing,
    Trial,
)
from harness.model.diagnostics import REMEDIES, DiagnosticCode
from harness.model.metrics import METRICS
from harness.records import Run
from harness.records.dataset import COLUMNS, durations, run_data, trials_frame
from harness.report.text import wording
from harness.report.text.answer import Answer, answer
from harness.report.text.tables import disk_grid, noise_grid
from tests.support.synthetic import SLOPES, synthetic_run, synthetic_scale_run


def hello(run: Run) -> tuple[ScenarioTable, Summary, Answer]:
    summary = summarise(run)
    return summary.tables[0], summary, answer(summary.tables[0], summary)


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
    assert frame.shape == (len(run.trials), len(COLUMNS))
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
    run = synthetic_run(blocks=10, failure_rate=0.4)
    summary = summarise(run)
    by_code = {doubt.code: doubt for doubt in summary.diagnostics}
    assert list(by_code) == [code for code in DiagnosticCode if code in by_code]
    assert by_code[DiagnosticCode.TCG].remedy == REMEDIES[DiagnosticCode.TCG]
    (tcg,) = by_code[DiagnosticCode.TCG].occurrences
    assert "hello, vm-micro" in tcg
    assert "python-http, vm-classic" in tcg
    (forced,) = by_code[DiagnosticCode.FORCED_STOP].occurrences
    told = sum(int(number) for number in re.findall(r": (\d+) trial", forced))
    assert told == sum(t.outcome is not Outcome.OK for t in run.trials)


# -- More of one kind -----------------------------------------------------------------------------


def test_an_arm_against_itself_is_noise_and_no_answer() -> None:
    run = synthetic_run(blocks=20, again="container", scenarios=("hello",))
    table, _, found = hello(run)
    twin = table.rows[-1]
    assert (twin.arm, twin.repeats) == ("container-again", "container")
    assert "container-again" not in found.headline
    assert not any("container-again" in sentence for sentence in found.findings)
    assert any(
        "95 % of single pairs differ by less than 21 % (ready), 0 % (disk) and 2 % (memory (PSS)), "
        "by 20 pairs; 20 blocks find a difference of medians of 4 % (ready)" in sentence
        for sentence in found.certainty
    )
    assert noise_grid(table).rows[0] == ("ready", "container", "20", "21 %", "4 %")


def test_a_difference_below_what_the_host_tells_apart_is_named() -> None:
    run = synthetic_run(
        blocks=40, arms=("process", "container"), scenarios=("python-http",), again="container"
    )
    _, _, found = hello(run)
    assert any(
        "Differences of process to container are below the smallest that 40 blocks tell apart on "
        "this host, 4 %" in sentence
        for sentence in found.certainty
    )


def test_cold_arms_stand_beside_warm_ones() -> None:
    table, _, _ = hello(synthetic_run(blocks=6, cold=True))
    assert [row.cache.value for row in table.rows] == ["warm"] * 4 + ["cold"] * 4
    assert table.reference == "container"
    assert "image-read" in table.rows[5].metrics
    assert "page cache was warm" in table.rows[1].missing["image-read"]


@pytest.mark.parametrize("metric", ["pss", "uss", "cgroup-current", "available-delta"])
def test_growth_gives_back_the_slopes_that_were_put_in(metric: str) -> None:
    run = synthetic_scale_run(blocks=6, instances=(1, 2, 4, 8, 16))
    table, _, _ = hello(run)
    curves = {(curve.arm, curve.metric): curve for curve in table.growth}
    for arm in ("container", "vm-micro"):
        each, _ = SLOPES[arm][Meter(METRICS[metric].column)]
        line = curves[arm, metric].line
        assert line is not None
        assert line.slope.interval is not None
        assert line.slope.median == pytest.approx(each, rel=0.01)
        assert line.slope.interval.low <= line.slope.median <= line.slope.interval.high
        assert len(curves[arm, metric].points) == 30


def test_growth_of_disk_counts_the_shared_part_once() -> None:
    table, _, found = hello(synthetic_scale_run(blocks=4))
    disk = next(c for c in table.growth if (c.arm, c.metric) == ("container", "disk"))
    assert disk.line is not None
    shared = table.rows[0].shared_bytes
    assert shared is not None
    assert disk.line.intercept.median == pytest.approx(shared, rel=0.01)
    assert disk.line.slope.median == pytest.approx(14_336, rel=0.1)
    (told,) = [s for s in found.findings if s.startswith("container, up to 8 instances: ")]
    assert f"each further one takes {wording.size_estimate(disk.line.slope)} disk" in told
    assert f"shared by all: {wording.size(disk.line.intercept.median)} disk" in told


def test_where_growth_ended_is_told() -> None:
    table, _, found = hello(synthetic_scale_run(full_at=5))
    micro = [curve for curve in table.growth if curve.arm == "vm-micro"]
    assert {curve.failed_at for curve in micro} == {6}
    assert max(number for curve in micro for number, _ in curve.points) == 4
    assert "vm-micro: the 6th instance could not be started." in found.findings
    assert table.rows[1].failed + table.rows[1].timeouts == 3
    # The first of each block is the arm's figure, not a mixture of all numbers of instances.
    assert table.rows[1].ready is not None
    assert (table.rows[1].ready.count, table.rows[1].ready.censored) == (3, 0)


def test_start_curves_are_against_the_living_and_the_simultaneous() -> None:
    table, _, _ = hello(synthetic_scale_run(blocks=5))
    alive = {curve.arm: curve for curve in table.start_curves}["container"]
    together = {curve.arm: curve for curve in table.burst_curves}["container"]
    assert sorted({number for number, _ in alive.points}) == list(range(8))
    assert sorted({number for number, _ in together.points}) == [1, 2, 4]
    assert alive.line is not None
    assert together.line is not None
    assert together.line.slope.median > 10 * alive.line.slope.median > 0


def test_comparisons_in_columns_are_those_of_pairs() -> None:
    run = synthetic_run(blocks=25, failure_rate=0.35, seed=9)
    data = run_data(run)
    counted = data.frame[(data.frame["scenario"] == "hello") & data.frame["counted"]]
    ours, theirs = (
        estimates.arm_data(data, counted, name, None, is_scale=False)
        for name in ("vm-micro", "container")
    )
    ratios, differences = estimates.comparisons(ours, theirs)
    for metric in ("ready", "isolated", "pss", "stop", "available-delta"):
        pairs = [estimates.by_block(arm, METRICS[metric].column) for arm in (ours, theirs)]
        assert ratios[metric] == stats.paired_ratio(*pairs)
        if metric in estimates.DIFFERENCES:
            assert differences[metric] == stats.paired_difference(*pairs)
    assert ratios["ready"].undetermined > 0
    assert "kernel" not in ratios


def test_an_anchor_may_answer_otherwise_and_is_no_vm_among_the_vms() -> None:
    run = synthetic_run(
        blocks=6, scenarios=("python-http",), arms=("container", "vm-micro"), again="vm-micro"
    )
    trials = tuple(
        dataclasses.replace(trial, response_sha256="f" * 64)
        if trial.arm == "vm-micro-again"
        else trial
        for trial in run.trials
    )

    def as_anchor(arm: Arm) -> Arm:
        return dataclasses.replace(arm, repeats=None, anchors=arm.repeats)

    def with_anchor(one: Run) -> Run:
        records = tuple(
            dataclasses.replace(record, arm=as_anchor(record.arm)) for record in one.info.arms
        )
        scenarios = tuple(
            dataclasses.replace(each, arms=tuple(map(as_anchor, each.arms)))
            for each in one.info.scenarios
        )
        return Run(dataclasses.replace(one.info, arms=records, scenarios=scenarios), trials)

    table, _, found = hello(with_anchor(run))
    assert table.same_response is True
    assert table.between_vms == {}
    assert not any("Among the VMs" in sentence for sentence in found.findings)
    (twin,) = (row for row in table.rows if row.anchors)
    assert twin.arm == "vm-micro-again"
