"""Scenarios for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.model import Arm, Limits, Readiness, ReadinessKind, Scenario, Workload

ENDED = Readiness(ReadinessKind.EXIT)


def scenario(
    *arms: Arm,
    name: str = "sample",
    image: str = "busybox",
    command: tuple[str, ...] = ("echo", "hello"),
    readiness: Readiness = ENDED,
    limits: Limits | None = None,
    timeout_s: float = 60,
) -> Scenario:
    return Scenario(
        name=name,
        question="Does it work?",
        image=image,
        workload=Workload(command),
        readiness=readiness,
        limits=limits or Limits(),
        arms=arms,
        timeout_ns=round(timeout_s * 1e9),
        source="",
        path=f"{name}.toml",
    )


def fake(name: str = "fake", **options: Any) -> Arm:
    """A fake arm whose delays are short, unless they are given."""
    quick: Mapping[str, Any] = {
        "isolated_ms": 0.1, "started_ms": 0.2, "work_ms": 0.1, "stop_ms": 0.0, "remove_ms": 0.0,
    }  # fmt: skip
    return Arm(name, "fake", {**quick, **options})
