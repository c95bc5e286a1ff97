"""Other people's image tools, as outside oracles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def need(*tools: str) -> None:
    """Skip the test if a tool is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def umoci(*arguments: str | Path) -> None:
    """Run umoci; what it says comes with a failure."""
    result = subprocess.run(["umoci", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def umoci_image(layout: Path, tag: str, *tars: Path) -> None:
    """Make an image of these layers, bottom first; umoci compresses them."""
    if not layout.exists():
        umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:{tag}")
    for tar in tars:
        umoci("raw", "add-layer", "--image", f"{layout}:{tag}", tar)


def umoci_rootfs(layout: Path, tag: str, bundle: Path) -> Path:
    """Unpack an image; gives its merged root filesystem."""
    umoci("unpack", "--image", f"{layout}:{tag}", bundle)
    return bundle / "rootfs"
