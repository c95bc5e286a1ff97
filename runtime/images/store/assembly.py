"""Images made layer by layer: an image taken apart, and put together again with more on top."""

from __future__ import annotations

import copy
import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.images.formats.image import Image
from runtime.images.store.layout import Descriptor, Layout
from runtime.images.store.manifest import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    diff_ids_of,
    read_parts,
)

if TYPE_CHECKING:
    from runtime.images.store.writer import Adder

Document = dict[str, Any]
"""An OCI image configuration."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
# What docker calls what OCI also has a name for; an OCI manifest names all in OCI's words.
_OCI_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER_TYPE + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": LAYER_TYPE + "+zstd",
}


@dataclass(frozen=True, slots=True)
class LayerReference:
    """A layer as an image names it.

    Attributes:
        descriptor: Of its blob.
        diff_id: Of its tar.
    """

    descriptor: Descriptor
    diff_id: str


def this_architecture() -> str:
    """This machine's, in Go's words, which are those of images."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def empty_document() -> Document:
    """The configuration of an image without layers, for this machine."""
    return {
        "architecture": this_architecture(),
        "os": "linux",
        "config": {},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def take_apart(layout: Layout, image: Image) -> tuple[Document, tuple[LayerReference, ...]]:
    """An image's configuration, as a copy to change, and its layers, bottom first.

    Raises:
        StoreError: The store is damaged there.
    """
    manifest = layout.read_document(image.digest)
    config, layers = read_parts(layout, image.digest, manifest)
    document = copy.deepcopy(config)
    if not isinstance(document.get("config"), dict):
        document["config"] = {}
    if not isinstance(document.get("history"), list):
        document["history"] = []
    references = tuple(
        LayerReference(
            {
                "mediaType": _OCI_TYPES.get(str(layer.get("mediaType")), layer.get("mediaType"))
                or LAYER_TYPE,
                "digest": layer["digest"],
                "size": layer["size"],
            },
            diff_id,
        )
        for layer, diff_id in zip(layers, diff_ids_of(config, image.digest), strict=True)
    )
    return document, references


def put_together(
    adder: Adder,
    document: Document,
    layers: tuple[LayerReference, ...],
    references: tuple[str, ...] = (),
) -> Image:
    """Store the documents of an image whose layers are there, and name it.

    Args:
        adder: Of the store.
        document: The configuration; its diff IDs are set here.
        layers: Bottom first.
        references: Names; without any, the image is found by its digest alone.

    Raises:
        StoreError: A layer is missing.
    """
    diff_ids = [layer.diff_id for layer in layers]
    document = {**document, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": adder.add_document(encode(document), CONFIG_TYPE),
        "layers": [layer.descriptor for layer in layers],
    }
    descriptor = adder.add_document(encode(manifest), MANIFEST_TYPE)
    system = {
        name: document[name] for name in ("architecture", "os", "variant") if document.get(name)
    }
    return adder.add_image({**descriptor, "platform": system}, references)


def encode(document: Document) -> bytes:
    """JSON with one spelling for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
