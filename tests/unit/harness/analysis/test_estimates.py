"""What is said of a metric instead of a figure."""

from __future__ import annotations

import pytest

from harness.analysis.estimates import _is_noise
from harness.stats.arrays import np

MB = 1e6


@pytest.mark.parametrize(
    ("falls", "is_noise"),
    [
        ([-127, 405, 3, -20, 55, 12, -40, 80], True),
        ([240, 238, 251, 244, 239, 260, 242, 247], False),
        ([240, 238, float("nan")], False),  # too few for an interval
        ([240, -3], True),
    ],
)
def test_a_fall_of_the_hosts_memory_that_may_be_none_is_noise(
    falls: list[float], is_noise: bool
) -> None:
    assert _is_noise(np.array(falls) * MB) is is_noise
