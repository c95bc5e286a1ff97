"""The answer in sentences: what it claims, and how sure it says it is."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest

from harness.analysis.summary import ScenarioTable, Summary, summarise
from harness.model import (
    Milestone,
    Outcome,
    Repetitions,
    Trial,
)
from harness.records import Run
from harness.report.text import wording
from harness.report.text.answer import Answer, answer
from harness.report.text.circumstances import how_often
from harness.report.text.tables import (
    comparison_grid,
    cost_grid,
    disk_grid,
    effort_grid,
    footprint_grid,
    growth_grid,
    memory_grid,
    noise_grid,
    quantile_grid,
    start_grid,
    trial_grid,
)
from tests.support.synthetic import MS, synthetic_run


def hello(run: Run) -> tuple[ScenarioTable, Summary, Answer]:
    summary = summarise(run)
    return summary.tables[0], summary, answer(summary.tables[0], summary)


def with_trials(run: Run, *trials: Trial) -> Run:
    return dataclasses.replace(run, trials=trials)


# -- The sentences --------------------------------------------------------------------------------


def on_kvm(run: Run) -> Run:
    """The same run on a host whose VMs are virtualised."""
    arms = tuple(
        dataclasses.replace(record, facts={**record.facts, "accelerator": "kvm"}, diagnostics=())
        for record in run.info.arms
    )
    return dataclasses.replace(run, info=dataclasses.replace(run.info, arms=arms))


def test_the_answer_names_all_costs_and_how_sure() -> None:
    table, _, found = hello(on_kvm(synthetic_run(blocks=20)))
    micro = table.rows[2]
    assert micro.ratio is not None
    assert micro.difference is not None
    assert found.headline.startswith("The container is ready after 2.")
    far = wording.duration(micro.difference.estimate.median)
    assert f"needs {far} more ({wording.times(micro.ratio.estimate.median)})" in found.headline
    for metric in ("disk", "pss"):
        own = table.rows[1].metrics[metric]
        far = wording.size(micro.differences[metric].estimate.median)
        assert f"{wording.size(own.median)} (container); vm-micro {far} more" in found.headline
    assert "Memory (PSS): " in found.headline
    assert found.is_sure
    assert found.badge == "95 % intervals from 20 blocks"
    certainty = " ".join(found.certainty)
    assert "95 % intervals for the median over 20 blocks (order statistics" in certainty
    assert "No interval contains 1 ×" in certainty
    assert "All 80 trials went well" in certainty
    assert "emulated" not in certainty + found.headline + found.badge
    assert "≤" not in str(start_grid(table).rows)


def test_emulation_is_told_wherever_the_ratio_stands() -> None:
    table, _, found = hello(synthetic_run(blocks=20))
    assert not found.is_sure
    assert found.badge == "95 % intervals from 20 blocks; emulated CPU: upper bound"
    for row in table.rows[2:]:
        assert row.ratio is not None
        ratio = wording.times(row.ratio.estimate.median)
        assert f"(≤ {ratio})" in found.headline
        assert any("emulated CPU: upper bound" in f for f in found.findings if row.arm in f[:12])
    told = [row[-1] for row in start_grid(table).rows]
    assert [ratio.startswith("≤ ") for ratio in told] == [False, False, True, True]
    assert any("distance to the container as an upper bound" in s for s in found.certainty)


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (("process", "vm-micro"), "distance to the process as an upper bound"),
        (("vm-classic", "vm-micro"), "times as an upper bound; where KVM works they are smaller"),
    ],
)
def test_without_a_container_nothing_is_held_against_one(
    arms: tuple[str, ...], sentence: str
) -> None:
    table, _, found = hello(synthetic_run(blocks=8, arms=arms))
    told = " ".join((found.headline, found.badge, *found.certainty, *found.findings))
    assert sentence in told
    assert "the container" not in told
    if arms[0].startswith("vm"):  # both are emulated: their ratio is no bound
        assert found.is_sure
        assert "≤" not in str(start_grid(table).rows)


def test_few_blocks_are_a_first_look_and_no_statement_of_fact() -> None:
    _, _, found = hello(synthetic_run(blocks=2))
    assert found.headline.startswith("A first look, 2 blocks: the container is ready after")
    assert found.badge.startswith("not sure: 2 blocks only")
    _, _, found = hello(synthetic_run(blocks=1))
    assert found.headline.startswith("A first look, 1 block: ")
    assert found.badge.startswith("not sure: 1 block only")


def test_a_wide_interval_is_not_told_as_no_difference() -> None:
    run = synthetic_run(blocks=7, arms=("process", "container"), scenarios=("hello",))
    dice = random.Random(2)
    trials = [
        dataclasses.replace(
            t, milestones_ns={Milestone.REQUESTED: 0, Milestone.READY: dice.randint(1, 9) * MS}
        )
        for t in run.trials
    ]
    table, _, found = hello(with_trials(run, *trials))
    ratio = table.rows[0].ratio
    assert f"the process is not told apart from that ({wording.ratio(ratio)})" in found.headline
    told = " ".join((found.headline, *found.findings, *found.certainty))
    assert "no difference" not in told
    assert "a real one as large as the interval is not ruled out" in told


def test_a_run_in_which_all_failed_says_that_and_not_that_blocks_are_few() -> None:
    _, _, found = hello(synthetic_run(blocks=12, failure_rate=1.0))
    assert found.badge == "no answer: all 48 trials failed"
    assert "block" not in found.headline
    assert "Memory" not in found.headline
    _, _, found = hello(synthetic_run(blocks=1, arms=("container",), failure_rate=1.0))
    assert found.badge == "no answer: the only trial failed"


def test_what_was_not_measured_is_told_with_its_reason() -> None:
    table, _, found = hello(synthetic_run(blocks=6))
    process = table.rows[0]
    assert process.missing["cgroup-peak"] == "the process has no cgroup of its own"
    assert "pss" not in process.missing
    assert process.scopes["pss"] == "workload"
    assert table.rows[2].scopes["pss"] == "QEMU"
    assert any(
        s.startswith("No value for memory (cgroup) and memory (cgroup, most) in process: ")
        for s in found.certainty
    )
    assert memory_grid(table).rows[0] == (
        "process", *(wording.size(process.metrics[m].median) for m in ("pss", "uss")), "–", "–",
        wording.size(process.metrics["available-delta"].median), "workload",
    )  # fmt: skip
    run = synthetic_run(blocks=6)
    bare = [dataclasses.replace(t, readings=()) for t in run.trials]
    table, _, found = hello(with_trials(run, *bare))
    assert "Memory was not measured." in found.headline
    assert "Not measured in any arm: CPU time, memory, read of the image" in " ".join(
        found.certainty
    )
    assert memory_grid(table).rows == ()


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [(1, "Not sure at all"), (3, "with 75 % only"), (5, "with 93.75 % only")],
)
def test_few_blocks_are_not_sure(blocks: int, sentence: str) -> None:
    _, _, found = hello(synthetic_run(blocks=blocks))
    assert not found.is_sure
    assert sentence in found.certainty[0]
    assert "at least 6 blocks" in found.certainty[0]


def test_equal_arms_are_not_told_apart() -> None:
    run = synthetic_run(blocks=15, arms=("process", "container"), scenarios=("python-http",))
    table, _, found = hello(run)
    ratio = table.rows[0].ratio
    assert ratio is not None
    assert ratio.estimate.interval is not None
    assert ratio.estimate.interval.low < 1 < ratio.estimate.interval.high
    assert "the process is not told apart from that (" in found.headline
    assert "the two are not told apart" in found.findings[0]
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
    assert found.badge == "no answer: container failed"
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


def test_a_run_that_ended_early_says_how_long_it_could_have_been() -> None:
    run = synthetic_run(blocks=9, scenarios=("hello",))
    for wanted, told in ((None, "of the 9 asked for"), (9, "of the 9 asked for")):
        info = dataclasses.replace(run.info, wanted_blocks=wanted)
        table, _, _ = hello(Run(info, run.trials))
        assert f"9 blocks {told}, each" in how_often(info, table)
    info = dataclasses.replace(run.info, wanted_blocks=1000)
    table, _, _ = hello(Run(info, run.trials))
    assert "9 blocks (it could have gone on to 1000), each" in how_often(info, table)


def test_how_often_each_arm_was_taken_in_a_block_is_said() -> None:
    run = synthetic_run(blocks=9, scenarios=("hello",))
    table, _, _ = hello(run)
    assert "each with one trial of every arm in an order" in how_often(run.info, table)
    other, own = Repetitions("other", 7, ("x",)), Repetitions("hello", 5, ("vm-micro",))
    info = dataclasses.replace(run.info, repetitions=(other, own))
    assert (
        "each with one trial of vm-micro and 5 of every other arm (their median counts; one more, "
        "right after a long one, does not) in an order"
    ) in how_often(info, table)
    once = dataclasses.replace(run.info, repetitions=(Repetitions("hello", 1, ("a", "b")),))
    assert "one trial of a and b and of every other arm (" in how_often(once, table)


def test_what_has_no_files_of_its_own_has_no_growth_and_the_share_that_is_read_is_told() -> None:
    run = synthetic_run(blocks=9, scenarios=("hello",), cold=True)
    without = tuple(
        dataclasses.replace(trial, disk=()) if trial.arm == "process" else trial
        for trial in run.trials
    )
    table, _, found = hello(Run(run.info, without))
    (row,) = (row for row in table.rows if row.arm == "process")
    assert "disk-growth" not in row.metrics
    told = " ".join(found.certainty)
    assert re.search(r"No value for disk written in process.*: its instances have no files", told)
    grid = footprint_grid(table)
    place = grid.head.index("read of image")
    cells = [cells[place] for cells in grid.rows if cells[0].endswith("-cold")]
    assert cells
    assert all(re.fullmatch(r"[\d.]+ [kM]?B \([\d.]+ %\)", cell) for cell in cells)


GRIDS = (
    start_grid,
    cost_grid,
    disk_grid,
    footprint_grid,
    memory_grid,
    effort_grid,
    growth_grid,
    noise_grid,
    comparison_grid,
    quantile_grid,
)

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
    "cold, again": {"blocks": 6, "cold": True, "again": "container", "failure_rate": 0.2},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_runs_have_sentences_and_even_grids(odd: dict[str, object]) -> None:
    run = synthetic_run(**odd)  # type: ignore[arg-type]
    summary = summarise(run)
    for table in summary.tables:
        found = answer(table, summary)
        told = " ".join((found.headline, *found.findings, *found.certainty))
        assert not re.search(r"\bnan\b|\binf\b|None|\[\]|\(\)", told)
        assert all(
            sentence.endswith((".", "?"))
            for sentence in (found.headline, *found.findings, *found.certainty)
        )
        for grid in (
            *(grid(table) for grid in GRIDS),
            start_grid(table, with_marks=False),
            trial_grid(table, run),
        ):
            assert all(len(row) == len(grid.head) for row in grid.rows)
            assert not re.search(r"\bnan\b|\binf\b|None", str(grid.rows))
