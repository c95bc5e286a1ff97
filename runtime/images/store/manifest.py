"""The documents of an image and their shapes (OCI image-spec: manifest.md, config.md)."""

from __future__ import annotations

from typing import Any

from runtime.errors import StoreError
from runtime.images.formats.digest import is_digest
from runtime.images.store.layout import REFERENCE_ANNOTATION, Descriptor, Layout, check_descriptor

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def name_of(descriptor: Descriptor) -> str:
    """The name that an entry of the index gives; empty if none."""
    return str((descriptor.get("annotations") or {}).get(REFERENCE_ANNOTATION, ""))


def read_parts(
    layout: Layout, digest: str, manifest: dict[str, Any]
) -> tuple[dict[str, Any], list[Descriptor]]:
    """The configuration and the layers' descriptors of a manifest.

    Raises:
        StoreError: It is no image manifest, or its configuration is missing or damaged.
    """
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        raise StoreError(f"{digest} is not an image manifest: it has no list of layers")
    for descriptor in (*layers, manifest.get("config")):
        check_descriptor(descriptor, f"manifest {digest}")
    return layout.read_document(manifest["config"]["digest"]), layers


def diff_ids_of(config: dict[str, Any], digest: str) -> list[str]:
    """The diff IDs that a configuration lists, bottom first.

    Raises:
        StoreError: There is no proper list; `digest` says of which image.
    """
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(diff_id, str) and is_digest(diff_id) for diff_id in diff_ids
    ):
        raise StoreError(f"image {digest}: its configuration has no proper list of diff IDs")
    return diff_ids
