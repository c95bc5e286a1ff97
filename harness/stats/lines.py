"""Straight lines through growth: what one more instance costs, and what is there once for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.arrays import Array, np
from harness.stats.distributions import student_quantile
from harness.stats.estimates import Estimate
from harness.stats.intervals import LEVEL, Interval, Method

_ROUNDING = 1e-9
"""Residuals below this share of the values are those of floating-point arithmetic."""
_FEW_POINTS = 10
_INDEPENDENT = 1.5
"""Durbin and Watson's statistic is 2 for independent residuals and 0 for ones that only drift."""


@dataclass(frozen=True, slots=True)
class Line:
    """value = intercept + slope × instances, by least squares.

    Attributes:
        slope: Its `median` is the coefficient: value per instance.
        intercept: The value at no instances; not below 0 where no value is.
        blocks: How many blocks the intervals rest on.
    """

    slope: Estimate
    intercept: Estimate
    blocks: int


def line(points: Sequence[tuple[int, float, float]]) -> Line | None:
    """Fit a line, with intervals that take a block as one observation, however many points it has.

    Points of one block share what the block had to bear, and a ramp's points share its instances,
    so treating them as independent would promise far too much. The variance is the
    bias-reduced one of Bell & McCaffrey ("Bias reduction in standard errors for linear regression
    with multi-stage samples", Survey Methodology 28, 2002: CR2) with their degrees of freedom; in
    a balanced design it comes down to the t interval of the blocks' own slopes.

    One block alone has only its residuals. Those of a footprint add up from instance to instance,
    those of start times do not: the interval is the wider of what the two views give where points
    are few, and otherwise that of the view which the residuals' Durbin-Watson statistic supports.

    Args:
        points: (block, x, y). Infinite y (a failed trial) is counted as censored and takes no part;
            NaN is left out.

    Returns:
        None when the points that are left do not have two different x, or are only two: any two
        have a line through them, and nothing shows how well it fits.
    """
    table = np.array(points, float).reshape(-1, 3)
    table = table[~np.isnan(table).any(axis=1)]
    censored = int(np.isinf(table[:, 2]).sum())
    table = table[np.isfinite(table[:, 2])]
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    owners, x, y = table.T
    if len(np.unique(x)) < 2 or len(x) < 3:
        return None
    count, blocks = len(table), len(np.unique(owners))
    coefficients = _fit(x, y)
    residuals = y - coefficients[0] - coefficients[1] * x
    if np.abs(residuals).max() <= _ROUNDING * max(float(np.abs(y).max()), 1e-300):
        # Two of the points give the coefficients of whole numbers without rounding.
        least, most = int(x.argmin()), int(x.argmax())
        slope = float((y[most] - y[least]) / (x[most] - x[least]))
        coefficients = (float(y[least] - slope * x[least]), slope)
        halves, method = (0.0, 0.0), Method.EXACT
    elif blocks > 1:
        halves, method = _clustered(owners, x, residuals), Method.REGRESSION
    else:
        halves, method = _within(x, residuals), Method.ONE_BLOCK
    # What is never negative is not so at no instances either; noise at the far end tilts lines.
    floors = (0.0 if float(y.min()) >= 0 else -math.inf, -math.inf)
    intercept, slope_estimate = (
        Estimate(
            max(floor, value),
            Interval(max(floor, value - half), max(floor, value + half), LEVEL, method)
            if math.isfinite(half)
            else None,
            count + censored,
            censored,
        )
        for value, half, floor in zip(coefficients, halves, floors, strict=True)
    )
    return Line(slope_estimate, intercept, blocks)


def _fit(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope; about the means, which loses no digits to large values."""
    middle, level = float(x.mean()), float(y.mean())
    slope = float(((x - middle) * (y - level)).sum() / ((x - middle) ** 2).sum())
    return level - slope * middle, slope


def _clustered(blocks: Array, x: Array, residuals: Array) -> tuple[float, float]:
    """Half-widths of the intervals of intercept and slope (CR2, Bell-McCaffrey freedom).

    With X the design, M = (X'X)^-1 and H = X M X', a block's residuals are scaled by
    A = (I - H_block)^(-1/2) first. As H_block has rank 2, so has all of this.
    """
    scale = float(np.abs(x).max()) or 1.0
    design = np.stack([np.ones_like(x), x / scale], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    root = np.linalg.cholesky(inverse)
    parts = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    scores = np.zeros((len(parts), 2))
    adjusted = []
    for number, part in enumerate(parts):
        left, lengths, _ = np.linalg.svd(design[part] @ root, full_matrices=False)
        # A block that alone determines a coefficient has leverage 1: nothing shows its error.
        rest = np.maximum(1 - lengths**2, 0.0)
        factor = np.where(rest > 1e-9, 1 / np.sqrt(np.maximum(rest, 1e-9)), 0.0) - 1
        moved = design[part] + left @ (factor[:, None] * (left.T @ design[part]))
        adjusted.append(moved @ inverse)
        scores[number] = residuals[part] @ adjusted[-1]
    variances = (scores**2).sum(axis=0)
    halves = []
    for place in range(2):
        # Satterthwaite: Var of the variance if all errors were alike and independent.
        own = np.array([float((w[:, place] ** 2).sum()) for w in adjusted])
        sums = np.stack([design[p].T @ w[:, place] for p, w in zip(parts, adjusted, strict=True)])
        products = np.diag(own) - sums @ inverse @ sums.T
        spread = float((products**2).sum())
        freedom = float(np.trace(products)) ** 2 / spread if spread > 0 else 1.0
        margin = student_quantile((1 + LEVEL) / 2, max(freedom, 1.0))
        halves.append(margin * math.sqrt(float(variances[place])))
    return halves[0], halves[1] / scale


def _within(x: Array, residuals: Array) -> tuple[float, float]:
    """Half-widths of the intervals of intercept and slope from the points of one block."""
    # What each y contributes to intercept and slope, shape (2, points).
    centred = x - x.mean()
    slopes = centred / (centred**2).sum()
    weights = np.stack([1 / len(x) - x.mean() * slopes, slopes])
    freedom = len(x) - 2
    margin = student_quantile((1 + LEVEL) / 2, freedom)
    alone = margin * np.sqrt((weights**2).sum(axis=1) * (residuals**2).sum() / freedom)
    steps, gaps = np.diff(residuals), np.diff(x)
    moved = gaps > 0
    if moved.sum() < 2 or (residuals**2).sum() == 0:
        return float(alone[0]), float(alone[1])
    watson = float((steps**2).sum() / (residuals**2).sum())
    if len(x) > _FEW_POINTS and watson > _INDEPENDENT:
        return float(alone[0]), float(alone[1])
    # Errors that add up, from no instances on: a random walk, seen at every x.
    per_unit = float((steps[moved] ** 2 / gaps[moved]).sum() / (moved.sum() - 1))
    tails = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    lengths = np.diff(np.concatenate([[min(0.0, float(x[0]))], x]))
    lengths[0] = abs(float(x[0]))
    margin = student_quantile((1 + LEVEL) / 2, int(moved.sum()) - 1)
    adding = margin * np.sqrt(per_unit * (tails**2 * lengths).sum(axis=1))
    return float(max(alone[0], adding[0])), float(max(alone[1], adding[1]))
