"""Waiting for a quiet host, on readings that are made up: no second passes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from harness.measure.interruption import Interrupted, Interruption
from harness.measure.quiet import PATIENCE_NS, QuietHost
from harness.meters.host_activity import Snapshot, share_of_others

SECOND_NS = 1_000_000_000
CPUS = os.sysconf("SC_NPROCESSORS_ONLN")


class Host:
    """A host on which others use a part of all CPUs in each second; the last goes on for good."""

    def __init__(self, others: Sequence[float]) -> None:
        self.others = list(others)
        self.now = Snapshot(at_ns=SECOND_NS, busy_ns=0)
        self.seconds = 0

    def pause(self, seconds: float) -> None:
        share = self.others[min(self.seconds, len(self.others) - 1)]
        self.seconds += 1
        assert self.now.busy_ns is not None
        self.now = Snapshot(
            at_ns=self.now.at_ns + round(seconds * SECOND_NS),
            busy_ns=self.now.busy_ns + round(share * CPUS * SECOND_NS),
        )

    def quiet(self, most: float = 0.1) -> QuietHost:
        return QuietHost(most, Interruption(), lambda: self.now, self.pause)


def test_the_share_of_others_is_one_of_all_cpus_and_ours_is_none_of_it() -> None:
    before = Snapshot(at_ns=0, busy_ns=0)
    after = Snapshot(
        at_ns=SECOND_NS, busy_ns=SECOND_NS, self_ns=SECOND_NS // 4, children_ns=SECOND_NS // 4
    )
    assert share_of_others(before, after) == pytest.approx(0.5 / CPUS)
    assert share_of_others(Snapshot(at_ns=0), Snapshot(at_ns=SECOND_NS)) is None


def test_a_quiet_host_is_looked_at_once() -> None:
    host, told = Host([0.05]), list[float]()
    assert host.quiet().wait(told.append) is None
    assert (host.seconds, told) == (1, [])


def test_it_waits_until_others_use_less_and_says_so_once() -> None:
    host, told = Host([0.6, 0.8, 0.1, 0.09]), list[float]()
    assert host.quiet().wait(told.append) is None
    assert host.seconds == 4
    assert told == [pytest.approx(0.6)]


def test_patience_ends_and_what_others_use_is_the_answer() -> None:
    host = Host([0.6] * 10 + [0.3])
    assert host.quiet().wait(lambda _: None) == pytest.approx(0.3)
    assert host.seconds == PATIENCE_NS // SECOND_NS


@pytest.mark.parametrize(("during", "expected"), [((0.0, 0.05), None), ((0.0, 0.9), 0.45)])
def test_a_block_is_disturbed_by_what_others_use_on_the_whole(
    during: tuple[float, ...], expected: float | None
) -> None:
    host = Host([0.01, *during])
    quiet = host.quiet()
    quiet.wait(lambda _: None)
    for _ in during:
        host.pause(1.0)
    found = quiet.disturbed()
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_host_that_does_not_say_keeps_nobody_waiting() -> None:
    quiet = QuietHost(0.1, Interruption(), lambda: Snapshot(at_ns=SECOND_NS), lambda _: None)
    assert quiet.wait(lambda _: None) is None
    assert quiet.disturbed() is None


def test_a_signal_ends_the_waiting() -> None:
    host = Host([0.9])
    with Interruption() as interruption:
        quiet = QuietHost(
            0.1, interruption, lambda: host.now, lambda _: os.kill(os.getpid(), signal.SIGTERM)
        )
        with pytest.raises(Interrupted):
            quiet.wait(lambda _: None)
