"""Compares two arms of one run, block by block while it goes on: is B worse than A? Pure.

What is sampled (times, memory) is looked at now and then as `harness.stats.sequential` plans it,
and the verdict is the first that a look allows by the rule that the question was asked with
(`harness.analysis.limits`): within a margin, for `compare`; up to a limit, for `check --against`.
Where none is allowed when the run ends, the verdict is "cannot tell", with what would be needed.

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
from harness.analysis.pairs import GIVE_UP, TrialValues
from harness.model import ArmRecord, Pair, Trial
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.units import spell
from harness.stats import Interval, Method, sequential
from harness.stats.sequential import FIRST_LOOK, Look, critical_values

DEFAULT_MOST_BLOCKS = 1000
"""Where trials take long, the time limit ends a run before."""
_FEWEST_EQUAL = 2
"""Of a run that is over: as `check` has it."""
DEFAULT_METRICS = ("ready", "disk", "disk-shared")
"""Metrics compared by default, as far as both arms have them."""


@dataclass(frozen=True, slots=True)
class Question:
    """Asks whether a metric of two arms is within a rule.

    Attributes:
        name: Of the metric, a key of `METRICS`.
        is_asked: Whether it was named: then it is reported when it is missing.
    """

    pair: Pair
    name: str
    rule: Rule
    is_asked: bool = True

    @property
    def metric(self) -> Metric:
        """Its metric with unit and title."""
        return METRICS[self.name]


def questions_on(
    pairs: Sequence[Pair], metrics: Sequence[str], rule: Rule, *, asked: bool = True
) -> tuple[Question, ...]:
    """Ask the same of every pair."""
    return tuple(Question(pair, name, rule, asked) for pair in pairs for name in metrics)


class Comparer:
    """Answers the questions of one run as far as its blocks allow.

    It can be asked after each block, of `most` at most, and gives the same answer when it is shown
    all trials at once.
    """

    def __init__(self, questions: Sequence[Question], most: int = DEFAULT_MOST_BLOCKS) -> None:
        self._planned = sequential.looks(most)
        self._questions = tuple(dict.fromkeys(questions))
        # Two limits for one metric are held against one interval.
        self._tests = {(question.pair, question.metric) for question in self._questions}
        self._findings: dict[Question, Finding] = {}
        self._missing: dict[Question, str] = {}
        self._looked: dict[Question, int] = {}
        self._values = TrialValues()
        # Worked out before the first trial, which it would disturb.
        critical_values(self._planned, sequential.ERROR / max(1, len(self._tests)))

    def is_decided(self, trials: Sequence[Trial], records: Sequence[ArmRecord]) -> bool:
        """Look, if it is time, and say whether there is a verdict on everything."""
        values = self._values
        values.take(trials, records)
        if values.blocks >= GIVE_UP:
            for question in self._open():
                if not values.has_early(question.pair, question.metric):
                    self._missing[question] = values.why_missing(question.pair, question.metric)
        for question in self._open():
            if values.is_exact(question.pair, question.metric):
                self._findings[question] = _exact(question, values)
        if values.blocks >= FIRST_LOOK:
            for question in self._open():
                self._look_at_the_sampled(question)
        return not self._open()

    def judgement(
        self,
        question: str,
        trials: Sequence[Trial],
        records: Sequence[ArmRecord],
        facts: Mapping[str, str],
    ) -> Judgement:
        """Judge the run, now that it has ended: by all its trials, with facts to be printed."""
        self.is_decided(trials, records)
        values = self._values
        for each in self._open():
            is_short = values.blocks < FIRST_LOOK
            if is_short and values.is_exact(each.pair, each.metric, _FEWEST_EQUAL):
                self._findings[each] = _exact(each, values)
                continue
            ratios = values.ratios(each.pair, each.metric)
            if not ratios:
                self._missing[each] = values.why_missing(each.pair, each.metric)
                continue
            error = self._error()
            look = sequential.last_look(ratios, self._planned, error)
            self._decide(each, look, ratios, is_last=True, error=error)
        asked = self._questions
        refusals = (_refusal(q, self._missing[q], values) for q in asked if q in self._missing)
        return Judgement(
            question,
            tuple(self._findings[each] for each in asked if each in self._findings),
            tuple(dict.fromkeys(filter(None, refusals))),
            facts,
        )

    def _open(self) -> list[Question]:
        done = self._findings.keys() | self._missing.keys()
        return [question for question in self._questions if question not in done]

    def _error(self) -> float:
        """Divide the error among all tests that are sampled (Bonferroni).

        How many there are is known, and never changes, from the first look on.
        """
        values = self._values
        sampled = sum(not values.is_exact(*t) and values.has_early(*t) for t in self._tests)
        return sequential.ERROR / max(1, sampled)

    def _look_at_the_sampled(self, question: Question) -> None:
        left = self._planned[self._looked.get(question, 0) :]
        if not left or self._values.blocks < left[0]:
            return
        error = self._error()
        ratios = self._values.ratios(question.pair, question.metric)
        for pairs in left:
            if pairs > len(ratios) or question in self._findings:
                return
            self._looked[question] = self._looked.get(question, 0) + 1
            look = sequential.look_at(ratios[:pairs], self._planned, error)
            assert look is not None
            self._decide(question, look, ratios[:pairs], error=error)

    def _decide(
        self,
        question: Question,
        look: Look,
        ratios: Sequence[float],
        *,
        error: float,
        is_last: bool = False,
    ) -> None:
        pair, rule = question.pair, question.rule
        verdict = rule.verdict(look.low, look.high)
        if verdict is Verdict.CANNOT_TELL and not is_last:
            return
        most = max(self._planned[-1], look.pairs)
        critical = critical_values(sequential.ends_at(self._planned, look.pairs), error, most)[-1]
        seen = self._values.pairs(pair, question.metric)[: look.pairs]
        ours, theirs = (statistics.median_low(column) for column in zip(*seen, strict=True))
        detectable = sequential.detectable_ratio(ratios, critical) - 1
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


def _refusal(question: Question, why: str, values: TrialValues) -> str:
    """Say why there is no finding; empty where none was asked for by name, and nothing is wrong."""
    source = f"{question.rule.source}: " if question.rule.source else ""
    where = f"{source}{question.pair.scenario}, {question.pair.candidate}"
    if question.is_asked:
        return f"{where}: {question.name}: {why}"
    # What no trial shows was not found to be well, whether it was named or not.
    return f"{where}: {why}" if values.always_fails(question.pair) else ""


def _exact(question: Question, values: TrialValues) -> Finding:
    pair, metric, rule = question.pair, question.metric, question.rule
    ours, theirs = (
        statistics.median_low(values.values(pair.scenario, arm, metric, FIRST_LOOK).values())
        for arm in (pair.candidate, pair.reference)
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
        sentence += _named_layers(pair, rule, values)
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
        blocks=1 if metric.is_static else min(values.blocks, FIRST_LOOK),
        source=rule.source,
    )


def _exactly(metric: Metric, value: float) -> str:
    if metric.unit is Unit.BYTES and value >= 1000:
        return f"{value:,.0f} bytes ({spell(metric.unit, value)})"
    return f"{value:,.0f} bytes" if metric.unit is Unit.BYTES else spell(metric.unit, value)


def _named_layers(pair: Pair, rule: Rule, values: TrialValues) -> str:
    """Name the layers that only one of the two images has."""
    records = [values.record(pair.scenario, arm) for arm in (pair.candidate, pair.reference)]
    ours, theirs = (layers_of(record) if record else {} for record in records)
    before, now = rule.sides
    text = ""
    for whose, layers, others in ((now, ours, theirs), (before, theirs, ours)):
        alone = [
            f"{name.removeprefix('sha256:')[:12]} ({size:,} bytes)"
            for name, size in layers.items()
            if name not in others
        ]
        text += f"; only {whose} has layer {', '.join(alone)}" if alone else ""
    return text


def _sentence(
    question: Question, look: Look, verdict: Verdict, ours: float, theirs: float, detectable: float
) -> str:
    metric, rule = question.metric, question.rule
    ends = (percent(end) if 0 < end < math.inf else "open" for end in (look.low, look.high))
    is_finite = math.isfinite(look.ratio)
    size = percent(look.ratio) if is_finite else f"it fails where {rule.sides[0]} does not"
    text = (
        f"{metric.title}: {spell(metric.unit, ours)} against "
        f"{rule.against(spell(metric.unit, theirs))}: "
        f"{size} [{' to '.join(ends)}] estimated from {look.pairs} pairs"
    )
    if verdict is not Verdict.CANNOT_TELL:
        return text + rule.conclusion(verdict)
    if math.isfinite(detectable):
        text += f", which find a difference of {detectable * 100:.1f} % in four of five cases"
    return f"{text}{rule.conclusion(verdict)}; {rule.advice(look)}"
