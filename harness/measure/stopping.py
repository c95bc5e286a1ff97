"""Decides when a run ends, by rules that are asked before each block and see only its results.

`UntilNarrow` looks at how wide an interval is and never at where it lies, so it cannot wait for a
result that one would like. It looks at block counts fixed beforehand: after every block, it would
stop at the luckiest of many chances, with intervals that claim more than they hold.

Every rule is pure, except for the callable of `Decided`, which may keep state.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from harness import stats
from harness.model import ArmRecord, Trial, latest
from harness.model.metrics import block_value, trial_value

if TYPE_CHECKING:
    from harness.measure.request import Request

CHECKPOINT_GROWTH = 4 / 3
"""From one look at the intervals to the next: ten looks from 6 blocks to 80."""
NO_BOUND = sys.maxsize
"""Blocks that a rule without a limit on their number expects."""

Samples = Mapping[tuple[str, str, str], Sequence[float]]
"""(scenario, arm, metric) -> one value a block that counts."""
Question = Callable[[Sequence[Trial], Sequence[ArmRecord]], bool]
"""Whether all trials and arms so far answer what a run is taken for."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The results that a rule sees.

    Attributes:
        block: The block that comes next; negative for warm-up.
        block_times_ns: Wall time of each block so far, warm-up included.
        trials: All so far, warm-up included, in the order in which they were taken.
        records: Of the arms.
    """

    block: int
    block_times_ns: Sequence[int] = ()
    trials: Sequence[Trial] = ()
    records: Sequence[ArmRecord] = ()

    @property
    def counted(self) -> int:
        """How many blocks so far were no warm-up."""
        return max(self.block, 0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A rule's answer.

    Attributes:
        is_over: Whether the run ends before the block that comes next.
        expected: How many blocks will count, if they go on as so far; None while that is not known.
        widths: Metric -> relative half-width of its widest interval; empty unless the rule has just
            looked at them.
    """

    is_over: bool
    expected: int | None = NO_BOUND
    widths: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class StoppingRule(Protocol):
    """Decides when a run ends."""

    def look(self, taken: Taken) -> Outlook:
        """Judge by what was taken; asked once before each block, the first one included."""


@dataclass(frozen=True, slots=True)
class FixedBlocks:
    """Ends a run after a number of blocks that count."""

    count: int

    def look(self, taken: Taken) -> Outlook:
        """See `StoppingRule.look`."""
        return Outlook(taken.block >= self.count, self.count)


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Ends a run when another block would not fit, by the median time of those so far.

    It looks at the time that blocks took and never at what they measured.

    Attributes:
        limit_ns: What all blocks may take, warm-up included.
        fewest: Blocks that are taken whatever they take.
    """

    limit_ns: int
    fewest: int

    def look(self, taken: Taken) -> Outlook:
        """See `StoppingRule.look`."""
        times_ns = taken.block_times_ns
        if not times_ns:
            return Outlook(is_over=False, expected=None)
        typical_ns = statistics.median(times_ns)
        left_ns = self.limit_ns - sum(times_ns)
        fitting = taken.block + int(left_ns // max(typical_ns, 1))
        is_over = taken.counted >= self.fewest and typical_ns > left_ns
        return Outlook(is_over, max(fitting, self.fewest))


@dataclass(frozen=True, slots=True)
class UntilNarrow:
    """Ends a run once the 95 % interval of every median is narrow enough: the rule of `--until`.

    Attributes:
        until: Metric -> the largest relative half-width of its intervals.
    """

    until: Mapping[str, float]

    def look(self, taken: Taken) -> Outlook:
        """See `StoppingRule.look`."""
        if not is_checkpoint(taken.counted):
            return Outlook(is_over=False)
        widths = widest(samples_of(taken.trials, taken.records, self.until))
        is_over = all(widths.get(name, math.inf) <= most for name, most in self.until.items())
        return Outlook(is_over, widths=widths)


@dataclass(frozen=True, slots=True)
class Decided:
    """Ends a run once its question is answered; asks it once after each block that counts."""

    question: Question

    def look(self, taken: Taken) -> Outlook:
        """See `StoppingRule.look`."""
        return Outlook(taken.counted > 0 and self.question(taken.trials, taken.records))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Ends a run as soon as one of several rules does; those after it are not asked."""

    rules: Sequence[StoppingRule]

    def look(self, taken: Taken) -> Outlook:
        """See `StoppingRule.look`."""
        expected: int | None = NO_BOUND
        widths: dict[str, float] = {}
        for rule in self.rules:
            outlook = rule.look(taken)
            if outlook.is_over:
                return outlook
            if expected is None or outlook.expected is None:
                expected = None
            else:
                expected = min(expected, outlook.expected)
            widths.update(outlook.widths)
        return Outlook(False, expected, widths)


def rule_of(request: Request, *more: StoppingRule) -> StoppingRule:
    """Combine all rules that a request implies, and those of the caller, in this order."""
    rules: list[StoppingRule] = [FixedBlocks(request.blocks)]
    if request.time_limit_ns is not None:
        rules.append(TimeLimit(request.time_limit_ns, request.fewest_blocks))
    if request.until:
        rules.append(UntilNarrow(request.until))
    return AnyOf((*rules, *more))


def is_checkpoint(counted: int) -> bool:
    """Whether intervals are looked at after so many blocks: 6, 8, 11, 15, 20, 27, 36 and so on."""
    checkpoint = stats.FEWEST_FOR_LEVEL
    while checkpoint < counted:
        checkpoint = math.ceil(checkpoint * CHECKPOINT_GROWTH)
    return checkpoint == counted


def samples_of(
    trials: Collection[Trial], records: Collection[ArmRecord], metrics: Collection[str]
) -> Samples:
    """Collect the values of the blocks that count, in order; one without a value gives none.

    Of several trials in a block it is `block_value` of theirs. Where instances grow in number it is
    the first of each block: there was no other beside it.
    """
    by_arm = {(record.scenario, record.arm.name): record for record in records}
    samples: dict[tuple[str, str, str], dict[int, list[float]]] = {
        (*arm, metric): {} for arm in by_arm for metric in metrics
    }
    for trial in latest(trials):
        if not trial.is_counted or trial.alive or trial.together > 1:
            continue
        for metric in metrics:
            value = trial_value(metric, trial, by_arm.get((trial.scenario, trial.arm)))
            blocks = samples.setdefault((trial.scenario, trial.arm, metric), {})
            blocks.setdefault(trial.block, []).append(value)
    by_block = {name: map(block_value, blocks.values()) for name, blocks in samples.items()}
    return {
        name: [value for value in values if not math.isnan(value)]
        for name, values in by_block.items()
    }


def widest(samples: Samples) -> dict[str, float]:
    """Find for each metric the widest 95 % interval of a median among all arms and scenarios.

    Args:
        samples: An arm without any value of a metric (nothing meters it there) does not count.

    Returns:
        Metric -> half the interval's width as a share of the median; infinite where an interval is
        open, and where no arm has a value.
    """
    found: dict[str, float] = {}
    for (_, _, metric), values in samples.items():
        found.setdefault(metric, -math.inf)
        if (estimate := stats.estimate(values)) is not None:
            found[metric] = max(found[metric], stats.relative_width(estimate))
    return {metric: width if width > -math.inf else math.inf for metric, width in found.items()}
