"""What images take on disk, alone and together.

Counted is what `du` counts: the unpacked layers with their records, and the blobs. Of two names of
one image each shows the same figures, since removing one of them frees nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.images.formats.digest import chain_key
from runtime.images.formats.image import Image, Layer
from runtime.images.store.layout import Layout

_Part = tuple[str, str]
"""`blob`, `layer` or `folders`, and its digest."""


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image takes on disk.

    Attributes:
        image: Which.
        size_bytes: All of it: `shared_bytes` and `exclusive_bytes`.
        shared_bytes: What other images stand on as well.
        exclusive_bytes: What removing the image, with all its names, would free.
    """

    image: Image
    size_bytes: int
    shared_bytes: int
    exclusive_bytes: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What a store takes on disk.

    Attributes:
        images: In the order of `ImageStore.images`.
        total_bytes: Everything that images need, each thing counted once.
        unneeded_bytes: What no image needs; collecting frees it unless something runs from it.
    """

    images: tuple[ImageUsage, ...]
    total_bytes: int
    unneeded_bytes: int


def measure_usage(layout: Layout, images: tuple[Image, ...]) -> StoreUsage:
    """Add up what images take, by the sizes that the store knows."""
    parts = {image.digest: _parts(image) for image in images}
    owners = Counter(part for needed in parts.values() for part in needed)
    everything = {("blob", digest) for digest in layout.blobs()}
    everything |= {("layer", diff_id) for diff_id in layout.layers()}
    everything |= {("folders", chain) for chain in layout.folders()}
    sizes = {part: _allocated_bytes(layout, part) for part in everything | set(owners)}

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


def _allocated_bytes(layout: Layout, part: _Part) -> int:
    kind, digest = part
    if kind == "blob":
        return layout.blob_allocated_bytes(digest)
    if kind == "folders":
        return layout.folders_allocated_bytes(digest)
    return layout.layer_allocated_bytes(digest)


@dataclass(slots=True)
class LayerNode:
    """A layer where it stands in the chains of layers of all images.

    Attributes:
        layer: Which; None for the root, on which the bottom layers stand.
        names: References of the images that end here.
        above: The layers that stand on it in some image.
    """

    layer: Layer | None
    names: list[str] = field(default_factory=list)
    above: list[LayerNode] = field(default_factory=list)


def layer_tree(images: Iterable[Image]) -> LayerNode:
    """The chains of layers of all images, common beginnings joined; gives the root."""
    root = LayerNode(None)
    for image in images:
        node = root
        for layer in image.layers:
            for child in node.above:
                if child.layer is not None and child.layer.diff_id == layer.diff_id:
                    node = child
                    break
            else:
                node.above.append(LayerNode(layer))
                node = node.above[-1]
        node.names.append(image.reference)
    return root
