"""Disk usage of images, shared and exclusive.

It counts what `du` counts: the unpacked layers with their records, the blobs, and the writable
copies that are kept. Two names of one image show the same sizes, since removing one of them frees
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.images.formats.digest import chain_key
from runtime.images.formats.image import Image, Layer
from runtime.images.store.layout import StoreLayout

_Part = tuple[str, str]
"""`blob`, `layer` or `folders`, and its digest; `copy`, and its folder."""


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """Says what one image takes on disk.

    Attributes:
        size_bytes: `shared_bytes` and `exclusive_bytes`.
        shared_bytes: What other images need as well.
        exclusive_bytes: What removing the image, with all its names, would free.
    """

    image: Image
    size_bytes: int
    shared_bytes: int
    exclusive_bytes: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Says what a store takes on disk.

    Attributes:
        images: In the order of `ImageStore.images`.
        total_bytes: Everything that images need, each thing counted once.
        unneeded_bytes: What no image needs; collecting frees it unless something runs from it.
    """

    images: tuple[ImageUsage, ...]
    total_bytes: int
    unneeded_bytes: int


def measure_usage(layout: StoreLayout, images: tuple[Image, ...]) -> StoreUsage:
    """Add up what images take, by the sizes that the store knows."""
    copies = layout.copies()
    parts = {image.digest: _parts(image) for image in images}
    for folder, digest in copies.items():
        if digest in parts:
            parts[digest].add(("copy", str(folder)))
    owners = Counter(part for needed in parts.values() for part in needed)
    kinds = {
        "blob": (layout.blobs, layout.blob_allocated_bytes),
        "layer": (layout.layers, layout.layer_allocated_bytes),
        "folders": (layout.folders, layout.folders_allocated_bytes),
        "copy": (lambda: set(map(str, copies)), layout.copy_allocated_bytes),
    }
    everything = {(kind, digest) for kind, (names, _) in kinds.items() for digest in names()}
    sizes = {part: kinds[part[0]][1](part[1]) for part in everything | set(owners)}

    def usage(image: Image) -> ImageUsage:
        needed = parts[image.digest]
        size = sum(sizes[part] for part in needed)
        exclusive = sum(sizes[part] for part in needed if owners[part] == 1)
        return ImageUsage(image, size, size - exclusive, exclusive)

    return StoreUsage(
        images=tuple(map(usage, images)),
        total_bytes=sum(sizes[part] for part in owners),
        unneeded_bytes=sum(sizes[part] for part in everything - set(owners)),
    )


def _parts(image: Image) -> set[_Part]:
    blobs = {image.digest, image.config_digest, *(layer.digest for layer in image.layers)}
    diff_ids = {layer.diff_id for layer in image.layers}
    parts = {("blob", digest) for digest in blobs} | {("layer", diff_id) for diff_id in diff_ids}
    if image.folders is not None:
        parts.add(("folders", chain_key(layer.diff_id for layer in image.layers)))
    return parts


@dataclass(slots=True)
class LayerNode:
    """A layer in the chains of layers of all images.

    Attributes:
        layer: None for the root, below the bottom layers.
        names: References of the images that end here.
        above: The layers directly above it in some image.
    """

    layer: Layer | None
    names: list[str] = field(default_factory=list)
    above: list[LayerNode] = field(default_factory=list)


def layer_tree(images: Iterable[Image]) -> LayerNode:
    """Join the chains of layers of all images where they begin alike; returns the root."""
    root = LayerNode(None)
    for image in images:
        node = root
        for layer in image.layers:
            known = (up for up in node.above if up.layer and up.layer.diff_id == layer.diff_id)
            child = next(known, None)
            if child is None:
                child = LayerNode(layer)
                node.above.append(child)
            node = child
        node.names.append(image.reference)
    return root
