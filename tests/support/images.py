"""Images for tests, put together by hand: every byte of them is known."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.images import Image, ImageStore
from runtime.images.formats.digest import digest_of
from tests.support.tars import make_tar, member

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def pack(tar: bytes, how: str) -> bytes:
    """A layer's blob: `gzip`, `zstd` or `plain`."""
    if how == "gzip":
        return gzip.compress(tar, 1, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-q"], input=tar, capture_output=True, check=True).stdout
    return tar


def layer_tar(number: int, size: int = 3000) -> bytes:
    """The tar of a layer that differs from all others."""
    content = f"{number}\n".encode().ljust(size, b".")
    return make_tar(
        member("d/", b"5"), member(f"d/{number}", data=content), member("top", data=content)
    )


def add_layers(store: ImageStore, tars: Iterable[bytes], how: str = "gzip") -> None:
    """Add layers as a pull does, without an image."""
    with store.adding() as adder:
        for tar in tars:
            blob = pack(tar, how)
            adder.add_layer(io.BytesIO(blob), digest_of(blob), len(blob), digest_of(tar))


def documents(tars: Sequence[bytes], how: str = "gzip", **config: Any) -> tuple[bytes, bytes]:
    """Configuration and manifest of an image of these layers."""
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}
    document = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, **config}
    data = json.dumps(document).encode()
    blobs = [pack(tar, how) for tar in tars]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(data), "size": len(data)},
        "layers": [
            {"mediaType": f"{LAYER}+{how}", "digest": digest_of(blob), "size": len(blob)}
            for blob in blobs
        ],
    }
    return data, json.dumps(manifest).encode()


def add_image(
    store: ImageStore, reference: str, tars: Sequence[bytes], how: str = "gzip", **config: Any
) -> Image:
    """Add an image as a pull does; `config` are fields of its configuration."""
    data, manifest = documents(tars, how, **config)
    with store.adding() as adder:
        for tar in tars:
            blob = pack(tar, how)
            adder.add_layer(io.BytesIO(blob), digest_of(blob), len(blob), digest_of(tar))
        adder.add_document(data, CONFIG)
        return adder.add_image(adder.add_document(manifest, MANIFEST), [reference])


def assert_whole(store: ImageStore) -> None:
    """The store verifies, and nothing half-made lies about."""
    problems = "\n".join(map(str, store.verify()))
    assert problems == ""
    temporary = store.root / "tmp"
    assert not temporary.exists() or list(temporary.iterdir()) == []


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of everything in a folder, to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): (
            (status := path.lstat()).st_mode,
            status.st_size,
            status.st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }
