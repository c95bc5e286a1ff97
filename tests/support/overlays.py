"""What the kernel's own overlay shows of an image's layers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.images import Image

PROJECT = Path(__file__).parents[2]
MOUNT = """
import pickle, subprocess, sys
from pathlib import Path
from runtime.images import Image
from tests.support.tars import tree
options = "ro,lowerdir=" + ":".join(sys.argv[2:])
subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", sys.argv[1]], check=True)
sys.stdout.buffer.write(pickle.dumps(tree(Path(sys.argv[1]))))
"""


def kernel_tree(image: Image, mountpoint: Path) -> dict[bytes, tuple[Any, ...]]:
    """What overlayfs shows, read in a mount namespace of its own."""
    mountpoint.mkdir(exist_ok=True)
    # Overlayfs wants two lower layers, or an upper one: an empty bottom changes nothing.
    empty = mountpoint.parent / "empty"
    empty.mkdir(exist_ok=True)
    lowerdirs = [str(path) for path in (*image.lowerdirs, empty)]
    command = ["unshare", "--mount", sys.executable, "-c", MOUNT, str(mountpoint), *lowerdirs]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
    if result.returncode and b"permi" in result.stderr.lower():
        pytest.skip(f"overlay cannot be mounted here: {result.stderr.decode().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr.decode()
    found: dict[bytes, tuple[Any, ...]] = pickle.loads(result.stdout)
    return found


def same_but_for_links(found: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    """Without link counts: overlayfs counts names that an upper layer hides."""
    return {name: (*value[:4], *value[5:7]) for name, value in found.items()}
