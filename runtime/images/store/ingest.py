"""Adding an image to the store from a registry, a layout or an archive.

The configuration is read and checked, every missing layer is streamed in, a few at a time
(`runtime.images.store.writer` verifies and unpacks them on the way), and only when all is in place
does the name appear. A layer becomes part of the store as soon as it is complete, so that a try
after a failure finds it there.

Blobs are kept as they came, compressed: only so can an image go out again with the digests it had.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import ImageError, LayerError
from runtime.images.formats.digest import ByteSource, digest_of
from runtime.images.formats.image import Image
from runtime.images.formats.pipeline import digest_unpacked
from runtime.images.formats.schema import (
    BlobDescriptor,
    ImageManifest,
    ManifestError,
    parse_configuration,
)
from runtime.images.store.layout import StoreLayout
from runtime.images.store.lookup import diff_ids_of, read_parts
from runtime.images.store.store import ImageStore
from runtime.images.store.writer import Adder, file_digest

_WORKERS = 3


class LayerState(Enum):
    """States of a layer, in docker's words."""

    WAITING = "Pulling fs layer"
    DOWNLOADING = "Downloading"
    COMPLETE = "Pull complete"
    EXISTS = "Already exists"


@dataclass(frozen=True, slots=True)
class LayerEvent:
    """Reports the state of a layer, and how many bytes of its blob have come."""

    digest: str
    state: LayerState
    done_bytes: int
    total_bytes: int


Listener = Callable[[LayerEvent], None]


class Source(Protocol):
    """Provides the parts of an image, to several threads; the caller verifies them."""

    def document(self, descriptor: BlobDescriptor) -> bytes:
        """Return a small blob."""

    def open_blob(self, descriptor: BlobDescriptor) -> AbstractContextManager[ByteSource]:
        """Open a blob as a stream."""

    def movable_blob(self, descriptor: BlobDescriptor) -> Path | None:
        """Return a file in the store's temporary folder that may be moved away, if any."""

    def stop(self) -> None:
        """End the work of other threads."""


def current_image(store: ImageStore, name: str, digest: str) -> Image | None:
    """Return the image of that name, if it is this manifest and nothing of it is missing."""
    layout = StoreLayout(store.root)
    with contextlib.suppress(ImageError):
        image = store.get(name)
        blobs = [image.digest, *(layer.digest for layer in image.layers)]
        if image.digest == digest and all(layout.blob_path(blob).exists() for blob in blobs):
            return image
    return None


class Intake:
    """Adds images to a store, whose `adder` is held for as long (`ImageStore.adding`).

    The listener is called by one thread at a time.
    """

    def __init__(
        self, store: ImageStore, adder: Adder, listener: Listener = lambda _: None
    ) -> None:
        self._layout = StoreLayout(store.root)
        self._adder = adder
        self._listener = listener
        self._lock = threading.Lock()

    def add(self, manifest: ImageManifest, source: Source, names: tuple[str, ...]) -> Image:
        """Add one image under its names; without any it is found by its digest.

        The caller has checked the manifest and its digest.

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
        # The object of an index's entry (OCI image-spec, image-index.md).
        system = asdict(details.platform)
        entry["platform"] = {k: v for k, v in system.items() if v or k != "variant"}
        return self._adder.add_image(entry, names, keep=True)

    def _add_layers(self, wanted: dict[str, tuple[BlobDescriptor, str]], source: Source) -> None:
        trusted = self._trusted_pairs()
        missing = []
        for layer, diff_id in wanted.values():
            if self._has(layer, diff_id, trusted):
                self._report(layer, LayerState.EXISTS)
            else:
                self._report(layer, LayerState.WAITING)
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
        """Add one layer, in a thread."""

        def progress(done: int) -> None:
            self._report(layer, LayerState.DOWNLOADING, done)

        if self._is_sound(layer):
            self._adder.unpack_blob(layer.digest, diff_id, progress)
        elif path := source.movable_blob(layer):
            if path.stat().st_size != layer.size_bytes:
                raise _wrong_size(layer, path)
            self._adder.adopt_layer(path, layer.digest, diff_id, progress)
        else:
            with source.open_blob(layer) as stream:
                self._adder.add_layer(stream, layer.digest, layer.size_bytes, diff_id, progress)
        self._report(layer, LayerState.COMPLETE, layer.size_bytes)

    def _has(self, layer: BlobDescriptor, diff_id: str, trusted: set[tuple[str, str]]) -> bool:
        """Whether a layer is here, packed and unpacked, and the one really is the other."""
        path = self._layout.blob_path(layer.digest)
        if not self._adder.has_layer(diff_id) or not path.exists():
            return False
        if (layer.digest, diff_id) in trusted and path.stat().st_size == layer.size_bytes:
            return True
        # Left by a pull that was interrupted, damaged, or named by a manifest that pairs what does
        # not belong together.
        if not self._is_sound(layer):
            return False
        with self._layout.open_blob(layer.digest) as file:
            found = digest_unpacked(file)
        if found != diff_id:
            raise LayerError(
                f"layer {layer.digest}: unpacks to {found}, but its image says {diff_id}"
            )
        return True

    def _is_sound(self, layer: BlobDescriptor) -> bool:
        """Whether a blob is here, hashed again; a damaged one is removed, to be fetched again."""
        path = self._layout.blob_path(layer.digest)
        if not path.exists():
            return False
        if file_digest(path) != layer.digest:
            path.unlink(missing_ok=True)
            return False
        if path.stat().st_size != layer.size_bytes:
            raise _wrong_size(layer, path)
        return True

    def _trusted_pairs(self) -> set[tuple[str, str]]:
        """Digest and diff ID of the layers of all images here, which were verified when added."""
        pairs: set[tuple[str, str]] = set()
        for entry in self._layout.read_index():
            with contextlib.suppress(ImageError):
                digest = entry["digest"]
                document = self._layout.read_document(digest)
                config, layers = read_parts(self._layout, digest, document)
                digests = (layer["digest"] for layer in layers)
                pairs.update(zip(digests, diff_ids_of(config, digest), strict=False))
        return pairs

    def _report(self, layer: BlobDescriptor, state: LayerState, done: int = 0) -> None:
        with self._lock:
            self._listener(LayerEvent(layer.digest, state, done, layer.size_bytes))


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
