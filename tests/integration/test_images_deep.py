"""Images of as many layers as docker allows, and of as many as the kernel does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.containers.from_image import spec_for_image
from runtime.images import ImageStore
from runtime.launch.launcher import Launcher
from runtime.launch.spec import OverlayRoot
from tests.support.containers import Run
from tests.support.images import add_image, assert_whole
from tests.support.tars import make_tar, member


@pytest.mark.privileged
@pytest.mark.parametrize("depth", [127, 499])
def test_a_container_sees_every_layer(
    run: Run, rootfs: Path, tmp_path: Path, launcher: Launcher, depth: int
) -> None:
    """One file a layer, one that all replace, one that every other layer deletes."""
    # A long path, as a home of its own has.
    base = tmp_path / "layers/sha256"
    layers = []
    for number in range(depth):
        layer = base / f"{number:064x}"
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(str(number))
        (layer / "top").write_text(str(number))
        layers.append(str(layer))
    root = OverlayRoot((*reversed(layers), str(rootfs)), "", "", "")
    command = (
        "ls / | grep -c ^file; cat /top; echo; cat /proc/mounts | grep -c tmpfs; echo x > /new"
    )
    result = run("sh", "-c", command, root=root, launcher=launcher)
    found, top, mounts = result.output.split()
    assert (int(found), int(top)) == (depth, depth - 1)
    plain = run("sh", "-c", "grep -c tmpfs /proc/mounts", launcher=launcher)
    # The tmpfs of the short names is not in the container.
    assert mounts == plain.output.strip()


@pytest.mark.privileged
def test_an_image_of_127_layers(run: Run, rootfs: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    tars = []
    for number in range(127):
        members = [member(f"d/{number}", data=b"x")]
        if number % 2:
            members.append(member(f"d/.wh.{number - 1}"))
        tars.append(make_tar(*members))
    image = add_image(store, "deep", tars, "plain")
    assert len(image.layers) == 127
    names = [*sorted(str(number) for number in range(1, 127, 2)), "126"]
    root = OverlayRoot((*map(os.fspath, image.lowerdirs), str(rootfs)), "", "", "")
    assert sorted(run("ls", "/d", root=root).output.split()) == sorted(names)
    target = tmp_path / "flat"
    store.flatten(image, target)
    assert sorted(os.listdir(target / "d")) == sorted(names)
    assert store.read_file(image, "/d/125") == b"x"
    assert store.read_file(image, "/d/124") is None
    assert_whole(store)
    spec = spec_for_image(image, store, command=("true",))
    assert isinstance(spec.root, OverlayRoot)
    assert len(spec.root.lowerdirs) == 127


def test_more_layers_than_the_kernel_stacks_are_refused(tmp_path: Path) -> None:
    from runtime.errors import StoreError
    from tests.support.images import layer_tar

    store = ImageStore(tmp_path / "store")
    tar = layer_tar(0)
    with pytest.raises(StoreError, match="501 layers"):
        add_image(store, "too-deep", [tar] * 501, "plain")
    assert store.images() == ()
