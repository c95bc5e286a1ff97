"""The image store: look images up, add, tag, remove and collect them.

`runtime.images.store.layout` describes files and locks. Modules that looking an image up does not
need are imported where they are used: the look-up is part of every launch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from runtime.errors import ImageNotFoundError, InvalidReferenceError, LayerError, StoreError
from runtime.images.formats.config import ImageConfig, format_time
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.layer import merged
from runtime.images.store.files import lock_file
from runtime.images.store.gc import Keep, Removal, collect, leased_manifests
from runtime.images.store.layout import Descriptor, StoreLayout
from runtime.images.store.lookup import find_entry, is_named, load_image, load_layer, name_of
from runtime.paths import data_home

if TYPE_CHECKING:
    from runtime.images.store.history import HistoryEntry
    from runtime.images.store.sharing import StoreUsage
    from runtime.images.store.verify import Problem
    from runtime.images.store.writer import Adder

_T = TypeVar("_T")


class ImageStore:
    """Keeps images on this machine. Making the object touches nothing on disk.

        store = ImageStore.default()
        names = [image.reference for image in store.images()]
        store.remove("old:1", keep=runtime.kept_images)

    Any number of processes use one store, the folder `root`, at the same time; all that a call
    changes is there as a whole or not at all.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = StoreLayout(root)

    @classmethod
    def default(cls) -> ImageStore:
        """Return the user's store: `images` in the data home."""
        return cls(data_home() / "images")

    # Reading.

    def get(self, reference: str) -> Image:
        """Return the image of that name, digest, or unambiguous beginning of a digest.

        Raises:
            ImageNotFoundError: There is none.
            InvalidReferenceError: No possible name.
            StoreError: The store is damaged there.
        """

        def read(index: list[Descriptor]) -> Image:
            image = load_image(self._layout, find_entry(self._layout, index, reference))
            for layer in image.layers:
                if not layer.path.is_dir():
                    raise StoreError(
                        f"layer {layer.diff_id} of {image.reference} is missing from the store "
                        f"{self.root}; import the image again"
                    )
            return image

        return self._consistently(read)

    def images(self) -> tuple[Image, ...]:
        """Return all images, those without a name first, sorted by name, or raise StoreError."""

        def read(index: list[Descriptor]) -> tuple[Image, ...]:
            layer = cache(partial(load_layer, self._layout))
            return tuple(
                load_image(self._layout, entry, layer) for entry in sorted(index, key=name_of)
            )

        return self._consistently(read)

    def usage(self) -> StoreUsage:
        """Measure what images take on disk, shared and exclusive, or raise StoreError."""
        from runtime.images.store.sharing import measure_usage

        images = self.images()
        with self._explained():
            return measure_usage(self._layout, images)

    def history(self, image: Image) -> tuple[HistoryEntry, ...]:
        """Return the steps that made the image, first step first, or raise StoreError."""
        from runtime.images.store.history import read_history

        with self._explained():
            return read_history(self._layout.read_document(image.config_digest), image)

    def verify(self, progress: Callable[[str], None] = lambda _: None) -> tuple[Problem, ...]:
        """Hash every blob, unpack every layer again and compare; return what is wrong.

        `progress` gets the name of each blob and layer before it is verified.

        Raises:
            StoreError: Space or permission is missing.
        """
        from runtime.images.store.verify import Verifier

        with self._explained(), self.adding() as adder:
            return Verifier(self._layout, partial(load_image, self._layout), adder).run(progress)

    def open_blob(self, digest: str) -> IO[bytes]:
        """Open a blob for reading, as it was shipped, or raise StoreError if it is missing."""
        with self._explained():
            return self._layout.open_blob(digest)

    def read_file(self, image: Image, path: str) -> bytes | None:
        """Read a file as a program in the image would; None if there is no such regular file."""
        with self._explained():
            return merged.read_file(image, path)

    def flatten(self, image: Image, target: Path) -> None:
        """Copy the merged root filesystem into an empty or new folder, whole or not at all."""
        with self._explained(), self.lease(image):
            merged.flatten(image, target)

    @contextlib.contextmanager
    def private_copy(
        self,
        image: Image,
        finish: Callable[[Path], None],
        say_copying: Callable[[], None] = lambda: None,
    ) -> Iterator[Path]:
        """Give a folder with the merged root filesystem that the caller alone may write into.

        It is kept for the next caller, who gets it only if it is as it was made; otherwise it is
        made anew. It goes when the image is removed.

        Args:
            image: Of which.
            finish: Adds to a new copy what all callers want in it; the same for every caller.
            say_copying: Called when a copy has to be made.
        """
        from runtime.images.store.copies import hold_copy

        with contextlib.ExitStack() as stack:
            with self._explained(), self.lease(image):
                copy = hold_copy(self._layout, image, finish, say_copying)
                path = stack.enter_context(copy)
            yield path

    @contextlib.contextmanager
    def lease(self, image: Image) -> Iterator[None]:
        """Keep all layers of the image while this is held, whatever becomes of its name.

        A shared flock(2): any number of processes hold one, and it ends with its process at the
        latest. Take one for all instances of an image, not one each.

        Raises:
            ImageNotFoundError: The image has been removed since it was looked up.
        """
        with contextlib.ExitStack() as stack:
            with self._explained(), self._layout.writing():
                # In here nobody removes anything, so what is there now stays.
                fd = stack.enter_context(lock_file(self._layout.lease_path(image.digest)))
                fcntl.flock(fd, fcntl.LOCK_SH)
                missing = [layer for layer in image.layers if not layer.path.is_dir()]
                if missing or not self._layout.blob_path(image.digest).exists():
                    raise ImageNotFoundError(f"image {image.reference} has been removed meanwhile")
            yield

    # Adding.

    @contextlib.contextmanager
    def adding(self) -> Iterator[Adder]:
        """Give the adder to the store; while it is held, nobody removes anything."""
        from runtime.images.store.writer import Adder

        with self._explained(), self._layout.writing():
            yield Adder(self._layout, partial(load_image, self._layout))

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Give a folder on the store's filesystem, removed afterwards.

        If this process is killed, the next one that writes to the store removes it.
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
        from runtime.images.layer.source import open_rootfs
        from runtime.images.store.assembly import LayerReference, empty_document, put_together

        name = parse_reference(reference)
        if name.digest:
            raise InvalidReferenceError(f"{reference!r}: a new image's digest cannot be chosen")
        with self.adding() as adder:
            try:
                with open_rootfs(source, owner) as stream:
                    layer = adder.add_tar(stream)
            except LayerError as error:
                raise LayerError(f"{source}: {error}") from error
            moment = format_time(created or _datetime(layer.newest_ns))
            document = {
                **empty_document(),
                "created": moment,
                "config": (config or ImageConfig()).to_oci(),
                "history": [{"created": moment, "created_by": "import of a rootfs"}],
            }
            layers = (LayerReference(layer.descriptor, layer.diff_id),)
            return put_together(adder, document, layers, (str(name),))

    def tag(self, reference: str, name: str) -> Image:
        """Give an image another name, which moves if it is taken, or raise ImageError."""
        with self.adding() as adder:
            entry = find_entry(self._layout, self._layout.read_index(), reference)
            manifest = {key: value for key, value in entry.items() if key != "annotations"}
            return adder.add_image(manifest, [name])

    # Removing.

    def remove(self, reference: str, *, keep: Keep) -> Removal:
        """Remove a name, and the data that no other image and no running instance needs.

        `keep` gives the digests of further manifests that stay, such as those of kept containers
        (`runtime.kept_images`).

        Raises:
            ImageNotFoundError: There is no such image.
            StoreError: It has this one name and something is running from it; or it was given by
                digest and has several names.
        """
        with self._explained(), self._layout.removing():
            index = self._layout.read_index()
            entry = find_entry(self._layout, index, reference)
            same = [other for other in index if other["digest"] == entry["digest"]]
            if len(same) > 1 and not is_named(reference, entry):
                names = ", ".join(name_of(other) for other in same)
                raise StoreError(f"{reference} has several names ({names}); remove them by name")
            leased, kept = leased_manifests(self._layout), set(keep())
            if len(same) == 1 and entry["digest"] in leased:
                raise StoreError(f"{reference} is in use by a running instance; stop that first")
            if len(same) == 1 and entry["digest"] in kept:
                raise StoreError(
                    f"{reference} is what a stopped container stands on; remove that first"
                )
            with self._layout.space_to_remove():
                self._layout.update_index(lambda entries: [e for e in entries if e != entry])
                gone = collect(self._layout, leased | kept)
        name = name_of(entry) or entry["digest"]
        return replace(gone, untagged=(name,))

    def collect(self, *, keep: Keep) -> Removal:
        """Remove all that no name and no running instance needs, and that `keep` does not name.

        What killed processes have left half-made goes too, and counts; `keep` is as in `remove`.

        Raises:
            StoreError: A manifest is damaged, so that it cannot be known what it needs.
        """
        with self._explained(), self._layout.removing() as swept_bytes:
            in_use = leased_manifests(self._layout) | set(keep())
            gone = collect(self._layout, in_use)
        return replace(gone, freed_bytes=gone.freed_bytes + swept_bytes)

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

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what the kernel refuses as a StoreError of one sentence."""
        try:
            yield
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            raise StoreError(f"image store {self.root}: {where}{error.strerror}") from error


def _datetime(ns: int) -> datetime:
    """Never in the future, whatever a file claims."""
    return datetime.fromtimestamp(max(0, min(ns // 1_000_000_000, int(time.time()))), UTC)
