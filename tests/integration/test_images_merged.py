"""The merged tree as we compute it against the kernel's own overlay of the same layers."""

from __future__ import annotations

import contextlib
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import LayerError, StoreError
from runtime.images import Image, ImageConfig, Layer
from runtime.images.layer.attributes import UnpackOptions
from runtime.images.layer.merged import flatten, read_file
from runtime.images.layer.unpack import unpack
from tests.support.overlays import kernel_tree, same_but_for_links
from tests.support.tars import CHR, DIR, FIFO, LINK, SYM, make_tar, member, tree


def image_of(folder: Path, *layers: list[tuple[Any, bytes]]) -> Image:
    """Unpack layers, bottom first."""
    made = []
    for number, members in enumerate(layers):
        path = folder / f"layer{number}"
        path.mkdir(parents=True)
        fd = os.open(path, os.O_RDONLY)
        try:
            unpack(io.BytesIO(make_tar(*members)), fd, UnpackOptions.for_this_user())
        finally:
            os.close(fd)
        digest = f"sha256:{number:064x}"
        made.append(Layer(digest, digest, 0, path, 0))
    return Image("test:latest", "sha256:" + "0" * 64, ImageConfig(), tuple(made), "amd64", None)


FIXED: dict[str, list[list[tuple[Any, bytes]]]] = {
    "whiteouts": [
        [
            member("d", DIR, mtime=1),
            member("d/a", data=b"a"),
            member("d/b", data=b"b"),
            member("c"),
        ],
        [member("d", DIR, mtime=2, mode=0o700), member("d/.wh.a"), member(".wh.c")],
    ],
    "opaque": [
        [member("d/a"), member("d/sub/x"), member("e/y")],
        [member("d", DIR), member("d/.wh..wh..opq"), member("d/sub/new")],
    ],
    "types change": [
        [
            member("a", DIR),
            member("a/x"),
            member("b"),
            member("c", SYM, linkname="b"),
            member("d/x"),
        ],
        [member("a", data=b"file"), member("b", DIR), member("b/y"), member("c", FIFO)],
        [member(".wh.a"), member("d", SYM, linkname="b")],
        [member("a", DIR, mode=0o711), member("a/z"), member("d", DIR), member("d/new")],
    ],
    "folder attributes": [
        [member("d", DIR, mode=0o700, pax_headers={"SCHILY.xattr.user.low": "1"}), member("d/x")],
        [member("d", DIR, mode=0o755, pax_headers={"SCHILY.xattr.user.high": "2"})],
    ],
    "symlinks are not followed": [
        [member("real", DIR), member("real/x"), member("link", SYM, linkname="real")],
        [member("link", DIR), member("link/y")],
        [member("real/.wh.x")],
    ],
}


@pytest.mark.parametrize("name", FIXED)
def test_flatten_equals_overlayfs(tmp_path: Path, name: str) -> None:
    image = image_of(tmp_path, *FIXED[name])
    flatten(image, tmp_path / "flat")
    ours, kernel = tree(tmp_path / "flat"), kernel_tree(image, tmp_path / "mnt")
    assert same_but_for_links(ours) == same_but_for_links(kernel)


def random_layer(chance: random.Random) -> list[tuple[Any, bytes]]:
    names = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b"]
    members: list[tuple[Any, bytes]] = []
    for _ in range(chance.randrange(1, 7)):
        name = chance.choice(names)
        kind = chance.choice(["file", "file", "dir", "dir", "sym", "fifo", "wh", "wh", "opq"])
        times = {
            "mtime": chance.randrange(1, 10**9),
            "mode": chance.choice([0o700, 0o4755, 0o2711, 0o1777]),
        }
        if kind == "wh":
            folder, _, base = name.rpartition("/")
            members.append(member(f"{folder}/.wh.{base}" if folder else f".wh.{base}"))
        elif kind == "opq":
            members.append(member(f"{name}/.wh..wh..opq"))
        elif kind == "file":
            members.append(member(name, data=chance.randbytes(10), **times))
        else:
            kinds = {"dir": DIR, "sym": SYM, "fifo": FIFO}
            members.append(
                member(name, kinds[kind], linkname="a" if kind == "sym" else "", **times)
            )
    return members


def test_random_layers_flatten_as_overlayfs_shows_them(tmp_path: Path) -> None:
    compared = 0
    for seed in range(150):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        try:
            image = image_of(folder, *[random_layer(chance) for _ in range(chance.randrange(1, 5))])
        except LayerError:
            # An entry below a symlink or file of its own layer: refused, as it should be.
            continue
        flatten(image, folder / "flat")
        ours, kernel = tree(folder / "flat"), kernel_tree(image, folder / "mnt")
        assert same_but_for_links(ours) == same_but_for_links(kernel), f"seed {seed}"
        for name, value in kernel.items():
            content = value[6] if value[0] == 0o100000 else None
            if value[0] in (0o100000, 0o040000):
                assert read_file(image, os.fsdecode(name)) == content, f"seed {seed}: {name!r}"
        compared += 1
    assert compared > 60


def test_hard_links_and_devices_survive_flattening(tmp_path: Path) -> None:
    members = [member("a", data=b"x"), member("b", LINK, linkname="a")]
    members += [member("n", CHR, devmajor=1, devminor=3)]
    image = image_of(tmp_path, members, [member("a", data=b"new")])
    flatten(image, tmp_path / "flat")
    assert (tmp_path / "flat/b").read_bytes() == b"x"
    assert (tmp_path / "flat/a").read_bytes() == b"new"
    assert (tmp_path / "flat/b").stat().st_nlink == 1
    single = image_of(tmp_path / "single", members)
    flatten(single, tmp_path / "flat2")
    assert tree(tmp_path / "flat2") == tree(single.layers[0].path)


def test_flatten_wants_an_empty_folder_and_cleans_up(tmp_path: Path) -> None:
    image = image_of(tmp_path, [member("a", data=b"x")])
    target = tmp_path / "flat"
    target.mkdir()
    flatten(image, target)
    with pytest.raises(StoreError, match="not empty"):
        flatten(image, target)
    assert os.listdir(target) == ["a"]
    missing = Layer("d", "sha256:" + "f" * 64, 0, tmp_path / "gone", 0)
    broken = Image("b", "d", ImageConfig(), (*image.layers, missing), "amd64", None)
    with contextlib.suppress(OSError), pytest.raises(StoreError):
        flatten(broken, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_read_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"host")
    image = image_of(
        tmp_path / "i",
        [
            member("etc/passwd", data=b"low"),
            member("etc/only-low", data=b"low"),
            member("usr/etc/target", data=b"t"),
            member("gone", data=b"x"),
            member("d/hidden", data=b"x"),
            member("was-file", data=b"x"),
        ],
        [
            member("etc/passwd", data=b"high"),
            member("etc/abs", SYM, linkname="/usr/etc/target"),
            member("etc/rel", SYM, linkname="../usr/etc/target"),
            member("etc/up", SYM, linkname="../../../../usr/etc/target"),
            member("etc/out", SYM, linkname=str(secret)),
            member("etc/far", SYM, linkname="../../../../.." + str(secret)),
            member("etc/loop", SYM, linkname="loop"),
            member("etc/dir", SYM, linkname="/usr"),
            member("etc/pipe", FIFO),
            member(".wh.gone"),
            member("d/.wh..wh..opq"),
            member("was-file", DIR),
        ],
    )
    expected = {
        "/etc/passwd": b"high",
        "etc/passwd": b"high",
        "/etc/../etc//./passwd": b"high",
        "/../../etc/passwd": b"high",
        "/etc/only-low": b"low",
        "/etc/abs": b"t",
        "/etc/rel": b"t",
        "/etc/up": b"t",
        "/etc/dir/etc/target": b"t",
        "/etc/dir/../etc/passwd": b"high",
        "/etc/out": None,
        "/etc/far": None,
        "/etc/loop": None,
        "/etc/pipe": None,
        "/etc": None,
        "/": None,
        "/gone": None,
        "/d/hidden": None,
        "/was-file": None,
        "/etc/passwd/x": None,
        "/nothing": None,
    }
    assert {path: read_file(image, path) for path in expected} == expected
