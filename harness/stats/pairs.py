"""Arms compared within blocks: ratios and differences; see `harness.stats`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.stats.estimates import Estimate, estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against another, compared within blocks, so that what disturbs a block hits both.

    A block in which only the arm failed counts as plus infinity, one in which only the reference
    failed as minus infinity: both are bounds, and counted as censored. Where both failed nothing
    can be said: such blocks are left out of the median and counted apart.

    Attributes:
        estimate: Of the blocks' ratios or differences. The median of ratios need not be the ratio
            of the medians.
        undetermined: Blocks in which both failed, or of whose amounts there is no ratio.
    """

    estimate: Estimate
    undetermined: int = 0


def paired_ratio(
    arm: Mapping[int, float], reference: Mapping[int, float], seed: int = 0
) -> Comparison | None:
    """Say how many times the reference's duration the arm's is, block by block.

    Two equal amounts have the ratio 1, two of zero too; a negative amount (available memory can
    grow meanwhile) has none.

    Args:
        arm: Block number to duration, infinity for a failed trial; NaN: the block has none.
        reference: The same of the arm that is the measure.
        seed: Not used: nothing is drawn by chance.

    Returns:
        None when no block tells the two apart.
    """
    return _paired(arm, reference, _ratio, seed)


def paired_difference(
    arm: Mapping[int, float], reference: Mapping[int, float], seed: int = 0
) -> Comparison | None:
    """Say how much longer than the reference the arm takes, block by block; see `paired_ratio`."""
    return _paired(arm, reference, lambda a, b: a - b, seed)


def _ratio(amount: float, measure: float) -> float:
    if amount == measure:
        return 1.0
    if amount < 0 or measure < 0:
        return math.nan
    return amount / measure if measure > 0 else math.inf


def _paired(
    arm: Mapping[int, float],
    reference: Mapping[int, float],
    compare: Callable[[float, float], float],
    seed: int,
) -> Comparison | None:
    both = [(arm[block], reference[block]) for block in sorted(arm.keys() & reference.keys())]
    pairs = [pair for pair in both if not any(map(math.isnan, pair))]
    told = [pair for pair in pairs if any(map(math.isfinite, pair))]
    values = [compare(*pair) if math.isfinite(pair[1]) else -math.inf for pair in told]
    known = [value for value in values if not math.isnan(value)]
    found = estimate(known, seed)
    return Comparison(found, len(pairs) - len(known)) if found is not None else None
