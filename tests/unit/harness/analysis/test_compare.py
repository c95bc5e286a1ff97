"""Two arms compared while the run goes on: verdicts, what is exact, what is missing, the sides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.compare import Comparer, Question, judge_records, questions_on
from harness.analysis.judgement import ExitCode, Finding, Judgement, Verdict
from harness.analysis.limits import Allowance, Margin, Rule
from harness.backends import get_backend
from harness.environment import Environment
from harness.experiment.assessment import assess
from harness.measure.prepare import LocalArms
from harness.measure.request import Request
from harness.measure.runner import Runner
from harness.measure.stopping import Decided, rule_of
from harness.model import (
    ArmRecord,
    CacheState,
    DiskPart,
    Meter,
    Milestone,
    Outcome,
    Pair,
    PairedQuestions,
    Reading,
    Scale,
    Scenario,
    Sharing,
    Trial,
)
from harness.model.errors import ScenarioError
from harness.model.metrics import METRICS
from harness.records import RunWriter, read_run
from harness.scenario.pairing import with_images, with_sides
from harness.stats import Method
from harness.stats.sequential import ERROR
from tests.support.scenarios import fake, scenario

PAIR = Pair("sample", "x-a", "x-b")
Draw = Callable[[int], float]


def trial(arm: str, block: int, ready_ns: float, disk: int = 4096, **changes: Any) -> Trial:
    is_ok = math.isfinite(ready_ns)
    made = Trial(
        scenario="sample",
        arm=arm,
        block=block,
        position=0,
        outcome=Outcome.OK if is_ok else Outcome.FAILED,
        milestones_ns={Milestone.REQUESTED: 0, **({Milestone.READY: ready_ns} if is_ok else {})},  # type: ignore[dict-item]
        error=None if is_ok else "it fell over",
        disk=(DiskPart("writable layer", Sharing.EXCLUSIVE, disk, disk),),
    )
    return replace(made, **changes)


def record(arm: str, shared: int = 8192, layers: str = "") -> ArmRecord:
    part = DiskPart("layer", Sharing.SHARED, shared, shared)
    return ArmRecord("sample", fake(arm), 1, (part,), {"layers": layers})


RECORDS = (record("x-a"), record("x-b"))


def pairs(count: int, ratio: float, spread: float = 0.05, seed: int = 1) -> list[Trial]:
    draw = random.Random(seed)

    def value(scale: float) -> int:
        return round(1e6 * scale * math.exp(draw.gauss(0, spread)))

    return [
        trial(arm, block, value(scale))
        for block in range(count)
        for arm, scale in (("x-a", 1.0), ("x-b", ratio))
    ]


def comparer_on(
    *metrics: str,
    pairs: Sequence[Pair] = (PAIR,),
    within: float = 0.05,
    asked: bool = True,
    **options: Any,
) -> Comparer:
    """As `steelyard compare` asks."""
    return Comparer(questions_on(pairs, metrics, Margin(1 + within), asked=asked), **options)


def judged(
    trials: Sequence[Trial],
    metrics: Sequence[str] = ("ready",),
    records: Sequence[ArmRecord] = RECORDS,
    **options: Any,
) -> Judgement:
    comparer = comparer_on(*metrics, **options)
    return comparer.judgement("is B worse?", trials, records, {"seed": "1"})


def only(judgement: Judgement) -> Finding:
    assert not judgement.refusals
    (finding,) = judgement.findings
    return finding


def blocks_to_decide(comparer: Comparer, trials: Sequence[Trial]) -> int | None:
    """As the runner asks: after each block, with all trials so far."""
    for count in range(2, len(trials) + 1, 2):
        if comparer.is_decided(trials[:count], RECORDS):
            return count // 2
    return None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.97, 1.03, Verdict.SAME),
        (1.01, 1.04, Verdict.SAME),  # a difference, and within the margin
        (1.01, 1.20, Verdict.WORSE),
        (0.80, 0.99, Verdict.BETTER),
        (0.90, 1.04, Verdict.CANNOT_TELL),
        (0.94, 1.04, Verdict.CANNOT_TELL),  # 1 / 1.05 is 0.952
        (0.0, math.inf, Verdict.CANNOT_TELL),
    ],
)
def test_a_look_allows_one_verdict(low: float, high: float, verdict: Verdict) -> None:
    assert Margin(1.05).verdict(low, high) is verdict


@pytest.mark.parametrize(
    ("ratio", "verdict", "code"),
    [
        (1.15, Verdict.WORSE, ExitCode.REGRESSED),
        (1 / 1.15, Verdict.BETTER, ExitCode.FINE),
        (1.0, Verdict.SAME, ExitCode.FINE),
    ],
)
def test_the_truth_is_found_and_the_run_ends_early(
    ratio: float, verdict: Verdict, code: ExitCode
) -> None:
    trials = pairs(400, ratio)
    comparer = comparer_on("ready")
    decided_at = blocks_to_decide(comparer, trials)
    assert decided_at is not None
    assert decided_at < 200
    judgement = comparer.judgement("", trials[: 2 * decided_at], RECORDS, {})
    finding = only(judgement)
    assert (finding.verdict, judgement.exit_code) == (verdict, code)
    assert finding.arm == "x-b"
    assert finding.blocks == decided_at
    assert finding.ratio == pytest.approx(ratio, rel=0.05)
    assert finding.interval is not None
    assert finding.interval.low < ratio < finding.interval.high
    assert finding.interval.coverage == 1 - 2 * ERROR
    assert finding.detectable is not None
    assert 0 < finding.detectable < 0.15


def test_all_trials_at_once_give_what_was_found_on_the_way() -> None:
    for ratio in (1.0, 1.07, 1.2):
        trials = pairs(300, ratio, spread=0.1, seed=3)
        comparer = comparer_on("ready", "disk", "disk-shared")
        blocks_to_decide(comparer, trials)
        on_the_way = comparer.judgement("is B worse?", trials, RECORDS, {"seed": "1"})
        assert judged(trials, ("ready", "disk", "disk-shared")) == on_the_way


def test_too_few_blocks_cannot_tell_and_say_what_would() -> None:
    judgement = judged(pairs(20, 1.01, spread=0.1))
    finding = only(judgement)
    assert finding.verdict is Verdict.CANNOT_TELL
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    assert "in 12 of 20 blocks" in finding.sentence
    assert "; 20 pairs find 17.3 % in four of five cases; take about" in finding.sentence
    assert "--blocks" in finding.sentence
    assert "--within" in finding.sentence
    # What it advises is enough, or nearly: the advice is an estimate.
    advised = int(finding.sentence.split("take about ")[1].split()[0])
    assert only(judged(pairs(advised * 2, 1.01, spread=0.1))).verdict is Verdict.SAME


def test_disk_is_exact_by_few_blocks_only_where_they_are_all() -> None:
    def of(disk: int, block: int) -> list[Trial]:
        return [trial(arm, block, 1e6, disk=disk) for arm in ("x-a", "x-b")]

    few = [one for block in range(2) for one in of(4096, block)]
    assert only(judged(few, ("disk",))).interval is None
    assert only(judged(few[:2], ("disk",))).verdict is Verdict.CANNOT_TELL
    # One failed among the first, so they are no proof; and the later ones differ.
    broken = [
        replace(one, outcome=Outcome.FAILED, disk=(), milestones_ns={}) if one.block == 5 else one
        for block in range(40)
        for one in of(4096 if block < 12 else 1 << 20, block)
    ]
    finding = only(judged(broken, ("disk",)))
    assert finding.interval is not None


def test_three_blocks_say_nothing() -> None:
    finding = only(judged(pairs(3, 2.0)))
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "open" in finding.sentence
    assert finding.detectable is None


def test_a_run_that_its_time_ends_is_looked_at_once_more() -> None:
    """40 of 300 blocks are no planned look; all that is left of the error serves the last."""
    finding = only(judged(pairs(40, 1.06, spread=0.05), most=300))
    assert finding.verdict is Verdict.WORSE
    assert finding.blocks == 40


def drifting(rises: Sequence[float], metric: str = "ready") -> list[Trial]:
    """Trials of a host that slows down from block to block, with B by a factor in each block."""
    levels = [1e6 * 1.1**block for block in range(len(rises))]
    made = []
    for block, (level, rise) in enumerate(zip(levels, rises, strict=True)):
        for arm, value in (("x-a", round(level)), ("x-b", round(level * rise))):
            reading = Reading(METRICS[metric].meter or Meter.CPU_NS, value, "workload")
            made.append(trial(arm, block, value, readings=(reading,)))
    return made


def test_a_ratio_within_blocks_never_stands_beside_medians_as_if_it_were_theirs() -> None:
    """In 13 of 20 blocks B is 5 % slower; in the middle ones, where the medians lie, faster."""
    rises = [1.05] * 7 + [0.5] * 7 + [1.05] * 6
    finding = only(judged(drifting(rises), most=60))
    assert finding.ratio == pytest.approx(1.05)
    assert finding.value is not None
    assert finding.reference is not None
    assert finding.value < finding.reference
    assert finding.sentence.startswith(
        "time until ready: within a block B takes typically 5.0 % longer than A [-50.0 to +5.0 %]; "
        "B was the slower in 13 of 20 blocks; "
    )
    assert finding.sentence.endswith(
        ". Over the run: A 2.48 ms, B 1.55 ms (medians, drift included)"
    )
    assert "37" not in finding.sentence  # 1.55 / 2.48 is 37 % less


@pytest.mark.parametrize(
    ("metric", "rise", "sentence"),
    [
        ("ready", 1.25, ("B takes typically 25.0 % longer than A [+25.0 to +25.0 %]; B was the "
         "slower in 12 of 12 blocks. Over")),
        ("ready", 0.75, ("B takes typically 25.0 % less time than A [-25.0 to -25.0 %]; B was the "
         "faster in 12 of 12 blocks. Over")),
        ("ready", 1.0, ("B takes typically as long as A [+0.0 to +0.0 %]; B was the slower in 0 of "
         "12 blocks: the same within 5 %. Over")),
        ("cpu", 1.25, ("B uses typically 25.0 % more than A [+25.0 to +25.0 %]; B used more in "
         "12 of 12 blocks. Over")),
        ("pss", 0.75, ("B uses typically 25.0 % less than A [-25.0 to -25.0 %]; B used less in "
         "12 of 12 blocks. Over")),
    ],
)  # fmt: skip
def test_words_for_times_and_amounts(metric: str, rise: float, sentence: str) -> None:
    finding = only(judged(drifting([rise] * 12, metric), (metric,), most=12))
    assert f": within a block {sentence} the run: A " in finding.sentence
    assert finding.interval is not None
    assert finding.interval.method is Method.SEQUENTIAL


def test_check_against_names_the_images_and_finds_beyond_the_limit() -> None:
    trials = pairs(200, 1.15, spread=0.1)
    comparer = Comparer(questions_on((PAIR,), ("ready",), Allowance(1.05, "x.toml:3")), 200)
    finding = only(comparer.judgement("", trials, RECORDS, {}))
    assert "within a block the image now takes typically" in finding.sentence
    assert "longer than the image before [" in finding.sentence
    assert "; at most +5.0 % is allowed" in finding.sentence
    assert finding.source == "x.toml:3"
    # What it finds is what lies beyond the allowance, not beyond nothing.
    assert finding.verdict is Verdict.WORSE
    assert finding.blocks >= 20
    assert finding.detectable is not None
    assert 0.08 < finding.detectable < 0.25


def test_a_margin_finer_than_the_host_is_no_pass() -> None:
    draw = random.Random(8)
    gaps = [draw.gauss(0, 0.3) for _ in range(30)]
    trials = [
        trial(arm, block, round(1e6 * math.exp(gap)))
        for block, gap_of_b in enumerate((*gaps, *(-gap for gap in gaps)))
        for arm, gap in (("x-a", 0.0), ("x-b", gap_of_b))
    ]
    finding = only(judged(trials, within=0.001, most=60))
    assert finding.verdict is Verdict.CANNOT_TELL
    assert "widen --within" in finding.sentence


def test_equal_arms_are_rarely_called_worse_with_many_metrics() -> None:
    """The error is divided: three sampled metrics together stay where one would be."""
    draw = random.Random(5)
    false = 0
    for _ in range(60):
        trials = [
            trial(
                arm,
                block,
                round(1e6 * math.exp(draw.gauss(0, 0.1))),
                readings=tuple(
                    Reading(meter, round(1e6 * math.exp(draw.gauss(0, 0.1))), "workload")
                    for meter in (Meter.CPU_USER_NS, Meter.CPU_SYSTEM_NS, Meter.PSS_BYTES)
                ),
            )
            for block in range(60)
            for arm in ("x-a", "x-b")
        ]
        judgement = judged(trials, ("ready", "cpu-user", "pss"), most=60)
        assert {
            finding.interval.coverage for finding in judgement.findings if finding.interval
        } == {1 - 2 * ERROR / 3}
        false += judgement.exit_code is ExitCode.REGRESSED
    assert false <= 3


def test_disk_that_never_varies_is_compared_exactly() -> None:
    same = judged(pairs(12, 1.0), ("disk",))
    assert only(same).verdict is Verdict.SAME
    assert "exactly" in only(same).sentence
    assert only(same).interval is None
    more = [
        replace(each, disk=(DiskPart("d", Sharing.EXCLUSIVE, 4097, 4097),))
        if each.arm == "x-b"
        else each
        for each in pairs(12, 1.0)
    ]
    finding = only(judged(more, ("disk",)))
    assert finding.verdict is Verdict.WORSE
    assert "1 bytes more" in finding.sentence
    varying = [
        replace(each, disk=(DiskPart("d", Sharing.EXCLUSIVE, 0, 4096 + each.block),))
        for each in pairs(100, 1.0)
    ]
    assert only(judged(varying, ("disk",))).interval is not None


def test_a_mebibyte_in_a_layer_is_found_exactly_and_the_layer_is_named() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    records = (
        record("x-a", 8192, f"{a}=8192"),
        record("x-b", 8192 + (1 << 20), f"{a}=8192 {b}=1048576"),
    )
    finding = only(judged(pairs(1, 1.0), ("disk-shared",), records))
    assert finding.verdict is Verdict.WORSE
    assert "1,048,576 bytes (1.05 MB) more" in finding.sentence
    assert "only B has layer bbbbbbbbbbbb (1,048,576 bytes)" in finding.sentence
    assert finding.value == 8192 + (1 << 20)
    other = only(judged(pairs(1, 1.0), ("disk-shared",), records[::-1]))
    assert other.verdict is Verdict.WORSE  # the arms are found by name, not by order


def test_failures_of_b_alone_are_worse_and_of_both_are_no_evidence() -> None:
    failing = [
        replace(each, outcome=Outcome.FAILED, milestones_ns={Milestone.REQUESTED: 0})
        if each.arm == "x-b" and each.block % 10
        else each
        for each in pairs(60, 1.0)
    ]
    finding = only(judged(failing, most=60))
    assert finding.verdict is Verdict.WORSE
    assert (
        "within a block B fails where A does not, in 15 of 16 blocks [+0.8 % to open]"
        in finding.sentence
    )
    both = [trial(arm, block, math.inf) for block in range(3) for arm in ("x-a", "x-b")]
    comparer = comparer_on("ready")
    assert comparer.is_decided(both, RECORDS)  # and not after 300 blocks
    judgement = comparer.judgement("", both, RECORDS, {})
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    (refusal,) = judgement.refusals
    assert "every trial of x-a failed: it fell over" in refusal


def test_a_metric_that_nothing_meters_is_refused_if_it_was_asked_for() -> None:
    missing = Reading(Meter.PSS_BYTES, None, "workload", "the workload has ended")
    trials = [replace(each, readings=(missing,)) for each in pairs(3, 1.0)]
    judgement = judged(trials, ("pss", "disk-shared"))
    assert judgement.exit_code is ExitCode.CANNOT_TELL
    assert "the workload has ended" in judgement.refusals[0]
    assert judged(trials, ("pss", "disk-shared"), asked=False).exit_code is ExitCode.FINE


def test_the_runner_ends_when_it_is_decided(tmp_path: Path) -> None:
    asked = with_sides(
        scenario(fake()), "fake", "delay_ms=0,jitter=0.2,seed=1", "delay_ms=5,jitter=0.2,seed=2"
    )
    comparer = comparer_on("ready", pairs=asked.pairs, most=60)
    limits = tuple(each.to_record() for each in questions_on(asked.pairs, ("ready",), Margin(1.05)))
    request = Request(
        scenarios=(asked.scenario,), blocks=60, warmup_blocks=1, seed=5, time_limit_ns=None,
        required_arms=frozenset(), command=("steelyard",), run_id="test", steelyard="0",
        pairs=asked.pairs,
        asked=PairedQuestions("is B worse?", "now", "then", limits, ("mind the gap",)),
    )  # fmt: skip
    with RunWriter(tmp_path / "run") as writer:
        Runner(
            request,
            LocalArms(get_backend),
            Environment({}, {}),
            writer,
            lambda _: None,
            lambda *_: None,
            rule=rule_of(request, Decided(comparer.is_decided)),
            assess=assess,
        ).run()
    run = read_run(tmp_path / "run")
    finding = only(comparer.judgement("", run.trials, run.info.arms, {}))
    assert finding.verdict is Verdict.WORSE
    assert run.info.blocks == finding.blocks < 60
    assert run.info.wanted_blocks == 60
    assert run.info.pairs == (Pair("sample", "fake-a", "fake-b"),)
    # Its records alone give the same judgement later.
    again = judge_records(run)
    assert again is not None
    assert (again.findings, again.question) == ((finding,), "is B worse?")
    assert dict(again.facts) == {
        "A": "now (fake-a)", "B": "then (fake-b)", "blocks": f"{finding.blocks} of at most 60",
        "seed": "5", "caution": "mind the gap",
    }  # fmt: skip
    assert judge_records(replace(run, info=replace(run.info, interrupted=True))) is None
    assert judge_records(replace(run, info=replace(run.info, asked=None))) is None


@pytest.mark.parametrize("rule", [Margin(1.05), Allowance(1.2, "x.toml:7"), Allowance(1.0)])
def test_a_question_is_recorded_and_asked_again(rule: Rule) -> None:
    question = Question(PAIR, "cpu", rule, is_asked=False)
    assert Question.recorded(question.to_record()) == question


# What was typed.


def typed(first: str, second: str, arm: str | None = None) -> Scenario:
    asked = scenario(fake(), replace(fake("other"), backend="vm-micro", options={}))
    return with_sides(asked, arm, first, second).scenario


def test_two_images_of_one_arm() -> None:
    first, second = typed("busybox:1", "registry.example:5000/a/b@sha256:" + "0" * 64).arms
    assert (first.name, second.name) == ("fake-a", "fake-b")
    assert first.image == "busybox:1"
    assert second.image == "registry.example:5000/a/b@sha256:" + "0" * 64
    assert first.backend == second.backend == "fake"
    images = with_images(scenario(fake()), [fake()], ("sha256:12", "sha256:34"))
    assert [arm.image for arm in images.scenario.arms] == ["sha256:12", "sha256:34"]


def test_settings_are_those_of_the_first_arm_that_knows_them() -> None:
    first, second = typed("kernel=/boot/a", "kernel=/boot/b,cache=cold").arms
    assert first.backend == "vm-micro"
    assert dict(first.options) == {"kernel": "/boot/a"}
    assert dict(second.options) == {"kernel": "/boot/b"}
    assert (first.cache, second.cache) == (CacheState.WARM, CacheState.COLD)
    qemu = typed("qemu=/usr/bin/a", "qemu=/usr/bin/b").arms
    assert [arm.options["qemu"] for arm in qemu] == ["/usr/bin/a", "/usr/bin/b"]
    slow = typed("delay_ms=0", "delay_ms=1", "fake").arms[1]
    assert slow.options["delay_ms"] == 1
    assert slow.options["work_ms"] == 0.1  # what the scenario sets stays


def test_arms_with_their_own_settings() -> None:
    first, second = typed("fake", "other,vcpus=2").arms
    assert (first.name, second.name) == ("fake-a", "other-b")
    assert dict(second.options) == {"vcpus": 2}
    assert typed("fake", "container").arms[1].backend == "container"


@pytest.mark.parametrize(
    ("side", "what"),
    [
        ("delay=1", "unknown option 'delay'"),
        ("fake,delay_ms", "is no option; write OPTION=VALUE"),
        ("cache=hot", "no state of the cache is called 'hot'"),
        ("./folder", "--context DIR --revision A B"),
        ("", "is no image"),
    ],
)
def test_a_side_that_means_nothing_is_told(side: str, what: str) -> None:
    with pytest.raises(ScenarioError, match=r".") as caught:
        typed("fake", side)
    assert what in str(caught.value)


def test_growth_is_refused() -> None:
    growing = replace(scenario(fake()), scale=Scale((1, 2)))
    with pytest.raises(ScenarioError, match="has no pairs"):
        with_sides(growing, None, "a", "b")
