"""Loading images from files: OCI layouts as folders and archives, and what `docker save` writes.

    OCI layout      oci-layout, index.json, blobs/sha256/…       folder, or tar of one
    docker, new     the same, and manifest.json with the names    docker 25 and later
    docker, old     manifest.json, <id>/layer.tar, <hex>.json     docker 1.10 to 24, skopeo, podman
    docker, oldest  repositories, <id>/{VERSION,json,layer.tar}   before docker 1.10

`runtime.images.archive.archive_files` reads the files; digests and diff IDs are verified by
`runtime.images.store.ingest` as for any source.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runtime.errors import ImageError, InvalidReferenceError
from runtime.images.archive.archive_files import (
    Member,
    Members,
    blob_name,
    open_members,
    open_regular,
    read_member,
)
from runtime.images.archive.docker_archive import Found, docker_images, docker_names
from runtime.images.formats import schema
from runtime.images.formats.digest import DOCUMENT_LIMIT_BYTES
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.formats.schema import BlobDescriptor, ImageIndex, ImageManifest, parse_manifest
from runtime.images.registry.transfer import resolve_index
from runtime.images.store.ingest import Intake, Listener
from runtime.images.store.layout import REFERENCE_ANNOTATION
from runtime.images.store.store import ImageStore

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation with the whole name, by docker and containerd."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Holds an image that was loaded, and its names; without any it is found by its digest."""

    image: Image
    names: tuple[str, ...]


def load(
    store: ImageStore,
    source: Path | BinaryIO,
    *,
    name: str | None = None,
    platform: schema.Platform | None = None,
    listener: Listener = lambda _: None,
) -> tuple[Loaded, ...]:
    """Add all images of an archive or layout to the store.

    Args:
        store: Gets them.
        source: A layout's folder, an archive (compressed or not), or a stream of one.
        name: Replaces the names in the source; with a tag, for a single image only.
        platform: Chooses among an index's images; None means this machine's.
        listener: Gets the events of the layers.

    Raises:
        ImageError: It is no image, damaged or hostile; images before the damaged one stay loaded.
    """
    if name is not None:
        parse_reference(name)
    with contextlib.ExitStack() as stack:
        intake = Intake(store, stack.enter_context(store.adding()), listener)
        members = stack.enter_context(open_members(store.root, source))
        loaded = []
        is_layout = members.find("index.json") is not None
        images = [*(_layout_images(members, platform) if is_layout else docker_images(members))]
        if name and ":" in name.rpartition("/")[2] and len(images) > 1:
            raise InvalidReferenceError(
                f"{name!r} can name one image, but {members.where} holds {len(images)}"
            )
        taken: set[str] = set()
        for manifest, blobs, words in images:
            names = tuple(dict.fromkeys(_full_names(words, name)))
            if twice := taken.intersection(names):
                raise InvalidReferenceError(
                    f"{members.where} holds more than one image for the name {twice.pop()}"
                )
            taken.update(names)
            loaded.append(Loaded(intake.add(manifest, _Blobs(members, blobs), names), names))
    return tuple(loaded)


def _layout_images(members: Members, platform: schema.Platform | None) -> Iterator[Found]:
    """The images of an OCI layout, with the names that docker's file or its index gives them."""
    where = members.where
    tags = docker_names(members)
    if members.find("oci-layout"):
        version = schema.parse_json(read_member(members, "oci-layout"), f"oci-layout in {where}")
        if version.get("imageLayoutVersion") != "1.0.0":
            raise ImageError(f"{where} is an OCI layout of a version other than 1.0.0")
    index = parse_manifest(
        read_member(members, "index.json"), schema.OCI_INDEX, f"index.json in {where}"
    )
    if not isinstance(index, ImageIndex):
        raise ImageError(f"index.json in {where} is no index")
    groups: dict[str, list[BlobDescriptor]] = {}
    for entry in index.manifests:
        if entry.media_type in ("", *schema.MANIFEST_TYPES, *schema.INDEX_TYPES):
            # One name on several is a choice of platforms; without a name, each is one image.
            groups.setdefault(_annotated_name(entry) or entry.digest, []).append(entry)
    if not groups:
        raise ImageError(f"{where} holds no image")
    for group in groups.values():
        entry = group[0]
        if len(group) > 1:
            choice = ImageIndex(b"", index.digest, schema.OCI_INDEX, tuple(group))
            wanted = platform or schema.Platform.of_this_machine()
            entry = schema.choose_platform(choice, wanted, where)
        top = _read_manifest(members, entry.digest, entry.media_type)
        image = resolve_index(top, platform, lambda d: _read_manifest(members, d, ""), where)
        word = _annotated_name(entry)
        yield image, {}, tags.get(image.config.digest) or ((word,) if word else ())


def _annotated_name(entry: BlobDescriptor) -> str:
    return entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REFERENCE_ANNOTATION, "")


def _read_manifest(members: Members, digest: str, media_type: str) -> ImageManifest | ImageIndex:
    what = f"manifest {digest} in {members.where}"
    data = read_member(members, blob_name(digest))
    found = parse_manifest(data, media_type, what)
    if found.digest != digest:
        raise ImageError(f"{what} is damaged: its content is {found.digest}")
    return found


def _full_names(words: tuple[str, ...], name: str | None) -> Iterator[str]:
    """References from the names of an image: whole ones, or mere tags of `name`."""
    if name is not None and ":" in name.rpartition("/")[2]:
        yield str(parse_reference(name))
        return
    for word in words:
        whole = ":" in word or "/" in word or "@" in word
        if name is None:
            if not whole and not _is_name(word):
                continue
            yield str(parse_reference(word))
        else:
            tag = word.rpartition("/")[2].partition("@")[0].rpartition(":")[2]
            yield str(parse_reference(f"{name}:{tag if not whole or ':' in word else 'latest'}"))
    if not words and name is not None:
        yield str(parse_reference(name))


def _is_name(word: str) -> bool:
    """Tags, which layouts may have in place of names, may be no names: `V1`."""
    with contextlib.suppress(InvalidReferenceError):
        return bool(parse_reference(word))
    return False


class _Blobs:
    """A source for `runtime.images.store.ingest`.

    `blobs` gives contents by digest where they are not in the layout's `blobs/sha256/<hex>`.
    """

    def __init__(self, members: Members, blobs: dict[str, Member | bytes]) -> None:
        self._members = members
        self._blobs = blobs

    def document(self, descriptor: BlobDescriptor) -> bytes:
        with self.open_blob(descriptor) as file:
            return file.read(DOCUMENT_LIMIT_BYTES + 1)

    def open_blob(self, descriptor: BlobDescriptor) -> BinaryIO:
        found = self._find(descriptor)
        return io.BytesIO(found) if isinstance(found, bytes) else open_regular(found.path)

    def movable_blob(self, descriptor: BlobDescriptor) -> Path | None:
        found = self._find(descriptor)
        return found.path if isinstance(found, Member) and found.movable else None

    def stop(self) -> None:
        """Nothing here waits for anybody."""

    def _find(self, descriptor: BlobDescriptor) -> Member | bytes:
        found = self._blobs.get(descriptor.digest)
        found = found or self._members.find(blob_name(descriptor.digest))
        if found is None:
            raise ImageError(f"{self._members.where} lacks the blob {descriptor.digest}")
        return found
