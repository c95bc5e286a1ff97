"""Adding to the store: streamed, verified on the way, whole or not at all.

A layer passes once: its bytes are hashed and kept as they come, inflated, hashed again for the diff
ID, and unpacked, each in a thread of its own (`runtime.images.formats.pipeline`). All of it happens
in a temporary folder; only when both digests are right and everything is on the disk does it get
its name in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import LayerError, StoreError
from runtime.images.formats.compression import decompressed
from runtime.images.formats.digest import (
    DOCUMENT_LIMIT_BYTES,
    ByteSource,
    chain_key,
    digest_of,
    drain,
    hexadecimal,
)
from runtime.images.formats.image import Image
from runtime.images.formats.pipeline import HashedSource, ReadAhead
from runtime.images.formats.reference import parse_reference
from runtime.images.formats.schema import OCI_LAYER
from runtime.images.layer.attributes import UnpackOptions
from runtime.images.layer.unpack import UnpackResult, unpack
from runtime.images.store.files import decode_json, measure, sync_filesystem
from runtime.images.store.implied import ImpliedFolders
from runtime.images.store.layout import REFERENCE_ANNOTATION, Descriptor, StoreLayout
from runtime.images.store.lookup import name_of

Progress = Callable[[int], None]
"""Called, from another thread, with the number of bytes of a blob that have been read."""


@dataclass(frozen=True, slots=True)
class AddedLayer:
    """Describes a layer that has been added, uncompressed.

    Attributes:
        descriptor: For a manifest: media type, digest and size of its blob.
        diff_id: The digest of its tar, here the same.
        newest_ns: Latest modification time in it, nanoseconds since the epoch.
    """

    descriptor: Descriptor
    diff_id: str
    newest_ns: int


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """A layer that has been unpacked in a temporary folder."""

    folder: Path
    options: UnpackOptions
    result: UnpackResult

    @classmethod
    def make(cls, stream: ByteSource, staging: Path, *, needs_end: bool = True) -> _Unpacked:
        options = UnpackOptions.for_this_user()
        folder = staging / "layer"
        with _new_layer_folder(folder) as folder_fd:
            return cls(folder, options, unpack(stream, folder_fd, options, needs_end=needs_end))

    def adopt(self, layout: StoreLayout, diff_id: str) -> None:
        """Flush everything and move the layer to its place."""
        # Measured afterwards, when every block has been allocated.
        sync_filesystem(self.folder)
        record = {
            **measure(self.folder),
            "entries": self.result.entries,
            "overlay_xattr": self.options.overlay_xattr,
            "skipped_devices": self.result.skipped_devices,
            "whiteouts": self.result.whiteouts,
        }
        layout.adopt_layer(self.folder, diff_id, record, self.result.implied)


class Adder:
    """Adds to a store while nothing is removed from it (see `ImageStore.adding`), also in threads.

    The writers' lock of `layout` is held; `load` reads an image by its entry in the index and
    raises what is wrong with it.
    """

    def __init__(self, layout: StoreLayout, load: Callable[[Descriptor], Image]) -> None:
        self._layout = layout
        self._load = load

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._layout.blob_path(digest).exists()

    def has_layer(self, diff_id: str) -> bool:
        """Whether the unpacked layer is there."""
        return self._layout.layer_path(diff_id).is_dir()

    def add_document(self, data: bytes, media_type: str, digest: str | None = None) -> Descriptor:
        """Keep a manifest or configuration exactly as it is, and return its descriptor.

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
            decode_json(data, found)
        except StoreError:
            text = f"{found} is not a JSON object, as a manifest or configuration must be"
            raise StoreError(text) from None
        self._layout.write_blob(data, found)
        return {"mediaType": media_type, "digest": found, "size": len(data)}

    def add_blob(self, source: ByteSource, digest: str, size: int | None = None) -> None:
        """Keep a stream of known digest, and perhaps size; raise LayerError if it is another."""
        if self.has_blob(digest):
            return
        with self._layout.temporary_folder() as staging, _named(digest):
            with (staging / "blob").open("xb") as copy:
                hashed = HashedSource(source, copy=copy, size_bytes=size)
                drain(hashed)
                copy.flush()
                os.fsync(copy.fileno())
            _expect(hashed.digest, digest)
            self._layout.adopt_blob(staging / "blob", digest)

    def add_layer(
        self,
        source: ByteSource,
        digest: str,
        size: int | None,
        diff_id: str,
        progress: Progress | None = None,
    ) -> None:
        """Keep a layer's blob as it is, compressed or not, and unpack it beside that.

        Args:
            source: The blob. What its `read` raises comes out unchanged. Not read if blob and
                unpacked layer are there already.
            digest: The blob's.
            size: Its length in bytes, if known.
            diff_id: Its digest once inflated.
            progress: Reports the bytes that have come.

        Raises:
            LayerError: It is something else, malformed or hostile; nothing of it is kept.
        """
        hexadecimal(diff_id)
        if self.has_blob(digest) and self.has_layer(diff_id):
            return
        with self._layout.temporary_folder() as staging, _named(digest):
            with (staging / "blob").open("xb") as copy:
                hashed = HashedSource(source, copy=copy, size_bytes=size, progress=progress)
                unpacked = self._unpack(hashed, staging, diff_id)
                _expect(hashed.digest, digest)
                copy.flush()
                if unpacked is None:
                    os.fsync(copy.fileno())
            if unpacked is not None:
                unpacked.adopt(self._layout, diff_id)
            if not self.has_blob(digest):
                self._layout.adopt_blob(staging / "blob", digest)

    def unpack_blob(self, digest: str, diff_id: str, progress: Progress | None = None) -> None:
        """Unpack a blob that is in the store, verified again, unless that is done.

        Raises:
            LayerError: It does not hash to its digest or its diff ID, is malformed or hostile.
        """
        if not self.has_layer(diff_id):
            with self._layout.open_blob(digest) as file:
                self._verify_file(file, digest, diff_id, progress)

    def adopt_layer(
        self, blob: Path, digest: str, diff_id: str, progress: Progress | None = None
    ) -> None:
        """Do as `add_layer` with a finished file in a temporary folder of this store.

        The file is moved to its place when it has been verified and unpacked.
        """
        with blob.open("rb") as file:
            self._verify_file(file, digest, diff_id, progress)
            os.fsync(file.fileno())
        if not self.has_blob(digest):
            self._layout.adopt_blob(blob, digest)

    def _verify_file(
        self, file: ByteSource, digest: str, diff_id: str, progress: Progress | None
    ) -> None:
        """Hash a blob and unpack it unless that layer is there."""
        with self._layout.temporary_folder() as staging, _named(digest):
            hashed = HashedSource(file, progress=progress)
            unpacked = self._unpack(hashed, staging, diff_id)
            _expect(hashed.digest, digest)
            if unpacked is not None:
                unpacked.adopt(self._layout, diff_id)

    def add_tar(self, source: ByteSource, diff_id: str | None = None) -> AddedLayer:
        """Keep a layer's tar, compressed in any way or not at all, uncompressed, and unpack it.

        `diff_id` is its digest once inflated, if known.

        Raises:
            LayerError: It is something else, malformed or hostile; nothing of it is kept.
        """
        with self._layout.temporary_folder() as staging, contextlib.ExitStack() as stack:
            copy = stack.enter_context((staging / "blob").open("xb"))
            stream = stack.enter_context(decompressed(source))
            hashed = HashedSource(stream, copy=copy)
            plain = stack.enter_context(contextlib.closing(ReadAhead(hashed)))
            with _unchanged(plain):
                unpacked = _Unpacked.make(plain, staging)
            copy.flush()
            digest = hashed.digest
            if diff_id is not None:
                _expect(digest, diff_id)
            if self.has_layer(digest):
                os.fsync(copy.fileno())
            else:
                unpacked.adopt(self._layout, digest)
            if not self.has_blob(digest):
                self._layout.adopt_blob(staging / "blob", digest)
        descriptor = {"mediaType": OCI_LAYER, "digest": digest, "size": hashed.size_bytes}
        return AddedLayer(descriptor, digest, unpacked.result.newest_ns)

    @contextlib.contextmanager
    def unpacked_again(self, digest: str, diff_id: str) -> Iterator[Path]:
        """Unpack a blob of the store into a folder that is removed afterwards.

        Raises:
            LayerError: It no longer hashes to its diff ID, or cannot be unpacked.
        """
        with self._layout.open_blob(digest) as file, self._layout.temporary_folder() as staging:
            unpacked = self._unpack(HashedSource(file), staging, diff_id, even_if_there=True)
            assert unpacked is not None
            yield unpacked.folder

    def add_image(
        self, manifest: Descriptor, references: Iterable[str] = (), *, keep: bool = False
    ) -> Image:
        """Name an image whose parts have all been added, by the descriptor of its manifest.

        A name that is taken moves to this image. One without names is found by its digest with
        `keep`; otherwise the next collection removes it.

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
        """Make the folders that show the image's implied folders as they should be, if needed."""
        chain = chain_key(layer.diff_id for layer in image.layers)
        if self._layout.folders_path(chain).is_dir():
            return
        if implied := ImpliedFolders(self._layout, image.layers):
            with self._layout.temporary_folder() as staging:
                with _new_layer_folder(staging / "folders"):
                    implied.make(staging / "folders")
                sync_filesystem(staging)
                self._layout.adopt_folders(staging / "folders", chain)

    def _unpack(
        self, hashed: HashedSource, staging: Path, diff_id: str, *, even_if_there: bool = False
    ) -> _Unpacked | None:
        """Unpack a blob as it streams, to its end; only verify it if that layer is there."""
        with (
            contextlib.closing(ReadAhead(hashed)) as compressed,
            _unchanged(compressed),
            decompressed(compressed) as stream,
        ):
            hashed_plain = HashedSource(stream)
            with contextlib.closing(ReadAhead(hashed_plain)) as plain:
                unpacked = None
                if self.has_layer(diff_id) and not even_if_there:
                    drain(plain)
                else:
                    # The diff ID proves that all of it came.
                    unpacked = _Unpacked.make(plain, staging, needs_end=False)
            if hashed_plain.digest != diff_id:
                raise LayerError(f"unpacks to {hashed_plain.digest}, but its image says {diff_id}")
            # What follows the compressed data belongs to the blob as well.
            drain(compressed)
        return unpacked


@contextlib.contextmanager
def _new_layer_folder(folder: Path) -> Iterator[int]:
    """Make an empty folder that hands nothing down to what is made in it; gives a descriptor."""
    folder.mkdir(mode=0o755)
    with contextlib.suppress(OSError):
        os.removexattr(folder, "system.posix_acl_default")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Without a setgid bit from above either, which would give its group to everything.
        os.fchmod(fd, 0o755)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named(digest: str) -> Iterator[None]:
    """Say in an error which blob is wrong."""
    try:
        yield
    except LayerError as error:
        raise LayerError(f"layer {digest}: {error}") from error


@contextlib.contextmanager
def _unchanged(source: ReadAhead) -> Iterator[None]:
    """Raise what reading the source raised as it was, not as an error in the layer."""
    try:
        yield
    except LayerError:
        if isinstance(source.error, OSError):
            raise source.error from None
        raise


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        raise LayerError(f"content of digest {found} was sent for it")


def file_digest(path: Path) -> str:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
