"""From a name or digest to an image: the index's entry, the manifest, the configuration.

Reads without a lock; `ImageStore` makes sure that the documents belong together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime.errors import ImageNotFoundError, InvalidReferenceError, StoreError
from runtime.images.formats.config import ImageConfig, parse_time
from runtime.images.formats.digest import chain_key, is_digest
from runtime.images.formats.image import Image, Layer
from runtime.images.formats.reference import parse_reference
from runtime.images.store.layout import (
    REFERENCE_ANNOTATION,
    Descriptor,
    StoreLayout,
    check_descriptor,
)

LAYERS_LIMIT = 499
"""overlayfs stacks 500 lower folders (linux: fs/overlayfs/params.h, OVL_MAX_STACK); one is kept for
an image's implied folders."""


def name_of(descriptor: Descriptor) -> str:
    """Return the name that an entry of the index gives; empty if none."""
    return str((descriptor.get("annotations") or {}).get(REFERENCE_ANNOTATION, ""))


def read_parts(
    layout: StoreLayout, digest: str, manifest: dict[str, Any]
) -> tuple[dict[str, Any], list[Descriptor]]:
    """Read configuration and layers' descriptors of a manifest, or raise StoreError."""
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        raise StoreError(f"{digest} is not an image manifest: it has no list of layers")
    for descriptor in (*layers, manifest.get("config")):
        check_descriptor(descriptor, f"manifest {digest}")
    return layout.read_document(manifest["config"]["digest"]), layers


def diff_ids_of(config: dict[str, Any], digest: str) -> list[str]:
    """Return a configuration's diff IDs, bottom first; StoreError names the image `digest`."""
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(diff_id, str) and is_digest(diff_id) for diff_id in diff_ids
    ):
        raise StoreError(f"image {digest}: its configuration has no proper list of diff IDs")
    return diff_ids


def find_entry(layout: StoreLayout, index: list[Descriptor], reference: str) -> Descriptor:
    """Find an image in the index by its name, digest, or unambiguous beginning of a digest.

    Raises:
        ImageNotFoundError: There is none.
        InvalidReferenceError: No possible name, or the beginning of several digests.
    """
    if matches := [entry for entry in index if is_named(reference, entry)]:
        return matches[0]
    digits = reference.removeprefix("sha256:")
    if 4 <= len(digits) <= 64 and set(digits) <= set("0123456789abcdef"):
        matches = [e for e in index if e["digest"].startswith("sha256:" + digits)]
        if len({entry["digest"] for entry in matches}) > 1:
            raise InvalidReferenceError(f"{reference} begins the digests of several images")
        if matches:
            return matches[0]
    if not reference.startswith("sha256:"):
        parse_reference(reference)
    known = ", ".join(sorted(filter(None, map(name_of, index)))) or "none yet"
    raise ImageNotFoundError(
        f"no image {reference!r} in the store {layout.root} (there: {known}); "
        "`steelyard image import` makes one from a rootfs"
    )


def load_image(
    layout: StoreLayout,
    descriptor: Descriptor,
    layer: Callable[[str, str, int], Layer] | None = None,
) -> Image:
    """Load an image by its entry in the index; `layer` gives a layer that may be known already."""
    digest = descriptor["digest"]
    manifest = layout.read_document(digest)
    config, layers = read_parts(layout, digest, manifest)
    diff_ids = diff_ids_of(config, digest)
    if len(diff_ids) != len(layers):
        raise StoreError(f"image {digest}: {len(layers)} layers, but {len(diff_ids)} diff IDs")
    if len(layers) > LAYERS_LIMIT:
        raise StoreError(f"image {digest}: {len(layers)} layers; the limit is {LAYERS_LIMIT}")
    make = layer or partial(load_layer, layout)
    folders = layout.folders_path(chain_key(diff_ids))
    return Image(
        reference=name_of(descriptor) or digest,
        digest=digest,
        config=ImageConfig.from_oci(config.get("config") or {}),
        layers=tuple(
            make(each["digest"], diff_id, each["size"])
            for each, diff_id in zip(layers, diff_ids, strict=True)
        ),
        architecture=str(config.get("architecture", "")),
        created=parse_time(config.get("created")),
        config_digest=manifest["config"]["digest"],
        media_type=str(manifest.get("mediaType") or descriptor.get("mediaType") or ""),
        folders=folders if folders.is_dir() else None,
    )


def load_layer(layout: StoreLayout, digest: str, diff_id: str, size_bytes: int) -> Layer:
    """Load a layer with what the store recorded when it was unpacked."""
    record = layout.read_layer_record(diff_id)
    recorded = {key: record[key] for key in ("allocated_bytes", "whiteouts", "overlay_xattr")}
    return Layer(digest, diff_id, size_bytes, layout.layer_path(diff_id), **recorded)


def is_named(reference: str, descriptor: Descriptor) -> bool:
    """Whether `reference` is this entry's name, perhaps pinned to its digest."""
    name = name_of(descriptor)
    if not name:
        return False
    with contextlib.suppress(InvalidReferenceError):
        wanted, there = parse_reference(reference), parse_reference(name)
        # A name from a registry may be pinned to the index that the image was chosen from.
        if wanted.digest and wanted.digest not in (descriptor["digest"], there.digest):
            return False
        return wanted.name == there.name and (wanted.tag is None or wanted.tag == there.tag)
    return False
