"""How something gets into the store: streamed, verified on the way, whole or not at all.

A layer passes once: its bytes are hashed and kept as they come, inflated, hashed again for the diff
ID, and unpacked, each in a thread of its own (`runtime.images.formats.pipeline`). All of it happens
aside; only when both digests are right and everything is on the disk does it get its name in the
store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import LayerError, StoreError
from runtime.images.formats.compression import decompressed
from runtime.images.formats.digest import ByteSource, chain_key, digest_of, hexadecimal
from runtime.images.formats.image import Image
from runtime.images.formats.pipeline import HashedSource, ReadAhead
from runtime.images.formats.reference import parse_reference
from runtime.images.store.files import sync_filesystem
from runtime.images.store.implied import ImpliedFolders
from runtime.images.store.layout import (
    DOCUMENT_LIMIT_BYTES,
    REFERENCE_ANNOTATION,
    Descriptor,
    Layout,
)
from runtime.images.store.manifest import LAYER_TYPE, name_of
from runtime.images.store.unpacked import Unpacked, new_layer_folder

LAYER_LIMIT_BYTES = 1 << 36
"""No layer may be, packed or unpacked, more than 64 GiB: the answer to decompression bombs."""
_DRAIN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class AddedLayer:
    """A layer that has been added, kept uncompressed.

    Attributes:
        descriptor: For a manifest: media type, digest and size of its blob.
        diff_id: The digest of its tar, here the same.
        newest_ns: Latest modification time in it, nanoseconds since the epoch.
        entries: How many members its archive has, whiteouts apart.
    """

    descriptor: Descriptor
    diff_id: str
    newest_ns: int
    entries: int


class Adder:
    """Adds to a store while nothing is removed from it; see `ImageStore.adding`.

    Several threads may add several things at once.

    Args:
        layout: The store's folder, whose writers' lock is held.
        load: Reads an image of an entry of the index, raising what is wrong with it.
    """

    def __init__(self, layout: Layout, load: Callable[[Descriptor], Image]) -> None:
        self._layout = layout
        self._load = load

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._layout.blob_path(digest).exists()

    def has_layer(self, diff_id: str) -> bool:
        """Whether the unpacked layer is there."""
        return self._layout.layer_path(diff_id).is_dir()

    def add_document(self, data: bytes, media_type: str, digest: str | None = None) -> Descriptor:
        """Keep a manifest or configuration exactly as it is; gives its descriptor.

        Raises:
            LayerError: It is not what the digest says.
            StoreError: It is too large, or no JSON object.
        """
        found = digest_of(data)
        if digest is not None and digest != found:
            raise LayerError(f"content of digest {found} was sent for {digest}")
        if len(data) > DOCUMENT_LIMIT_BYTES:
            raise StoreError(f"{found} is larger than a manifest or configuration may be")
        try:
            is_object = isinstance(json.loads(data), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise StoreError(
                f"{found} is not a JSON object, as a manifest or configuration must be"
            )
        self._layout.write_blob(data, found)
        return {"mediaType": media_type, "digest": found, "size": len(data)}

    def add_blob(self, source: ByteSource, digest: str, size: int | None = None) -> None:
        """Keep a stream whose digest, and perhaps size, are known before.

        Raises:
            LayerError: It is something else; nothing of it is kept.
        """
        hexadecimal(digest)
        if self.has_blob(digest):
            return
        with self._layout.temporary_folder() as aside, _named(digest):
            with (aside / "blob").open("xb") as copy:
                hashed = HashedSource(
                    source, limit_bytes=LAYER_LIMIT_BYTES, copy=copy, size_bytes=size
                )
                _drain(hashed)
                copy.flush()
                os.fsync(copy.fileno())
            _expect(hashed.digest, digest)
            self._layout.adopt_blob(aside / "blob", digest)

    def add_layer(self, source: ByteSource, digest: str, size: int | None, diff_id: str) -> None:
        """Keep a layer's blob as it is, compressed or not, and unpack it beside that.

        Args:
            source: The blob. What its `read` raises comes out unchanged. Not read if blob and
                unpacked layer are there already.
            digest: What the blob must hash to.
            size: How long it must be, if that is known.
            diff_id: What it must hash to once inflated.

        Raises:
            LayerError: It is something else, malformed or hostile; nothing of it is kept.
        """
        hexadecimal(digest)
        hexadecimal(diff_id)
        if self.has_blob(digest) and self.has_layer(diff_id):
            return
        with self._layout.temporary_folder() as aside, _named(digest):
            with (aside / "blob").open("xb") as copy:
                hashed = HashedSource(
                    source, limit_bytes=LAYER_LIMIT_BYTES, copy=copy, size_bytes=size
                )
                unpacked = self._unpack(hashed, aside, diff_id)
                _expect(hashed.digest, digest)
                copy.flush()
                if unpacked is None:
                    os.fsync(copy.fileno())
            if unpacked is not None:
                unpacked.adopt(self._layout, diff_id)
            if not self.has_blob(digest):
                self._layout.adopt_blob(aside / "blob", digest)

    def unpack_blob(
        self, digest: str, diff_id: str, progress: Callable[[int], None] | None = None
    ) -> None:
        """Unpack a blob that is in the store, unless that is done.

        Args:
            digest: Which; its content is verified anew.
            diff_id: What it must hash to once inflated.
            progress: Told from another thread how many bytes of the blob have been read.

        Raises:
            LayerError: It does not hash to its digest or its diff ID, is malformed or hostile.
        """
        if not self.has_layer(diff_id):
            with self._layout.open_blob(digest) as file:
                self._verify_file(file, digest, diff_id, progress)

    def adopt_layer(
        self,
        blob: Path,
        digest: str,
        diff_id: str,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`add_layer` for a blob that is a finished file in a temporary folder of this store.

        The file is moved to its place when it has been verified and unpacked.
        """
        with blob.open("rb") as file:
            self._verify_file(file, digest, diff_id, progress)
            os.fsync(file.fileno())
        if not self.has_blob(digest):
            self._layout.adopt_blob(blob, digest)

    def _verify_file(
        self,
        file: ByteSource,
        digest: str,
        diff_id: str,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Hash a blob and unpack it unless that layer is there."""
        with self._layout.temporary_folder() as aside, _named(digest):
            hashed = HashedSource(file, limit_bytes=LAYER_LIMIT_BYTES, progress=progress)
            unpacked = self._unpack(hashed, aside, diff_id)
            _expect(hashed.digest, digest)
            if unpacked is not None:
                unpacked.adopt(self._layout, diff_id)

    def add_tar(self, source: ByteSource, diff_id: str | None = None) -> AddedLayer:
        """Keep a layer's tar uncompressed, and unpack it.

        Args:
            source: The tar, compressed in any way or not at all.
            diff_id: What it must hash to once inflated, if that is known.

        Raises:
            LayerError: It is something else, malformed or hostile; nothing of it is kept.
        """
        with self._layout.temporary_folder() as aside, contextlib.ExitStack() as stack:
            copy = stack.enter_context((aside / "blob").open("xb"))
            stream = stack.enter_context(decompressed(source))
            hashed = HashedSource(stream, limit_bytes=LAYER_LIMIT_BYTES, copy=copy)
            ahead = stack.enter_context(contextlib.closing(ReadAhead(hashed)))
            with _unchanged(ahead):
                unpacked = Unpacked.make(ahead, aside)
            copy.flush()
            digest = hashed.digest
            if diff_id is not None:
                _expect(digest, diff_id)
            if self.has_layer(digest):
                os.fsync(copy.fileno())
            else:
                unpacked.adopt(self._layout, digest)
            if not self.has_blob(digest):
                self._layout.adopt_blob(aside / "blob", digest)
        descriptor = {"mediaType": LAYER_TYPE, "digest": digest, "size": hashed.size_bytes}
        return AddedLayer(descriptor, digest, unpacked.result.newest_ns, unpacked.result.entries)

    @contextlib.contextmanager
    def unpacked_again(self, digest: str, diff_id: str) -> Iterator[Path]:
        """What a blob of the store unpacks to, in a folder that goes again.

        Raises:
            LayerError: It no longer hashes to its diff ID, or cannot be unpacked.
        """
        with self._layout.open_blob(digest) as file, self._layout.temporary_folder() as aside:
            hashed = HashedSource(file, limit_bytes=LAYER_LIMIT_BYTES)
            unpacked = self._unpack(hashed, aside, diff_id, even_if_there=True)
            assert unpacked is not None
            yield unpacked.folder

    def add_image(
        self, manifest: Descriptor, references: Iterable[str] = (), *, keep: bool = False
    ) -> Image:
        """Name an image whose parts have all been added.

        Args:
            manifest: Its descriptor; `platform` is kept if given.
            references: Its names; one that is taken moves to this image. Without any, the next
                collection takes it.
            keep: Without a name, keep it all the same: it is found by its digest.

        Raises:
            StoreError: Something of it is missing or malformed; no name has changed.
        """
        names = [str(parse_reference(reference)) for reference in references]
        entries = [{**manifest, "annotations": {REFERENCE_ANNOTATION: name}} for name in names] or [
            manifest
        ]
        image = self._load(entries[0])
        for layer in image.layers:
            if not layer.path.is_dir() or not self.has_blob(layer.digest):
                raise StoreError(f"{image.reference}: its layer {layer.digest} has not been added")
            size = self._layout.blob_path(layer.digest).stat().st_size
            if size != layer.size_bytes:
                raise StoreError(
                    f"{image.reference}: it says that its layer {layer.digest} has "
                    f"{layer.size_bytes} bytes, but that has {size}"
                )

        def change(manifests: list[Descriptor]) -> list[Descriptor]:
            others = [
                other
                for other in manifests
                if (name_of(other) not in names if names else other["digest"] != image.digest)
            ]
            return sorted([*others, *entries], key=name_of)

        self._add_folders(image)
        is_named = any(
            name_of(entry) and entry["digest"] == image.digest
            for entry in self._layout.read_index()
        )
        if names or (keep and not is_named):
            self._layout.update_index(change)
        return self._load(entries[0])

    def _add_folders(self, image: Image) -> None:
        """Make what shows the image's implied folders as they should be, if anything must."""
        chain = chain_key(layer.diff_id for layer in image.layers)
        if self._layout.folders_path(chain).is_dir():
            return
        if implied := ImpliedFolders(self._layout, image.layers):
            with self._layout.temporary_folder() as aside:
                with new_layer_folder(aside / "folders"):
                    implied.make(aside / "folders")
                sync_filesystem(aside)
                self._layout.adopt_folders(aside / "folders", chain)

    def _unpack(
        self, hashed: HashedSource, aside: Path, diff_id: str, *, even_if_there: bool = False
    ) -> Unpacked | None:
        """Unpack a blob as it streams, to its end; only verify it if that layer is there."""
        with (
            contextlib.closing(ReadAhead(hashed)) as compressed,
            _unchanged(compressed),
            decompressed(compressed) as stream,
        ):
            plain = HashedSource(stream, limit_bytes=LAYER_LIMIT_BYTES)
            with contextlib.closing(ReadAhead(plain)) as ahead:
                unpacked = None
                if self.has_layer(diff_id) and not even_if_there:
                    _drain(ahead)
                else:
                    # Whether all of it came is what the diff ID says.
                    unpacked = Unpacked.make(ahead, aside, needs_end=False)
            if plain.digest != diff_id:
                raise LayerError(f"unpacks to {plain.digest}, but its image says {diff_id}")
            # What follows the compressed data belongs to the blob as well.
            _drain(compressed)
        return unpacked


@contextlib.contextmanager
def _named(digest: str) -> Iterator[None]:
    """Say of which blob it is that something is wrong."""
    try:
        yield
    except LayerError as error:
        raise LayerError(f"layer {digest}: {error}") from error


@contextlib.contextmanager
def _unchanged(ahead: ReadAhead) -> Iterator[None]:
    """What reading the source raised comes out as it was, not as an error in the layer."""
    try:
        yield
    except LayerError:
        if isinstance(ahead.error, OSError):
            raise ahead.error from None
        raise


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        raise LayerError(f"content of digest {found} was sent for it")


def _drain(source: ByteSource) -> None:
    while source.read(_DRAIN_BYTES):
        pass


def file_digest(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
