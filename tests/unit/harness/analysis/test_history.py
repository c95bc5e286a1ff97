"""Histories: what becomes a series, where it changed, what is open, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
from click.testing import CliRunner

from harness.analysis.acknowledged import Acknowledgement, entry_for, read_acknowledged
from harness.analysis.gather import gather
from harness.analysis.history import History, Point, RunRef, Series, SeriesId
from harness.analysis.judgement import ExitCode, Verdict
from harness.analysis.trend_words import (
    change_in_words,
    describe,
    in_short,
    judge,
    newest_in_words,
)
from harness.analysis.trends import State, Trend, Trends, exact_changes, trends_of
from harness.cli.history import history as command
from harness.model import CacheState, Milestone, Outcome, Trial
from harness.model.errors import RecordError
from harness.records import Run
from harness.report.charts.trend import file_name, trend_chart
from harness.report.judgement import render_judgement
from harness.report.judgement.words import name_of
from harness.stats.changes import fewest_points
from tests.support.histories import START, commit, one_run, write_history, write_run

STEP, DISK_STEP, RUNS = 14, 20, 26


def stepped(number: int) -> Run:
    return one_run(
        number,
        factor=1.5 if number >= STEP else 1.0,
        more_disk=4096 if number >= DISK_STEP else 0,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write_history(folder, RUNS, stepped)
    return folder


def only(found: Trends, metric: str) -> Trend:
    (trend,) = (one for one in found.trends if one.series.id.metric == metric)
    return trend


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [str(one) for one in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return int(result.return_value), result.stdout, result.stderr


def made(values: Sequence[float], metric: str = "ready", setting: str = "host") -> Series:
    """A series of made-up values."""
    points = tuple(
        Point(
            RunRef(f"run-{number}", START + timedelta(days=number), None, 8, ended=True),
            commit(number),
            value,
            None,
            8,
            is_exact=False,
        )
        for number, value in enumerate(values)
    )
    return Series(SeriesId("hello", "container", metric, setting), "a host", points)


def noisy(*levels: tuple[int, float]) -> list[float]:
    """So many values around each level."""
    place = iter(range(1000))
    return [
        level * (1 + 0.01 * math.sin(7.3 * next(place)))
        for count, level in levels
        for _ in range(count)
    ]


def trends(*series: Series, acknowledged: Sequence[Acknowledgement] = (), **more: Any) -> Trends:
    return trends_of(History((), series), acknowledged, **more)


# --- what becomes a series


def test_a_series_for_each_arm_metric_and_setting_in_the_order_of_time(tmp_path: Path) -> None:
    for number in (3, 0, 2, 1):
        write_run(one_run(number, arms=("container", "vm-micro")), tmp_path / str(9 - number))
    found = gather([tmp_path], ("ready", "disk-shared"))
    assert [str(series.id).rpartition("@")[0] for series in found.series] == [
        f"hello/{arm}/{metric}"
        for arm in ("container", "vm-micro")
        for metric in ("disk-shared", "ready")
    ]
    assert {series.id.setting.partition("-")[2] for series in found.series} == {
        "native-beside-vm",
        "tcg",
    }
    for series in found.series:
        assert [point.commit for point in series.points] == [commit(n) for n in range(4)]
        assert all(point.count == 8 for point in series.points)
    assert found.problems == ()


def test_a_point_is_the_median_of_counted_trials(tmp_path: Path) -> None:
    run = one_run(1)
    write_run(run, tmp_path / "run")
    (series,) = gather([tmp_path], ("ready",)).series
    times = sorted(trial.milestones_ns["ready"] for trial in run.trials if trial.block >= 0)  # type: ignore[index]
    (point,) = series.points
    assert point.value == (times[3] + times[4]) / 2
    assert point.interval is not None
    assert point.interval.low <= point.value <= point.interval.high


def test_hosts_accelerators_and_cold_starts_are_series_of_their_own(tmp_path: Path) -> None:
    write_run(one_run(0), tmp_path / "a")
    write_run(one_run(1, environment={"cpu_model": "another"}), tmp_path / "b")
    run = one_run(2)
    cold = dataclasses.replace(run.info.arms[0].arm, cache=CacheState.COLD)
    record = dataclasses.replace(run.info.arms[0], arm=cold)
    write_run(dataclasses.replace(run, info=dataclasses.replace(run.info, arms=(record,))),
              tmp_path / "c")  # fmt: skip
    settings = [series.id.setting for series in gather([tmp_path], ("ready",)).series]
    assert len(set(settings)) == 3
    assert sum(setting.endswith("-cold") for setting in settings) == 1


def test_light_arms_beside_machines_are_series_of_their_own(tmp_path: Path) -> None:
    write_run(one_run(0, arms=("container", "vm-micro")), tmp_path / "a")
    write_run(one_run(1, arms=("container",)), tmp_path / "b")
    write_run(one_run(2, arms=("vm-micro",)), tmp_path / "c")
    found = {
        (series.id.arm, series.id.setting.endswith("-beside-vm")): len(series.points)
        for series in gather([tmp_path], ("ready",)).series
    }
    # A machine's own times are the same in any company.
    assert found == {("container", True): 1, ("container", False): 1, ("vm-micro", False): 2}


def test_the_commit_can_be_any_fact_of_host_or_arm(tmp_path: Path) -> None:
    run = one_run(0, environment={"mine": "abc1234"})
    record = dataclasses.replace(run.info.arms[0], facts={**run.info.arms[0].facts, "image": "i1"})
    info = dataclasses.replace(run.info, arms=(record,))
    write_run(dataclasses.replace(run, info=info), tmp_path / "run")
    for fact, value in (("mine", "abc1234"), ("image", "i1"), ("nothing", None)):
        (series,) = gather([tmp_path], ("ready",), fact).series
        assert series.points[0].commit == value
        assert series.points[0].label == value or value is None
    assert series.points[0].label == info.run_id


def test_a_copy_counts_once_and_the_more_complete_one(tmp_path: Path) -> None:
    folder = write_run(one_run(0), tmp_path / "results" / "run")
    shutil.copytree(folder, tmp_path / "artifact" / "results" / "run")
    found = gather([tmp_path / "results", tmp_path / "artifact"], ("ready",))
    assert len(found.runs) == 1
    assert found.problems == ()
    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    (folder / "trials.jsonl").write_text("".join(lines[:4]))
    found = gather([tmp_path], ("ready",))
    assert [run.folder for run in found.runs] == [tmp_path / "artifact" / "results" / "run"]
    (problem,) = found.problems
    assert "is there twice" in problem
    assert found.series[0].points[0].count == 8


def test_damaged_and_newer_records_are_passed_over_with_a_sentence(tmp_path: Path) -> None:
    folders = write_history(tmp_path, 8)
    newer = json.loads((folders[1] / "run.json").read_text()) | {"schema": 99}
    (folders[1] / "run.json").write_text(json.dumps(newer))
    (folders[2] / "run.json").write_text("{")
    (folders[3] / "trials.jsonl").write_text('{"scenario": 7}\n' * 2)
    (folders[4] / "run.json").unlink()
    late = json.loads((folders[5] / "run.json").read_text()) | {"started_at": "yesterday"}
    (folders[5] / "run.json").write_text(json.dumps(late))
    with (folders[6] / "trials.jsonl").open("a") as file:
        file.write('{"scenario": "hel')  # torn by a crash: the rest counts
    found = gather([tmp_path], ("ready",))
    assert [run.folder for run in found.runs] == [folders[0], folders[6], folders[7]]
    assert len(found.problems) == 5
    for folder, problem in zip(folders[1:6], found.problems, strict=True):
        assert str(folder) in problem
        assert problem.endswith("passed over, the others count")
    assert "newer Steelyard" in found.problems[0]
    assert "yesterday" in found.problems[4]


def test_the_sides_of_a_comparison_are_no_series(tmp_path: Path) -> None:
    run = one_run(1)
    write_run(one_run(0), tmp_path / "run")
    write_run(replace(run, info=replace(run.info, paired=True)), tmp_path / "paired")
    found = gather([tmp_path], ("ready",))
    assert [ref.folder for ref in found.runs] == [tmp_path / "run"]
    (problem,) = found.problems
    assert problem.startswith("1 paired run (compare, check --against) passed over")


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no run; name a folder"):
        gather([tmp_path])
    with pytest.raises(RecordError, match="is not there; name a folder"):
        gather([tmp_path / "gone"])


def failing(run: Run, blocks: range) -> Run:
    """The same run, whose trials of some blocks failed."""
    return replace(
        run,
        trials=tuple(
            replace(trial, outcome=Outcome.FAILED) if trial.block in blocks else trial
            for trial in run.trials
        ),
    )


def test_few_failures_leave_a_median_and_many_are_not_reached(tmp_path: Path) -> None:
    write_run(failing(one_run(0), range(2)), tmp_path / "few")
    write_run(failing(one_run(1), range(1, 8)), tmp_path / "many")
    found = gather([tmp_path], ("ready",))
    few, many = found.series[0].points
    assert 1e6 < few.value < 1e8
    assert many.value == math.inf
    assert found.problems == ()


def test_what_is_no_point_is_said_with_the_reason(tmp_path: Path) -> None:
    run = one_run(1)
    good = one_run(0)
    torn = replace(run, info=replace(run.info, ended_at=None))
    stopped = one_run(2)
    stopped = replace(stopped, info=replace(stopped.info, interrupted=True))
    folders = [good, torn, stopped, one_run(3, blocks=2), failing(one_run(4), range(9))]
    for number, one in enumerate(folders):
        write_run(one, tmp_path / str(number))
    found = gather([tmp_path], ("ready", "disk-shared"))
    assert [[point.run.run_id for point in one.points] for one in found.series] == [
        [good.info.run_id]
    ] * 2
    assert found.problems == (
        f"no points from 2 runs that did not end: {torn.info.run_id}, {stopped.info.run_id}",
        f"no points from 1 run with fewer than 3 blocks: {folders[3].info.run_id}",
        f"no points from 1 run in which every trial failed: {folders[4].info.run_id}",
    )
    assert len(found.runs) == 5, "their records are still exported"
    assert [run.run_id for run in found.runs_with_points] == [good.info.run_id]


def test_an_arm_that_failed_leaves_the_others_their_points(tmp_path: Path) -> None:
    run = one_run(0, arms=("container", "vm-micro"))
    trials = tuple(
        replace(trial, outcome=Outcome.FAILED) if trial.arm == "vm-micro" else trial
        for trial in run.trials
    )
    write_run(replace(run, trials=trials), tmp_path / "run")
    found = gather([tmp_path], ("ready",))
    assert [series.id.arm for series in found.series] == ["container"]
    (problem,) = found.problems
    assert "1 run in which every trial failed of hello/vm-micro" in problem


def test_many_runs_without_points_are_one_sentence(tmp_path: Path) -> None:
    write_history(tmp_path, 9, lambda number: one_run(number, blocks=1 + (number == 8) * 7))
    (problem,) = gather([tmp_path], ("ready",)).problems
    assert problem.startswith("no points from 8 runs with fewer than 3 blocks: ")
    assert problem.endswith(" and 3 more")
    assert problem.count("2026") == 5


def test_several_trials_of_a_block_all_count(tmp_path: Path) -> None:
    run = one_run(0, blocks=4)
    again = tuple(
        replace(trial, repetition=1, milestones_ns={**trial.milestones_ns, Milestone.READY: 10**9})
        for trial in run.trials
    )
    thrice = (*again, *(replace(trial, repetition=2) for trial in again))
    write_run(replace(run, trials=(*run.trials, *thrice)), tmp_path / "run")
    (series,) = gather([tmp_path], ("ready",)).series
    assert series.points[0].value == 10**9, "two of the three trials of each block"


def test_scale_scenarios_follow_the_first_instance_alone(tmp_path: Path) -> None:
    run = one_run(0, blocks=4)
    crowd = tuple(
        dataclasses.replace(
            trial, alive=3, milestones_ns={Milestone.REQUESTED: 0, Milestone.READY: 10**12}
        )
        for trial in run.trials
    )
    write_run(dataclasses.replace(run, trials=(*run.trials, *crowd)), tmp_path / "run")
    (series,) = gather([tmp_path], ("ready",)).series
    assert series.points[0].count == 4
    assert series.points[0].value < 10**9


# --- where it changed


def test_the_step_and_its_commit_are_found(root: Path) -> None:
    found = trends_of(gather([root]))
    (change,) = only(found, "ready").changes
    assert abs(change.found.index - STEP) <= 1
    assert change.state is State.OPEN
    (exact,) = only(found, "disk-shared").changes
    assert (exact.first.commit, exact.last.commit) == (commit(DISK_STEP), commit(DISK_STEP - 1))
    assert exact.found.after - exact.found.before == 4096
    assert [trend.changes for trend in found.trends if trend.series.id.metric == "pss"] == [()]


def test_states_of_a_change() -> None:
    def state(*levels: tuple[int, float], **more: Any) -> list[State]:
        return [change.state for change in trends(made(noisy(*levels)), **more).trends[0].changes]

    assert state((20, 100.0), (20, 110.0)) == [State.OPEN]
    assert state((20, 110.0), (20, 100.0)) == [State.BETTER]
    assert state((20, 100.0), (20, 110.0), (20, 101.0)) == [State.UNDONE, State.BETTER]
    assert state((20, 100.0), (20, 110.0), (20, 107.0)) == [State.OPEN, State.BETTER]
    assert state((20, 100.0), (20, 110.0), within=0.2) == [State.SMALL]
    assert state((30, 100.0)) == []
    values = [*noisy((20, 100.0)), *[math.inf] * 10]
    (change,) = trends(made(values)).trends[0].changes
    assert change.state is State.OPEN
    assert change.found.relative == math.inf


def test_exact_series_change_wherever_they_differ() -> None:
    found = exact_changes([5.0, 5.0, 6.0, 6.0, 4.0])
    assert [(change.index, change.before, change.after) for change in found] == [
        (2, 5, 6),
        (4, 6, 4),
    ]
    assert exact_changes([]) == ()


def test_disk_that_flaps_is_no_exact_series() -> None:
    def disk(values: Sequence[float]) -> Series:
        series = made(values, "disk")
        points = tuple(dataclasses.replace(point, is_exact=True) for point in series.points)
        return dataclasses.replace(series, points=points)

    assert disk([4.0, 8.0]).is_exact
    assert disk([4.0] * 9 + [8.0] * 3).is_exact
    assert not disk([4.0, 8.0, 4.0, 4.0, 8.0, 8.0, 4.0]).is_exact
    assert not made([4.0, 4.0], "disk").is_exact
    assert made([4.0, 8.0, 4.0, 8.0], "disk-shared").is_exact


def test_many_series_ask_for_more_points() -> None:
    few = [made(noisy((20, 1.0)), setting=str(number)) for number in range(40)]
    assert {trend.wanted for trend in trends(*few).trends} == {fewest_points(40)}
    assert fewest_points(40) > fewest_points(1)


# --- its newest points


def newest_of(*values: float, earlier: int = 30, **more: Any) -> tuple[Trend, Trends]:
    found = trends(made([*noisy((earlier, 100.0)), *values]), **more)
    return found.trends[0], found


def finding_of(found: Trends) -> tuple[Verdict, ExitCode, str]:
    judgement = judge(found, "a history")
    (finding,) = judgement.findings
    return finding.verdict, judgement.exit_code, finding.sentence


def test_one_run_far_above_is_a_question() -> None:
    trend, found = newest_of(200.0)
    verdict, code, sentence = finding_of(found)
    assert (verdict, code) == (Verdict.CANNOT_TELL, ExitCode.CANNOT_TELL)
    assert "the newest is 2.00 × the level (200 ns after 100 ns, run run-30)" in sentence
    assert "take another run" in sentence
    assert trend.changes == ()
    assert change_in_words(trend) == "cannot tell: the newest is 2.00 × the level"
    assert in_short(found) == (
        "1 of 1 series is far above the level in the newest run; take another run."
    )


def test_runs_that_stay_far_above_are_worse_until_the_scan_sees_them() -> None:
    for number in range(2, 12):
        trend, found = newest_of(*[130.0] * number)
        assert finding_of(found)[:2] == (Verdict.WORSE, ExitCode.REGRESSED)
        (change,) = trend.changes
        assert change.found.index == 30, "one finding, and not a second one of the scan"
        assert change.found.relative == pytest.approx(0.3, abs=0.02)
        if change.is_recent:
            assert f"in the newest {number} runs" in finding_of(found)[2]
    assert not change.is_recent
    assert finding_of(newest_of(130.0, 100.3)[1])[0] is Verdict.SAME, "it was one run"


def test_above_all_others_is_never_no_change() -> None:
    _, found = newest_of(101.5)
    verdict, code, sentence = finding_of(found)
    assert (verdict, code) == (Verdict.SAME, ExitCode.FINE)
    assert sentence.startswith("the newest, 102 ns, is the highest of 31 (+1.")
    assert "no change" not in sentence
    assert "is the lowest of 31 (-" in finding_of(newest_of(98.5)[1])[2]
    assert finding_of(newest_of(100.2)[1])[2].startswith("no change; the newest is 100 ns")


def test_what_is_far_below_is_better_at_once() -> None:
    verdict, code, sentence = finding_of(newest_of(50.0)[1])
    assert (verdict, code) == (Verdict.BETTER, ExitCode.FINE)
    assert "0.500 × the level" in sentence
    assert "if another run agrees" in sentence
    trend, found = newest_of(70.0, 71.0)
    assert finding_of(found)[:2] == (Verdict.BETTER, ExitCode.FINE)
    assert [change.state for change in trend.changes] == [State.BETTER]


def test_two_runs_back_at_the_old_level_take_a_change_back() -> None:
    values = noisy((30, 100.0), (30, 130.0))
    (trend,) = trends(made([*values, 100.0])).trends
    assert [change.state for change in trend.changes] == [State.OPEN]
    (trend,) = trends(made([*values, 100.0, 100.5])).trends
    assert [change.state for change in trend.changes] == [State.UNDONE, State.BETTER]


def test_the_newest_run_after_a_change_is_held_against_the_new_level() -> None:
    values = noisy((30, 100.0), (8, 150.0))
    meant = Acknowledgement("hello/*", commit(30), "meant", "file:1")
    (trend,) = trends(made([*values, 150.5]), acknowledged=[meant]).trends
    assert trend.verdict is Verdict.SAME
    (trend,) = trends(made([*values, 300.0]), acknowledged=[meant]).trends
    assert trend.verdict is Verdict.CANNOT_TELL
    assert trend.newest is not None
    assert trend.newest.level == pytest.approx(150, rel=0.02)
    assert trend.newest.seen == 9
    (trend,) = trends(made([*values, 300.0, 300.0]), acknowledged=[meant]).trends
    assert [change.state for change in trend.changes] == [State.ACKNOWLEDGED, State.OPEN]


def test_what_is_acknowledged_stays_so_from_the_first_run_on() -> None:
    meant = Acknowledgement("hello/*", commit(30), "a bigger image", "file:1")
    for number in (1, 2, 3, 8, 12):
        _, found = newest_of(*[150.0] * number, acknowledged=[meant])
        verdict, code, sentence = finding_of(found)
        assert (verdict, code) == (Verdict.SAME, ExitCode.FINE)
        assert sentence.count("acknowledged: a bigger image") == 1
        assert found.stale == ()
    late = replace(meant, commit=commit(20))
    _, found = newest_of(150.0, acknowledged=[late])
    assert finding_of(found)[0] is Verdict.CANNOT_TELL
    assert "has no change near commit" in found.stale[0]


def test_a_run_that_was_not_reached_is_a_question_and_two_are_worse() -> None:
    verdict, _, sentence = finding_of(newest_of(math.inf)[1])
    assert verdict is Verdict.CANNOT_TELL
    assert "not reached" in sentence
    assert finding_of(newest_of(math.inf, math.inf)[1])[0] is Verdict.WORSE


def test_too_small_to_matter_is_no_question() -> None:
    still = made([100.0 + 0.001 * (number % 3) for number in range(30)] + [101.8])
    assert trends(still).trends[0].verdict is Verdict.CANNOT_TELL
    (trend,) = trends(still, within=0.02).trends
    assert trend.verdict is Verdict.SAME
    assert newest_in_words(trend) == (
        "the newest, 102 ns, is +1.8 % off the level, too small to matter"
    )
    still = made([100.0 + 0.001 * (number % 3) for number in range(30)] + [101.8] * 2)
    assert trends(still).trends[0].verdict is Verdict.WORSE
    (trend,) = trends(still, within=0.02).trends
    assert [change.state for change in trend.changes] == [State.SMALL]


def test_a_young_history_says_how_young() -> None:
    series = [made(noisy((7, 100.0)), setting=f"h{number}") for number in range(4)]
    series += [made(noisy((20, 100.0)), setting=f"i{number}") for number in range(4)]
    found = trends(*series)
    wanted = found.trends[0].wanted
    assert wanted == max(13, fewest_points(8))
    found = replace(found, trends=tuple(replace(one, is_current=True) for one in found.trends))
    assert found.verdict is Verdict.CANNOT_TELL
    assert in_short(found) == f"4 of 8 series cannot be judged yet (7 of {wanted} runs)."
    assert in_short(trends(made(noisy((20, 1.0))))) == "No change for the worse is open."
    assert in_short(trends()) == "There is no series to judge."


# --- ratios to an anchor


def anchored(number: int, *, factor: float = 1.0, drift: float = 1.0, image: str = "a" * 64) -> Run:
    """A run on a host that is so much slower today, with the container's anchor."""
    run = one_run(number, blocks=9)
    record = run.info.arms[0]
    anchor = replace(
        record,
        arm=replace(record.arm, name="container-anchor", anchors="container"),
        facts={**record.facts, "image": f"sha256:{image}"},
    )

    def slower(trial: Trial, by: float, arm: str) -> Trial:
        ready = round(trial.milestones_ns[Milestone.READY] * by * drift)
        return replace(
            trial, arm=arm, milestones_ns={**trial.milestones_ns, Milestone.READY: ready}
        )

    trials = [slower(trial, factor * 1.1, "container") for trial in run.trials]
    trials += [slower(trial, 1.0, "container-anchor") for trial in run.trials]
    info = replace(run.info, arms=(record, anchor))
    return replace(run, info=info, trials=tuple(trials))


def anchored_trends(tmp_path: Path, runs: Sequence[Run]) -> Trends:
    for run in runs:
        write_run(run, tmp_path / run.info.run_id)
    return trends_of(gather([tmp_path], ("ready", "disk-shared")))


def test_an_anchored_arm_is_judged_by_its_ratio(tmp_path: Path) -> None:
    drifting = [
        anchored(number, drift=1 + 3 * (number >= 10), factor=1.3 if number > 21 else 1.0)
        for number in range(24)
    ]
    found = anchored_trends(tmp_path, drifting)
    disk, own, ratio = found.trends
    assert [str(one.series.id).partition("@")[0] for one in found.trends] == [
        "hello/container/disk-shared",
        "hello/container/ready",
        "hello/container/ready / anchor",
    ]
    assert str(ratio.series.id).endswith("-native-anchor-aaaaaaaaaaaa")
    assert disk.is_judged, "an exact figure needs no anchor"
    assert (own.instead, own.changes, own.is_judged) == (ratio.series.id, (), False)
    assert ratio.series.values[0] == pytest.approx(1.1)
    point = ratio.series.points[0]
    assert point.interval is not None
    assert point.interval.low == pytest.approx(1.1, rel=1e-6)
    (change,) = ratio.changes
    assert change.found.index == 22
    assert "+30.0 %, from 1.10 × to 1.43 ×" in describe(ratio.series, change)
    judgement = judge(found, "a history")
    assert judgement.exit_code is ExitCode.REGRESSED
    assert [name_of(finding) for finding in judgement.findings] == [
        "hello, container: disk-shared",
        "hello, container: ready / anchor",
    ]
    (_, written) = json.loads(render_judgement(judgement, "json"))["findings"]
    assert written["unit"] == "ratio"
    assert written["value"] == pytest.approx(1.43)
    assert "1.43 ×" in render_judgement(judgement, "markdown")
    assert [one.series.id for one in found.by_setting()[0]] == [
        one.series.id for one in found.trends
    ]


def test_until_there_are_enough_ratios_the_arms_own_values_are_judged(tmp_path: Path) -> None:
    runs = [one_run(number) for number in range(14)]
    runs += [anchored(number) for number in range(14, 18)]
    _, own, ratio = anchored_trends(tmp_path, runs).trends
    assert (own.instead, ratio.instead) == (None, own.series.id)
    assert own.is_judged


def test_with_few_of_both_the_ratios_are_too_few(tmp_path: Path) -> None:
    found = anchored_trends(tmp_path, [anchored(number) for number in range(4)])
    assert [one.instead is None for one in found.trends] == [True, False, True]
    assert judge(found, "a history").exit_code is ExitCode.CANNOT_TELL
    assert in_short(found) == "1 of 2 series cannot be judged yet (4 of 13 runs)."


def test_another_anchor_begins_another_series(tmp_path: Path) -> None:
    runs = [anchored(number, image=("a" if number < 3 else "b") * 64) for number in range(6)]
    found = anchored_trends(tmp_path, runs)
    ratios = [one for one in found.trends if one.series.id.anchor]
    assert [(one.series.id.anchor, len(one.series.points)) for one in ratios] == [
        ("a" * 12, 3),
        ("b" * 12, 3),
    ]
    assert [one.instead is None for one in ratios] == [False, True]
    assert len({file_name(one.series.id) for one in found.trends}) == len(found.trends)


def write_stepped(folder: Path, anchor_of: Callable[[int], str], runs: int) -> None:
    """Write runs of which the container is slower from run 20 on; no anchor where it is empty."""
    for number in range(runs):
        image = anchor_of(number)
        factor = 1.5 if number >= 20 else 1.0
        run = anchored(number, factor=factor, image=(image or "a") * 64)
        if not image:
            kept = tuple(trial for trial in run.trials if not trial.arm.endswith("anchor"))
            run = replace(run, info=replace(run.info, arms=run.info.arms[:1]), trials=kept)
        write_run(run, folder / run.info.run_id)


@pytest.mark.parametrize("runs", [34, 45])
def test_a_change_from_before_the_first_anchor_stays_open(tmp_path: Path, runs: int) -> None:
    write_stepped(tmp_path, lambda number: "a" if number >= 26 else "", runs)
    history = gather([tmp_path], ("ready",))
    own, ratio = trends_of(history).trends
    assert (own.instead is None, ratio.instead is None) == (runs < 39, runs >= 39)
    assert [change.found.index for change in own.open] == [20]
    assert judge(trends_of(history), "a history").exit_code is ExitCode.REGRESSED
    assert change_in_words(own).endswith(", open")
    # It is closed as any other is.
    meant = acknowledgement(series=str(own.series.id), commit=own.open[0].first.label)
    found = trends_of(history, [meant])
    assert (found.verdict, found.stale) == (Verdict.SAME, ())
    assert found.trends[0].is_shown_only is (runs >= 39)


def test_what_the_ratios_show_is_theirs_to_judge(tmp_path: Path) -> None:
    """The host is slower from run 34 on, when the ratios have enough points before it."""
    runs = [anchored(number, drift=2.0 if number >= 34 else 1.0) for number in range(45)]
    kept = [
        replace(run, info=replace(run.info, arms=run.info.arms[:1])) if number < 26 else run
        for number, run in enumerate(runs)
    ]
    _, own, ratio = anchored_trends(tmp_path, kept).trends
    assert (own.changes, own.is_shown_only) == ((), True)
    assert ratio.verdict is Verdict.SAME


@pytest.mark.parametrize("later", ["b", ""])
def test_a_change_of_the_ratio_to_an_earlier_anchor_stays_open(tmp_path: Path, later: str) -> None:
    write_stepped(tmp_path, lambda number: "a" if number < 28 else later, 45)
    found = trends_of(gather([tmp_path], ("ready",)))
    (former,) = (one for one in found.trends if one.series.id.anchor == "a" * 12)
    assert former.instead is not None
    (change,) = former.open
    assert change.found.relative == pytest.approx(0.5, rel=0.01)
    assert found.verdict is Verdict.WORSE
    assert "ready / anchor" in [name_of(one).split(": ")[1] for one in judge(found, "").findings]


def test_an_anchor_that_failed_leaves_the_arms_own_values(tmp_path: Path) -> None:
    run = anchored(0)
    trials = tuple(
        replace(trial, outcome=Outcome.FAILED) if trial.arm.endswith("anchor") else trial
        for trial in run.trials
    )
    found = anchored_trends(tmp_path, [replace(run, trials=trials)])
    assert [one.series.id.what for one in found.trends] == ["disk-shared", "ready"]
    assert found.history.problems[0].count("every trial failed of hello/container-anchor") == 1


# --- what is meant


def acknowledgement(**more: str) -> Acknowledgement:
    entry = {"series": "hello/container/ready@host", "commit": commit(20), "reason": "better safe"}
    return Acknowledgement(**{**entry, "where": "file:1", **more})


@pytest.mark.parametrize(
    ("more", "covers"),
    [
        ({}, True),
        ({"series": "hello/*/ready@*"}, True),
        ({"commit": commit(20)[:7]}, True),
        ({"commit": commit(20) + "0123456789"}, True),
        ({"commit": commit(18)}, True),
        ({"commit": "run-20"}, True),
        ({"commit": commit(20)[:6]}, False),
        ({"commit": commit(17)}, False),
        ({"series": "hello/container/cpu@host"}, False),
    ],
)
def test_an_entry_covers_changes_near_its_commit(more: dict[str, str], covers: bool) -> None:
    series = made(noisy((20, 100.0), (20, 110.0)))
    found = trends(series, acknowledged=[acknowledgement(**more)])
    (change,) = found.trends[0].changes
    assert change.found.index == 20
    assert change.state is (State.ACKNOWLEDGED if covers else State.OPEN)
    assert change.reason == ("better safe" if covers else "")
    assert len(found.stale) == (not covers)
    if not covers:
        assert "file:1" in found.stale[0]
        assert "remove the entry" in found.stale[0]


def test_what_is_suggested_can_be_pasted(tmp_path: Path) -> None:
    series = made(noisy((20, 100.0), (20, 110.0)))
    path = tmp_path / "acknowledged.toml"
    path.write_text(entry_for(series, 20).replace('""', '"so it is"', 1))
    (entry,) = read_acknowledged(path)
    assert entry.covers(series, 20)
    assert entry.where == f"{path}:1"
    assert read_acknowledged(tmp_path / "none.toml") == ()


GOOD = 'series = "a"\ncommit = "b"\nreason = "c"\n'


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("[[acknowledged]\n", None, "no TOML"),
        ("[[acknowledge]]\n" + GOOD, 1, "did you mean 'acknowledged'"),
        ("[acknowledged]\n" + GOOD, 1, "write [[acknowledged]]"),
        ("\n[[acknowledged]]\n" + GOOD + "why = 1\n", 2, "'why' is not known"),
        ("[[acknowledged]]\n" + GOOD.replace('"c"', '" "'), 1, "say why the change is meant"),
        ("[[acknowledged]]\n" + GOOD.replace('commit = "b"\n', ""), 1, "commit is missing"),
        ("[[acknowledged]]\n" + GOOD.replace('"a"', "7"), 1, "series must be a text"),
    ],
)
def test_a_malformed_file_is_one_sentence(
    tmp_path: Path, text: str, line: int | None, told: str
) -> None:
    path = tmp_path / "acknowledged.toml"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        read_acknowledged(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}:" if line is None else f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


# --- what it comes to


def test_verdicts_and_exit_codes() -> None:
    worse, better = made(noisy((20, 100.0), (20, 110.0))), made(noisy((20, 110.0), (20, 100.0)))
    same, short = made(noisy((20, 100.0))), made(noisy((5, 100.0)))

    def verdict(series: Series, **more: Any) -> tuple[Verdict, ExitCode, str]:
        found = judge(trends(series, **more), "a history")
        (finding,) = found.findings
        return finding.verdict, found.exit_code, finding.sentence

    told = verdict(worse)
    assert told[:2] == (Verdict.WORSE, ExitCode.REGRESSED)
    assert f"began with {commit(20)} (run run-20; the one before was {commit(19)})" in told[2]
    assert "acknowledge it in steelyard-acknowledged.toml" in told[2]
    told = verdict(worse, acknowledged=[acknowledgement()])
    assert told[:2] == (Verdict.SAME, ExitCode.FINE)
    assert told[2].endswith("acknowledged: better safe")
    assert verdict(better)[:2] == (Verdict.BETTER, ExitCode.FINE)
    assert verdict(same)[:2] == (Verdict.SAME, ExitCode.FINE)
    told = verdict(short)
    assert told[:2] == (Verdict.CANNOT_TELL, ExitCode.CANNOT_TELL)
    assert "from 13 on; take 8 more runs on this host" in told[2]


def test_a_host_that_is_gone_is_not_asked_about() -> None:
    long, short = made(noisy((20, 100.0)), setting="new"), made(noisy((5, 100.0)), setting="old")
    found = judge(trends(long, short), "a history")
    assert [finding.arm for finding in found.findings] == ["container"]
    assert found.exit_code is ExitCode.FINE
    assert found.facts["not asked about"].startswith("1 series")
    gone = made(noisy((8, 100.0), (8, 150.0)), setting="old")
    found = judge(trends(long, gone), "a history")
    assert [finding.arm for finding in found.findings] == ["container on new", "container on old"]
    assert found.exit_code is ExitCode.REGRESSED


def test_the_command_checks(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "acknowledged.toml"
    with pytest.raises(click.BadParameter, match="is not there; name the file, or leave"):
        invoke(root, "--acknowledged", file)
    with pytest.raises(click.BadParameter, match="no run has a fact 'foo'"):
        invoke(root, "--commit-of", "foo")
    code, out, _ = invoke(root, "--check")
    assert code == 1
    assert "regressed: 2 worse" in out
    assert commit(DISK_STEP) in out
    entry = '[[acknowledged]]\nseries = "hello/container/*"\ncommit = "{}"\nreason = "meant"\n'
    index = only(trends_of(gather([root])), "ready").changes[0].found.index
    file.write_text(entry.format(commit(index)) + entry.format(commit(DISK_STEP)))
    code, out, err = invoke(root, "--check", "--acknowledged", file, "--format", "json")
    assert code == 0
    assert json.loads(out)["exit_code"] == 0
    assert err == ""
    file.write_text(entry.format("0123456789"))
    code, out, err = invoke(root, "--check", "--acknowledged", file, "--within", "90%")
    assert code == 1, "an exact figure is never too small"
    assert "has no change near commit 0123456789" in err
    assert "acknowledged in vain" in out


def test_the_command_cannot_tell_with_too_few_points(tmp_path: Path) -> None:
    write_history(tmp_path, 3)
    code, out, _ = invoke(tmp_path, "--check", "--metric", "ready")
    assert code == 3
    assert "take 10 more runs on this host" in out
    assert "in short: 1 of 1 series cannot be judged yet (3 of 13 runs)." in out


def test_the_command_shows_a_table_and_what_to_paste(root: Path) -> None:
    code, out, err = invoke(root, "--metric", "ready", "--metric", "disk-shared")
    assert (code, err) == (0, "")
    (row,) = (line for line in out.splitlines() if line.startswith("  container  ready"))
    assert row.split()[2] == str(RUNS)
    assert row.endswith("%, open")
    assert "+4,096 bytes, open" in out
    assert f'commit = "{commit(DISK_STEP)}"' in out
    assert 'reason = ""' in out


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    write_run(one_run(0, environment={"cpu_model": "\x1b[31mred\udc80"}), tmp_path / "run")
    _, out, _ = invoke(tmp_path)
    assert "\x1b" not in out
    assert "\ufffd[31mred\ufffd" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--metric", "redy"), "did you mean 'ready'"),
        (("--within", "much"), "no percentage"),
        (("--format", "json"), "give --check too"),
    ],
)
def test_mistakes_are_told(root: Path, arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(Exception, match=told):
        invoke(root, *arguments)


@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [5.0] * 3,
        [0.0] * 12,
        [math.inf] * 4,
        [*noisy((20, 1e6)), 9e7, 1.0, math.inf],
        noisy(*((8, 100.0 + 40 * (number % 2)) for number in range(12))),
        noisy((300, 100.0)),
    ],
    ids=["one", "equal", "zero", "failed", "far", "many changes", "long"],
)
@pytest.mark.parametrize("metric", ["ready", "pss", "left-behind"])
def test_any_series_can_be_drawn(values: list[float], metric: str) -> None:
    (trend,) = trends(made(values, metric)).trends
    chart = trend_chart(trend, lambda point: f"../runs/{point.run.run_id}.html")
    for drawing in (chart.inline_wide, chart.inline_narrow):
        ET.fromstring(drawing)
        assert drawing.count("../runs/run-") == len(values)
        assert drawing.count("<a ") == len(values)
    assert len(chart.grid.rows) == len(values)
    assert chart.svg == trend_chart(trend, lambda point: f"../runs/{point.run.run_id}.html").svg


def test_no_two_series_share_a_file() -> None:
    names = [
        SeriesId("hello", "a b", "ready", "x"),
        SeriesId("hello", "a-b", "ready", "x"),
        SeriesId("hello", "a/b", "ready", "x"),
        SeriesId("../..", "a", "ready", "x"),
        SeriesId("\udc80", "", "ready", "x" * 400),
    ]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(files)
    assert all(re.fullmatch(r"[\w-]{1,250}", file) for file in files)


def test_charts_are_drawn(root: Path, tmp_path: Path) -> None:
    code, out, err = invoke(root, "--metric", "ready", "--charts", tmp_path)
    assert (code, out) == (0, "")
    (chart,) = tmp_path.glob("*.svg")
    text = chart.read_text()
    assert "1 chart" in err
    assert text.startswith("<?xml")
    assert text.count("<use ") >= RUNS
    assert "1: +" in text
