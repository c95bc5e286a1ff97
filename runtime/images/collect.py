"""What may go from the store: everything that no name and no running instance needs.

All of this is called by who holds the lock for removing (`Layout.removing`), so that nothing is
being added and no lease is being taken meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

from runtime.images.digest import is_digest
from runtime.images.layout import Layout, check_descriptor
from runtime.images.manifest import diff_ids_of, read_parts


def leased_manifests(layout: Layout) -> set[str]:
    """Digests of the manifests that somebody runs; lease files that nobody holds are removed."""
    held = set()
    for entry in list(os.scandir(layout.root / "leases" / "sha256")):
        fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
        except BlockingIOError:
            held.add(f"sha256:{entry.name}")
        finally:
            os.close(fd)
    return held


def collect(layout: Layout, leased: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Remove the blobs and layers that neither the index nor a leased manifest leads to.

    Returns:
        The digests of the blobs that went, and how many bytes on disk that freed, layers included.

    Raises:
        StoreError: A manifest is damaged, so that it cannot be known what it needs: nothing went.
    """
    blobs: set[str] = set()
    diff_ids: set[str] = set()
    for digest in {entry["digest"] for entry in layout.read_index()} | set(leased):
        _mark(layout, digest, blobs, diff_ids)
    deleted, freed = [], 0
    for entry in list(os.scandir(layout.root / "blobs" / "sha256")):
        digest = f"sha256:{entry.name}"
        if is_digest(digest) and digest not in blobs:
            freed += entry.stat(follow_symlinks=False).st_blocks * 512
            os.unlink(entry.path)
            deleted.append(digest)
    names = os.listdir(layout.root / "layers" / "sha256")
    there = {f"sha256:{name.removesuffix('.json')}" for name in names}
    for diff_id in sorted(filter(is_digest, there - diff_ids)):
        if layout.layer_path(diff_id).is_dir():
            freed += layout.read_layer_record(diff_id)["allocated_bytes"]
        layout.remove_layer(diff_id)
    return tuple(sorted(deleted)), freed


def _mark(layout: Layout, digest: str, blobs: set[str], diff_ids: set[str]) -> None:
    """Note all that a manifest, or an index of manifests, needs."""
    if digest in blobs or not layout.blob_path(digest).exists():
        return
    blobs.add(digest)
    document = layout.read_document(digest)
    for entry in document.get("manifests") or ():
        check_descriptor(entry, digest)
        _mark(layout, entry["digest"], blobs, diff_ids)
    if "config" in document:
        config, layers = read_parts(layout, digest, document)
        blobs.add(document["config"]["digest"])
        blobs.update(layer["digest"] for layer in layers)
        diff_ids.update(diff_ids_of(config, digest))
