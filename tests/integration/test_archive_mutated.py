"""Archives with their bytes changed at random: loaded, or refused in one sentence.

STEELYARD_MUTATIONS says how many; the seed of each is its number, so a failure can be had again.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import ImageError
from runtime.images import ImageStore
from runtime.images.archive.load import load
from tests.support.registry import CONFIG, LAYER, MANIFEST, digest_of
from tests.support.tars import DIR, LINK, SYM, make_tar, member

ROUNDS = int(os.environ.get("STEELYARD_MUTATIONS", "100"))
ODD_NAMES = ("../x", "/x", "a/../../x", "a\x1b[2J", "a\0b", "", ".", "a" * 300, "é", "\udcff")
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 1.5, "", "x" * 5000, "\0", "\ud800", [], {}, [[]], [None], ["../x"],
)  # fmt: skip


def layer(chance: random.Random) -> bytes:
    names = [
        "etc/",
        "etc/a",
        "etc/b",
        "usr/",
        "usr/link",
        "usr/hard",
        ".wh.gone",
        "usr/.wh..wh..opq",
    ]
    members = []
    for name in names:
        if chance.random() < 0.03:
            name = chance.choice(ODD_NAMES)
        kind, fields = tarfile.REGTYPE, {}
        if name.endswith("/"):
            kind = DIR
        elif name.endswith("link"):
            kind, fields = SYM, {"linkname": chance.choice(("/etc/passwd", "a", "../../.."))}
        elif name.endswith("hard"):
            kind, fields = LINK, {"linkname": chance.choice(("etc/a", "usr/link", "../../x"))}
        data = b"x" * chance.randrange(2000) if kind == tarfile.REGTYPE else b""
        try:
            members.append(member(name, kind, data=data, **fields))
        except ValueError:
            continue
    return make_tar(*members, style=chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)))


def change_json(document: Any, chance: random.Random) -> None:
    """Put something odd somewhere into it."""
    place = document
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = chance.choice(keys)
        below = place[key]
        if isinstance(below, dict | list) and below and chance.random() < 0.7:
            place = below
            continue
        if chance.random() < 0.3:
            del place[key]
        else:
            place[key] = chance.choice(ODD_VALUES)
        return


def files(chance: random.Random) -> list[tuple[str, bytes]]:
    """The files of an archive, of either family, with odd things in the documents."""
    tars = [layer(chance) for _ in range(chance.randrange(1, 4))]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["x"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    if chance.random() < 0.3:
        change_json(config, chance)
    data = json.dumps(config).encode()
    if chance.random() < 0.5:
        entry = {
            "Config": "c.json",
            "RepoTags": ["a:1"],
            "Layers": [f"{number}/layer.tar" for number in range(len(tars))],
        }
        document = [entry]
        if chance.random() < 0.5:
            change_json(document, chance)
        return [
            *((f"{number}/layer.tar", tar) for number, tar in enumerate(tars)),
            ("c.json", data),
            ("manifest.json", json.dumps(document).encode()),
        ]
    blobs = [gzip.compress(tar, 1) if chance.random() < 0.5 else tar for tar in tars]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(data), "size": len(data)},
        "layers": [
            {"mediaType": LAYER, "digest": digest_of(blob), "size": len(blob)} for blob in blobs
        ],
    }
    if chance.random() < 0.4:
        change_json(manifest, chance)
    packed = json.dumps(manifest).encode()
    index: dict[str, Any] = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": digest_of(packed),
                "size": len(packed),
                "annotations": {"org.opencontainers.image.ref.name": "a:1"},
            }
        ],
    }
    if chance.random() < 0.4:
        change_json(index, chance)
    return [
        ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ("index.json", json.dumps(index).encode()),
        *((f"blobs/sha256/{digest_of(blob)[7:]}", blob) for blob in (*blobs, data, packed)),
    ]


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def repeat(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(0, len(data), 512)
    return data[:at] + data[chance.randrange(0, len(data), 512) :]


def keep(data: bytes, _: random.Random) -> bytes:
    return data


Mutation = Callable[[bytes, random.Random], bytes]
MUTATIONS: tuple[Mutation, ...] = (keep, keep, keep, flip, cut, repeat)


def archive(number: int) -> bytes:
    chance = random.Random(number)
    contents = files(chance)
    if chance.random() < 0.2:
        chance.shuffle(contents)
    buffer = io.BytesIO(make_tar(*(member(name, data=data) for name, data in contents)))
    data = chance.choice(MUTATIONS)(buffer.getvalue(), chance)
    if chance.random() < 0.3:
        data = chance.choice(MUTATIONS)(gzip.compress(data, 1), chance)
    return data


def test_mutated_archives(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = outside / "a.tar"
    store = ImageStore(outside / "store")
    loaded = 0
    for number in range(ROUNDS):
        path.write_bytes(archive(number))
        try:
            load(store, path)
            loaded += 1
        except ImageError as error:
            text = str(error)
            assert text, number
            assert text.isprintable(), (number, text)
            assert len(text) < 1000, (number, text)
        except Exception as error:
            message = f"archive {number}: {type(error).__name__}: {error}"
            raise AssertionError(message) from error
        assert sorted(os.listdir(outside)) == ["a.tar", "store"], number
        if (store.root / "tmp").exists():
            assert os.listdir(store.root / "tmp") == [], number
        if number % 50 == 49:
            assert store.verify() == (), number
            store.collect(keep=set)
    assert store.verify() == ()
    # Neither all good nor all bad: what is tested is tested from both sides.
    assert ROUNDS // 20 < loaded < ROUNDS
