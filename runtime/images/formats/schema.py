"""Manifests, indexes and configurations from outside, checked before anything is believed.

It reads the OCI forms (image-spec: manifest.md, image-index.md, config.md) and docker's of version
2 schema 2 (distribution: manifest-v2-2.md), which differ in their media types alone. An error is
one sentence that says where.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from runtime.errors import ImageError, StoreError
from runtime.images.formats.config import ImageConfig
from runtime.images.formats.digest import (
    BLOB_LIMIT_BYTES,
    DOCUMENT_LIMIT_BYTES,
    digest_of,
    is_digest,
)

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
LAYER_TYPES = frozenset(
    {OCI_LAYER, f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd"}
    | {DOCKER_LAYER, f"{DOCKER_LAYER}.gzip", f"{DOCKER_LAYER}.zstd"}
)
LAYERS_LIMIT = 500
"""overlayfs stacks no more than 500 lower folders (linux: fs/overlayfs/params.h)."""
_MANIFESTS_LIMIT = 1000
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8"}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
_PLATFORM = re.compile(r"[a-z0-9_.]+/[A-Za-z0-9_]+(?:/[A-Za-z0-9_.]+)?")
_PLATFORM_PART = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_MEDIA_TYPE = re.compile(r"[!-~]{1,255}")


class ManifestError(ImageError):
    """A manifest, index or configuration is malformed, or of no image that we can use."""


def printable(text: object, limit: int = 200) -> str:
    """Return text from outside fit for a message: control characters escaped, the long cut."""
    plain = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)[: limit + 1]
    )
    return plain if len(plain) <= limit else plain[:limit] + "…"


@dataclass(frozen=True, slots=True)
class Platform:
    """Names what an image runs on; `variant` is empty where there is none."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`, or raise ManifestError."""
        if not _PLATFORM.fullmatch(text):
            raise ManifestError(
                f"{printable(text)!r} is no platform; write os/architecture[/variant], "
                "as in linux/arm64"
            )
        return cls(*text.split("/"))

    @classmethod
    def of_this_machine(cls) -> Platform:
        """Return Linux on this machine's processor, in Go's names, as images have them."""
        machine = platform.machine()
        return cls("linux", _MACHINES.get(machine, machine), "v6" if machine == "armv6l" else "")

    def rank(self, wanted: Platform) -> int | None:
        """Return how well this runs on `wanted`: 0 is best, None not at all."""
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return None
        default = _DEFAULT_VARIANTS.get(self.architecture, "")
        mine, asked = self.variant or default, wanted.variant or default
        if mine == asked:
            return 0
        # An older ARM runs on a newer one: v7 takes v6, never the other way round.
        if self.architecture == "arm" and mine < asked:
            return ord(asked[-1]) - ord(mine[-1])
        return None


@dataclass(frozen=True, slots=True)
class BlobDescriptor:
    """Describes a document or blob in another document.

    Attributes:
        media_type: Empty where it was not given.
        digest: Well-formed; the reader of the content verifies it.
        size_bytes: Not negative, and below the limit for a blob.
        platform: Of an index's entry, if given.
        annotations: Free text by key.
    """

    media_type: str
    digest: str
    size_bytes: int
    platform: Platform | None
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image for one platform, with the exact bytes that its digest is of."""

    data: bytes
    digest: str
    media_type: str
    config: BlobDescriptor
    layers: tuple[BlobDescriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """Several images under one name, usually one a platform."""

    data: bytes
    digest: str
    media_type: str
    manifests: tuple[BlobDescriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """Holds the part of a configuration that adding an image needs.

    Attributes:
        diff_ids: Of the layers, bottom first, as many as the manifest has layers.
        platform: What it was built for.
    """

    diff_ids: tuple[str, ...]
    platform: Platform


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object within the size limit, or raise ManifestError."""
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise ManifestError(f"{where} is larger than {DOCUMENT_LIMIT_BYTES} bytes, the limit")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not JSON: {printable(error)}") from None
    if not isinstance(document, dict):
        raise ManifestError(f"{where} is not a JSON object")
    return document


def parse_manifest(data: bytes, content_type: str, where: str) -> ImageManifest | ImageIndex:
    """Parse an image's manifest, or an index of them; messages begin with `where`.

    The sender's `content_type` counts only where the document gives no media type.

    Raises:
        ManifestError: It is malformed, or of no image.
    """
    document = parse_json(data, where)
    version = document.get("schemaVersion")
    if version == 1 and not isinstance(version, bool):
        raise ManifestError(
            f"{where} has docker's manifest schema 1, given up in 2016; push the image again with "
            "a current tool"
        )
    if version != 2 or isinstance(version, bool):
        raise ManifestError(f"{where} is no manifest: its schemaVersion is not 2")
    # One document, two meanings: refused, as CVE-2021-41190 taught.
    if ("manifests" in document) and ("layers" in document or "config" in document):
        raise ManifestError(f"{where} is ambiguous: it has both layers and manifests")
    media_type = document.get("mediaType") or content_type.partition(";")[0].strip()
    is_index = "manifests" in document
    known = INDEX_TYPES if is_index else MANIFEST_TYPES
    if media_type not in known:
        other = MANIFEST_TYPES if is_index else INDEX_TYPES
        if "mediaType" in document or media_type in other:
            raise ManifestError(f"{where} is of type {printable(media_type)!r}, which is no image")
        # The sender does not know it either ("text/plain"): the shape decides.
        media_type = OCI_INDEX if is_index else OCI_MANIFEST
    if is_index:
        entries = _list(document, "manifests", _MANIFESTS_LIMIT, where)
        manifests = tuple(_descriptor(entry, f"{where}, manifests") for entry in entries)
        return ImageIndex(data, digest_of(data), media_type, manifests)
    config = _descriptor(document.get("config"), f"{where}, config")
    if config.media_type not in CONFIG_TYPES or "artifactType" in document:
        kind = printable(document.get("artifactType") or config.media_type)
        raise ManifestError(f"{where} is no container image but an artifact of type {kind!r}")
    entries = _list(document, "layers", LAYERS_LIMIT, where)
    layers = tuple(_descriptor(entry, f"{where}, layers") for entry in entries)
    for layer in layers:
        _check_layer_type(layer, where)
    return ImageManifest(data, digest_of(data), media_type, config, layers)


def are_strings(value: object) -> TypeGuard[list[str]]:
    """Whether this is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def parse_configuration(data: bytes, layer_count: int, where: str) -> ImageDetails:
    """Parse an image's configuration and check all of it, or raise ManifestError."""
    document = parse_json(data, where)
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    # An image without layers may have null here: such is Go's empty list.
    diff_ids = [] if isinstance(rootfs, dict) and diff_ids is None else diff_ids
    if not are_strings(diff_ids) or not all(map(is_digest, diff_ids)):
        raise ManifestError(f"{where} has no proper list of diff IDs in rootfs")
    if len(diff_ids) != layer_count:
        raise ManifestError(
            f"{where} has {len(diff_ids)} diff IDs, but the manifest {layer_count} layers"
        )
    if not diff_ids:
        raise ManifestError(f"{where} describes an image without layers: nothing could run in it")
    built_for = _platform(document)
    if built_for is None:
        raise ManifestError(f"{where}: os, architecture and variant must be plain words")
    settings = document.get("config") or {}
    if not isinstance(settings, dict):
        raise ManifestError(f"{where}: config must be an object")
    _check_strings(settings, where)
    try:
        ImageConfig.from_oci(settings)
    except StoreError as error:
        raise ManifestError(f"{where}: {error}") from None
    return ImageDetails(tuple(diff_ids), replace(built_for, os=built_for.os or "linux"))


def choose_platform(index: ImageIndex, wanted: Platform, where: str) -> BlobDescriptor:
    """Return the first best entry of an index for a platform; ManifestError names those it has."""
    ranked = []
    for entry in index.manifests:
        if entry.media_type not in ("", *MANIFEST_TYPES, *INDEX_TYPES):
            continue
        # Without a platform: an index within, or the only image.
        rank = 100 if entry.platform is None else entry.platform.rank(wanted)
        if rank is not None:
            ranked.append((rank, entry))
    if not ranked:
        there = sorted({str(entry.platform) for entry in index.manifests if entry.platform})
        shown = printable(", ".join(there), 400) or "none"
        raise ManifestError(f"{where} has no image for {wanted}; it has: {shown}")
    return min(ranked, key=lambda item: item[0])[1]


def _check_layer_type(layer: BlobDescriptor, where: str) -> None:
    kind = layer.media_type
    if kind in LAYER_TYPES:
        return
    if "nondistributable" in kind or "foreign" in kind:
        raise ManifestError(
            f"{where} has a layer that registries may not distribute ({layer.digest}); such images "
            "are not supported"
        )
    raise ManifestError(f"{where} has a layer of type {printable(kind)!r}, which is not supported")


def _list(document: dict[str, Any], name: str, limit: int, where: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise ManifestError(f"{where} is not an image manifest: it has no list of {name}")
    if len(value) > limit:
        raise ManifestError(f"{where} has {len(value)} {name}; at most {limit} are read")
    return value


def _descriptor(value: object, where: str) -> BlobDescriptor:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: a descriptor must be an object")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ManifestError(
            f"{where}: {printable(digest, 100)!r} is no digest of the form sha256:<64 digits>"
        )
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestError(f"{where}: the size of {digest} is no number of bytes")
    if size > BLOB_LIMIT_BYTES:
        raise ManifestError(f"{where}: {digest} has {size} bytes; {BLOB_LIMIT_BYTES} is the limit")
    media_type = value.get("mediaType") or ""
    if media_type and not (isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type)):
        raise ManifestError(f"{where}: the mediaType of {digest} is malformed")
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict) or not are_strings(list(annotations.values())):
        raise ManifestError(f"{where}: the annotations of {digest} must be strings")
    platform = None
    if (given := value.get("platform")) is not None:
        platform = _platform(given) if isinstance(given, dict) else None
        if platform is None:
            raise ManifestError(f"{where}: the platform of {digest} is malformed")
    return BlobDescriptor(media_type, digest, size, platform, annotations)


def _platform(document: dict[str, Any]) -> Platform | None:
    names = [document.get(name) or "" for name in ("os", "architecture", "variant")]
    if all(isinstance(name, str) and _PLATFORM_PART.fullmatch(name) for name in names):
        return Platform(*names)
    return None


def _check_strings(value: object, where: str) -> None:
    """Refuse what could never be an argument, a variable or a name: zero bytes, half characters.

    The depth is bounded: a document nested too deep for us is not JSON to the parser either.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key, where)
            _check_strings(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, where)
    elif isinstance(value, str) and ("\0" in value or not value.isascii()):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ManifestError(f"{where}: {printable(value)!r} is not Unicode") from None
        if "\0" in value:
            raise ManifestError(f"{where}: {printable(value)!r} has a zero byte in it")
