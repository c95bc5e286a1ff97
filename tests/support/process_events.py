"""Whether the kernel tells this process of others: not in a nested pid namespace, as in most CI."""

from __future__ import annotations

from functools import cache

import pytest

from harness.backends.peers.events import why_no_events


@cache
def missing() -> str | None:
    """Why there are no process events here; None if there are. Tried once."""
    return why_no_events()


def need_process_events() -> None:
    """Skip the test where there are none, with the reason."""
    if reason := missing():
        pytest.skip(reason)
