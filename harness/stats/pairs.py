"""Arms compared within blocks: ratios and differences; see `harness.stats`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.stats.arrays import Array, Integers, np
from harness.stats.estimates import Estimate, estimate

ByBlock = Mapping[int, float] | tuple[Integers, Array]
"""Block number to value, or distinct block numbers and their values, both of shape (blocks,)."""


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


def paired_ratio(arm: ByBlock, reference: ByBlock) -> Comparison | None:
    """Divide the arm's duration by the reference's, block by block.

    Two equal amounts have the ratio 1, two of zero too; a negative amount (available memory can
    grow meanwhile) has none.

    Args:
        arm: Durations by block, infinity for a failed trial; NaN: the block has none.
        reference: The same of the arm that is the measure.

    Returns:
        None when there is no block in which both have a value and not both failed.
    """
    return _paired(arm, reference, _ratio)


def paired_difference(arm: ByBlock, reference: ByBlock) -> Comparison | None:
    """Subtract the reference's duration from the arm's, block by block; see `paired_ratio`."""
    return _paired(arm, reference, lambda a, b: a - b)


def _ratio(amounts: Array, measures: Array) -> Array:
    ratios = np.where(measures > 0, amounts / measures, math.inf)
    ratios[(amounts < 0) | (measures < 0)] = math.nan
    ratios[amounts == measures] = 1.0
    return ratios


def _paired(
    arm: ByBlock, reference: ByBlock, compare: Callable[[Array, Array], Array]
) -> Comparison | None:
    (a_blocks, a), (b_blocks, b) = _columns(arm), _columns(reference)
    if not np.array_equal(a_blocks, b_blocks):
        _, a_places, b_places = np.intersect1d(
            a_blocks, b_blocks, assume_unique=True, return_indices=True
        )
        a, b = a[a_places], b[b_places]
    present = ~(np.isnan(a) | np.isnan(b))
    known = present & (np.isfinite(a) | np.isfinite(b))
    a, b = a[known], b[known]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(np.isfinite(b), compare(a, b), -math.inf)
    found = estimate(values)  # which leaves out those that are NaN
    return Comparison(found, int(present.sum()) - found.count) if found is not None else None


def _columns(values: ByBlock) -> tuple[Integers, Array]:
    if isinstance(values, tuple):
        return values
    return np.array(list(values), np.int64), np.array(list(values.values()), float)
