"""What the runtime knows about this host, for those parts of the harness that may not ask it."""

from __future__ import annotations

from pathlib import Path


def cgroup_layout() -> str:
    """How control groups are mounted: `v2`, `v1`, `hybrid` and the like."""
    from runtime import find_layout

    return str(find_layout().name)


def launcher() -> str:
    """Which launcher starts containers: `native` or `forked`."""
    from runtime import default_launcher

    return str(default_launcher())


def data_home() -> Path:
    """Where images and the writable layers of instances are."""
    from runtime import data_home as find

    return find()


def cache_home() -> Path:
    """Where kernels, VM disks and verdicts of probes are; can be deleted at any time."""
    from runtime import cache_home as find

    return find()
