"""Collecting what no name and no running instance needs.

The caller holds the lock for removing (`StoreLayout.removing`), so that nothing is added and no
lease is taken meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from runtime.images.formats.digest import chain_key
from runtime.images.store.layout import StoreLayout, check_descriptor
from runtime.images.store.lookup import diff_ids_of, read_parts

Keep = Callable[[], Collection[str]]
"""Gives digests of manifests that must stay although nothing runs from them.

The store knows its leases; the caller knows what else needs an image (a container kept after its
end), and is asked while the lock is held.
"""


def leased_manifests(layout: StoreLayout) -> set[str]:
    """Return the manifests that are in use; lease files that nobody holds are removed."""
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


@dataclass(frozen=True, slots=True)
class Removal:
    """Says what removing an image, or collecting unneeded data, did.

    Attributes:
        untagged: Removed names.
        deleted: Digests of the removed blobs.
        freed_bytes: What that freed on disk, unpacked layers and kept copies included.
        layers: Diff IDs of the removed unpacked layers.
    """

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int
    layers: tuple[str, ...] = ()


def collect(layout: StoreLayout, in_use: Iterable[str]) -> Removal:
    """Remove the blobs and layers that neither the index nor a manifest in use leads to.

    Raises:
        StoreError: A manifest is damaged, so that it cannot be known what it needs: nothing went.
    """
    needed = _mark(layout, {entry["digest"] for entry in layout.read_index()} | set(in_use))
    freed = 0
    unneeded_blobs = sorted(layout.blobs() - needed.blobs)
    unneeded_layers = sorted(layout.layers() - needed.layers)
    for digest in unneeded_blobs:
        freed += layout.blob_allocated_bytes(digest)
        layout.blob_path(digest).unlink()
    for diff_id in unneeded_layers:
        freed += layout.layer_allocated_bytes(diff_id)
        layout.remove_layer(diff_id)
    for chain in layout.folders() - needed.chains:
        freed += layout.folders_allocated_bytes(chain)
        layout.remove_folders(chain)
    freed += sum(
        layout.remove_copy(folder)
        for folder, digest in layout.copies().items()
        if digest not in needed.blobs
    )
    return Removal((), tuple(unneeded_blobs), freed, tuple(unneeded_layers))


@dataclass(slots=True)
class _Needed:
    """Digests of blobs, diff IDs of layers, keys of their chains."""

    blobs: set[str] = field(default_factory=set)
    layers: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)


def _mark(layout: StoreLayout, digests: set[str]) -> _Needed:
    """Find all that manifests, or indexes of manifests, need."""
    needed = _Needed()
    pending = list(digests)
    while pending:
        digest = pending.pop()
        if digest in needed.blobs or not layout.blob_path(digest).exists():
            continue
        needed.blobs.add(digest)
        document = layout.read_document(digest)
        for entry in document.get("manifests") or ():
            check_descriptor(entry, digest)
            pending.append(entry["digest"])
        if "config" in document:
            config, layers = read_parts(layout, digest, document)
            diff_ids = diff_ids_of(config, digest)
            needed.blobs.add(document["config"]["digest"])
            needed.blobs.update(layer["digest"] for layer in layers)
            needed.layers.update(diff_ids)
            needed.chains.add(chain_key(diff_ids))
    return needed
