"""Where Steelyard keeps things, after the XDG base directory specification.

Two homes, because they have different worth: `data_home` holds what a user would miss (images, the
writable layers of running instances), `cache_home` what can be made again at any time (kernels, VM
disks, results of probes).
"""

from __future__ import annotations

import os
from pathlib import Path


def _home(override: str, variable: str, fallback: str) -> Path:
    if path := os.environ.get(override):
        return Path(path).absolute()
    base = os.environ.get(variable, "")
    # The specification: a relative path in an XDG variable is invalid and must be ignored.
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), fallback)
    return Path(base) / "steelyard"


def data_home() -> Path:
    """`$STEELYARD_HOME`, else `$XDG_DATA_HOME/steelyard`, else `~/.local/share/steelyard`."""
    return _home("STEELYARD_HOME", "XDG_DATA_HOME", ".local/share")


def cache_home() -> Path:
    """`$STEELYARD_CACHE`, else `$XDG_CACHE_HOME/steelyard`, else `~/.cache/steelyard`."""
    return _home("STEELYARD_CACHE", "XDG_CACHE_HOME", ".cache")
