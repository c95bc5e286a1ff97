"""Images made layer by layer: an image taken apart, and put together again with more on top."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.images.formats.image import Image
from runtime.images.formats.schema import (
    DOCKER_LAYER,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Platform,
)
from runtime.images.store.files import encode_json
from runtime.images.store.layout import Descriptor, StoreLayout
from runtime.images.store.lookup import diff_ids_of, read_parts

if TYPE_CHECKING:
    from runtime.images.store.writer import Adder

Document = dict[str, Any]
"""An OCI image configuration."""

# An OCI manifest has OCI's names alone, also for what docker names otherwise.
_OCI_TYPES = {
    DOCKER_LAYER: OCI_LAYER,
    f"{DOCKER_LAYER}.gzip": f"{OCI_LAYER}+gzip",
    f"{DOCKER_LAYER}.zstd": f"{OCI_LAYER}+zstd",
}


@dataclass(frozen=True, slots=True)
class LayerReference:
    """Names a layer by the descriptor of its blob and the digest of its tar."""

    descriptor: Descriptor
    diff_id: str


def this_architecture() -> str:
    """Return this machine's architecture in Go's names, as images have them."""
    return Platform.of_this_machine().architecture


def empty_document() -> Document:
    """Return the configuration of an image without layers, for this machine."""
    return {
        "architecture": this_architecture(),
        "os": "linux",
        "config": {},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def take_apart(layout: StoreLayout, image: Image) -> tuple[Document, tuple[LayerReference, ...]]:
    """Return a copy of an image's configuration, and its layers, bottom first."""
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
                or OCI_LAYER,
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
    """Store the documents of an image whose layers, bottom first, are there, and name it.

    The diff IDs of the configuration are set here. Without references, the image is found by its
    digest alone.

    Raises:
        StoreError: A layer is missing.
    """
    diff_ids = [layer.diff_id for layer in layers]
    document = {**document, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": adder.add_document(encode_json(document), OCI_CONFIG),
        "layers": [layer.descriptor for layer in layers],
    }
    descriptor = adder.add_document(encode_json(manifest), OCI_MANIFEST)
    system = {
        name: document[name] for name in ("architecture", "os", "variant") if document.get(name)
    }
    return adder.add_image({**descriptor, "platform": system}, references)
