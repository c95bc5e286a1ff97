"""The image store: what is in it, how something gets in, and how it goes.

`runtime.images.layout` says how it lies on disk and what the locks are. What only an import needs
is loaded by it alone: looking an image up is part of every launch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from runtime.errors import ImageNotFoundError, InvalidReferenceError, StoreError
from runtime.images import merged
from runtime.images.collect import collect, leased_manifests
from runtime.images.config import ImageConfig, format_time, parse_time
from runtime.images.digest import ByteSource, RecordingSource
from runtime.images.image import Image, Layer
from runtime.images.layout import REFERENCE_ANNOTATION, Descriptor, Layout, measure
from runtime.images.manifest import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    diff_ids_of,
    name_of,
    read_parts,
)
from runtime.images.reference import parse_reference
from runtime.paths import data_home

LAYER_LIMIT_BYTES = 1 << 36
"""No layer may unpack to more than 64 GiB: the answer to decompression bombs."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing an image did.

    Attributes:
        untagged: Names that are gone.
        deleted: Digests of the blobs that nothing needed any more.
        freed_bytes: What that freed on disk, unpacked layers included.
    """

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int


class ImageStore:
    """Images on this machine. Making the object touches nothing on disk.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = Layout(root)

    @classmethod
    def default(cls) -> ImageStore:
        """The user's store: `images` in the data home."""
        return cls(data_home() / "images")

    # Looking.

    def get(self, reference: str) -> Image:
        """The image of that name, digest, or unambiguous beginning of a digest.

        Raises:
            ImageNotFoundError: There is none.
            InvalidReferenceError: No possible name.
            StoreError: The store is damaged there.
        """

        def read(index: list[Descriptor]) -> Image:
            image = self._load(self._find(index, reference))
            for layer in image.layers:
                if not layer.path.is_dir():
                    raise StoreError(
                        f"layer {layer.diff_id} of {image.reference} is missing from the store "
                        f"{self.root}; import the image again"
                    )
            return image

        return self._consistently(read)

    def images(self) -> tuple[Image, ...]:
        """All that have a name, sorted by it.

        Raises:
            StoreError: The store is damaged.
        """

        def read(index: list[Descriptor]) -> tuple[Image, ...]:
            named = sorted(filter(name_of, index), key=name_of)
            return tuple(self._load(entry) for entry in named)

        return self._consistently(read)

    def read_file(self, image: Image, path: str) -> bytes | None:
        """A file as a program in the image would read it; None if there is no such regular file."""
        with self._explained():
            return merged.read_file(image, path)

    def flatten(self, image: Image, target: Path) -> None:
        """A private full copy of the merged root filesystem in an empty or new folder.

        Raises:
            StoreError: It could not be made; nothing half-made is kept.
        """
        with self._explained(), self.lease(image):
            merged.flatten(image, target)

    @contextlib.contextmanager
    def lease(self, image: Image) -> Iterator[None]:
        """While this is held, no layer of the image is removed, whatever becomes of its name.

        A shared flock(2): any number of processes hold one, and it ends with its process at the
        latest. Take one for all instances of an image, not one each.

        Raises:
            ImageNotFoundError: The image has been removed since it was looked up.
        """
        with contextlib.ExitStack() as stack:
            with self._explained(), self._layout.writing():
                # In here nobody removes anything, so what is there now stays.
                path = self._layout.lease_path(image.digest)
                fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_SH)
                missing = [layer for layer in image.layers if not layer.path.is_dir()]
                if missing or not self._layout.blob_path(image.digest).exists():
                    raise ImageNotFoundError(f"image {image.reference} has been removed meanwhile")
            yield

    # Adding.

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder on the store's filesystem for making something.

        Gone afterwards; if this process is killed, gone when the next one writes to the store.
        """
        with self._explained(), self._layout.writing(), self._layout.temporary_folder() as folder:
            yield folder

    def import_rootfs(
        self,
        source: Path,
        reference: str,
        config: ImageConfig | None = None,
        created: datetime | None = None,
        *,
        owner: tuple[int, int] | None = None,
    ) -> Image:
        """Make an image of one layer from a root filesystem.

        Equal content gives an equal image: a tar (plain, gzip, bzip2, xz, zstd) is kept byte for
        byte, uncompressed; a folder is written in a fixed order.

        Args:
            source: A tar file or a folder.
            reference: Its name; one that is taken moves to the new image.
            config: How to run it.
            created: None means the time of its newest file: it then depends on the content alone.
            owner: For a folder: uid and gid of everything, instead of what they are.

        Raises:
            ImageError: The source cannot be read, is no tar, or is hostile; the store is as before.
        """
        from runtime.images.source import open_rootfs

        name = parse_reference(reference)
        if name.digest:
            raise InvalidReferenceError(f"{reference!r}: a new image's digest cannot be chosen")
        with self._explained(), self._layout.writing():
            with open_rootfs(source, owner) as stream:
                layer, newest_ns = self._add_layer(stream)
            moment = created or _datetime(newest_ns)
            entry = self._add_documents(layer, config or ImageConfig(), moment)
            entry["annotations"] = {REFERENCE_ANNOTATION: str(name)}
            self._tag(entry)
            return self._load(entry)

    def _add_documents(
        self, layer: Descriptor, config: ImageConfig, created: datetime
    ) -> Descriptor:
        """Store configuration and manifest of an image of one uncompressed layer."""
        system = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
        }
        document = {
            **system,
            "created": format_time(created),
            "config": config.to_oci(),
            # Of an uncompressed layer, digest and diff ID are the same.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created": format_time(created), "created_by": "import of a rootfs"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._layout.write_document(document, CONFIG_TYPE),
            "layers": [layer],
        }
        return {**self._layout.write_document(manifest, MANIFEST_TYPE), "platform": system}

    def _add_layer(self, stream: ByteSource) -> tuple[Descriptor, int]:
        """Store a tar stream as blob and unpacked layer; its descriptor and newest mtime in ns."""
        from runtime.images.attributes import UnpackOptions
        from runtime.images.layer import unpack

        options = UnpackOptions.for_this_user()
        with self._layout.temporary_folder() as aside:
            blob, folder = aside / "blob", aside / "layer"
            folder.mkdir()
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with blob.open("xb") as copy:
                    recording = RecordingSource(stream, copy, LAYER_LIMIT_BYTES)
                    result = unpack(recording.buffered(), folder_fd, options)
                    copy.flush()
                    os.fsync(copy.fileno())
            finally:
                os.close(folder_fd)
            digest = recording.digest
            if not self._layout.layer_path(digest).is_dir():
                record = {
                    **measure(folder),
                    "entries": result.entries,
                    "overlay_xattr": options.overlay_xattr,
                    "skipped_devices": result.skipped_devices,
                    "whiteouts": result.whiteouts,
                }
                self._layout.adopt_layer(folder, digest, record)
            if not self._layout.blob_path(digest).exists():
                self._layout.adopt_blob(blob, digest)
        size = recording.size_bytes
        return {"mediaType": LAYER_TYPE, "digest": digest, "size": size}, result.newest_ns

    def _tag(self, entry: Descriptor) -> None:
        """Put an entry into the index, in place of the one that has its name."""

        def change(manifests: list[Descriptor]) -> list[Descriptor]:
            others = [other for other in manifests if name_of(other) != name_of(entry)]
            return sorted([*others, entry], key=name_of)

        self._layout.update_index(change)

    # Removing.

    def remove(self, reference: str) -> Removal:
        """Take a name away, and what nothing else needs: no other image, no running instance.

        Raises:
            ImageNotFoundError: There is no such image.
            StoreError: It has this one name and something is running from it; or it was given by
                digest and has several names.
        """
        with self._explained(), self._layout.removing():
            index = self._layout.read_index()
            entry = self._find(index, reference)
            same = [other for other in index if other["digest"] == entry["digest"]]
            if len(same) > 1 and not _is_named(reference, entry):
                names = ", ".join(name_of(other) for other in same)
                raise StoreError(f"{reference} has several names ({names}); remove them by name")
            leased = leased_manifests(self._layout)
            if len(same) == 1 and entry["digest"] in leased:
                raise StoreError(f"{reference} is in use by a running instance; stop that first")
            self._layout.update_index(lambda entries: [e for e in entries if e != entry])
            deleted, freed = collect(self._layout, leased)
        return Removal((name_of(entry) or entry["digest"],), deleted, freed)

    # Reading what is stored.

    def _consistently(self, read: Callable[[list[Descriptor]], _T]) -> _T:
        """Read without a lock: once more if what was being read has been removed meanwhile."""
        with self._explained():
            while True:
                index = self._layout.read_index()
                try:
                    return read(index)
                except (StoreError, FileNotFoundError):
                    if index == self._layout.read_index():
                        raise

    def _find(self, index: list[Descriptor], reference: str) -> Descriptor:
        if matches := [entry for entry in index if _is_named(reference, entry)]:
            return matches[0]
        digits = reference.removeprefix("sha256:")
        if 4 <= len(digits) <= 64 and set(digits) <= set("0123456789abcdef"):
            matches = [e for e in index if e["digest"].startswith("sha256:" + digits)]
            if len({entry["digest"] for entry in matches}) > 1:
                raise InvalidReferenceError(f"{reference} begins the digests of several images")
            if matches:
                return matches[0]
        if not reference.startswith("sha256:"):
            parse_reference(reference)
        known = ", ".join(sorted(filter(None, map(name_of, index)))) or "none yet"
        raise ImageNotFoundError(
            f"no image {reference!r} in the store {self.root} (there: {known}); "
            "`steelyard image import` makes one from a rootfs"
        )

    def _load(self, descriptor: Descriptor) -> Image:
        digest = descriptor["digest"]
        config, layers = read_parts(self._layout, digest, self._layout.read_document(digest))
        diff_ids = diff_ids_of(config, digest)
        if len(diff_ids) != len(layers):
            raise StoreError(f"image {digest}: {len(layers)} layers, but {len(diff_ids)} diff IDs")
        return Image(
            reference=name_of(descriptor) or digest,
            digest=digest,
            config=ImageConfig.from_oci(config.get("config") or {}),
            layers=tuple(map(self._layer, layers, diff_ids)),
            architecture=str(config.get("architecture", "")),
            created=parse_time(config.get("created")),
        )

    def _layer(self, descriptor: Descriptor, diff_id: str) -> Layer:
        record = self._layout.read_layer_record(diff_id)
        return Layer(
            digest=descriptor["digest"],
            diff_id=diff_id,
            size_bytes=descriptor["size"],
            path=self._layout.layer_path(diff_id),
            allocated_bytes=record["allocated_bytes"],
            whiteouts=record["whiteouts"],
            overlay_xattr=record["overlay_xattr"],
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell what the kernel refuses in a sentence."""
        try:
            yield
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            raise StoreError(f"image store {self.root}: {where}{error.strerror}") from error


def _is_named(reference: str, descriptor: Descriptor) -> bool:
    """Whether `reference` is this entry's name, perhaps pinned to its digest."""
    name = name_of(descriptor)
    if not name:
        return False
    with contextlib.suppress(InvalidReferenceError):
        wanted, there = parse_reference(reference), parse_reference(name)
        if wanted.digest and wanted.digest != descriptor["digest"]:
            return False
        return wanted.name == there.name and (wanted.tag is None or wanted.tag == there.tag)
    return False


def _datetime(ns: int) -> datetime:
    """Never in the future, whatever a file claims."""
    return datetime.fromtimestamp(max(0, min(ns // 1_000_000_000, int(time.time()))), UTC)
