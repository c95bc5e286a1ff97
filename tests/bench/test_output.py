"""Readiness by output against the truth: a plain reader of the same lines, in the same run.

Ready minus truth may be 5 % or 0.3 ms. Each arm is an unprivileged child of this process, so what
differs is the reader alone. Run it on a quiet machine:
pytest -m bench tests/bench/test_output.py -s
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time

import pytest

from harness.lab.readiness import wait_ready
from harness.model import Milestone, Readiness, ReadinessKind
from tests.unit.harness.backends.test_stream_instance import Child

ROUNDS = int(os.environ.get("STEELYARD_BENCH_BLOCKS", "100")) // 10
ALLOWANCE_NS = 300_000
SHARE = 0.05
BULK_SHARE = 2
UP = Readiness(ReadinessKind.OUTPUT, output="^up$")
LINE = "2026-12-01 00:00:00.000 INFO [main] org.example.Class$i - loading module $i of many, wait"
BIG = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo up; sleep 60"
RANDOM = "head -c 10000000 /dev/urandom; echo; echo up; sleep 60"

pytestmark = [pytest.mark.bench, pytest.mark.timeout(580)]


def lines(count: int) -> str:
    return f'i=0; while [ $i -lt {count} ]; do echo "{LINE}"; i=$((i+1)); done; echo up; sleep 60'


def truth_ns(script: str) -> int:
    """From start until a reader that does nothing else has the last line."""
    begun_ns = time.monotonic_ns()
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        end = b""
        while not end.endswith(b"\nup\n"):
            end = (end + os.read(child.stdout.fileno(), 65536))[-4:]
        ready_ns = time.monotonic_ns()
        os.killpg(child.pid, 9)
    return ready_ns - begun_ns


def measured_ns(script: str) -> int:
    begun_ns = time.monotonic_ns()
    child = Child("sh", "-c", script)
    try:
        wait_ready(child, UP, None, begun_ns + 60 * 10**9)
        return child.milestones_ns[Milestone.READY] - begun_ns
    finally:
        child.remove()


@pytest.mark.parametrize(
    "script",
    [*(lines(count) for count in (50, 1000, 5000, 20_000)), BIG, RANDOM],
    ids=["50", "1000", "5000", "20000", "line of 10 MB", "10 MB at random"],
)
def test_ready_is_when_the_line_came(script: str) -> None:
    pairs = [(truth_ns(script), measured_ns(script)) for _ in range(ROUNDS)]
    truth, ready = (statistics.median(values) for values in zip(*pairs, strict=True))
    late = statistics.median(ready - truth for truth, ready in pairs)
    print(f"\ntruth {truth / 1e6:.3f} ms, ready {ready / 1e6:.3f} ms, late {late / 1e6:+.3f} ms")
    # Ten megabytes are read, hashed and searched where the plain reader throws them away: that is
    # linear, and no line of a log.
    share = SHARE if script not in (BIG, RANDOM) else BULK_SHARE
    assert late < max(ALLOWANCE_NS, share * truth)
