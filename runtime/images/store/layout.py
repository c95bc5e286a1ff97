"""The store's folder: an OCI image layout, with the unpacked layers beside the blobs.

    oci-layout                          the marker of a layout (OCI image-spec, image-layout.md)
    index.json                          which image has which name
    blobs/sha256/<hex>                  manifests, configurations, layers as tar
    layers/sha256/<hex of the diff ID>  a layer unpacked, shared by every image above it
    layers/sha256/<the same>.json       what it takes on disk
    layers/sha256/<the same>.implied    folders in it that its archive does not describe, if any
    layers/folders/<hex of the chain>   what an image shows for those (runtime.images.store.implied)
    leases/sha256/<hex of a manifest>   locked, shared, while the image is in use
    copies/<hex of a manifest>-<n>      a writable copy that is kept (runtime.images.store.copies)
    tmp/                                files in the making
    writers.lock index.lock

**Writing.** Everything is made under `tmp/`, flushed, and renamed to its place, and a name enters
the index only when all that it needs is there. So readers need no lock, and a writer killed at any
moment leaves at worst things that nobody names, which the next collection removes.

**Locks** (flock(2), freed by the kernel however their owner ends). `writers.lock`: shared for
adding and for taking a lease, exclusive for removing, so that nothing is collected between being
stored and being named. `index.lock`: exclusive while the index is read, changed and replaced.
Always taken in this order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from runtime.errors import StoreError
from runtime.images.formats.digest import DOCUMENT_LIMIT_BYTES, digest_of, hexadecimal, is_digest
from runtime.images.store import files
from runtime.images.store.files import decode_json, encode_json, lock_file, measure
from runtime.linux.files import remove_tree, try_directory_lock

REFERENCE_ANNOTATION = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}

Descriptor = dict[str, Any]
"""An OCI descriptor: mediaType, digest, size, and perhaps annotations."""


class StoreLayout:
    """Reads and writes a store's folder. Makes nothing until something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / "tmp"

    # Paths, there or not.

    def blob_path(self, digest: str) -> Path:
        """Return the file of a blob."""
        return self.root / "blobs" / "sha256" / hexadecimal(digest)

    def layer_path(self, diff_id: str) -> Path:
        """Return the folder of an unpacked layer."""
        return self.root / "layers" / "sha256" / hexadecimal(diff_id)

    def layer_record_path(self, diff_id: str) -> Path:
        """Return the record beside an unpacked layer."""
        return self.layer_path(diff_id).with_suffix(".json")

    def implied_path(self, diff_id: str) -> Path:
        """Return the list of the folders that a layer implies."""
        return self.layer_path(diff_id).with_suffix(".implied")

    def folders_path(self, chain: str) -> Path:
        """Return the folder that goes on top of a chain of layers for their implied folders."""
        return self.root / "layers" / "folders" / hexadecimal(chain)

    def lease_path(self, digest: str) -> Path:
        """Return the lease file of a manifest."""
        return self.root / "leases" / "sha256" / hexadecimal(digest)

    def copy_path(self, digest: str, number: int) -> Path:
        """Return the folder of a kept copy of a manifest's root filesystem."""
        return self.root / "copies" / f"{hexadecimal(digest)}-{number}"

    # Reading.

    def read_index(self) -> list[Descriptor]:
        """Read the named manifests, none without a store; raise StoreError if they are damaged."""
        path = self.root / "index.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        document = decode_json(data, path)
        manifests = document.get("manifests")
        if document.get("schemaVersion") != 2 or not isinstance(manifests, list):
            raise StoreError(f"{path} is not an OCI index of version 2")
        for descriptor in manifests:
            check_descriptor(descriptor, str(path))
        return manifests

    def read_document(self, digest: str) -> dict[str, Any]:
        """Read a JSON blob and verify it, or raise StoreError."""
        path = self.blob_path(digest)
        with self.open_blob(digest) as file:
            data = file.read(DOCUMENT_LIMIT_BYTES + 1)
        if len(data) > DOCUMENT_LIMIT_BYTES:
            raise StoreError(f"{path} is larger than a manifest or configuration may be")
        if digest_of(data) != digest:
            raise StoreError(f"{path} is damaged: its content is not what its name says; remove it")
        return decode_json(data, path)

    def read_layer_record(self, diff_id: str) -> dict[str, Any]:
        """Read the record of an unpacked layer, or measure it if that is lost or damaged.

        Returns:
            `allocated_bytes`, `apparent_bytes`, `entries`, `whiteouts`, `skipped_devices`,
            `overlay_xattr`.
        """
        record: dict[str, Any] = dict.fromkeys(("entries", "whiteouts", "skipped_devices"), 0)
        record["overlay_xattr"] = "trusted.overlay"
        path = self.layer_record_path(diff_id)
        with contextlib.suppress(FileNotFoundError, StoreError):
            found = decode_json(path.read_bytes(), path)
            if isinstance(found.get("allocated_bytes"), int):
                return record | found
        return record | measure(self.layer_path(diff_id))

    def read_implied(self, diff_id: str) -> set[bytes]:
        """Read which folders a layer fills without describing them; the root's name is empty."""
        try:
            return set(self.implied_path(diff_id).read_bytes().split(b"\0"))
        except FileNotFoundError:
            return set()

    def open_blob(self, digest: str) -> IO[bytes]:
        """Open a blob for reading, or raise StoreError if it is missing."""
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError:
            raise StoreError(f"blob {digest} is missing from the store {self.root}") from None

    def blobs(self) -> set[str]:
        """Return the digests of all blobs."""
        return _digests(files.names_in(self.root / "blobs" / "sha256"))

    def layers(self) -> set[str]:
        """Return the diff IDs of all unpacked layers, those with only a record left included."""
        names = files.names_in(self.root / "layers" / "sha256")
        return _digests(name.partition(".")[0] for name in names)

    def folders(self) -> set[str]:
        """Return the keys of all chains of layers that have folders on top."""
        return _digests(files.names_in(self.root / "layers" / "folders"))

    def copies(self) -> dict[Path, str]:
        """Return the folders of all kept copies, each with the digest of its manifest."""
        folder = self.root / "copies"
        names = files.names_in(folder)
        return {folder / name: f"sha256:{name.partition('-')[0]}" for name in names}

    def blob_allocated_bytes(self, digest: str) -> int:
        """Return what a blob takes on disk; nothing if it is not there."""
        return files.allocated_bytes(self.blob_path(digest))

    def layer_allocated_bytes(self, diff_id: str) -> int:
        """Return what an unpacked layer and its records take on disk."""
        there = self.layer_path(diff_id).is_dir()
        tree: int = self.read_layer_record(diff_id)["allocated_bytes"] if there else 0
        records = self.layer_record_path(diff_id), self.implied_path(diff_id)
        return tree + sum(map(files.allocated_bytes, records))

    def folders_allocated_bytes(self, chain: str) -> int:
        """Return what the folders on top of a chain of layers take on disk."""
        path = self.folders_path(chain)
        return measure(path)["allocated_bytes"] if path.is_dir() else 0

    def copy_allocated_bytes(self, folder: str) -> int:
        """Return what a kept copy takes on disk; nothing if it is not there."""
        try:
            return measure(Path(folder))["allocated_bytes"]
        except FileNotFoundError:
            return 0

    # Locks.

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock for adding; make a missing store, and clean up after killed writers."""
        self._create()
        with lock_file(self.root / "writers.lock") as fd:
            with contextlib.suppress(BlockingIOError):
                # If nobody else is writing, all that is under tmp/ is left by killed writers.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            fcntl.flock(fd, fcntl.LOCK_SH)
            self._mark()
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[int]:
        """Hold the lock for removing, once nobody is adding.

        Gives how many bytes on disk cleaning up after killed writers has freed.
        """
        self._create()
        with lock_file(self.root / "writers.lock") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            freed_bytes = self._sweep()
            self._mark()
            yield freed_bytes

    @contextlib.contextmanager
    def space_to_remove(self) -> Iterator[None]:
        """Let the index be replaced even on a full disk, so that something can be removed.

        Meanwhile the records of layers are in memory alone. A process killed now leaves a store
        whose layers have to be measured again.
        """
        probe = self.root / "tmp" / "space"
        records: dict[Path, bytes] = {}
        try:
            self._replace(probe, bytes(1 << 14))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            for diff_id in self.layers():
                path = self.layer_record_path(diff_id)
                with contextlib.suppress(FileNotFoundError):
                    records[path] = path.read_bytes()
                    path.unlink()
        probe.unlink(missing_ok=True)
        try:
            yield
        finally:
            for path, data in records.items():
                if path.with_suffix("").is_dir():
                    with contextlib.suppress(OSError):
                        self._replace(path, data)

    def update_index(self, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
        """Replace the index by what `change` makes of it; the writers' lock is held."""
        with lock_file(self.root / "index.lock") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            manifests = change(self.read_index())
            document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
            self._replace(self.root / "index.json", encode_json(document))

    # Writing; the writers' lock is held.

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Give a new folder under `tmp/`, removed afterwards with what is left in it."""
        path = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield path
        finally:
            remove_tree(path)

    def write_blob(self, data: bytes, digest: str) -> None:
        """Store a small blob whose digest has been computed; over a damaged one too."""
        path = self.blob_path(digest)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return
        self._replace(path, data)

    def adopt_blob(self, path: Path, digest: str) -> None:
        """Move a finished file that is flushed to disk to where its digest says."""
        files.rename_file(path, self.blob_path(digest))

    def adopt_layer(
        self, folder: Path, diff_id: str, record: dict[str, Any], implied: Iterable[bytes]
    ) -> None:
        """Move an unpacked layer to its place, unless another writer was faster.

        All of it is on the disk already (`sync_filesystem`): a layer that is there is complete.
        """
        self._replace(self.layer_record_path(diff_id), encode_json(record))
        if names := list(implied):
            self._replace(self.implied_path(diff_id), b"\0".join(names))
        files.rename_folder(folder, self.layer_path(diff_id))

    def adopt_folders(self, folder: Path, chain: str) -> None:
        """Do the same for the folders on top of a chain of layers."""
        files.rename_folder(folder, self.folders_path(chain))

    def remove_layer(self, diff_id: str) -> None:
        """Remove an unpacked layer: out of sight at once, then from the disk."""
        self._remove(self.layer_path(diff_id))
        self.layer_record_path(diff_id).unlink(missing_ok=True)
        self.implied_path(diff_id).unlink(missing_ok=True)

    def remove_folders(self, chain: str) -> None:
        """Remove the folders on top of a chain of layers."""
        self._remove(self.folders_path(chain))

    def remove_copy(self, folder: Path) -> int:
        """Remove a kept copy unless somebody has it; return how many bytes on disk that freed."""
        with try_directory_lock(folder) as is_locked:
            if not is_locked:
                return 0
            freed_bytes = measure(folder)["allocated_bytes"]
            self._remove(folder)
        return freed_bytes

    def _remove(self, folder: Path) -> None:
        with self.temporary_folder() as staging, contextlib.suppress(FileNotFoundError):
            folder.rename(staging / "folder")

    def _create(self) -> None:
        """Make the folders; only the owner may look in, since layers hold setuid programs."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (
            "blobs/sha256",
            "layers/sha256",
            "layers/folders",
            "leases/sha256",
            "copies",
            "tmp",
        ):
            (self.root / part).mkdir(parents=True, exist_ok=True)

    def _mark(self) -> None:
        marker = self.root / "oci-layout"
        if not marker.exists():
            self._replace(marker, encode_json(_LAYOUT))

    def _sweep(self) -> int:
        freed_bytes = 0
        for entry in list(os.scandir(self._temporary)):
            freed_bytes += measure(Path(entry.path))["allocated_bytes"]
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                os.unlink(entry.path)
        return freed_bytes

    def _replace(self, target: Path, data: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            files.rename_file(Path(name), target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def _digests(names: Iterable[str]) -> set[str]:
    return {digest for name in names if is_digest(digest := f"sha256:{name}")}


def check_descriptor(descriptor: object, where: str) -> None:
    """Raise StoreError unless this is a descriptor with a sha256 digest and a size."""
    if isinstance(descriptor, dict):
        digest, size = descriptor.get("digest"), descriptor.get("size")
        is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        annotations = descriptor.get("annotations") or {}
        if isinstance(digest, str) and is_size and isinstance(annotations, dict):
            hexadecimal(digest)
            return
    raise StoreError(f"{where} has a malformed descriptor: it must have a digest and a size")
