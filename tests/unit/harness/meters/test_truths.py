"""A hundred seeded runs of the fake: known delays, bytes written, bytes touched are recovered."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness.model import Scenario
from tests.support.scenarios import fake, scenario
from tests.support.truths import is_recovered, take_blocks

MIB = 1 << 20
RUNS, BLOCKS = 100, 10
TRUTHS: dict[str, tuple[dict[str, Any], str, float]] = {
    "0.5 ms": ({"delay_ms": 0.5}, "ready", 0.5e6),
    "2 ms": ({"delay_ms": 2.0}, "ready", 2e6),
    "20 ms": ({"delay_ms": 20.0}, "ready", 20e6),
    "1 MiB written": ({"written_bytes": MIB}, "disk-growth", MIB),
    "10 MiB written": ({"written_bytes": 10 * MIB}, "disk-growth", 10 * MIB),
    "16 MiB touched": ({"touched_bytes": 16 * MIB}, "pss", 16 * MIB),
    "30 ms of CPU": ({"cpu_user_ms": 21.0, "cpu_system_ms": 11.0}, "cpu", 30e6),
}
TOGETHER = {
    "a": ("0.5 ms", "1 MiB written", "16 MiB touched"),
    "b": ("2 ms", "10 MiB written", "30 ms of CPU"),
    "c": ("20 ms",),
}
"""Which truths one arm has: they do not touch each other, and fewer trials are quicker."""


def scenarios(run: int) -> dict[str, Scenario]:
    """The reference and the arms; each with a jitter of its own, as boxes have it."""
    base = {"work_ms": 3.0, "jitter": 0.05, "waits": False}
    found = {"reference": scenario(fake(seed=run * 10, **base))}
    for number, (name, truths) in enumerate(TOGETHER.items(), 1):
        options = {key: value for truth in truths for key, value in TRUTHS[truth][0].items()}
        found[name] = scenario(fake(seed=run * 10 + number, **{**base, **options}))
    return found


def test_known_truths_are_recovered_in_95_of_100_runs() -> None:
    recovered: Counter[str] = Counter()
    for run in range(RUNS):
        found = take_blocks(scenarios(run), BLOCKS, seed=run, warmup=0)
        for name, truths in TOGETHER.items():
            for truth in truths:
                _, metric, size = TRUTHS[truth]
                recovered[truth] += is_recovered(found[name], found["reference"], metric, size)
    assert min(recovered[truth] for truth in TRUTHS) >= 95, recovered
