"""Which earlier runs count, by which rule a metric is judged, and what the sentence says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from harness.analysis.baseline.case import Case
from harness.analysis.baseline.rules import SAME_THING, Change, Level
from harness.analysis.check import check
from harness.analysis.judgement import ExitCode, Finding, Verdict
from harness.model import (
    Arm,
    ArmRecord,
    Budget,
    Meter,
    Milestone,
    Outcome,
    Reading,
    RunInfo,
    Trial,
)
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.records import Run
from harness.records.dataset import run_data
from tests.support.synthetic import synthetic_run

GUARD = Budget("container", "ready", 1.05, "baseline")
OLD, NEW, OTHER = (f"sha256:{digit * 64}" for digit in "abc")


def taken(
    seed: int,
    *,
    image: str = OLD,
    anchor: str | None = None,
    level: float = 1.0,
    slower: float = 1.0,
    blocks: int = 60,
    budget: Budget | None = GUARD,
) -> Run:
    """A run of `hello` in a container, and perhaps with its anchor on an image.

    Args:
        seed: Of its noise; also the time when it began.
        image: Digest that the container ran.
        anchor: Digest of the anchor; None: there is none.
        level: How slow the host is in this run, in all arms alike.
        slower: How much slower the container alone is.
        blocks: Of the run.
        budget: Of the scenario; None: none.
    """
    again = None if anchor is None else "container"
    run = synthetic_run(
        seed=seed, blocks=blocks, scenarios=("hello",), arms=("container",), again=again
    )
    arms = [Arm("container"), Arm("container-anchor", "container", anchors="container")]

    def renamed(trial: Trial) -> Trial:
        is_judged = trial.arm == "container"
        factor = level * (slower if is_judged else 1.0)
        stamps = {mark: int(at * factor) for mark, at in trial.milestones_ns.items()}
        readings = tuple(
            replace(one, value=int(one.value * factor))
            if one.meter is Meter.CPU_NS and one.value is not None
            else one
            for one in trial.readings
        )
        return replace(
            trial,
            arm=arms[not is_judged].name,
            milestones_ns=MappingProxyType(stamps),
            readings=readings,
        )

    (scenario,) = run.info.scenarios
    images = (image, anchor)[: len(run.info.arms)]
    records = tuple(
        replace(record, arm=arm, facts=MappingProxyType({**record.facts, "image": str(digest)}))
        for record, arm, digest in zip(run.info.arms, arms, images, strict=False)
    )
    scenario = replace(
        scenario,
        arms=tuple(record.arm for record in records),
        budgets=() if budget is None else (budget,),
        path="",
    )
    info = replace(
        run.info,
        run_id=f"20261124T1203{seed:02}Z-1a2b3c",
        started_at=f"2026-11-24T12:03:{seed:02}Z",
        scenarios=(scenario,),
        arms=records,
        noise=(),
    )
    return Run(info=info, trials=tuple(map(renamed, run.trials)))


def only(run: Run, *earlier: Run) -> Finding:
    judgement = check(run, earlier)
    assert judgement.refusals == ()
    (finding,) = judgement.findings
    return finding


def changed(run: Run, change: Callable[[ArmRecord], ArmRecord]) -> Run:
    arms = tuple(change(record) for record in run.info.arms)
    return replace(run, info=replace(run.info, arms=arms))


def with_info(run: Run, **changes: Any) -> Run:
    info: RunInfo = replace(run.info, **changes)
    return replace(run, info=info)


def disturbed(run: Run, share: float, arm: str = "container") -> Run:
    mark = (Diagnostic(DiagnosticCode.LOADED_HOST, "others"),)
    least = round(share * run.info.blocks)
    trials = tuple(
        replace(t, diagnostics=mark) if t.arm == arm and 0 <= t.block < least else t
        for t in run.trials
    )
    return replace(run, trials=trials)


def test_a_host_three_times_as_slow_as_before_is_no_regression_of_the_image() -> None:
    before = taken(1, anchor=OLD)
    for level in (3.0, 0.4):
        finding = only(taken(2, image=NEW, anchor=OLD, level=level), before)
        assert finding.verdict is not Verdict.WORSE
        assert finding.ratio == pytest.approx(1.0, abs=0.12)
    for level in (3.0, 0.4):
        finding = only(taken(2, image=NEW, anchor=OLD, level=level, slower=1.5), before)
        assert finding.verdict is Verdict.WORSE
        assert finding.ratio == pytest.approx(1.5, abs=0.15)
        assert "within blocks, against the baseline's own image taken along, +" in finding.sentence


def test_the_anchor_of_years_ago_carries_from_run_to_run() -> None:
    before = taken(1, image=OTHER, anchor=OLD, slower=1.2)
    finding = only(taken(2, image=NEW, anchor=OLD, level=2.0, slower=2.0), before)
    assert finding.verdict is Verdict.WORSE
    assert finding.ratio == pytest.approx(2.0 / 1.2, rel=0.1)
    assert " × its anchor's, in the baseline 1." in finding.sentence
    # The same ratio as before is no change, whatever the arm costs beside its anchor.
    assert only(taken(2, image=NEW, anchor=OLD, slower=1.2), before).verdict is not Verdict.WORSE


def test_the_newest_run_with_the_same_anchor_is_the_baseline() -> None:
    old = taken(1, image=OTHER, anchor=OLD, slower=2.0)
    newer = taken(2, image=OTHER, anchor=OLD)
    latest = taken(3, image=OTHER, anchor=OTHER)
    run = taken(4, image=NEW, anchor=OLD, slower=2.0)
    # Whatever order they are named in.
    for earlier in ((old, newer, latest), (latest, newer, old)):
        assert only(run, *earlier).verdict is Verdict.WORSE
    assert only(run, old).ratio == pytest.approx(1.0, abs=0.15)


def test_another_anchor_is_no_measure() -> None:
    before = taken(1, image=OTHER, anchor=OTHER)
    finding = only(taken(2, image=NEW, anchor=OLD, slower=3.0), before)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "the anchor is neither what the baseline ran nor what it was anchored to" in (
        finding.sentence
    )
    assert "--against IMAGE" in finding.sentence


def with_command(run: Run, arm: str, *command: str) -> Run:
    def change(record: ArmRecord) -> ArmRecord:
        if record.arm.name != arm:
            return record
        return replace(record, arm=replace(record.arm, command=command))

    return changed(run, change)


def test_an_anchor_with_another_command_is_another_thing() -> None:
    before = taken(1)
    run = taken(2, anchor=OLD, slower=2.0)
    assert only(run, before).verdict is Verdict.WORSE
    other = with_command(run, "container-anchor", "/bin/false")
    assert only(other, before).verdict is Verdict.CANNOT_TELL
    # A change of the judged arm's command is what the check is about.
    assert only(with_command(run, "container", "/bin/false"), before).verdict is Verdict.WORSE


def test_from_two_runs_on_their_spread_decides() -> None:
    earlier = [taken(seed, level=level) for seed, level in ((1, 1.0), (2, 1.04), (3, 0.97))]
    finding = only(taken(4, level=1.01), *earlier)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "of 3 earlier runs (" in finding.sentence
    assert finding.reference is not None
    assert only(taken(4, slower=3.0), *earlier).verdict is Verdict.WORSE
    drifting = [taken(seed, level=level) for seed, level in ((1, 1.0), (2, 2.5), (3, 0.5))]
    assert only(taken(4, slower=3.0), *drifting).verdict is Verdict.CANNOT_TELL
    many = [taken(seed, level=1 + 0.002 * seed) for seed in range(1, 21)]
    wide = Budget("container", "ready", 1.2, "baseline")
    assert only(taken(30, level=1.02, budget=wide), *many).verdict is Verdict.SAME


def test_faster_than_every_earlier_run_is_not_called_fine() -> None:
    many = [taken(seed, level=1 + 0.002 * seed) for seed in range(1, 13)]
    finding = only(taken(30, level=0.8), *many)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "faster than every earlier run is how a host drifts" in finding.sentence


def test_one_run_without_an_anchor_cannot_tell() -> None:
    finding = only(taken(2, slower=5.0), taken(1))
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "take the run by `steelyard check --run hello --baseline RUN`" in finding.sentence
    assert "against the baseline's" in finding.sentence
    assert finding.ratio is None


def test_few_blocks_cannot_tell() -> None:
    finding = only(taken(2, anchor=OLD, slower=5.0, blocks=4), taken(1))
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "4 blocks cannot tell, take 6 or more" in finding.sentence


def test_a_baseline_of_few_blocks_is_passed_over() -> None:
    run = taken(9, image=NEW, anchor=OLD, slower=2.0)
    short = taken(2, image=OTHER, anchor=OLD, blocks=4)
    finding = only(run, short)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "the baseline has 4 blocks, take 6 or more: name 2 or more earlier runs of 6 " in (
        finding.sentence
    )
    assert "failed" not in finding.sentence
    # An older and longer one with the same anchor is the baseline then.
    assert only(run, taken(1, image=OTHER, anchor=OLD), short).verdict is Verdict.WORSE
    # What the baseline itself ran is the measure however few blocks it took.
    assert only(run, taken(2, blocks=4)).verdict is Verdict.WORSE


def test_earlier_runs_of_few_blocks_have_no_spread() -> None:
    few = [taken(seed, blocks=4) for seed in (1, 2, 3)]
    finding = only(taken(9), *few)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "of 3 earlier runs fewer than 2 have 6 blocks or more of which most succeed" in (
        finding.sentence
    )
    assert "one run does not say" not in finding.sentence
    long = [taken(seed) for seed in (1, 2)]
    assert "of 2 earlier runs (" in only(taken(9), *few, *long).sentence


def test_an_anchor_that_fails_is_not_called_another_one() -> None:
    def broken(trial: Trial) -> Trial:
        return replace(
            trial, outcome=Outcome.FAILED, error="gone", milestones_ns={Milestone.REQUESTED: 0}
        )

    run, before = taken(2, image=NEW, anchor=OLD), taken(1, image=OTHER, anchor=OLD)
    failing = [replace(one, trials=tuple(map(broken, one.trials))) for one in (run, before)]
    for one, other, whose in ((failing[0], before, "run"), (run, failing[1], "baseline")):
        sentence = only(one, other).sentence
        assert f"no block of the {whose} has ready of both container and its anchor" in sentence
        assert "neither what" not in sentence


def test_runs_with_vms_among_the_arms_are_others_for_the_history_rule() -> None:
    def beside_a_vm(run: Run) -> Run:
        record = replace(run.info.arms[0], arm=Arm("vm-micro"))
        return with_info(run, arms=(*run.info.arms, record))

    earlier = [taken(seed) for seed in (1, 2, 3)]
    run = taken(4, slower=3.0)
    judgement = check(run, list(map(beside_a_vm, earlier)))
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    assert "with machines in the baseline and is without machines now" in judgement.refusals[0]
    assert only(beside_a_vm(run), *map(beside_a_vm, earlier)).verdict is Verdict.WORSE


def test_the_share_of_disturbed_trials_is_said_with_the_figure_without_them() -> None:
    before = disturbed(taken(1, anchor=OLD), 0.1)
    run = disturbed(taken(2, image=NEW, anchor=OLD), 0.5)
    finding = only(run, before)
    # Of both arms: half of one of two now, a tenth of the baseline's, which is its own pin.
    assert "disturbed trials: 25 %, before 10 % (" in finding.sentence
    assert " % without them)" in finding.sentence
    assert finding.blocks == 60  # they stay in the figure itself
    assert "disturbed" not in only(taken(2, anchor=OLD), taken(1)).sentence
    every = only(disturbed(run, 1.0), before)
    assert "too few are left without them" in every.sentence


def test_unlike_shares_of_disturbed_trials_cannot_tell_by_the_history_rule() -> None:
    earlier = [disturbed(taken(seed), 0.1) for seed in (1, 2, 3)]
    run = taken(4, slower=3.0)
    assert only(disturbed(run, 0.4), *earlier).verdict is Verdict.WORSE
    finding = only(disturbed(run, 0.5), *earlier)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "shares so unlike cannot tell" in finding.sentence
    # CPU time does not count what others did meanwhile.
    cpu = Budget("container", "cpu", 1.05, "baseline")
    by_cpu = taken(4, slower=3.0, budget=cpu)
    assert only(disturbed(by_cpu, 0.9), *earlier).verdict is Verdict.WORSE


def test_failures_beside_a_sound_anchor_are_worse() -> None:
    def broken(trial: Trial) -> Trial:
        if trial.arm != "container" or trial.block % 5 == 0:
            return trial
        return replace(
            trial, outcome=Outcome.FAILED, error="gone", milestones_ns={Milestone.REQUESTED: 0}
        )

    run = taken(2, image=NEW, anchor=OLD)
    run = replace(run, trials=tuple(map(broken, run.trials)))
    finding = only(run, taken(1))
    assert finding.verdict is Verdict.WORSE
    assert "not reached in most blocks" in finding.sentence


def test_an_anchor_is_no_arm_of_its_own() -> None:
    run = taken(2, image=NEW, anchor=OLD, budget=None)
    judgement = check(run, taken(1, anchor=OLD, budget=None))
    assert {finding.arm for finding in judgement.findings} == {"container"}
    assert {finding.metric for finding in judgement.findings} == {
        "ready", "cpu", "pss", "disk", "disk-shared"
    }  # fmt: skip


def test_findings_of_one_check_share_the_error() -> None:
    before = taken(1)
    alone = only(taken(2, image=NEW, anchor=OLD, slower=1.3), before)
    many = check(taken(2, image=NEW, anchor=OLD, slower=1.3, budget=None), before)
    ready = next(finding for finding in many.findings if finding.metric == "ready")
    assert alone.interval is not None
    assert ready.interval is not None
    # ready, cpu and pss have noise; what is exact has no share of the error.
    half, wider = (math.log(found.high / found.low) for found in (alone.interval, ready.interval))
    assert wider / half == pytest.approx(2.39398 / 1.95996, rel=1e-4)
    assert ready.interval.coverage == pytest.approx(1 - 0.05 / 3)


def test_one_megabyte_more_is_exact_whatever_the_host_does() -> None:
    def fatter(record: ArmRecord) -> ArmRecord:
        part = record.disk[0]
        return replace(record, disk=(replace(part, allocated_bytes=part.allocated_bytes + 2**20),))

    run = changed(taken(2, budget=Budget("container", "disk-shared", 1.0, "baseline")), fatter)
    finding = only(run, taken(1))
    assert finding.verdict is Verdict.WORSE
    assert "exactly" in finding.sentence


def test_other_limits_are_other_things() -> None:
    run, before = taken(2, anchor=OLD), taken(1)
    (scenario,) = before.info.scenarios
    smaller = replace(scenario, limits=replace(scenario.limits, memory_bytes=64 << 20))
    judgement = check(run, with_info(before, scenarios=(smaller,)))
    (text,) = judgement.refusals
    assert "the limit of memory was 67108864 in the baseline and is 268435456 now" in text
    assert judgement.exit_code is ExitCode.CANNOT_TELL


def test_columns_and_objects_are_judged_alike() -> None:
    run, before = taken(2, image=NEW, anchor=OLD, slower=1.4), taken(1)
    assert check(run_data(run), run_data(before)) == check(run, before)


def test_advice_leads_to_a_verdict() -> None:
    before = taken(1)
    finding = only(taken(2, image=NEW, anchor=OLD, slower=1.05), before)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert finding.interval is not None
    allowed = int(finding.sentence.partition("allow ")[2].partition(" %")[0])
    budget = Budget("container", "ready", 1 + allowed / 100, "baseline")
    assert only(taken(2, image=NEW, anchor=OLD, slower=1.05, budget=budget), before).verdict is (
        Verdict.SAME
    )


def case(change: Change, most: float, *, base: Level | None = None, blocks: int = 60) -> Case:
    """A case of which a rule says just that."""

    class Fixed(Case):
        def change(self, _: int) -> Change:
            return change

    budget = Budget("container", "ready", most, "baseline")
    new = Level(0.0, -0.1, 0.1, blocks)
    return Fixed("hello", budget, "", 4e6, new, base, reference=4e6, blocks=blocks)


@pytest.mark.parametrize(
    ("change", "most", "wider"),
    [
        (Change(-0.30, 0.28), 1.05, None),  # below the limit already, and too wide
        (Change(0.80, 0.30), 3.0, None),  # above it, and too wide for any limit
        (Change(0.04, 0.21), 1.05, "allow 29 %"),
        (Change(0.04, 0.22), 1.05, None),
        (Change(0.04, 0.10, may_be_fine=False), 1.05, None),
        (Change(0.0, 300.0), 1.05, None),
    ],
)
@pytest.mark.parametrize("base", [None, SAME_THING])
def test_a_wider_limit_is_offered_only_where_it_is_an_answer(
    change: Change, most: float, wider: str | None, base: Level | None
) -> None:
    finding = case(change, most, base=base).finding(1)
    assert finding.verdict is Verdict.CANNOT_TELL
    found = re.search(r"allow .*? %", finding.sentence)
    assert (found and found[0]) == wider
    assert "pair both in one run" in finding.sentence
    if wider:
        assert change.verdict(1.29) is Verdict.SAME


def test_more_blocks_are_offered_where_the_interval_below_the_limit_is_too_wide() -> None:
    wide = Level(-0.30, -0.56, -0.04, 20)
    budget = Budget("container", "ready", 1.05, "baseline")
    found = Case("hello", budget, "", 4e6, wide, SAME_THING, blocks=20)
    sentence = found.finding(1).sentence
    (blocks,) = re.findall(r"take about (\d+) blocks, or pair both", sentence)
    # With so many the interval is narrow enough.
    error = 0.26 * math.sqrt(20 / int(blocks))
    more = replace(found, new=Level(-0.30, -0.30 - error, -0.30 + error, int(blocks)))
    assert more.finding(1).verdict is Verdict.BETTER


def test_a_ratio_that_is_not_reached_is_no_number() -> None:
    budget, sound = Budget("container", "ready", 1.05, "baseline"), Level(0.1, 0.05, 0.15, 20)
    above, below = Level(math.inf, 0.0, math.inf, 20), Level(-math.inf, -math.inf, 0.0, 20)
    for new, base, words in (
        (above, sound, "; not reached beside its anchor, in the baseline 1.105 ×,"),
        (sound, above, "; 1.105 × its anchor's, in the baseline not reached beside its anchor,"),
        (below, sound, "; not reached by its anchor, in the baseline 1.105 ×,"),
    ):
        sentence = Case("hello", budget, "", 4e6, new, base, blocks=20).finding(1).sentence
        assert words in sentence
        assert "inf" not in sentence


def with_filesystem(run: Run, took_ns: int) -> Run:
    reading = Reading(Meter.FILE_SYSTEM_NS, took_ns, "container")
    trials = tuple(replace(trial, readings=(*trial.readings, reading)) for trial in run.trials)
    return replace(run, trials=trials)


def test_a_disk_that_takes_far_more_than_before_is_no_measure_of_the_arm() -> None:
    earlier = [with_filesystem(taken(seed), 100_000) for seed in range(1, 5)]
    assert "file system" not in only(with_filesystem(taken(9), 150_000), *earlier).sentence
    found = only(with_filesystem(taken(9), 10_000_000), *earlier)
    assert found.verdict is Verdict.CANNOT_TELL
    assert "the file system takes 10.0 ms of each start, and took 100 µs" in found.sentence
    # What runs among themselves do not know, the ratio to an anchor does.
    both = [with_filesystem(taken(seed, anchor=OLD), seed * 10**6) for seed in (1, 9)]
    assert "file system" not in only(both[1], both[0]).sentence
