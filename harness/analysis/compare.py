"""Two arms of one run, compared block by block while it goes on: is B worse than A? Pure.

What is sampled (times, memory) is looked at now and then as `harness.stats.sequential` plans it,
and the verdict is the first that a look allows by the rule that the question was asked with
(`harness.analysis.limits`): within a margin, for `compare`; up to a limit, for `check --against`.
Where none is allowed when the run ends, it cannot be told, and what would be needed is said.

The error is held over all looks, and divided among all metrics that are sampled. What is exact
(disk that all instances share; disk of each instance where it is the same in every trial) is
compared exactly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.check import layers_of
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.limits import Rule, percent
from harness.analysis.pairs import GIVE_UP, Evidence
from harness.model import ArmRecord, Pair, Trial
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.units import spell
from harness.stats import Interval, Method
from harness.stats.sequential import (
    ERROR,
    FIRST_LOOK,
    Look,
    critical_values,
    detectable_ratio,
    ends_at,
    last_look,
    look_at,
    looks,
)

DEFAULT_MOST_BLOCKS = 1000
"""Where trials take long, the time limit ends a run before."""
_FEWEST_EQUAL = 2
"""Of a run that is over: as `check` has it."""
DEFAULT_METRICS = ("ready", "disk", "disk-shared")
"""What is compared where nothing is asked for, as far as both arms have it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one metric of two arms.

    Attributes:
        pair: Which arms.
        name: Of the metric, a key of `METRICS`.
        rule: What is allowed.
        is_asked: Whether somebody named it: then it is told when it is missing.
    """

    pair: Pair
    name: str
    rule: Rule
    is_asked: bool = True

    @property
    def metric(self) -> Metric:
        """What is measured."""
        return METRICS[self.name]


def questions_on(
    pairs: Sequence[Pair], metrics: Sequence[str], rule: Rule, *, asked: bool = True
) -> tuple[Question, ...]:
    """The same of every pair."""
    return tuple(Question(pair, name, rule, asked) for pair in pairs for name in metrics)


class Comparer:
    """The questions of one run, and their answers as far as the blocks tell.

    It can be asked after each block, and gives the same answer when it is shown all trials at once.

    Args:
        questions: In the order in which they are answered.
        most: Blocks at most.
    """

    def __init__(self, questions: Sequence[Question], most: int = DEFAULT_MOST_BLOCKS) -> None:
        self._planned = looks(most)
        self._questions = tuple(dict.fromkeys(questions))
        self._findings: dict[Question, Finding] = {}
        self._missing: dict[Question, str] = {}
        self._looked: dict[Question, int] = {}
        self._evidence = Evidence()
        # Worked out before the first trial, which it would disturb.
        critical_values(self._planned, self._error(len(self._tests())))

    def is_decided(self, trials: Sequence[Trial], records: Sequence[ArmRecord]) -> bool:
        """Look, if it is time, and say whether there is a verdict on everything."""
        evidence = self._evidence
        evidence.take(trials, records)
        for question in self._open():
            self._look_for_the_missing(question, evidence)
        for question in self._open():
            if evidence.is_exact(question.pair, question.metric):
                self._findings[question] = _exact(question, evidence)
        if evidence.blocks >= FIRST_LOOK:
            for question in self._open():
                self._look_at_the_sampled(question, evidence)
        return not self._open()

    def judgement(
        self,
        question: str,
        trials: Sequence[Trial],
        records: Sequence[ArmRecord],
        facts: Mapping[str, str],
    ) -> Judgement:
        """Say what the run has come to, now that it has ended.

        Args:
            question: One line.
            trials: All.
            records: Of the arms.
            facts: To be told with it.
        """
        self.is_decided(trials, records)
        evidence = self._evidence
        for each in self._open():
            is_short = evidence.blocks < FIRST_LOOK
            if is_short and evidence.is_exact(each.pair, each.metric, _FEWEST_EQUAL):
                self._findings[each] = _exact(each, evidence)
                continue
            ratios = evidence.ratios(each.pair, each.metric)
            if not ratios:
                self._missing[each] = evidence.why_missing(each.pair, each.metric)
                continue
            error = self._error(self._sampled(evidence))
            look = last_look(ratios, self._planned, error)
            self._decide(each, look, ratios, evidence, is_last=True, error=error)
        refusals = (
            _refusal(each, self._missing[each], evidence)
            for each in self._questions
            if each in self._missing
        )
        return Judgement(
            question,
            tuple(self._findings[each] for each in self._questions if each in self._findings),
            tuple(dict.fromkeys(filter(None, refusals))),
            facts,
        )

    def _open(self) -> list[Question]:
        return [
            question
            for question in self._questions
            if question not in self._findings and question not in self._missing
        ]

    def _error(self, sampled: int) -> float:
        """Divided among all that is sampled (Bonferroni)."""
        return ERROR / max(1, sampled)

    def _tests(self) -> set[tuple[Pair, Metric]]:
        """What is tested: two limits for one metric are held against one interval."""
        return {(question.pair, question.metric) for question in self._questions}

    def _sampled(self, evidence: Evidence) -> int:
        """How many tests share the error; known, and never changed, from the first look on."""
        return sum(
            not evidence.is_exact(pair, metric) and evidence.has_early(pair, metric)
            for pair, metric in self._tests()
        )

    def _look_for_the_missing(self, question: Question, evidence: Evidence) -> None:
        pair, metric = question.pair, question.metric
        if metric.is_static or evidence.blocks < GIVE_UP:
            return
        if not evidence.has_early(pair, metric):
            self._missing[question] = evidence.why_missing(pair, metric)

    def _look_at_the_sampled(self, question: Question, evidence: Evidence) -> None:
        left = self._planned[self._looked.get(question, 0) :]
        if not left or evidence.blocks < left[0]:
            return
        error = self._error(self._sampled(evidence))
        ratios = evidence.ratios(question.pair, question.metric)
        for pairs in left:
            if pairs > len(ratios) or question in self._findings:
                return
            self._looked[question] = self._looked.get(question, 0) + 1
            look = look_at(ratios[:pairs], self._planned, error)
            assert look is not None
            self._decide(question, look, ratios[:pairs], evidence, error=error)

    def _decide(
        self,
        question: Question,
        look: Look,
        ratios: Sequence[float],
        evidence: Evidence,
        *,
        error: float,
        is_last: bool = False,
    ) -> None:
        pair, rule = question.pair, question.rule
        verdict = rule.verdict(look.low, look.high)
        if verdict is Verdict.CANNOT_TELL and not is_last:
            return
        most = max(self._planned[-1], look.pairs)
        critical = critical_values(ends_at(self._planned, look.pairs), error, most)[-1]
        seen = evidence.telling(pair, question.metric)[: look.pairs]
        ours, theirs = (statistics.median_low(values) for values in zip(*seen, strict=True))
        detectable = detectable_ratio(ratios, critical) - 1
        self._findings[question] = Finding(
            pair.scenario,
            pair.candidate,
            question.name,
            verdict,
            _sentence(question, look, verdict, ours, theirs, detectable),
            value=ours,
            reference=theirs,
            ratio=look.ratio,
            interval=Interval(look.low, look.high, look.coverage, Method.SIGNED_RANK),
            limit=rule.limit,
            detectable=detectable if math.isfinite(detectable) else None,
            blocks=look.pairs,
            source=rule.source,
        )


def _refusal(question: Question, why: str, evidence: Evidence) -> str:
    """Why there is no finding; empty where nobody asked for one by name, and nothing is wrong."""
    source = f"{question.rule.source}: " if question.rule.source else ""
    where = f"{source}{question.pair.scenario}, {question.pair.candidate}"
    if question.is_asked:
        return f"{where}: {question.name}: {why}"
    # What no trial shows was not found to be well, whoever named what.
    return f"{where}: {why}" if evidence.always_fails(question.pair) else ""


def _exact(question: Question, evidence: Evidence) -> Finding:
    """What is the same in every trial."""
    pair, metric, rule = question.pair, question.metric, question.rule
    ours, theirs = (
        evidence.early_median(pair, arm, metric) for arm in (pair.candidate, pair.reference)
    )
    ratio = 1.0 if ours == theirs else (ours / theirs if theirs else math.inf)
    sentence = f"{metric.title}: exactly {_exactly(metric, ours)}"
    if ours == theirs:
        sentence += " in both"
    else:
        more = _exactly(metric, abs(ours - theirs))
        word = "more" if ours > theirs else "less"
        sentence += f", {more} {word} {rule.more_than(ratio)}"
    if metric.is_static:
        sentence += _named_layers(pair, rule, evidence)
    return Finding(
        pair.scenario,
        pair.candidate,
        metric.name,
        rule.exact(ours, theirs),
        sentence,
        value=ours,
        reference=theirs,
        ratio=ratio,
        limit=rule.exact_limit,
        blocks=1 if metric.is_static else min(evidence.blocks, FIRST_LOOK),
        source=rule.source,
    )


def _exactly(metric: Metric, value: float) -> str:
    if metric.unit is Unit.BYTES and value >= 1000:
        return f"{value:,.0f} bytes ({spell(metric.unit, value)})"
    return f"{value:,.0f} bytes" if metric.unit is Unit.BYTES else spell(metric.unit, value)


def _named_layers(pair: Pair, rule: Rule, evidence: Evidence) -> str:
    """Which layers only one of the two images has."""
    records = [evidence.record(pair.scenario, arm) for arm in (pair.candidate, pair.reference)]
    ours, theirs = (layers_of(record) if record else {} for record in records)
    before, now = rule.sides
    alone = {
        whose: [f"{name.removeprefix('sha256:')[:12]} ({size:,} bytes)" for name, size in layers]
        for whose, layers in (
            (now, [(name, size) for name, size in ours.items() if name not in theirs]),
            (before, [(name, size) for name, size in theirs.items() if name not in ours]),
        )
        if layers
    }
    return "".join(f"; only {whose} has layer {', '.join(named)}" for whose, named in alone.items())


def _sentence(
    question: Question,
    look: Look,
    verdict: Verdict,
    ours: float,
    theirs: float,
    detectable: float,
) -> str:
    """The verdict with its figures."""
    metric, rule = question.metric, question.rule
    ends = (percent(end) if 0 < end < math.inf else "open" for end in (look.low, look.high))
    is_finite = math.isfinite(look.ratio)
    size = percent(look.ratio) if is_finite else f"it fails where {rule.sides[0]} does not"
    told = (
        f"{metric.title}: {spell(metric.unit, ours)} against "
        f"{rule.against(spell(metric.unit, theirs))}: "
        f"{size} [{' to '.join(ends)}] estimated from {look.pairs} pairs"
    )
    if verdict is not Verdict.CANNOT_TELL:
        return told + rule.told(verdict)
    if math.isfinite(detectable):
        told += f", which find a difference of {detectable * 100:.1f} % in four of five cases"
    return f"{told}{rule.told(verdict)}; {rule.advice(look)}"
