"""The ways to run a workload in isolation, each behind the protocols of `harness.model.backend`.

README.md draws the room. From outside, only the names below are imported.
"""

from __future__ import annotations

from harness.backends.registry import BACKENDS, NOT_FOR_COMPARISON, get_backend, known_names

__all__ = ["BACKENDS", "NOT_FOR_COMPARISON", "get_backend", "known_names"]
