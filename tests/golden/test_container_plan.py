"""Whole plans, held against files: what a change of `lower` does is seen in its diff.

STEELYARD_UPDATE_GOLDEN=1 writes the files anew.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.launch.lower import lower
from runtime.launch.spec import (
    ALL_NAMESPACES,
    ContainerSpec,
    DirectoryRoot,
    Namespace,
    NetworkSpec,
    OverlayRoot,
    ResourceLimits,
    User,
    Volume,
)
from tests.support.containers import FEATURES

_FOLDER = Path(__file__).parent
_ROOT = OverlayRoot(
    ("/store/top", "/store/bottom"), "INSTANCE/upper", "INSTANCE/work", "SESSION/.rootfs"
)
_DEFAULT = ContainerSpec(_ROOT, ("sh", "-c", "echo $0"), {"PATH": "/usr/bin:/bin", "HOME": "/root"})
_UNIFIED = ()

PLANS = {
    "default": (_DEFAULT, _UNIFIED),
    "user-limits-v1": (
        replace(
            _DEFAULT,
            user=User(1000, 1000, (1000, 27)),
            limits=ResourceLimits(64 << 20, 1.5, 50),
            stdio=(5, 6, 7),
            working_directory="/srv/app",
        ),
        (10, 11, 12),
    ),
    "volumes-read-only": (
        replace(
            _DEFAULT,
            volumes=(
                Volume("/host/folder", "/data"),
                Volume("/host/file", "/etc/app/settings", read_only=True, is_directory=False),
            ),
            read_only_root=True,
        ),
        _UNIFIED,
    ),
    "host-network": (
        replace(
            _DEFAULT, network=NetworkSpec("host"), namespaces=ALL_NAMESPACES - {Namespace.NET}
        ),
        _UNIFIED,
    ),
    "joined-network": (replace(_DEFAULT, network=NetworkSpec("join", 9)), _UNIFIED),
    "process": (
        replace(
            _DEFAULT,
            root=DirectoryRoot("/rootfs"),
            namespaces=frozenset(),
            network=NetworkSpec("host"),
        ),
        (),
    ),
    "many-layers": (
        replace(
            _DEFAULT,
            root=replace(
                _ROOT, lowerdirs=tuple(f"/store/{n:02}-{'0123456789abcdef' * 8}" for n in range(40))
            ),
        ),
        _UNIFIED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_plan(name: str) -> None:
    spec, entry = PLANS[name]
    text = lower(spec, FEATURES, entry).describe()
    path = _FOLDER / f"container-{name}.plan"
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "the plan has changed; if that is right, update the file"


def test_no_golden_file_is_left_over() -> None:
    files = {path.name for path in _FOLDER.glob("container-*.plan")}
    assert files == {f"container-{name}.plan" for name in PLANS}
