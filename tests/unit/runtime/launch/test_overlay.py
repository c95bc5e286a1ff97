"""The overlay mount of deep images, as a plan: it must fit mount(2) on every kernel."""

from __future__ import annotations

import os
from itertools import count

import pytest

from runtime.launch import overlay
from runtime.launch.lower import lower
from runtime.launch.spec import ContainerSpec, OverlayRoot
from tests.support.containers import FEATURES

HOME = "/home/somebody/.local/share/steelyard"


def root_of(layers: int) -> OverlayRoot:
    lowerdirs = tuple(f"{HOME}/images/layers/sha256/{number:064x}" for number in range(layers))
    instance = f"{HOME}/instances/0123456789ab/container-1"
    return OverlayRoot(
        lowerdirs, f"{instance}/upper", f"{instance}/work", f"{HOME}/instances/0123456789ab/rootfs"
    )


def mounts_of(root: OverlayRoot) -> list[tuple[str, tuple[object, ...]]]:
    spec = ContainerSpec(root, ("/bin/true",), {"PATH": "/bin"})
    steps = lower(spec, FEATURES, ()).steps
    names = ("mount", "symlinkat", "chdir")
    return [(step.syscall, step.arguments) for step in steps if step.syscall in names]


@pytest.mark.parametrize("layers", [1, 30, 31, 127, 500])
def test_the_options_fit_the_page_of_mount(layers: int) -> None:
    root = root_of(layers)
    (options,) = [
        arguments[4] for call, arguments in mounts_of(root) if call == "mount"
        and arguments[0] == "overlay"
    ]  # fmt: skip
    assert isinstance(options, str)
    assert len(os.fsencode(options)) < os.sysconf("SC_PAGESIZE")
    names = options.split(",")[0].removeprefix("lowerdir=").split(":")
    assert len(names) == layers
    assert f"upperdir={root.upperdir}" in options


def test_short_names_lead_to_the_layers_in_their_order() -> None:
    root = root_of(127)
    calls = mounts_of(root)
    links = [(arguments[2], arguments[0]) for call, arguments in calls if call == "symlinkat"]
    links = links[:127]
    assert tuple(path for _, path in links) == root.lowerdirs
    assert len({name for name, _ in links}) == 127
    # Made in a private tmpfs on the mount point, entered before; the overlay comes on top.
    kinds = [(call, arguments[:2]) for call, arguments in calls]
    tmpfs = kinds.index(("mount", ("tmpfs", root.mountpoint)))
    assert kinds[tmpfs + 1] == ("chdir", (root.mountpoint,))
    assert kinds.index(("mount", ("overlay", root.mountpoint))) == tmpfs + 2 + 127
    mount = next(arguments for call, arguments in calls if arguments[0] == "overlay")
    text = str(mount[4])
    assert text.startswith("lowerdir=" + ":".join(str(name) for name, _ in links) + ",")


def test_what_fits_needs_no_short_names() -> None:
    root = root_of(5)
    assert overlay.fits_one_page(root)
    paths = [arguments[1] for call, arguments in mounts_of(root) if call == "mount"]
    assert paths.count(root.mountpoint) == 1


def test_names_that_need_escapes_count_escaped() -> None:
    for length in count(3500):
        root = OverlayRoot(("/" + ":" * (length // 2),), "/u", "/w", "/m")
        if not overlay.fits_one_page(root):
            break
    assert len(os.fsencode(overlay.options(root))) == os.sysconf("SC_PAGESIZE")
    assert overlay.options(overlay.with_short_names(root)) == (
        "lowerdir=0,upperdir=/u,workdir=/w,volatile"
    )
