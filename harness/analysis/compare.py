"""Compares two arms of one run, block by block while it goes on: is B worse than A? Pure.

What is sampled (times, memory) is looked at now and then as `harness.stats.sequential` plans it,
and the verdict is the first that a look allows by the rule that the question was asked with
(`harness.analysis.limits`): within a margin, for `compare`; up to a limit, for `check --against`.
Where none is allowed when the run ends, the verdict is "cannot tell", with what would be needed.

The error is held over all looks, and divided among all metrics that are sampled. What is exact
(disk that all instances share; disk of each instance where it is the same in every trial) is
compared exactly.

What was asked is recorded with the run (`PairedQuestions`), so that its records alone give the same
judgement later.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.check import layers_of
from harness.analysis.judgement import Finding, Judgement, Verdict
from harness.analysis.limits import Allowance, Margin, Rule, percent
from harness.analysis.pairs import GIVE_UP, TrialValues
from harness.model import ArmRecord, Pair, PairedLimit, Trial
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.units import spell
from harness.records import Run
from harness.stats import Interval, Method, sequential
from harness.stats.sequential import FIRST_LOOK, Look

DEFAULT_MOST_BLOCKS = 1000
"""Where trials take long, the time limit ends a run before."""
_FEWEST_EQUAL = 2
"""Of a run that is over: as `check` has it."""
DEFAULT_METRICS = ("ready", "cpu", "disk", "disk-shared")
"""Metrics compared by default, as far as both arms have them.

CPU time is the better witness on a busy host: to find 10 % at a load of 12 to 23 on two cores took
13 pairs by `cpu` and 693 by `ready`.
"""
AGAINST_METRICS = ("ready", "cpu", "pss", "disk", "disk-shared")
"""Metrics held against what was before, in one run with it, where no budget says which."""


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

    @classmethod
    def recorded(cls, asked: PairedLimit) -> Question:
        """Ask again what a run's records say was asked."""
        kind = Margin if asked.is_margin else Allowance
        return cls(asked.pair, asked.metric, kind(asked.limit, asked.source), asked.is_asked)

    def to_record(self) -> PairedLimit:
        """Put it into a run's records."""
        rule, is_margin = self.rule, isinstance(self.rule, Margin)
        return PairedLimit(self.pair, self.name, rule.limit, is_margin, rule.source, self.is_asked)


def judge_records(run: Run) -> Judgement | None:
    """Judge a paired run by its records, as it was judged when it ended.

    Returns:
        None where the records do not say what was asked, and of a run that did not end by itself.
    """
    info = run.info
    if info.asked is None or info.interrupted or info.ended_at is None:
        return None
    ran = {record.arm.name for record in info.arms}
    pairs = [pair for pair in info.pairs if {pair.reference, pair.candidate} <= ran]
    facts = {
        "A": f"{info.asked.reference} ({_names(pair.reference for pair in pairs)})",
        "B": f"{info.asked.candidate} ({_names(pair.candidate for pair in pairs)})",
        "blocks": f"{info.blocks} of at most {info.wanted_blocks}",
        "seed": str(info.seed),
    }
    if info.asked.cautions:
        facts["caution"] = "; ".join(info.asked.cautions)
    questions = [Question.recorded(limit) for limit in info.asked.limits]
    comparer = Comparer(questions, info.wanted_blocks or DEFAULT_MOST_BLOCKS)
    return comparer.judgement(info.asked.question, run.trials, info.arms, facts)


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


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
        self._exact: dict[Question, Finding] = {}
        self._decided: dict[Question, Look] = {}
        self._missing: dict[Question, str] = {}
        self._looked: dict[Question, int] = {}
        self._values = TrialValues()
        # Worked out before the first trial, which it would disturb.
        sequential.pairs_outside(self._planned, sequential.ERROR / max(1, len(self._tests)))

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
                self._exact[question] = _exact(question, values)
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
                self._exact[each] = _exact(each, values)
            elif ratios := values.ratios(each.pair, each.metric):
                self._decided[each] = sequential.last_look(ratios, self._planned, self._error())
            else:
                self._missing[each] = values.why_missing(each.pair, each.metric)
        asked = self._questions
        refusals = (_refusal(q, self._missing[q], values) for q in asked if q in self._missing)
        return Judgement(
            question,
            tuple(self._finding(each) for each in asked if each not in self._missing),
            tuple(dict.fromkeys(filter(None, refusals))),
            facts,
        )

    def _open(self) -> list[Question]:
        done = self._exact.keys() | self._decided.keys() | self._missing.keys()
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
            if pairs > len(ratios):
                return
            self._looked[question] = self._looked.get(question, 0) + 1
            look = sequential.look_at(ratios[:pairs], self._planned, error)
            assert look is not None
            if question.rule.verdict(look.low, look.high) is not Verdict.CANNOT_TELL:
                self._decided[question] = look
                return

    def _finding(self, question: Question) -> Finding:
        """Word what was decided. It simulates, so it waits until no trial can be disturbed."""
        if question in self._exact:
            return self._exact[question]
        look, pair, rule = self._decided[question], question.pair, question.rule
        ratios = self._values.ratios(pair, question.metric)[: look.pairs]
        seen = self._values.pairs(pair, question.metric)[: look.pairs]
        detectable = sequential.detectable_ratio(
            ratios, self._planned, self._error(), limit=rule.found_above
        )
        ours, theirs = (statistics.median(column) for column in zip(*seen, strict=True))
        return Finding(
            pair.scenario,
            pair.candidate,
            question.name,
            rule.verdict(look.low, look.high),
            paired_sentence(question.metric, rule, look, seen, detectable),
            value=ours,
            reference=theirs,
            ratio=look.ratio,
            interval=Interval(look.low, look.high, look.coverage, Method.SEQUENTIAL),
            limit=rule.limit,
            detectable=detectable - 1 if math.isfinite(detectable) else None,
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


def paired_sentence(
    metric: Metric,
    rule: Rule,
    look: Look,
    pairs: Sequence[tuple[float, float]],
    detectable: float,
) -> str:
    """Word a look: the ratio within blocks, the verdict, and apart from it the levels of the run.

    The ratio of the two medians stands nowhere: the host drifts while a run goes on, and both arms
    with it, so that it can lie on the other side of 1 than the median ratio within blocks.

    Args:
        metric: What was compared.
        rule: By which it is judged.
        look: The last at the pairs.
        pairs: (B, A) of each block that the look rests on.
        detectable: As `sequential.detectable_ratio` gives it.
    """
    before, now = rule.sides
    text = f"{metric.title}: within a block {_within_a_block(metric, rule, look, pairs)}"
    verdict = rule.verdict(look.low, look.high)
    text += rule.conclusion(verdict)
    if verdict is Verdict.CANNOT_TELL:
        if math.isfinite(detectable):
            size = f"{(detectable - 1) * 100:.1f} %"
            text += f"; {look.pairs} pairs find {size} in four of five cases"
        text += f"; {rule.advice(look)}"
    ours, theirs = (spell(metric.unit, statistics.median(c)) for c in zip(*pairs, strict=True))
    return f"{text}. Over the run: {before} {theirs}, {now} {ours} (medians, drift included)"


def _within_a_block(
    metric: Metric, rule: Rule, look: Look, pairs: Sequence[tuple[float, float]]
) -> str:
    """Word the ratio, its interval, and in how many blocks it was so."""
    before, now = rule.sides
    is_wall_time = metric.unit is Unit.NANOSECONDS and metric.meter is None
    count, is_less = len(pairs), look.ratio < 1
    number = sum(ours < theirs if is_less else ours > theirs for ours, theirs in pairs)
    size = f"{abs(look.ratio - 1) * 100:.1f} %"
    if look.ratio in (0, math.inf) and any(math.inf in values for values in pairs):
        fails, holds = (before, now) if is_less else (now, before)
        return f"{fails} fails where {holds} does not, in {number} of {count} blocks{_ends(look)}"
    if look.ratio == math.inf:
        return f"{now} uses some and {before} none, in {number} of {count} blocks{_ends(look)}"
    if is_wall_time:
        verb, less, same = "takes", "less time" if is_less else "longer", "as long as"
        often = f"was the {'faster' if is_less else 'slower'}"
    else:
        verb, less, same = "uses", "less" if is_less else "more", "as much as"
        often = f"used {less}"
    change = same if size == "0.0 %" else f"{size} {less} than"
    text = f"{now} {verb} typically {change} {before}{_ends(look)}"
    return f"{text}; {now} {often} in {number} of {count} blocks"


def _ends(look: Look) -> str:
    """Spell the interval: ` [+1.2 to +9.8 %]`."""
    if look.low <= 0 and look.high == math.inf:
        return " [open]"
    low = percent(look.low) if 0 < look.low < math.inf else "open"
    high = percent(look.high) if 0 < look.high < math.inf else "open"
    if "open" not in (low, high):
        low = low.removesuffix(" %")
    return f" [{low} to {high}]"
