"""The rules as numbers: figures worked out by hand, and what must never be called fine."""

from __future__ import annotations

import math

import pytest

from harness import stats
from harness.analysis.baseline.rules import (
    SAME_THING,
    Change,
    Level,
    among,
    anchored,
    anchored_blocks,
    level_of,
)
from harness.analysis.check import DEFAULT_WITHIN
from harness.analysis.judgement import Verdict

INF = math.inf


def level(middle: float, error: float = 0.0, blocks: int = 20) -> Level:
    return Level(middle, middle - 1.959964 * error, middle + 1.959964 * error, blocks)


def ends(change: Change) -> tuple[float, float]:
    return math.exp(change.low), math.exp(change.high)


def test_the_anchor_rule() -> None:
    # half = 1.96 √(0.03² + 0.04² + 2·0.02² + 0.04·(0.20² + 0.01²)), from 0.20 - 0.01
    change = anchored(level(0.20, 0.03), level(0.01, 0.04))
    assert change.middle == pytest.approx(0.19)
    assert change.half == pytest.approx(0.1373, abs=5e-5)
    assert ends(change) == pytest.approx((1.054, 1.387), abs=5e-4)
    assert change.verdict(1.05) is Verdict.WORSE
    assert change.verdict(1.06) is Verdict.CANNOT_TELL


def test_where_the_baseline_is_what_the_anchor_is_pinned_to() -> None:
    # Only the new run has errors: 1.96 √(0.03² + 0.02² + 0.04·0.20²)
    change = anchored(level(0.20, 0.03), SAME_THING)
    assert change.half == pytest.approx(1.96 * math.sqrt(0.0009 + 0.0004 + 0.0016), rel=1e-4)
    assert change.verdict(1.05) is Verdict.WORSE


def test_the_history_rule() -> None:
    earlier = [level(math.log(value)) for value in (3.30, 3.42, 3.25, 3.61, 3.38)]
    change = among(level(math.log(4.00)), earlier)
    assert change.half == pytest.approx(0.1230, abs=5e-5)
    assert math.exp(change.middle) == pytest.approx(1.180, abs=5e-4)
    assert ends(change) == pytest.approx((1.0434, 1.3345), abs=5e-4)
    assert change.verdict(1.05) is Verdict.CANNOT_TELL
    assert change.verdict(1.04) is Verdict.WORSE


def test_runs_that_agree_by_chance_are_no_narrower_than_their_own_errors() -> None:
    # S at least √(0.05² + 0.05²/2), t of one degree 12.706
    change = among(level(0.0, 0.05), [level(0.0, 0.05), level(0.0, 0.05)])
    spread = math.sqrt(0.05**2 + 0.05**2 / 2)
    assert change.half == pytest.approx(12.7062 * spread * math.sqrt(1.5), rel=1e-4)


def test_a_new_run_that_is_less_sure_than_the_others_widens_the_interval() -> None:
    earlier = [level(value, 0.01) for value in (0.0, 0.1, 0.2)]
    change = among(level(0.1, 0.06), earlier)
    # S = 0.1, t of two degrees 4.303
    assert change.half == pytest.approx(
        4.30265 * math.sqrt(0.01 * 4 / 3 + 0.06**2 - 0.01**2), rel=1e-4
    )


def test_faster_than_every_earlier_run_is_no_answer() -> None:
    earlier = [level(0.001 * place) for place in range(10)]
    assert among(level(0.004), earlier).verdict(1.05) is Verdict.SAME
    below = among(level(-0.05), earlier)
    assert below.high < 0
    assert below.verdict(1.05) is Verdict.CANNOT_TELL


def test_findings_of_one_check_share_the_error() -> None:
    one, four = (anchored(level(0.2, 0.03), level(0.01, 0.04), n) for n in (1, 4))
    assert four.half / one.half == pytest.approx(2.4977 / 1.95996, rel=1e-4)
    earlier = [level(0.01 * place) for place in range(5)]
    one, four = (among(level(0.1), earlier, n) for n in (1, 4))
    assert four.half / one.half == pytest.approx(4.3147 / 2.7764, rel=1e-3)


def test_fine_only_where_thirty_per_cent_would_have_stood_out() -> None:
    assert Change(-0.25, 0.25).verdict(1.05) is Verdict.CANNOT_TELL
    assert Change(-0.25, 0.21).verdict(1.05) is Verdict.BETTER
    assert Change(-0.17, 0.21).verdict(1.05) is Verdict.SAME
    # Wider limits ask for no narrower interval: +30 % is within what they allow, or nearly.
    assert Change(0.0, 0.21).verdict(1.5) is Verdict.SAME
    assert Change(0.0, 0.22).verdict(1.5) is Verdict.CANNOT_TELL
    assert Change(-0.3, 0.26).verdict(1.0) is Verdict.BETTER


@pytest.mark.parametrize("base", [SAME_THING, level(0.0, 0.016, 60)])
def test_sixty_blocks_of_the_same_image_are_usually_fine_by_default(base: Level) -> None:
    # On a two-core host without a journal half of such runs have an error below 0.016 and a ratio
    # within 0.005 of nothing; a check of one arm has three findings.
    default = 1 + DEFAULT_WITHIN
    for ratio in (-0.005, 0.005):
        assert anchored(level(ratio, 0.016, 60), base, 3).verdict(default) is Verdict.SAME
        assert anchored(level(ratio, 0.016, 60), base, 3).verdict(1.05) is Verdict.CANNOT_TELL
    slower = level(math.log(1.3), 0.016, 60)
    assert anchored(slower, base, 3).verdict(default) is Verdict.WORSE


def test_thirty_per_cent_is_never_fine_where_the_estimate_has_it() -> None:
    for error in (0.001, 0.01, 0.03, 0.1, 1.0):
        change = anchored(level(math.log(1.3), error), SAME_THING)
        assert change.verdict(1 + DEFAULT_WITHIN) in (Verdict.WORSE, Verdict.CANNOT_TELL)


def test_failures() -> None:
    failing = Level(INF, INF, INF, 20)
    assert anchored(failing, level(0.0, 0.01)).verdict(1.05) is Verdict.WORSE
    assert among(failing, [level(0.0), level(0.1)]).verdict(1.05) is Verdict.WORSE
    # Half of them fail, or the baseline's: nothing can be said.
    for new, base in (
        (Level(INF, 0.0, INF, 20), level(0.0)),
        (level(0.0), failing),
        (failing, failing),
        (Level(0.1, 0.0, INF, 20), level(0.0)),
    ):
        change = anchored(new, base)
        assert change.verdict(1.05) is Verdict.CANNOT_TELL
        assert (change.low, change.high) == (-INF, INF)
    assert among(level(0.0), [failing, level(0.0)]).verdict(1.05) is Verdict.CANNOT_TELL


def test_too_few_blocks_have_no_interval() -> None:
    found = stats.estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert level_of(found).error == INF
    assert anchored(level_of(found), level(0.0)).verdict(1.05) is Verdict.CANNOT_TELL
    zero = stats.estimate([0.0] * 8)
    assert zero is not None
    assert anchored(level_of(zero), level(0.0)).verdict(1.05) is Verdict.CANNOT_TELL


def test_how_many_blocks_are_needed() -> None:
    new, base = level(0.0, 0.05, 20), SAME_THING
    needed = anchored_blocks(new, base, 1, 0.06)
    assert needed is not None
    wider = anchored_blocks(new, base, 1, 0.10)
    assert wider is not None
    assert 20 < wider < needed
    # With so many the interval is that narrow; with half as many it is not.
    half = anchored(level(0.0, 0.05 * math.sqrt(20 / needed)), base).half
    assert half < 0.06 < anchored(level(0.0, 0.05 * math.sqrt(40 / needed)), base).half
    # What runs differ by anyway, no number of blocks takes away.
    assert anchored_blocks(new, base, 1, 0.03) is None
    assert anchored_blocks(new, base, 1, 0.0) is None
