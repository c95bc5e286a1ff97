"""The store's folder: an OCI image layout, with the unpacked layers beside the blobs.

    oci-layout                          says that this is one (OCI image-spec, image-layout.md)
    index.json                          which image has which name
    blobs/sha256/<hex>                  manifests, configurations, layers as tar
    layers/sha256/<hex of the diff ID>  a layer unpacked, shared by every image above it
    layers/sha256/<the same>.json       what it takes on disk
    leases/sha256/<hex of a manifest>   locked, shared, by whoever runs the image, for as long
    tmp/                                what is being made
    writers.lock index.lock

**Writing.** Everything is made under `tmp/`, flushed, and renamed to where it belongs, and a name
is put into the index only when all that it needs is there. So readers need no lock, and a writer
killed at any moment leaves at worst things that nobody names, which the next collection removes.

**Locks** (flock(2), freed by the kernel however their owner ends). `writers.lock`: shared by all
who add or take a lease, exclusive for who removes, so that nothing is collected between being
stored and being named. `index.lock`: exclusive while the index is read, changed and replaced.
Always taken in this order.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.errors import StoreError
from runtime.images.digest import digest_of, hexadecimal
from runtime.session import remove_tree

REFERENCE_ANNOTATION = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_DOCUMENT_LIMIT_BYTES = 4 << 20
"""Manifests and configurations are a few KiB; registries refuse manifests above 4 MiB."""

Descriptor = dict[str, Any]
"""An OCI descriptor: mediaType, digest, size, and perhaps annotations."""


class Layout:
    """A store's folder. Makes nothing until something is written.

    Attributes:
        root: Where it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / "tmp"

    # Where things are.

    def blob_path(self, digest: str) -> Path:
        """The file of a blob, there or not."""
        return self.root / "blobs" / "sha256" / hexadecimal(digest)

    def layer_path(self, diff_id: str) -> Path:
        """The folder of an unpacked layer, there or not."""
        return self.root / "layers" / "sha256" / hexadecimal(diff_id)

    def layer_record_path(self, diff_id: str) -> Path:
        """The record beside an unpacked layer."""
        return self.root / "layers" / "sha256" / (hexadecimal(diff_id) + ".json")

    def lease_path(self, digest: str) -> Path:
        """The lease file of a manifest."""
        return self.root / "leases" / "sha256" / hexadecimal(digest)

    # Reading.

    def read_index(self) -> list[Descriptor]:
        """The named manifests; a store that is not there yet has none.

        Raises:
            StoreError: The index is damaged, or this is no layout we know.
        """
        path = self.root / "index.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        document = _json(data, path)
        manifests = document.get("manifests")
        if document.get("schemaVersion") != 2 or not isinstance(manifests, list):
            raise StoreError(f"{path} is not an OCI index of version 2")
        for descriptor in manifests:
            check_descriptor(descriptor, str(path))
        return manifests

    def read_document(self, digest: str) -> dict[str, Any]:
        """A JSON blob, verified.

        Raises:
            StoreError: It is missing, damaged, or no JSON object.
        """
        path = self.blob_path(digest)
        try:
            with path.open("rb") as file:
                data = file.read(_DOCUMENT_LIMIT_BYTES + 1)
        except FileNotFoundError:
            raise StoreError(f"blob {digest} is missing from the store {self.root}") from None
        if len(data) > _DOCUMENT_LIMIT_BYTES:
            raise StoreError(f"{path} is larger than a manifest or configuration may be")
        if digest_of(data) != digest:
            raise StoreError(f"{path} is damaged: its content is not what its name says; remove it")
        return _json(data, path)

    def read_layer_record(self, diff_id: str) -> dict[str, Any]:
        """What is known of an unpacked layer; measured if its record is lost or damaged.

        Returns:
            `allocated_bytes`, `apparent_bytes`, `entries`, `whiteouts`, `skipped_devices`,
            `overlay_xattr`.
        """
        record = {
            "entries": 0,
            "whiteouts": 0,
            "skipped_devices": 0,
            "overlay_xattr": "trusted.overlay",
        }
        path = self.layer_record_path(diff_id)
        with contextlib.suppress(FileNotFoundError, StoreError):
            found = _json(path.read_bytes(), path)
            if isinstance(found.get("allocated_bytes"), int):
                return record | found
        return record | measure(self.layer_path(diff_id))

    # Locks.

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Held by who adds. Makes the store if need be, and sweeps up after the dead."""
        self._create()
        with _lock_file(self.root / "writers.lock") as fd:
            with contextlib.suppress(BlockingIOError):
                # If nobody else is writing, all that is under tmp/ belongs to the dead.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            fcntl.flock(fd, fcntl.LOCK_SH)
            self._mark()
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Held by who removes; waits until nobody is adding."""
        self._create()
        with _lock_file(self.root / "writers.lock") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._sweep()
            self._mark()
            yield

    def update_index(self, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
        """Replace the index by what `change` makes of it; the writers' lock is held."""
        with _lock_file(self.root / "index.lock") as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            manifests = change(self.read_index())
            document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
            self._replace(self.root / "index.json", _encode(document))

    # Writing; the writers' lock is held.

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A new folder under `tmp/`, gone afterwards with what is left in it."""
        path = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield path
        finally:
            remove_tree(path)

    def write_document(self, document: dict[str, Any], media_type: str) -> Descriptor:
        """Store a JSON blob; gives its descriptor."""
        data = _encode(document)
        digest = digest_of(data)
        if not self.blob_path(digest).exists():
            self._replace(self.blob_path(digest), data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def adopt_blob(self, path: Path, digest: str) -> None:
        """Move a finished file that is flushed to disk to where its digest says."""
        _rename(path, self.blob_path(digest))

    def adopt_layer(self, folder: Path, diff_id: str, record: dict[str, Any]) -> None:
        """Move an unpacked layer to its place, unless another writer was quicker.

        All of it reaches the disk before the rename, so that a layer that is there is complete.
        """
        self._replace(self.layer_record_path(diff_id), _encode(record))
        sync_filesystem(folder)
        target = self.layer_path(diff_id)
        try:
            _rename(folder, target)
        except OSError:
            if not target.is_dir():
                raise

    def remove_layer(self, diff_id: str) -> None:
        """Take an unpacked layer away: out of sight at once, then from the disk."""
        with self.temporary_folder() as aside, contextlib.suppress(FileNotFoundError):
            self.layer_path(diff_id).rename(aside / "layer")
        self.layer_record_path(diff_id).unlink(missing_ok=True)

    def _create(self) -> None:
        """Make the folders; only the owner may look in, since layers hold setuid programs."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in ("blobs/sha256", "layers/sha256", "leases/sha256", "tmp"):
            (self.root / part).mkdir(parents=True, exist_ok=True)

    def _mark(self) -> None:
        marker = self.root / "oci-layout"
        if not marker.exists():
            self._replace(marker, _encode(_LAYOUT))

    def _sweep(self) -> None:
        for entry in os.scandir(self._temporary):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                os.unlink(entry.path)

    def _replace(self, target: Path, data: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            _rename(Path(name), target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def check_descriptor(descriptor: object, where: str) -> None:
    """Raise StoreError unless this is a descriptor with a sha256 digest and a size."""
    if isinstance(descriptor, dict):
        digest, size = descriptor.get("digest"), descriptor.get("size")
        annotations = descriptor.get("annotations") or {}
        if isinstance(digest, str) and isinstance(size, int) and isinstance(annotations, dict):
            hexadecimal(digest)
            return
    raise StoreError(f"{where} has a malformed descriptor: it must have a digest and a size")


def measure(folder: Path) -> dict[str, int]:
    """What a folder takes, hard links counted once: `apparent_bytes` and `allocated_bytes`."""
    apparent = allocated = 0
    seen: set[int] = set()
    pending = [os.fsencode(folder)]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            # An ordinary user cannot look into every folder that he may own.
            with contextlib.suppress(PermissionError):
                pending += [os.path.join(path, name) for name in os.listdir(path)]
        elif status.st_nlink > 1:
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        apparent += status.st_size
        allocated += status.st_blocks * 512
    return {"apparent_bytes": apparent, "allocated_bytes": allocated}


def sync_filesystem(path: Path) -> None:
    """Write all of the path's filesystem that is in memory to disk (syncfs(2), through sync(1))."""
    subprocess.run(["sync", "--file-system", path], check=True)


def _rename(source: Path, target: Path) -> None:
    """Rename, and see to it that the new name survives a power cut."""
    source.rename(target)
    fd = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _encode(document: dict[str, Any]) -> bytes:
    """JSON with one spelling for equal documents: sorted, without spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path} does not hold a JSON object")
    return document
