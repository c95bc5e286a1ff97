"""Folders that a layer fills without describing them keep what the layers below say of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from runtime.images import Image, ImageStore
from tests.support.images import add_image, assert_whole
from tests.support.overlays import kernel_tree, same_but_for_links
from tests.support.tars import DIR, SYM, make_tar, member, tree

BASE = make_tar(
    member("./", DIR, mode=0o711, mtime=9),
    member("tmp/", DIR, mode=0o1777, mtime=10),
    member("srv/", DIR, mode=0o750, mtime=11, pax_headers={"SCHILY.xattr.user.note": "low"}),
    member("srv/app/", DIR, mode=0o700, mtime=12),
    member("gone/", DIR, mode=0o700, mtime=13),
    member("file", data=b"f"),
)
OTHER_BASE = make_tar(member("srv/", DIR, mode=0o555, mtime=20))
TOP = make_tar(member("tmp/x", data=b"x"), member("srv/app/main/run", data=b"r"))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def seen(found: dict[bytes, tuple[Any, ...]]) -> dict[str, tuple[int, int]]:
    """Mode and time in seconds, by path."""
    return {os.fsdecode(n): (stat.S_IMODE(v[1]), v[3] // 10**9) for n, v in found.items()}


def merged(store: ImageStore, image: Image, folder: Path) -> dict[str, tuple[int, int]]:
    """The same tree in both ways: copied by us, mounted by the kernel."""
    folder.mkdir()
    store.flatten(image, folder / "flat")
    ours = tree(folder / "flat")
    assert same_but_for_links(ours) == same_but_for_links(kernel_tree(image, folder / "mnt"))
    return seen(ours)


def test_the_layers_below_say_what_they_look_like(store: ImageStore, tmp_path: Path) -> None:
    image = add_image(store, "app", [BASE, TOP])
    found = merged(store, image, tmp_path / "app")
    assert found["tmp"] == (0o1777, 10)
    assert found["srv"] == (0o750, 11)
    assert found["srv/app"] == (0o700, 12)
    assert found["srv/app/main"] == (0o755, 0)  # nobody describes it
    assert found["."] == (0o711, 9)
    assert os.getxattr(tmp_path / "app/flat/srv", "user.note") == b"low"
    assert_whole(store)


def test_the_same_layer_over_another_base(store: ImageStore, tmp_path: Path) -> None:
    one = add_image(store, "one", [BASE, TOP])
    two = add_image(store, "two", [OTHER_BASE, TOP])
    alone = add_image(store, "alone", [TOP])
    assert one.layers[1].path == two.layers[1].path == alone.layers[0].path
    assert merged(store, one, tmp_path / "one")["srv"] == (0o750, 11)
    found = merged(store, two, tmp_path / "two")
    assert found["srv"] == (0o555, 20)
    assert found["srv/app"] == (0o755, 0)
    assert alone.folders is None
    assert len(alone.lowerdirs) == 1
    assert_whole(store)
    # Each image's own goes with it.
    assert len(list((store.root / "layers/folders").iterdir())) == 2
    store.remove("one", keep=set)
    assert len(list((store.root / "layers/folders").iterdir())) == 1
    assert merged(store, two, tmp_path / "still")["srv"] == (0o555, 20)
    store.remove("two", keep=set)
    assert list((store.root / "layers/folders").iterdir()) == []


@pytest.mark.parametrize(
    ("middle", "srv"),
    [
        ([member(".wh.srv")], (0o755, 0)),
        ([member("srv", data=b"a file")], (0o755, 0)),
        ([member("srv", SYM, linkname="tmp")], (0o755, 0)),
        ([member("srv/", DIR, mode=0o777, mtime=5)], (0o777, 5)),
        ([member("srv/", DIR, mode=0o777, mtime=5), member("srv/.wh..wh..opq")], (0o777, 5)),
        ([member("srv/also", data=b"implied here too")], (0o750, 11)),
        ([member("srv/.wh.app")], (0o750, 11)),
    ],
)
def test_what_is_between_counts(
    store: ImageStore, tmp_path: Path, middle: list[Any], srv: tuple[int, int]
) -> None:
    image = add_image(store, "app", [BASE, make_tar(*middle), TOP])
    found = merged(store, image, tmp_path / "m")
    assert found["srv"] == srv
    assert found["tmp"] == (0o1777, 10)
    assert_whole(store)


def test_what_is_no_folder_any_more_is_left_alone(store: ImageStore, tmp_path: Path) -> None:
    last = make_tar(member("./", DIR, mtime=1), member("srv", data=b"file"), member(".wh.tmp"))
    image = add_image(store, "app", [BASE, TOP, last])
    found = merged(store, image, tmp_path / "m")
    assert "tmp" not in found
    assert (tmp_path / "m/flat/srv").read_bytes() == b"file"
    assert image.folders is None


def test_damage_to_them_is_seen(store: ImageStore) -> None:
    image = add_image(store, "app", [BASE, TOP])
    assert image.folders is not None
    (image.folders / "tmp").chmod(0o700)
    assert "implied folders" in str(store.verify()[0])
