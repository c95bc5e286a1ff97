"""What may go from the store: everything that no name and no running instance needs.

All of this is called by who holds the lock for removing (`Layout.removing`), so that nothing is
being added and no lease is being taken meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from runtime.images.formats.digest import chain_key
from runtime.images.store.layout import Layout, check_descriptor
from runtime.images.store.manifest import diff_ids_of, read_parts

Keep = Callable[[], Collection[str]]
"""The policy of who removes: digests of manifests that must stay although nothing runs from them.

The store knows its leases; what else stands on an image (a container kept after its end) is the
business of whoever calls, and is asked while the lock is held.
"""


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


@dataclass(frozen=True, slots=True)
class Garbage:
    """What has been removed because nothing needed it.

    Attributes:
        blobs: Digests of manifests, configurations and layers as they were shipped.
        layers: Diff IDs of unpacked layers.
        freed_bytes: What all of it took on disk.
    """

    blobs: tuple[str, ...]
    layers: tuple[str, ...]
    freed_bytes: int


def collect(layout: Layout, in_use: Iterable[str]) -> Garbage:
    """Remove the blobs and layers that neither the index nor a manifest in use leads to.

    Raises:
        StoreError: A manifest is damaged, so that it cannot be known what it needs: nothing went.
    """
    needed = _Needed()
    for digest in {entry["digest"] for entry in layout.read_index()} | set(in_use):
        _mark(layout, digest, needed)
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
    return Garbage(tuple(unneeded_blobs), tuple(unneeded_layers), freed)


@dataclass(slots=True)
class _Needed:
    """Digests of blobs, diff IDs of layers, keys of their chains."""

    blobs: set[str] = field(default_factory=set)
    layers: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)


def _mark(layout: Layout, digest: str, needed: _Needed) -> None:
    """Note all that a manifest, or an index of manifests, needs."""
    pending = [digest]
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
