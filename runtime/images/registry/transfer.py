"""Pull and push: an image from a registry into the store, and from the store to a registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.errors import ImageError, InvalidReferenceError, StoreError
from runtime.images.formats.image import Image
from runtime.images.formats.reference import Reference, parse_reference
from runtime.images.formats.schema import (
    BlobDescriptor,
    ImageIndex,
    ImageManifest,
    ManifestError,
    Platform,
    choose_platform,
    parse_configuration,
    parse_manifest,
    printable,
)
from runtime.images.registry.client import RegistryClient
from runtime.images.registry.download import BlobStream, fetch_document
from runtime.images.registry.upload import Sent, push_blob
from runtime.images.store.ingest import Intake, Listener, current_image
from runtime.images.store.layout import Layout
from runtime.images.store.manifest import name_of, read_parts
from runtime.images.store.store import ImageStore

_INDEX_DEPTH = 4
_SENDERS = 3


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought.

    Attributes:
        image: As it is in the store now.
        digest: What the name means at the registry: of an index, if it is one.
        changed: False if the store had it already under this name.
    """

    image: Image
    digest: str
    changed: bool


PushListener = Callable[[str, Sent | None, int, int], None]
"""Told of each layer: digest, how it ended (None until then), bytes sent, of how many."""


def resolve_registry(text: str, registry: str | None) -> Reference:
    """A reference with a registry, taken from `registry` where the reference names none.

    Raises:
        InvalidReferenceError: Neither does.
    """
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
            f"{printable(registry)!r} is no registry: it must be a host name with a dot, "
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
    """Bring an image into the store under the reference's name.

    Args:
        store: Where to.
        client: For the reference's registry.
        reference: What; with a registry.
        platform: Which of an index's images; None means this machine's.
        listener: Told what happens to the layers.

    Raises:
        ImageError: It is not to be had, or not what it claims to be; the store names nothing new.
    """
    top = client.manifest(reference.repository, reference.digest or reference.tag or "latest")
    manifest = resolve_index(
        top,
        platform,
        lambda digest: client.manifest(reference.repository, digest),
        str(reference),
    )
    # Pinned to the digest of an index, it stays so: what was asked for is what it is found by.
    name = str(reference)
    if image := current_image(store, name, manifest.digest):
        return Pulled(image, top.digest, changed=False)
    if platform and manifest is top:
        _check_platform(manifest, client, reference, platform)
    source = _RegistrySource(client, reference.repository)
    with store.adding() as adder:
        image = Intake(store, adder, listener).add(manifest, source, (name,))
    return Pulled(image, top.digest, changed=True)


def resolve_index(
    top: ImageManifest | ImageIndex,
    platform: Platform | None,
    fetch: Callable[[str], ImageManifest | ImageIndex],
    where: str,
) -> ImageManifest:
    """Follow indexes to the image for a platform.

    Args:
        top: What the name led to.
        platform: None means this machine's.
        fetch: Gives a manifest or index by digest, verified.
        where: The name, for messages.

    Raises:
        ManifestError: There is none for the platform, or only indexes within indexes.
    """
    found = top
    for _ in range(_INDEX_DEPTH):
        if isinstance(found, ImageManifest):
            return found
        entry = choose_platform(found, platform or Platform.of_this_machine(), where)
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

    Args:
        store: Has it.
        client: For the target's registry.
        image: What.
        target: Repository and tag (or the digest alone).
        listener: Told what happens to the layers.

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
        layout = Layout(store.root)
        others = _other_repositories(layout, target)
        sender = _Sender(layout, client, target.repository, others, listener)
        sender.send_layers({layer.digest: layer for layer in manifest.layers})
        sender.send(manifest.config, silently=True)
        client.put_manifest(target.repository, target.tag or manifest.digest, manifest)
    return manifest


def stored_manifest(store: ImageStore, digest: str) -> ImageManifest:
    """A manifest of the store with its exact bytes.

    Raises:
        ImageError: It is missing or damaged.
    """
    layout = Layout(store.root)
    layout.read_document(digest)
    media_type = ""
    for entry in layout.read_index():
        if entry["digest"] == digest and isinstance(entry.get("mediaType"), str):
            media_type = entry["mediaType"]
    manifest = parse_manifest(
        layout.blob_path(digest).read_bytes(), media_type, f"manifest {digest}"
    )
    if not isinstance(manifest, ImageManifest):
        raise StoreError(f"{digest} in the store {store.root} is no image but an index")
    return manifest


class _RegistrySource:
    """A repository as `runtime.images.store.ingest` wants it."""

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
        layout: Layout,
        client: RegistryClient,
        repository: str,
        others: dict[str, tuple[str, ...]],
        listener: PushListener,
    ) -> None:
        self._layout = layout
        self._client = client
        self._repository = repository
        self._others = others
        self._listener = listener
        self._lock = threading.Lock()

    def send_layers(self, layers: dict[str, BlobDescriptor]) -> None:
        """Some at a time; the first that fails ends the others."""
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
        """One blob, if the repository lacks it."""
        path = self._layout.blob_path(blob.digest)
        if not path.is_file():
            raise StoreError(
                f"blob {blob.digest} is missing from the store {self._layout.root}; pull or load "
                "the image again"
            )

        def progress(done: int) -> None:
            if not silently:
                self._tell(blob, None, done)

        sent = push_blob(
            self._client,
            self._repository,
            blob.digest,
            path,
            mount_from=self._others.get(blob.digest, ()),
            progress=progress,
        )
        if not silently:
            self._tell(blob, sent, blob.size_bytes)

    def _tell(self, blob: BlobDescriptor, sent: Sent | None, done: int) -> None:
        with self._lock:
            self._listener(blob.digest, sent, done, blob.size_bytes)


def _other_repositories(layout: Layout, target: Reference) -> dict[str, tuple[str, ...]]:
    """For each blob, the other repositories of the target's registry that should have it."""
    found: dict[str, list[str]] = {}
    for repository, digest in _repositories_of(layout, target):
        if repository not in (blobs := found.setdefault(digest, [])):
            blobs.append(repository)
    return {digest: tuple(repositories[:3]) for digest, repositories in found.items()}


def _repositories_of(layout: Layout, target: Reference) -> Iterator[tuple[str, str]]:
    for entry in layout.read_index():
        if not (name := name_of(entry)):
            continue
        try:
            known = parse_reference(name)
            if known.registry != target.registry or known.repository == target.repository:
                continue
            digest = entry["digest"]
            _, layers = read_parts(layout, digest, layout.read_document(digest))
        except ImageError:
            continue
        yield from ((known.repository, layer["digest"]) for layer in layers)


def _check_platform(
    manifest: ImageManifest, client: RegistryClient, reference: Reference, wanted: Platform
) -> None:
    """A name that leads to one image only: it must be for what was asked."""
    config = fetch_document(client, reference.repository, manifest.config)
    details = parse_configuration(config, len(manifest.layers), f"the configuration of {reference}")
    if details.platform.rank(wanted) is None:
        raise ManifestError(
            f"{reference} is one image, for {printable(details.platform)}, not {wanted}"
        )
