"""The result of a comparison or a check: findings with their estimates, as values. Pure.

Every check (of a budget, a baseline, a paired run, a history) makes a `Judgement`; every output
(terminal, Markdown, JUnit, GitHub, JSON, badge) reads one. "Cannot tell" is a verdict of its own:
neither a pass nor a failure, and it always says what would be needed for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType

from harness.model.metrics import METRICS, Metric, Unit
from harness.stats import Interval, Method


class Verdict(StrEnum):
    """The result for one metric of one arm."""

    BETTER = "better"
    SAME = "same"
    """The interval lies within the margin that was asked for."""
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


class ExitCode(IntEnum):
    """How `check`, `compare` and `history --check` end."""

    FINE = 0
    REGRESSED = 1
    USAGE = 2
    CANNOT_TELL = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one metric of one arm.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        verdict: Better, the same, worse, or none yet.
        sentence: The verdict in words, with its estimates; what to do where there is none.
        value: Median of what was judged, in the metric's unit; None if there is none.
        reference: Median of what it was held against; None for an absolute budget.
        ratio: What was judged as a multiple of what it was held against. Where both come from one
            run, the median of the ratios within its blocks: not `value` divided by `reference`,
            which are levels of the run with the host's drift in them.
        interval: Of the ratio, or of `value` for an absolute budget.
        limit: What the ratio, or the value, may at most be; None if nothing was asked for.
        detectable: Smallest relative difference that so many blocks find in 80 % of cases; of a
            paired run None with fewer than 20, or very skewed ones.
        blocks: Pairs or trials that it rests on.
        source: `scenarios/hello.toml:12` of the budget, for annotations; empty if none.
        same: What SAME is called: `within` of a budget that is not about an earlier value, where
            the value is the same as nothing.
        is_ratio: Whether `value` and `reference` are multiples of an anchor's value, and not in the
            metric's unit.
    """

    scenario: str
    arm: str
    metric: str
    verdict: Verdict
    sentence: str
    value: float | None = None
    reference: float | None = None
    ratio: float | None = None
    interval: Interval | None = None
    limit: float | None = None
    detectable: float | None = None
    blocks: int = 0
    source: str = ""
    same: str = Verdict.SAME.value
    is_ratio: bool = False

    @property
    def word(self) -> str:
        """The verdict in a word, the same in every form of output."""
        return self.same if self.verdict is Verdict.SAME else self.verdict.value

    @property
    def is_paired(self) -> bool:
        """Whether its ratio is the median of those within blocks."""
        return self.interval is not None and self.interval.method is Method.SEQUENTIAL

    @property
    def quantity(self) -> Metric:
        """Its metric with unit and title."""
        metric = METRICS[self.metric]
        return replace(metric, unit=Unit.RATIO) if self.is_ratio else metric


@dataclass(frozen=True, slots=True)
class Judgement:
    """All findings of one question, and the reasons why some are missing.

    Attributes:
        question: What was asked, one line: `results/x against its budgets`.
        findings: In the order of scenarios, arms, metrics.
        refusals: Why something was not judged at all (other host, other accelerator, too few
            blocks, a gate below the noise floor), a sentence each that says what to do.
        facts: More to print: mean blocks to decide, seed, revisions.
    """

    question: str
    findings: tuple[Finding, ...]
    refusals: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def exit_code(self) -> ExitCode:
        """Regressed if anything is worse; else undecided if anything is; else fine."""
        verdicts = {finding.verdict for finding in self.findings}
        if Verdict.WORSE in verdicts:
            return ExitCode.REGRESSED
        if Verdict.CANNOT_TELL in verdicts or self.refusals or not self.findings:
            return ExitCode.CANNOT_TELL
        return ExitCode.FINE
