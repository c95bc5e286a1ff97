"""Several trials of an arm in one block are one value, wherever a run is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.analysis.diagnose import run_diagnostics
from harness.analysis.history import take
from harness.analysis.noise import noise_floors
from harness.analysis.pairs import TrialValues
from harness.analysis.summary import summarise
from harness.measure.stopping import samples_of
from harness.model import Arm, ArmRecord, Milestone, Outcome, Pair, Trial, latest
from harness.model.diagnostics import DiagnosticCode
from harness.model.metrics import METRICS, block_value
from harness.records import Run
from harness.records.dataset import run_data, samples, trial_samples
from tests.support.synthetic import synthetic_run

LOST = math.inf


def repeated(times_ms: Sequence[Sequence[float]], arm: str = "container") -> Run:
    """Make a run of one arm from the times of each block's repetitions; infinite: it failed.

    A discarded trial of 99 ms stands before each block's own.
    """
    run = synthetic_run(
        blocks=len(times_ms), scenarios=("hello",), arms=(arm,), warmup_blocks=0, failure_rate=0
    )
    trials = []
    for one, times in zip(run.trials, times_ms, strict=True):
        trials.append(with_time(one, 99.0, -1))
        trials += [with_time(one, time, number) for number, time in enumerate(times)]
    return replace(run, trials=tuple(trials))


def with_time(trial: Trial, ms: float, repetition: int) -> Trial:
    if math.isinf(ms):
        return replace(
            trial, outcome=Outcome.TIMEOUT, milestones_ns={}, error="late", repetition=repetition
        )
    stamps = {Milestone.REQUESTED: 0, Milestone.READY: round(ms * 1e6)}
    return replace(trial, outcome=Outcome.OK, milestones_ns=stamps, repetition=repetition)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([9.0, 1.0, 3.0], 3.0),
        ([1.0, LOST, 3.0], 3.0),
        ([LOST, LOST, 3.0], LOST),
        ([1.0, LOST], LOST),  # one of two failed: not better than its failure
        ([1.0, 2.0], 2.0),
        ([math.nan, 4.0, math.nan], 4.0),
    ],
)
def test_the_value_of_a_block_is_the_median_of_its_trials(
    values: list[float], expected: float
) -> None:
    assert block_value(values) == expected


def test_a_block_without_a_value_has_none() -> None:
    assert math.isnan(block_value([math.nan, math.nan]))
    assert math.isnan(block_value([]))


TIMES = [[5.0, 1.0, 3.0], [2.0, LOST, 8.0], [LOST, LOST, 4.0], [7.0], [6.0, 6.5]]
BY_BLOCK = [3e6, 8e6, LOST, 7e6, 6.5e6]


def test_every_way_to_the_values_of_an_arm_goes_by_block() -> None:
    run = repeated(TIMES)
    counted = run.frame()[run.frame()["counted"]]
    blocks, values = samples(counted, "ready_ns")
    assert (blocks.tolist(), values.tolist()) == ([0, 1, 2, 3, 4], BY_BLOCK)
    seen = TrialValues(run.trials, run.info.arms).values("hello", "container", METRICS["ready"])
    assert seen == dict(enumerate(BY_BLOCK))
    named = samples_of(run.trials, run.info.arms, ["ready"])
    assert named["hello", "container", "ready"] == BY_BLOCK
    (row,) = summarise(run).tables[0].rows
    assert row.metrics["ready"] == stats.estimate(BY_BLOCK)
    points = take(run_data(run), None, ("ready",)).points
    assert [point.count for _, point in points.values()] == [5]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1.0, 2.0, 3.0, 5.0, LOST])), max_size=40)
)
def test_the_columns_reduce_as_the_definition_does(found: list[tuple[int, float]]) -> None:
    from harness.records.dataset import _by_block

    by_block: dict[int, list[float]] = {}
    for block, value in found:
        by_block.setdefault(block, []).append(value)
    blocks, values = _by_block(
        np.array([block for block, _ in found], np.int64), np.array([v for _, v in found], float)
    )
    assert dict(zip(blocks.tolist(), values.tolist(), strict=True)) == {
        block: block_value(values) for block, values in by_block.items()
    }
    assert blocks.tolist() == list(by_block)


def test_trials_of_a_block_that_is_there_twice_count_once_in_their_last_version() -> None:
    run = repeated([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    again = [with_time(trial, 30.0, trial.repetition) for trial in run.trials[2:4]]
    summary = summarise(replace(run, trials=(*run.trials, *again)))
    (row,) = summary.tables[0].rows
    assert row.metrics["ready"] == stats.estimate([30e6, 5e6])
    found = {each.code: each.occurrences for each in summary.diagnostics}
    assert found[DiagnosticCode.RECORDS] == (
        "2 of 10 trials are there more than once; the last version of each counts",
    )


def test_of_a_block_that_was_taken_again_the_last_version_counts_everywhere() -> None:
    run = repeated([[LOST, 2.0, 3.0], *([float(n)] * 3 for n in range(4, 10))])
    again = [with_time(trial, 30.0, trial.repetition) for trial in run.trials[:4]]
    run = Run(replace(run.info, retaken=(0,)), (*run.trials, *again))
    expected = [30e6, 4e6, 5e6, 6e6, 7e6, 8e6, 9e6]
    assert latest(run.trials) == [*run.trials[4:28], *again]
    named = samples_of(run.trials, run.info.arms, ["ready"])["hello", "container", "ready"]
    assert sorted(named) == sorted(expected)
    seen = TrialValues(run.trials, run.info.arms).values("hello", "container", METRICS["ready"])
    assert seen == dict(enumerate(expected))
    summary = summarise(run)
    (row,) = summary.tables[0].rows
    assert row.metrics["ready"] == stats.estimate(expected)
    assert (row.trials, row.timeouts) == (21, 0)
    assert DiagnosticCode.RECORDS not in {each.code for each in summary.diagnostics}
    codes = {each.code for each in run_diagnostics(run.info, run.trials)}
    assert DiagnosticCode.FAILED_TRIALS not in codes
    # Instances that live side by side share a place, and none of them is another's version.
    crowd = [replace(run.trials[1], together=3)] * 3 + [replace(run.trials[1], alive=2)] * 2
    assert latest(crowd) == crowd


def test_trials_are_counted_as_trials_and_intervals_as_blocks() -> None:
    run = repeated([[1.0 + block, 2.0 + block, LOST] for block in range(8)])
    table = summarise(run).tables[0]
    (row,) = table.rows
    assert (row.trials, row.ok, row.timeouts) == (24, 16, 8)
    assert (table.blocks, table.complete_blocks) == (8, 8)
    assert row.metrics["ready"].count == 8
    # A third of the trials failed, and in no block most of them.
    assert row.metrics["ready"] == stats.estimate([2e6 + 1e6 * block for block in range(8)])


def test_high_percentiles_are_those_of_all_trials_with_intervals_by_block() -> None:
    times = [[1.0, 2.0, 50.0 + block] for block in range(20)]
    (row,) = summarise(repeated(times)).tables[0].rows
    assert row.ready_p90_ns == 63e6
    flat = [time * 1e6 for block in times for time in block]
    of_block = [block for block in range(20) for _ in range(3)]
    assert row.quantiles[0.9] == stats.quantile_estimate(flat, 0.9, of_block)
    assert row.quantiles[0.5].median == 2e6
    _, values = trial_samples(run_data(repeated(times)).frame, "ready_ns")
    assert len(values) == 80  # with those that were discarded


def test_a_noise_floor_compares_the_values_of_blocks() -> None:
    pairs = [(1.0, 1.1), (1.0, 0.9), (1.0, 1.05), (1.0, 1.2), (1.0, 0.97), (1.0, 1.01)]

    def floors(spread: Sequence[float]) -> tuple[object, ...]:
        original = repeated([[ours * s for s in spread] for ours, _ in pairs])
        twin = repeated([[theirs * s for s in spread] for _, theirs in pairs])
        again = Arm("again", "container", repeats="container")
        records = (*original.info.arms, replace(original.info.arms[0], arm=again))
        trials = (*original.trials, *(replace(trial, arm="again") for trial in twin.trials))
        run = Run(replace(original.info, arms=records), trials)
        return tuple(floor for floor in noise_floors(run) if floor.metric == "ready")

    (alone,) = floors([1.0])
    assert floors([0.5, 1.0, 7.0]) == (alone,)


def test_a_median_was_not_reached_where_most_blocks_failed() -> None:
    def sentence(times: Sequence[Sequence[float]]) -> str:
        run = repeated(times)
        found = run_diagnostics(run.info, run.trials)
        return next(each.detail for each in found if each.code is DiagnosticCode.FAILED_TRIALS)

    # Half of all trials failed, and they are most of the trials in one block of three.
    assert sentence([[LOST] * 5, [1.0], [2.0, 1.0, LOST, 3.0, 4.0, 5.0]]) == (
        "hello: container: 6 of 12"
    )
    assert sentence([[LOST, LOST, 1.0], [LOST, LOST, 1.0], [1.0, 1.0, 1.0]]) == (
        "hello: container: 4 of 9, so that its median was not reached"
    )


def test_a_pair_is_one_of_blocks() -> None:
    ours = repeated([[1.0, 2.0, 9.0], [3.0, LOST, 4.0]])
    theirs = [replace(t, arm="b") for t in repeated([[1.0, 1.0, 1.0], [2.0, 2.0, LOST]]).trials]
    records: list[ArmRecord] = [
        *ours.info.arms,
        replace(ours.info.arms[0], arm=Arm("b", "container")),
    ]
    values = TrialValues((*ours.trials, *theirs), records)
    assert values.blocks == 2
    assert values.ratios(Pair("hello", "b", "container"), METRICS["ready"]) == [2.0, 2.0]
