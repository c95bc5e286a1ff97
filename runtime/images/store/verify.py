"""Verifying a store: every blob hashed, every layer unpacked again and compared.

Nothing is believed that can be computed: a layer's folder is compared, to the last byte of
content and the last extended attribute, with what its blob unpacks to today. That needs space for
the largest layer, which is unpacked in a temporary folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ImageError, StoreError
from runtime.images.formats.digest import BLOCK_BYTES, is_digest
from runtime.images.formats.image import Image
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_writer import read_xattrs
from runtime.images.store.files import measure
from runtime.images.store.implied import ImpliedFolders
from runtime.images.store.layout import Descriptor, StoreLayout
from runtime.images.store.lookup import name_of
from runtime.images.store.writer import Adder, file_digest

_PLACES = {
    "blobs/sha256": ("",),
    "layers/sha256": ("", ".json", ".implied"),
    "layers/folders": ("",),
}
"""Folders whose files have digests as names -> suffixes of the names."""
_DIFFERENCES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Says what is wrong, and where: an image's name, a digest, a diff ID, or a path."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Verifier:
    """Verifies everything in a store once.

    The writers' lock of `layout` is held, so that nothing is removed meanwhile; `load` reads an
    image by its entry in the index.
    """

    def __init__(
        self, layout: StoreLayout, load: Callable[[Descriptor], Image], adder: Adder
    ) -> None:
        self._layout = layout
        self._load = load
        self._adder = adder
        self._bad_blobs: set[str] = set()
        self._sources: dict[str, list[str]] = {}

    def run(self, progress: Callable[[str], None]) -> tuple[Problem, ...]:
        """Return everything that is wrong; damaged blobs first, since they explain the rest."""
        return (*self._strays(), *self._blobs(progress), *self._images(), *self._layers(progress))

    def _strays(self) -> Iterator[Problem]:
        for part, suffixes in _PLACES.items():
            folder = self._layout.root / part
            for name in sorted(os.listdir(folder)):
                if not any(is_digest(f"sha256:{name.removesuffix(s)}") for s in suffixes):
                    yield Problem(show(os.fsencode(folder / name)), "does not belong here")

    def _blobs(self, progress: Callable[[str], None]) -> Iterator[Problem]:
        for digest in sorted(self._layout.blobs()):
            progress(f"blob {digest}")
            path = self._layout.blob_path(digest)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                self._bad_blobs.add(digest)
                yield Problem(f"blob {digest}", "is no regular file")
            elif (found := file_digest(path)) != digest:
                self._bad_blobs.add(digest)
                yield Problem(f"blob {digest}", f"is damaged: its content hashes to {found}")

    def _images(self) -> Iterator[Problem]:
        try:
            index = self._layout.read_index()
        except ImageError as error:
            yield Problem("index.json", str(error))
            return
        for entry in index:
            name = show(os.fsencode(name_of(entry) or entry["digest"]))
            try:
                image = self._load(entry)
                self._layout.read_document(image.config_digest)
            except ImageError as error:
                yield Problem(f"image {name}", str(error))
                continue
            for layer in image.layers:
                self._sources.setdefault(layer.diff_id, []).append(layer.digest)
                yield from self._part(f"image {name}", layer.digest, layer.size_bytes)
                if not layer.path.is_dir():
                    yield Problem(f"image {name}", f"layer {layer.diff_id} is not unpacked")
            yield from self._part(f"image {name}", image.digest, entry["size"])
            if all(layer.path.is_dir() for layer in image.layers):
                yield from self._folders(f"image {name}", image)

    def _folders(self, where: str, image: Image) -> Iterator[Problem]:
        """Problems of what the image shows for its implied folders."""
        implied = ImpliedFolders(self._layout, image.layers)
        if bool(implied) != (image.folders is not None):
            state = "missing" if implied else "not needed"
            yield Problem(where, f"the attributes of its implied folders are {state}")
        elif image.folders is not None:
            with self._layout.temporary_folder() as again:
                implied.make(again)
                for difference in compare_trees(image.folders, again):
                    yield Problem(where, f"its implied folders: {difference}")

    def _part(self, where: str, digest: str, size_bytes: int) -> Iterator[Problem]:
        path = self._layout.blob_path(digest)
        if not path.exists():
            yield Problem(where, f"blob {digest} is missing")
        elif digest not in self._bad_blobs and path.stat().st_size != size_bytes:
            found = path.stat().st_size
            yield Problem(where, f"{digest} has {found} bytes where {size_bytes} are listed")

    def _layers(self, progress: Callable[[str], None]) -> Iterator[Problem]:
        for diff_id in sorted(self._layout.layers()):
            folder = self._layout.layer_path(diff_id)
            if not folder.is_dir():
                # A writer was killed before its layer came: the next collection removes the record.
                continue
            for digest in (*self._sources.get(diff_id, []), diff_id):
                if digest not in self._bad_blobs and self._layout.blob_path(digest).exists():
                    progress(f"layer {diff_id}")
                    yield from self._layer(folder, diff_id, digest)
                    break
            # Without a blob, a collection removes an unnamed layer; a named one is reported above.

    def _layer(self, folder: Path, diff_id: str, digest: str) -> Iterator[Problem]:
        where = f"layer {diff_id}"
        count = 0
        try:
            with self._adder.unpacked_again(digest, diff_id) as again:
                for count, difference in enumerate(compare_trees(folder, again), 1):
                    if count > _DIFFERENCES_SHOWN:
                        yield Problem(where, "and more")
                        break
                    yield Problem(where, difference)
        except StoreError:
            raise
        except ImageError as error:
            yield Problem(where, str(error))
            return
        record = self._layout.read_layer_record(diff_id)
        sizes = measure(folder)
        if not count and any(record[key] != value for key, value in sizes.items()):
            yield Problem(where, f"its record says {record}, but it takes {sizes}")


def compare_trees(found: Path, wanted: Path) -> Iterator[str]:
    """Yield how two trees differ, a sentence for each entry.

    Compares names, types, modes, owners, times, devices, links, extended attributes, contents.
    """
    first_found: dict[int, bytes] = {}
    first_wanted: dict[int, bytes] = {}
    roots = os.fsencode(found), os.fsencode(wanted)
    pending = [b"."]
    while pending:
        name = pending.pop()
        paths = os.path.join(roots[0], name), os.path.join(roots[1], name)
        here, there = os.lstat(paths[0]), os.lstat(paths[1])
        difference = _difference(paths, here, there)
        if difference is None and not stat.S_ISDIR(here.st_mode) and here.st_nlink > 1:
            link = first_found.setdefault(here.st_ino, name)
            right = first_wanted.setdefault(there.st_ino, name)
            if link != right:
                difference = f"is a hard link to {show(link)}, not {show(right)}"
        if difference is not None:
            yield f"{show(name)} {difference}"
        if stat.S_ISDIR(here.st_mode) and stat.S_ISDIR(there.st_mode):
            names = set(os.listdir(paths[0])), set(os.listdir(paths[1]))
            for missing in sorted(names[1] - names[0]):
                yield f"{show(os.path.join(name, missing))} is missing"
            for extra in sorted(names[0] - names[1]):
                yield f"{show(os.path.join(name, extra))} should not be there"
            pending += [os.path.join(name, both) for both in sorted(names[0] & names[1])[::-1]]


def _difference(
    paths: tuple[bytes, bytes], here: os.stat_result, there: os.stat_result
) -> str | None:
    if stat.S_IFMT(here.st_mode) != stat.S_IFMT(there.st_mode):
        return "is of another type"
    facts: list[tuple[str, object, object]] = [
        ("mode", oct(here.st_mode), oct(there.st_mode)),
        ("owner", (here.st_uid, here.st_gid), (there.st_uid, there.st_gid)),
        ("time", here.st_mtime_ns, there.st_mtime_ns),
        ("device", here.st_rdev, there.st_rdev),
    ]
    if not stat.S_ISDIR(here.st_mode):
        facts += [("size", here.st_size, there.st_size), ("links", here.st_nlink, there.st_nlink)]
    if stat.S_ISLNK(here.st_mode):
        facts.append(("target", os.readlink(paths[0]), os.readlink(paths[1])))
    for what, is_, should in facts:
        if is_ != should:
            return f"has {what} {is_!r}, not {should!r}"
    if read_xattrs(paths[0]) != read_xattrs(paths[1]):
        return "has other extended attributes"
    if stat.S_ISREG(here.st_mode) and not _same_content(*paths):
        return "has another content"
    return None


def _same_content(one: bytes, other: bytes) -> bool:
    """Whether two files of one size hold the same; what is a hole in both is not read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(one, flags), "rb") as first, open(os.open(other, flags), "rb") as second:
        fds = first.fileno(), second.fileno()
        position = 0
        while data_at := [at for fd in fds if (at := _next_data(fd, position)) is not None]:
            position = min(data_at)
            blocks = [os.pread(fd, BLOCK_BYTES, position) for fd in fds]
            if blocks[0] != blocks[1]:
                return False
            position += len(blocks[0])
    return True


def _next_data(fd: int, position: int) -> int | None:
    """Where data comes next in a file; None if only holes come (lseek(2), SEEK_DATA)."""
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
