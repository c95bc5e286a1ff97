"""Two runs whose filesystems differ too much to be held against each other."""

from __future__ import annotations

import math

import pytest

from harness.analysis.baseline.filesystem import filesystem_share

MS = 1e6


@pytest.mark.parametrize(
    ("base", "new", "share", "is_too_large"),
    [
        # Medians in ms: (file system, ready) of either run.
        ((0.4, 2.3), (2.0, 3.9), 1.6 / 2.3, True),
        ((2.0, 3.9), (0.4, 2.3), -1.6 / 2.3, True),
        ((0.4, 2.3), (0.5, 4.6), 0.1 / 2.3, False),  # slower for another reason
        ((0.4, 2.0), (1.0, 2.6), 0.3, False),  # just as much as may be
        ((0.4, 2.0), (1.02, 2.6), 0.31, True),
    ],
)
def test_the_share_is_of_the_smaller_ready(
    base: tuple[float, float], new: tuple[float, float], share: float, *, is_too_large: bool
) -> None:
    sides = [[value * MS * k for k in (0.9, 1.0, 1.5)] for value in (*base, *new)]
    found = filesystem_share(*sides)
    assert found is not None
    assert found.share == pytest.approx(share)
    assert found.is_too_large is is_too_large


def test_failed_trials_and_missing_values_do_not_count() -> None:
    found = filesystem_share(
        [1 * MS, math.nan, 1 * MS], [4 * MS, math.inf, 4 * MS], [1.5 * MS, math.nan], [4 * MS] * 2
    )
    assert found is not None
    assert (found.base_ns, found.new_ns, found.ready_ns) == (1 * MS, 1.5 * MS, 4 * MS)


@pytest.mark.parametrize("lacks", range(4))
def test_without_one_of_them_nothing_is_known(lacks: int) -> None:
    sides: list[list[float]] = [[1 * MS]] * 4
    assert filesystem_share(*sides) is not None
    sides = [[math.nan] if place == lacks else side for place, side in enumerate(sides)]
    assert filesystem_share(*sides) is None
    assert filesystem_share([], [1.0], [1.0], [1.0]) is None
