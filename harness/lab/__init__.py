"""The lab: the private network of a run, the prober in it, and when a workload counts as ready."""

from __future__ import annotations

from harness.lab.network import (
    BRIDGE_NAME,
    GATEWAY,
    PREFIX_LENGTH,
    Lab,
    LabError,
    T,
    lease_at,
)

__all__ = [
    "BRIDGE_NAME",
    "GATEWAY",
    "PREFIX_LENGTH",
    "Lab",
    "LabError",
    "T",
    "lease_at",
]
