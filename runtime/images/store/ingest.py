"""Taking an image into the store, wherever its parts come from.

One way in for registries, layouts and archives: the configuration is read and checked, every layer
that is not there yet is streamed in, a few at a time (`runtime.images.store.writer` verifies and
unpacks them on the way), and only when all is in place does the name appear. A layer becomes part
of the store as soon as it is complete, so that a try after a failure finds it there.

Blobs are kept as they came, compressed: only so can an image go out again with the digests it had.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import ImageError, LayerError
from runtime.images.formats.compression import decompressed
from runtime.images.formats.digest import ByteSource, digest_of
from runtime.images.formats.image import Image
from runtime.images.formats.pipeline import HashedSource, ReadAhead
from runtime.images.formats.schema import (
    BLOB_LIMIT_BYTES,
    BlobDescriptor,
    ImageManifest,
    ManifestError,
    Platform,
    parse_configuration,
)
from runtime.images.store.layout import Layout
from runtime.images.store.manifest import diff_ids_of, read_parts
from runtime.images.store.store import ImageStore
from runtime.images.store.writer import Adder, file_digest

_WORKERS = 3
_BLOCK_BYTES = 1 << 20


class LayerState(Enum):
    """What becomes of a layer, in docker's words."""

    WAITING = "Pulling fs layer"
    DOWNLOADING = "Downloading"
    COMPLETE = "Pull complete"
    EXISTS = "Already exists"


@dataclass(frozen=True, slots=True)
class LayerEvent:
    """Something happened to a layer.

    Attributes:
        digest: Of its blob.
        state: What it is now.
        done_bytes: How many bytes of the blob have come.
        total_bytes: How many there are.
    """

    digest: str
    state: LayerState
    done_bytes: int
    total_bytes: int


Listener = Callable[[LayerEvent], None]


class Source(Protocol):
    """Where the parts of an image come from. Called from several threads."""

    def document(self, descriptor: BlobDescriptor) -> bytes:
        """A small blob; who asked verifies it."""

    def open_blob(self, descriptor: BlobDescriptor) -> AbstractContextManager[ByteSource]:
        """A blob as a stream; who reads it verifies it."""

    def movable_blob(self, descriptor: BlobDescriptor) -> Path | None:
        """A blob as a file in the store's temporary folder that may be moved away, if it is one."""

    def stop(self) -> None:
        """End what is under way in other threads."""


def current_image(store: ImageStore, name: str, digest: str) -> Image | None:
    """The image of that name, if it is this manifest and nothing of it is missing."""
    layout = Layout(store.root)
    with contextlib.suppress(ImageError):
        image = store.get(name)
        blobs = [image.digest, *(layer.digest for layer in image.layers)]
        if image.digest == digest and all(layout.blob_path(blob).exists() for blob in blobs):
            return image
    return None


class Intake:
    """Takes images into a store.

    Args:
        store: Which.
        adder: Of that store, held for as long as this is used (`ImageStore.adding`).
        listener: Told what happens to each layer; called by one thread at a time.
    """

    def __init__(
        self, store: ImageStore, adder: Adder, listener: Listener = lambda _: None
    ) -> None:
        self._layout = Layout(store.root)
        self._adder = adder
        self._listener = listener
        self._lock = threading.Lock()

    def add(self, manifest: ImageManifest, source: Source, names: tuple[str, ...]) -> Image:
        """Take one image in, and give it its names.

        Args:
            manifest: Checked in itself, and its digest with whoever asked for it.
            source: Has all that it names.
            names: References; without any it is found by its digest.

        Raises:
            ImageError: Something is missing, or not what it claims to be; of the image, no more
                than whole layers is in the store, without a name.
        """
        where = f"the configuration of {names[0] if names else manifest.digest}"
        config = source.document(manifest.config)
        if len(config) != manifest.config.size_bytes or digest_of(config) != manifest.config.digest:
            raise ManifestError(f"{where} is not {manifest.config.digest}, as the manifest says")
        details = parse_configuration(config, len(manifest.layers), where)
        self._add_layers(_pairs(manifest, details.diff_ids), source)
        self._adder.add_document(config, manifest.config.media_type, manifest.config.digest)
        entry: dict[str, Any] = self._adder.add_document(
            manifest.data, manifest.media_type, manifest.digest
        )
        entry["platform"] = _to_oci(details.platform)
        return self._adder.add_image(entry, names, keep=True)

    def _add_layers(self, wanted: dict[str, tuple[BlobDescriptor, str]], source: Source) -> None:
        trusted = self._trusted_pairs()
        missing = []
        for layer, diff_id in wanted.values():
            if self._has(layer, diff_id, trusted):
                self._tell(layer, LayerState.EXISTS)
            else:
                self._tell(layer, LayerState.WAITING)
                missing.append((layer, diff_id))
        if not missing:
            return
        with ThreadPoolExecutor(min(_WORKERS, len(missing)), "layer") as pool:
            # An interrupt may come when the first has hardly begun: it must be stopped as well.
            try:
                futures = [
                    pool.submit(self._add, layer, diff_id, source) for layer, diff_id in missing
                ]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                source.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _add(self, layer: BlobDescriptor, diff_id: str, source: Source) -> None:
        """In a thread: one layer, from where it comes to its place."""

        def progress(done: int) -> None:
            self._tell(layer, LayerState.DOWNLOADING, done)

        if self._is_sound(layer):
            self._adder.unpack_blob(layer.digest, diff_id, progress)
        elif path := source.movable_blob(layer):
            if path.stat().st_size != layer.size_bytes:
                raise _wrong_size(layer, path)
            self._adder.adopt_layer(path, layer.digest, diff_id, progress)
        else:
            with source.open_blob(layer) as stream:
                counted = _Counted(stream, progress)
                self._adder.add_layer(counted, layer.digest, layer.size_bytes, diff_id)
        self._tell(layer, LayerState.COMPLETE, layer.size_bytes)

    def _has(self, layer: BlobDescriptor, diff_id: str, trusted: set[tuple[str, str]]) -> bool:
        """Whether a layer is here, packed and unpacked, and the one really is the other."""
        path = self._layout.blob_path(layer.digest)
        if not self._adder.has_layer(diff_id) or not path.exists():
            return False
        if (layer.digest, diff_id) in trusted and path.stat().st_size == layer.size_bytes:
            return True
        # Left by a pull that was interrupted, damaged, or named by a manifest that pairs what does
        # not belong together.
        return self._is_sound(layer) and self._belongs(layer, diff_id)

    def _is_sound(self, layer: BlobDescriptor) -> bool:
        """Whether a blob is here, hashed anew; a damaged one is taken away, to be fetched again.

        Raises:
            LayerError: It is sound, but not as long as the descriptor says.
        """
        path = self._layout.blob_path(layer.digest)
        if not path.exists():
            return False
        if file_digest(path) != layer.digest:
            path.unlink(missing_ok=True)
            return False
        if path.stat().st_size != layer.size_bytes:
            raise _wrong_size(layer, path)
        return True

    def _belongs(self, layer: BlobDescriptor, diff_id: str) -> bool:
        with (
            self._layout.open_blob(layer.digest) as file,
            contextlib.closing(ReadAhead(file)) as ahead,
            decompressed(ahead) as stream,
        ):
            plain = HashedSource(stream, limit_bytes=BLOB_LIMIT_BYTES)
            while plain.read(_BLOCK_BYTES):
                pass
        if plain.digest != diff_id:
            raise LayerError(
                f"layer {layer.digest}: unpacks to {plain.digest}, but its image says {diff_id}"
            )
        return True

    def _trusted_pairs(self) -> set[tuple[str, str]]:
        """Digest and diff ID of the layers of all images here, which were verified on their way."""
        pairs: set[tuple[str, str]] = set()
        for entry in self._layout.read_index():
            with contextlib.suppress(ImageError):
                digest = entry["digest"]
                document = self._layout.read_document(digest)
                config, layers = read_parts(self._layout, digest, document)
                digests = (layer["digest"] for layer in layers)
                pairs.update(zip(digests, diff_ids_of(config, digest), strict=False))
        return pairs

    def _tell(self, layer: BlobDescriptor, state: LayerState, done: int = 0) -> None:
        with self._lock:
            self._listener(LayerEvent(layer.digest, state, done, layer.size_bytes))


class _Counted:
    """Passes a stream on and says how far it is."""

    def __init__(self, source: ByteSource, progress: Callable[[int], None]) -> None:
        self._source = source
        self._progress = progress
        self._done = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._done += len(data)
        self._progress(self._done)
        return data


def _wrong_size(layer: BlobDescriptor, path: Path) -> LayerError:
    return LayerError(
        f"layer {layer.digest}: has {path.stat().st_size} bytes; its descriptor says "
        f"{layer.size_bytes}"
    )


def _pairs(
    manifest: ImageManifest, diff_ids: tuple[str, ...]
) -> dict[str, tuple[BlobDescriptor, str]]:
    """Each layer once, by the digest of its blob: docker repeats the empty one."""
    wanted: dict[str, tuple[BlobDescriptor, str]] = {}
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        first, its_diff_id = wanted.setdefault(layer.digest, (layer, diff_id))
        if its_diff_id != diff_id or first.size_bytes != layer.size_bytes:
            raise ManifestError(f"{manifest.digest} says two different things of {layer.digest}")
    return wanted


def _to_oci(platform: Platform) -> dict[str, str]:
    """The object of an index's entry (OCI image-spec, image-index.md)."""
    document = {"os": platform.os, "architecture": platform.architecture}
    return document | ({"variant": platform.variant} if platform.variant else {})
