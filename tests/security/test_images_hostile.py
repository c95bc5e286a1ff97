"""Images that are not what they claim to be: each ends in one error, the store stays as it was."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.cli.image import image as image_group
from runtime.errors import ContainerError, ImageError, InvalidReferenceError, LayerError
from runtime.images import Image, ImageStore
from runtime.images.formats import pipeline
from runtime.images.formats.digest import digest_of
from runtime.images.layer import unpack as layer_module
from runtime.images.store import writer
from runtime.images.store.lookup import load_image
from tests.support.hostile import HOSTILE
from tests.support.images import (
    CONFIG,
    MANIFEST,
    add_image,
    add_layers,
    assert_whole,
    documents,
    layer_tar,
    pack,
    snapshot,
)
from tests.support.tars import make_tar, member

TAR = layer_tar(7)
BLOB = pack(TAR, "gzip")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "home/images")
    add_image(store, "keep", [layer_tar(0)])
    return store


def refused(store: ImageStore, act: Callable[[], object]) -> str:
    """Do it, see it fail with one sentence, and find the store as it was; gives the sentence."""
    store.collect(keep=set)
    around = store.root.parent
    before = steady(around)
    with pytest.raises(ImageError) as caught:
        act()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 700
    store.collect(keep=set)
    assert steady(around) == before
    assert_whole(store)
    return said


def steady(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All below a folder, but for the times of the store's own folders."""
    return {
        name: (mode, 0 if stat.S_ISDIR(mode) else size, 0 if name.startswith("images") else time)
        for name, (mode, size, time) in snapshot(folder).items()
    }


def add_layer(
    store: ImageStore, blob: bytes, digest: str = "", size: int | None = None, diff_id: str = ""
) -> None:
    with store.adding() as adder:
        adder.add_layer(
            io.BytesIO(blob), digest or digest_of(blob), size, diff_id or digest_of(TAR)
        )


# Layers.


@pytest.mark.parametrize("name", HOSTILE)
def test_archives_that_mean_harm(store: ImageStore, name: str) -> None:
    tar = make_tar(*HOSTILE[name])
    blob = gzip.compress(tar)
    refused(store, lambda: add_layer(store, blob, diff_id=digest_of(tar)))


def test_wrong_digests_and_sizes(store: ImageStore) -> None:
    other = "sha256:" + "0" * 64
    assert "content of digest" in refused(store, lambda: add_layer(store, BLOB, digest=other))
    assert "unpacks to" in refused(store, lambda: add_layer(store, BLOB, diff_id=other))
    for size, what in ((len(BLOB) - 1, "longer"), (len(BLOB) + 1, "cut short"), (0, "longer")):
        assert what in refused(store, lambda size=size: add_layer(store, BLOB, size=size))
    for malformed in (
        "sha256:abc",
        "sha512:" + "0" * 128,
        "../../etc/passwd",
        "sha256:" + "G" * 64,
    ):
        refused(store, lambda bad=malformed: add_layer(store, BLOB, digest=bad))
        refused(store, lambda bad=malformed: add_layer(store, BLOB, diff_id=bad))


def test_the_layer_is_there_but_the_blob_lies(store: ImageStore) -> None:
    """What is unpacked already is not believed of another blob."""
    add_layers(store, [TAR])
    with store.adding() as adder:
        other = pack(layer_tar(8), "gzip")
        with pytest.raises(LayerError, match="unpacks to"):
            adder.add_layer(io.BytesIO(other), digest_of(other), None, digest_of(TAR))
        assert not adder.has_blob(digest_of(other))
        # And the same tar in another packing is kept beside it.
        plain = pack(TAR, "zstd")
        adder.add_layer(io.BytesIO(plain), digest_of(plain), len(plain), digest_of(TAR))
        assert adder.has_blob(digest_of(plain))


@pytest.mark.parametrize("how", ["gzip", "zstd", "plain"])
def test_truncated_blobs(store: ImageStore, how: str) -> None:
    blob = pack(layer_tar(9, 200_000), how)
    chance = random.Random(1)
    for cut in [0, 1, 5, len(blob) - 1, *(chance.randrange(len(blob)) for _ in range(12))]:
        data = blob[:cut]
        # The registry lies about nothing else: digest and diff ID are those of the whole.
        refused(store, lambda data=data: add_layer(store, data, digest_of(blob), len(blob)))
        refused(store, lambda data=data: add_layer(store, data, digest_of(data), None))


def test_damaged_blobs(store: ImageStore) -> None:
    for how in ("gzip", "zstd", "plain"):
        blob = pack(layer_tar(9, 50_000), how)
        whole = digest_of(blob)
        chance = random.Random(2)
        for _ in range(12):
            data = bytearray(blob)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            refused(store, lambda data=bytes(data), whole=whole: add_layer(store, data, whole))


def test_what_comes_after_the_layer_counts(store: ImageStore) -> None:
    """Trailing bytes are part of the blob, but no second tar is made of them."""
    said = refused(store, lambda: add_layer(store, BLOB + b"garbage"))
    assert "gzip" in said
    more = make_tar(member("more", data=b"x"))
    said = refused(store, lambda: add_layer(store, BLOB + gzip.compress(more)))
    assert "unpacks to" in said


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bombs(store: ImageStore, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The real limit is 64 GiB; the same code with a lower one."""
    monkeypatch.setattr(pipeline, "BLOB_LIMIT_BYTES", 5 << 20)
    tar = make_tar(member("bomb", data=bytes(8 << 20)))
    blob = pack(tar, how)
    assert len(blob) < 1 << 20
    said = refused(store, lambda: add_layer(store, blob, diff_id=digest_of(tar)))
    assert "limit" in said


def test_a_bomb_inside_a_bomb_is_only_a_file(store: ImageStore) -> None:
    """gzip in gzip is not a tar."""
    inner = gzip.compress(bytes(1 << 22))
    refused(store, lambda: add_layer(store, gzip.compress(inner), diff_id=digest_of(inner)))


def test_sparse_bombs(store: ImageStore) -> None:
    """Holes cost nothing on disk, but whoever reads the file would never end."""
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f"}
    data = b"0\n".ljust(512, b"\0")
    tars = [
        make_tar(member("f", data=data, pax_headers={**pax, "GNU.sparse.realsize": str(size)}))
        for size in ((1 << 36) + 1, 1 << 62, 10**19)
    ]
    half = member("f", data=data, pax_headers={**pax, "GNU.sparse.realsize": str(1 << 35)})
    tars.append(make_tar(half, half, half))
    for tar in tars:
        refused(store, lambda tar=tar: add_layer(store, tar, diff_id=digest_of(tar)))


def test_too_many_entries(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "_ENTRIES_LIMIT", 100)
    monkeypatch.setattr(layer_module, "_FOLDERS_LIMIT", 50)
    for members in (
        [member(f"f{n}") for n in range(101)],
        [member(f"d{n}/", b"5") for n in range(60)],
        [member(f"a/{n}/f") for n in range(60)],
        [member(f".wh.{n}") for n in range(60)],
    ):
        tar = make_tar(*members)
        said = refused(store, lambda tar=tar: add_layer(store, tar, diff_id=digest_of(tar)))
        assert "in one layer" in said


def test_a_source_that_fails_is_heard(store: ImageStore) -> None:
    class Broken:
        def __init__(self, error: Exception) -> None:
            self._data = io.BytesIO(BLOB[: len(BLOB) // 2])
            self._error = error

        def read(self, size: int, /) -> bytes:
            if data := self._data.read(min(size, 100)):
                return data
            raise self._error

    for error in (ConnectionResetError("gone"), ValueError("odd"), LayerError("said so")):
        # Not through `adding`, which explains errors of the system.
        with store._layout.writing():
            adder = writer.Adder(store._layout, partial(load_image, store._layout))
            with pytest.raises(type(error)) as caught:
                adder.add_layer(Broken(error), digest_of(BLOB), len(BLOB), digest_of(TAR))
        assert str(error) in str(caught.value)
    assert_whole(store)


def test_device_nodes_stay_in_the_store(store: ImageStore) -> None:
    """They may be in a layer, and mean nothing there: the mount of a container is `nodev`."""
    tar = make_tar(member("sda", b"4", devmajor=8, devminor=0, mode=0o666))
    image = add_image(store, "devices", [tar])
    made = image.layers[0].path / "sda"
    assert not made.exists() or stat.S_ISBLK(made.stat().st_mode)
    # The folders above are closed to others.
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


# Manifests and configurations.


def good() -> tuple[dict[str, Any], dict[str, Any]]:
    config, manifest = documents([TAR])
    return json.loads(config), json.loads(manifest)


def add_documents(store: ImageStore, config: Any, manifest: Any) -> Image:
    """Add an image of these documents, its one layer before."""
    data = json.dumps(config).encode()
    if isinstance(manifest, dict) and isinstance(manifest.get("config"), dict):
        manifest["config"].update(digest=digest_of(data), size=len(data))
    with store.adding() as adder:
        adder.add_layer(io.BytesIO(BLOB), digest_of(BLOB), len(BLOB), digest_of(TAR))
        adder.add_document(data, CONFIG)
        return adder.add_image(
            adder.add_document(json.dumps(manifest).encode(), MANIFEST), ["hostile"]
        )


def test_the_documents_are_good_as_they_are(store: ImageStore) -> None:
    assert add_documents(store, *good()).reference == "hostile:latest"


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [],
    "a text": lambda _: "x",
    "null": lambda _: None,
    "no rootfs": lambda c: {k: v for k, v in c.items() if k != "rootfs"},
    "rootfs is a list": lambda c: {**c, "rootfs": []},
    "diff IDs are a text": lambda c: {**c, "rootfs": {"diff_ids": "sha256:"}},
    "diff IDs are numbers": lambda c: {**c, "rootfs": {"diff_ids": [1]}},
    "a diff ID is a path": lambda c: {**c, "rootfs": {"diff_ids": ["../../../etc"]}},
    "a diff ID too many": lambda c: {**c, "rootfs": {"diff_ids": c["rootfs"]["diff_ids"] * 2}},
    "no diff IDs": lambda c: {**c, "rootfs": {"diff_ids": []}},
    "a diff ID that is not there": lambda c: {**c, "rootfs": {"diff_ids": ["sha256:" + "1" * 64]}},
    "config is a list": lambda c: {**c, "config": ["x"]},
    "variables are numbers": lambda c: {**c, "config": {"Env": [1]}},
    "entry point is an object": lambda c: {**c, "config": {"Entrypoint": {"a": 1}}},
    "labels are a list": lambda c: {**c, "config": {"Labels": ["x"]}},
    "user is a number": lambda c: {**c, "config": {"User": 7}},
}
MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [],
    "no layers": lambda m: {k: v for k, v in m.items() if k != "layers"},
    "layers are an object": lambda m: {**m, "layers": {}},
    "a layer is a text": lambda m: {**m, "layers": ["x"]},
    "a layer is null": lambda m: {**m, "layers": [None]},
    "no config": lambda m: {k: v for k, v in m.items() if k != "config"},
    "a digest is a path": lambda m: {**m, "layers": [{**m["layers"][0], "digest": "sha256:../x"}]},
    "a digest is a number": lambda m: {**m, "layers": [{**m["layers"][0], "digest": 7}]},
    "a size is a text": lambda m: {**m, "layers": [{**m["layers"][0], "size": "7"}]},
    "a size is negative": lambda m: {**m, "layers": [{**m["layers"][0], "size": -1}]},
    "a size is true": lambda m: {**m, "layers": [{**m["layers"][0], "size": True}]},
    "a layer that is not there": lambda m: {
        **m, "layers": [{**m["layers"][0], "digest": "sha256:" + "2" * 64}]
    },
    "too many layers": lambda m: {**m, "layers": m["layers"] * 1000},
    "annotations are a list": lambda m: {**m, "layers": [{**m["layers"][0], "annotations": ["x"]}]},
    "it is an index": lambda m: {"schemaVersion": 2, "manifests": [m["config"]]},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_of_the_wrong_shape(store: ImageStore, name: str) -> None:
    config, manifest = good()
    refused(store, lambda: add_documents(store, CONFIGS[name](config), manifest))
    assert [image.reference for image in store.images()] == ["keep:latest"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_of_the_wrong_shape(store: ImageStore, name: str) -> None:
    config, manifest = good()
    refused(store, lambda: add_documents(store, config, MANIFESTS[name](manifest)))
    assert [image.reference for image in store.images()] == ["keep:latest"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe{}", b"{'a': 1}", b"[" * 100_000,
        b'{"a":' * 100_000, b'{"pad": "' + b"x" * (4 << 20) + b'"}', b"NaN", b"1" * 5000,
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_documents_that_are_none(store: ImageStore, data: bytes) -> None:
    def act() -> None:
        with store.adding() as adder:
            adder.add_document(data, MANIFEST)

    refused(store, act)


def test_a_document_of_another_digest(store: ImageStore) -> None:
    def act() -> None:
        with store.adding() as adder:
            adder.add_document(b"{}", MANIFEST, "sha256:" + "3" * 64)

    assert "was sent for" in refused(store, act)


@pytest.mark.parametrize(
    "name",
    ["", "UPPER", "a b", "a\nb", "a\x1b[31m", "../a", "a/../b", "a:b:c", "a" * 300, "a@sha256:1",
     "sha256:" + "0" * 64, "-a", "a\0b", "é"],
)  # fmt: skip
def test_names_that_are_none(store: ImageStore, name: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        store.tag("keep", name)
    assert str(caught.value).isprintable()
    assert [image.reference for image in store.images()] == ["keep:latest"]


def test_an_index_that_leads_in_circles_is_collected_all_the_same(store: ImageStore) -> None:
    """A digest cannot contain itself, but an index may name another twice, that one the next, …"""
    with store.adding() as adder:
        entry = adder.add_document(b'{"schemaVersion":2,"manifests":[]}', MANIFEST)
        for _ in range(1500):
            nested = {"schemaVersion": 2, "manifests": [entry, entry]}
            entry = adder.add_document(json.dumps(nested).encode(), MANIFEST)
    index = store.root / "index.json"
    document = json.loads(index.read_bytes())
    document["manifests"].append({**entry, "mediaType": "index"})
    index.write_text(json.dumps(document))
    assert store.collect(keep=set).deleted == ()


def test_text_from_an_image_does_not_reach_the_terminal(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(store.root.parent))
    evil = "\x1b]0;title\x07\x1b[2J\nCOPY"
    steps = [{"created_by": evil, "created": "2020-01-01T00:00:00Z"}]
    config = {"Env": [f"A={evil}"], "Labels": {evil: evil}, "Cmd": [evil]}
    add_image(store, "evil", [TAR], history=steps, config=config)
    for command in (["history", "evil"], ["inspect", "evil"], ["ls"], ["tree"]):
        result = CliRunner().invoke(image_group, command)
        assert result.exit_code == 0, result.output
        assert all(c == "\n" or c.isprintable() for c in result.output), command


@pytest.mark.parametrize(
    "history",
    ["x", [1], [{"created_by": 7}], [{}, {}, {}], [{"comment": [1]}], {"a": 1}],
)
def test_a_history_of_the_wrong_shape_is_an_error_of_history_alone(
    store: ImageStore, history: Any
) -> None:
    image = add_image(store, "odd", [TAR], history=history)
    with pytest.raises(ContainerError) as caught:
        store.history(image)
    assert str(caught.value).isprintable()
    assert os.path.isdir(image.layers[0].path)
