"""Pull and push: an image from a registry into the store, and from the store to a registry."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.errors import ImageError, InvalidReferenceError, StoreError
from runtime.images.formats import schema
from runtime.images.formats.image import Image
from runtime.images.formats.reference import Reference, parse_reference
from runtime.images.formats.schema import BlobDescriptor, ImageManifest, ManifestError, Platform
from runtime.images.registry.client import RegistryClient
from runtime.images.registry.download import BlobStream, fetch_document
from runtime.images.registry.upload import Sent, push_blob
from runtime.images.store.ingest import Intake, Listener, current_image
from runtime.images.store.layout import StoreLayout
from runtime.images.store.lookup import name_of, read_parts
from runtime.images.store.store import ImageStore

_INDEX_DEPTH = 4
_SENDERS = 3


@dataclass(frozen=True, slots=True)
class Pulled:
    """Says what a pull brought.

    Attributes:
        image: As it is in the store now.
        digest: Of what the name means at the registry: of an index, if it is one.
        changed: False if the store had it already under this name.
    """

    image: Image
    digest: str
    changed: bool


PushListener = Callable[[str, Sent | None, int, int], None]
"""Gets, of each layer: digest, how it ended (None until then), bytes sent, of how many."""


def resolve_registry(text: str, registry: str | None) -> Reference:
    """Parse a reference with a registry, its own or `registry`, or raise InvalidReferenceError."""
    reference = parse_reference(text)
    if reference.registry:
        return reference
    if not registry:
        raise InvalidReferenceError(
            f"{text!r} names no registry, and none is assumed: write HOST[:PORT]/{text}, or name "
            "one by --registry or STEELYARD_REGISTRY"
        )
    try:
        full = parse_reference(f"{registry}/{text}")
    except InvalidReferenceError:
        full = None
    if full is None or full.registry != registry:
        raise InvalidReferenceError(
            f"{schema.printable(registry)!r} is no registry: it must be a host name with a dot, "
            "localhost, or either with a port"
        )
    return full


def pull(
    store: ImageStore,
    client: RegistryClient,
    reference: Reference,
    *,
    platform: Platform | None = None,
    listener: Listener = lambda _: None,
) -> Pulled:
    """Fetch an image into the store under the reference's name; `client` is for its registry.

    `platform` chooses among an index's images; None means this machine's.

    Raises:
        ImageError: It is not there, or not what it claims to be; the store names nothing new.
    """
    # A name that is pinned to the digest of an index stays so: users ask for it again.
    repository, name = reference.repository, str(reference)
    top = client.manifest(repository, reference.digest or reference.tag or "latest")
    manifest = resolve_index(top, platform, lambda d: client.manifest(repository, d), name)
    if image := current_image(store, name, manifest.digest):
        return Pulled(image, top.digest, changed=False)
    if platform and manifest is top:
        config = fetch_document(client, repository, manifest.config)
        where = f"the configuration of {name}"
        there = schema.parse_configuration(config, len(manifest.layers), where).platform
        if there.rank(platform) is None:
            raise ManifestError(
                f"{name} is one image, for {schema.printable(there)}, not {platform}"
            )
    source = _RegistrySource(client, repository)
    with store.adding() as adder:
        image = Intake(store, adder, listener).add(manifest, source, (name,))
    return Pulled(image, top.digest, changed=True)


def resolve_index(
    top: ImageManifest | schema.ImageIndex,
    platform: Platform | None,
    fetch: Callable[[str], ImageManifest | schema.ImageIndex],
    where: str,
) -> ImageManifest:
    """Follow indexes to the image for a platform; None means this machine's.

    `fetch` gives a manifest or index by digest, verified; messages begin with `where`.

    Raises:
        ManifestError: There is none for the platform, or only indexes within indexes.
    """
    found = top
    for _ in range(_INDEX_DEPTH):
        if isinstance(found, ImageManifest):
            return found
        entry = schema.choose_platform(found, platform or Platform.of_this_machine(), where)
        found = fetch(entry.digest)
        if len(found.data) != entry.size_bytes:
            raise ManifestError(
                f"{where}: {entry.digest} has {len(found.data)} bytes; its index says "
                f"{entry.size_bytes}"
            )
    raise ManifestError(f"{where} is an index within an index, more than {_INDEX_DEPTH} deep")


def push(
    store: ImageStore,
    client: RegistryClient,
    image: Image,
    target: Reference,
    listener: PushListener = lambda *_: None,
) -> ImageManifest:
    """Send an image as it is stored, byte by byte, so that it has the same digest there.

    `client` is for the registry of `target`, which has a tag or the digest alone.

    Returns:
        The manifest that was sent.

    Raises:
        ImageError: The registry refused, or a blob is missing from the store.
    """
    if target.digest and target.digest != image.digest:
        raise InvalidReferenceError(
            f"{target}: the image {image.reference} has the digest {image.digest}"
        )
    with store.lease(image):
        manifest = stored_manifest(store, image.digest)
        layout = StoreLayout(store.root)
        sender = _Sender(layout, client, target, listener)
        sender.send_layers({layer.digest: layer for layer in manifest.layers})
        sender.send(manifest.config, silently=True)
        client.put_manifest(target.repository, target.tag or manifest.digest, manifest)
    return manifest


def stored_manifest(store: ImageStore, digest: str) -> ImageManifest:
    """Read a manifest of the store with its exact bytes, or raise ImageError."""
    layout = StoreLayout(store.root)
    layout.read_document(digest)
    media_type = ""
    for entry in layout.read_index():
        if entry["digest"] == digest and isinstance(entry.get("mediaType"), str):
            media_type = entry["mediaType"]
    manifest = schema.parse_manifest(
        layout.blob_path(digest).read_bytes(), media_type, f"manifest {digest}"
    )
    if not isinstance(manifest, ImageManifest):
        raise StoreError(f"{digest} in the store {store.root} is no image but an index")
    return manifest


class _RegistrySource:
    """A source for `runtime.images.store.ingest`."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = repository

    def document(self, descriptor: BlobDescriptor) -> bytes:
        return fetch_document(self._client, self._repository, descriptor)

    def open_blob(self, descriptor: BlobDescriptor) -> BlobStream:
        return BlobStream(self._client, self._repository, descriptor)

    def movable_blob(self, _: BlobDescriptor) -> None:
        return None

    def stop(self) -> None:
        self._client.transport.stop()


class _Sender:
    """Sends the blobs of one image."""

    def __init__(
        self,
        layout: StoreLayout,
        client: RegistryClient,
        target: Reference,
        listener: PushListener,
    ) -> None:
        self._layout = layout
        self._client = client
        self._repository = target.repository
        self._others = _other_repositories(layout, target)
        self._listener = listener
        self._lock = threading.Lock()

    def send_layers(self, layers: dict[str, BlobDescriptor]) -> None:
        """Send some at a time; the first that fails ends the others."""
        pool = ThreadPoolExecutor(_SENDERS, "send")
        try:
            for future in [pool.submit(self.send, layer) for layer in layers.values()]:
                future.result()
        except BaseException:
            self._client.transport.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def send(self, blob: BlobDescriptor, *, silently: bool = False) -> None:
        """Send one blob, if the repository lacks it."""
        path = self._layout.blob_path(blob.digest)
        if not path.is_file():
            raise StoreError(
                f"blob {blob.digest} is missing from the store {self._layout.root}; pull or load "
                "the image again"
            )

        def report(done: int, sent: Sent | None = None) -> None:
            if not silently:
                with self._lock:
                    self._listener(blob.digest, sent, done, blob.size_bytes)

        others = self._others.get(blob.digest, ())
        sent = push_blob(
            self._client, self._repository, blob.digest, path, mount_from=others, progress=report
        )
        report(blob.size_bytes, sent)


def _other_repositories(layout: StoreLayout, target: Reference) -> dict[str, tuple[str, ...]]:
    """For each blob, three other repositories of the target's registry that should have it."""
    found: dict[str, list[str]] = {}
    for entry in layout.read_index():
        if not (name := name_of(entry)):
            continue
        with contextlib.suppress(ImageError):
            known = parse_reference(name)
            if known.registry != target.registry or known.repository == target.repository:
                continue
            digest = entry["digest"]
            _, layers = read_parts(layout, digest, layout.read_document(digest))
            for layer in layers:
                if known.repository not in (blobs := found.setdefault(layer["digest"], [])):
                    blobs.append(known.repository)
    return {digest: tuple(repositories[:3]) for digest, repositories in found.items()}
