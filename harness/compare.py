"""Two arms of one run, compared block by block while it goes on: is B worse than A? Pure.

What is sampled (times, memory) is looked at now and then as `harness.sequential` plans it, and the
verdict is the first that a look allows:

    the whole interval within the margin    same
    all of it above 1                       worse
    all of it below 1                       better
    none of these when the run ends         cannot tell, and what would be needed is said

The error is held over all looks, and divided among all metrics that are sampled. What is exact
(disk that all instances share; disk of each instance where it is the same in every trial) is
compared exactly: there any difference is real.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.check import layers_of
from harness.evidence import GIVE_UP, Evidence, Pairing
from harness.judgement import Finding, Judgement, Verdict
from harness.margins import percent
from harness.metrics import METRICS, Metric, Unit
from harness.model import ArmRecord, Trial
from harness.sequential import (
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
from harness.spelling import spell
from harness.stats import Interval, Method

DEFAULT_WITHIN = 0.05
DEFAULT_MOST_BLOCKS = 1000
"""Where trials take long, the time limit ends a run before."""
DEFAULT_METRICS = ("ready", "disk", "disk-shared")
"""What is compared where nothing is asked for, as far as both arms have it."""
_HOPELESS = 30
"""More than so many times the blocks taken is no advice."""


class Comparer:
    """The question of one run, and its answer as far as the blocks tell.

    It can be asked after each block, and gives the same answer when it is shown all trials at once.

    Args:
        pairings: What is compared.
        metrics: Keys of `METRICS`.
        within: The margin of "same": 0.05 is from 1/1.05 to 1.05.
        most: Blocks at most.
        asked: Whether the metrics were asked for by name: then one that is missing is told.
    """

    def __init__(
        self,
        pairings: Sequence[Pairing],
        metrics: Sequence[str],
        within: float = DEFAULT_WITHIN,
        most: int = DEFAULT_MOST_BLOCKS,
        *,
        asked: bool = True,
    ) -> None:
        self.within = within
        self._asked = asked
        self._planned = looks(most)
        self._keys = [(pairing, METRICS[name]) for pairing in pairings for name in metrics]
        self._findings: dict[tuple[Pairing, str], Finding] = {}
        self._missing: dict[tuple[Pairing, str], str] = {}
        self._looked: dict[tuple[Pairing, str], int] = {}
        self._evidence = Evidence()
        # Worked out before the first trial, which it would disturb.
        critical_values(self._planned, self._error(len(self._keys)))

    def is_decided(self, trials: Sequence[Trial], records: Sequence[ArmRecord]) -> bool:
        """Look, if it is time, and say whether there is a verdict on everything."""
        evidence = self._evidence
        evidence.take(trials, records)
        for pairing, metric in self._keys:
            self._look_for_the_missing(pairing, metric, evidence)
            self._look_at_the_exact(pairing, metric, evidence)
        if evidence.blocks >= FIRST_LOOK:
            for pairing, metric in self._open():
                self._look_at_the_sampled(pairing, metric, evidence)
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
        open_at_the_end = self._open()
        for pairing, metric in open_at_the_end:
            ratios = evidence.ratios(pairing, metric)
            if not ratios:
                self._missing[pairing, metric.name] = evidence.why_missing(pairing, metric)
                continue
            error = self._error(self._sampled(evidence))
            look = last_look(ratios, self._planned, error)
            self._decide(pairing, metric, look, ratios, evidence, is_last=True, error=error)
        keys = [(pairing, metric.name) for pairing, metric in self._keys]
        return Judgement(
            question,
            tuple(self._findings[key] for key in keys if key in self._findings),
            tuple(
                f"{pairing.scenario}, {pairing.arm}: {name}: {self._missing[pairing, name]}"
                for pairing, name in keys
                if self._asked and (pairing, name) in self._missing
            ),
            facts,
        )

    def _open(self) -> list[tuple[Pairing, Metric]]:
        return [
            (pairing, metric)
            for pairing, metric in self._keys
            if (pairing, metric.name) not in self._findings
            and (pairing, metric.name) not in self._missing
        ]

    def _error(self, sampled: int) -> float:
        """Divided among all that is sampled (Bonferroni)."""
        return ERROR / max(1, sampled)

    def _sampled(self, evidence: Evidence) -> int:
        """How many tests share the error; known, and never changed, from the first look on."""
        return sum(
            not evidence.is_exact(pairing, metric) and evidence.has_early(pairing, metric)
            for pairing, metric in self._keys
        )

    def _look_for_the_missing(self, pairing: Pairing, metric: Metric, evidence: Evidence) -> None:
        if metric.is_static or evidence.blocks < GIVE_UP or self._is_known(pairing, metric):
            return
        if not evidence.has_early(pairing, metric):
            self._missing[pairing, metric.name] = evidence.why_missing(pairing, metric)

    def _look_at_the_exact(self, pairing: Pairing, metric: Metric, evidence: Evidence) -> None:
        if self._is_known(pairing, metric) or not evidence.is_exact(pairing, metric):
            return
        self._findings[pairing, metric.name] = _exact(pairing, metric, evidence)

    def _look_at_the_sampled(self, pairing: Pairing, metric: Metric, evidence: Evidence) -> None:
        key = pairing, metric.name
        left = self._planned[self._looked.get(key, 0) :]
        if not left or evidence.blocks < left[0]:
            return
        error = self._error(self._sampled(evidence))
        ratios = evidence.ratios(pairing, metric)
        for pairs in left:
            if pairs > len(ratios) or key in self._findings:
                return
            self._looked[key] = self._looked.get(key, 0) + 1
            look = look_at(ratios[:pairs], self._planned, error)
            assert look is not None
            self._decide(pairing, metric, look, ratios[:pairs], evidence, error=error)

    def _is_known(self, pairing: Pairing, metric: Metric) -> bool:
        key = pairing, metric.name
        return key in self._findings or key in self._missing

    def _decide(
        self,
        pairing: Pairing,
        metric: Metric,
        look: Look,
        ratios: Sequence[float],
        evidence: Evidence,
        *,
        error: float,
        is_last: bool = False,
    ) -> None:
        verdict = verdict_of(look, self.within)
        if verdict is Verdict.CANNOT_TELL and not is_last:
            return
        most = max(self._planned[-1], look.pairs)
        critical = critical_values(ends_at(self._planned, look.pairs), error, most)[-1]
        seen = evidence.telling(pairing, metric)[: look.pairs]
        ours, theirs = (statistics.median_low(values) for values in zip(*seen, strict=True))
        detectable = detectable_ratio(ratios, critical) - 1
        self._findings[pairing, metric.name] = Finding(
            pairing.scenario,
            pairing.arm,
            metric.name,
            verdict,
            _sentence(metric, look, verdict, ours, theirs, self.within, detectable),
            value=ours,
            reference=theirs,
            ratio=look.ratio,
            interval=Interval(look.low, look.high, look.coverage, Method.SIGNED_RANK),
            limit=1 + self.within,
            detectable=detectable if math.isfinite(detectable) else None,
            blocks=look.pairs,
        )


def verdict_of(look: Look, within: float) -> Verdict:
    """What a look allows one to say, see the module."""
    if 1 / (1 + within) <= look.low and look.high <= 1 + within:
        return Verdict.SAME
    if look.low > 1:
        return Verdict.WORSE
    if look.high < 1:
        return Verdict.BETTER
    return Verdict.CANNOT_TELL


def _exact(pairing: Pairing, metric: Metric, evidence: Evidence) -> Finding:
    """What is the same in every trial: any difference is one."""
    ours, theirs = (
        evidence.early_median(pairing, arm, metric) for arm in (pairing.arm, pairing.reference)
    )
    verdict = Verdict.SAME
    if ours != theirs:
        verdict = Verdict.WORSE if ours > theirs else Verdict.BETTER
    told = f"{metric.title}: exactly {_exactly(metric, ours)}"
    if ours == theirs:
        sentence = f"{told} in both"
    else:
        more = _exactly(metric, abs(ours - theirs))
        sentence = f"{told}, {more} {'more' if ours > theirs else 'less'} than A's"
        if metric.is_static:
            sentence += _named_layers(pairing, evidence)
    return Finding(
        pairing.scenario,
        pairing.arm,
        metric.name,
        verdict,
        sentence,
        value=ours,
        reference=theirs,
        ratio=1.0 if ours == theirs else (ours / theirs if theirs else math.inf),
        limit=1.0,
        blocks=1 if metric.is_static else FIRST_LOOK,
    )


def _exactly(metric: Metric, value: float) -> str:
    if metric.unit is Unit.BYTES and value >= 1000:
        return f"{value:,.0f} bytes ({spell(metric.unit, value)})"
    return f"{value:,.0f} bytes" if metric.unit is Unit.BYTES else spell(metric.unit, value)


def _named_layers(pairing: Pairing, evidence: Evidence) -> str:
    """Which layers only one of the two images has."""
    records = [evidence.record(pairing.scenario, arm) for arm in (pairing.arm, pairing.reference)]
    ours, theirs = (layers_of(record) if record else {} for record in records)
    alone = {
        whose: [f"{name.removeprefix('sha256:')[:12]} ({size:,} bytes)" for name, size in layers]
        for whose, layers in (
            ("B", [(name, size) for name, size in ours.items() if name not in theirs]),
            ("A", [(name, size) for name, size in theirs.items() if name not in ours]),
        )
        if layers
    }
    return "".join(f"; only {whose} has layer {', '.join(named)}" for whose, named in alone.items())


def _sentence(
    metric: Metric,
    look: Look,
    verdict: Verdict,
    ours: float,
    theirs: float,
    within: float,
    detectable: float,
) -> str:
    """The verdict with its figures."""
    ends = (percent(end) if 0 < end < math.inf else "open" for end in (look.low, look.high))
    size = percent(look.ratio) if math.isfinite(look.ratio) else "it fails where A does not"
    told = (
        f"{metric.title}: {spell(metric.unit, ours)} against A's {spell(metric.unit, theirs)}: "
        f"{size} [{' to '.join(ends)}] by {look.pairs} blocks"
    )
    if verdict is Verdict.SAME:
        return f"{told}: the same within {within * 100:g} %"
    if verdict is not Verdict.CANNOT_TELL:
        return told
    if math.isfinite(detectable):
        told += f", which find a difference of {detectable * 100:.1f} % in four of five cases"
    return f"{told}; {_advice(look, within)}"


def _advice(look: Look, within: float) -> str:
    """What would be needed for a verdict; an interval shrinks with the root of the blocks."""
    if not (look.low > 0 and look.high < math.inf and 0 < look.ratio < math.inf):
        return f"take more blocks (--blocks, --time-limit): {2 * max(look.pairs, FIRST_LOOK)} or so"
    middle = abs(math.log(look.ratio))
    half = max(math.log(look.high / look.ratio), math.log(look.ratio / look.low))
    # Either the interval leaves 1, or it fits into the margin: whichever is nearer.
    reach = max(middle, math.log1p(within) - middle)
    needed = math.ceil(look.pairs * (half / reach) ** 2 * 1.2) if reach > 0 else math.inf
    if needed > _HOPELESS * look.pairs:
        return "the margin is finer than this host can tell: widen --within, or quieten the host"
    advice = f"take about {max(needed, look.pairs + 1)} blocks (--blocks, --time-limit)"
    edge = max(look.high, 1 / look.low) - 1
    return f"{advice}, or be content with --within {math.ceil(edge * 1000 + 1) / 10:g}%"
