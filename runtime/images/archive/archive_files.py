"""The files of an image on disk: a layout's folder, or the files of an archive.

Archives are read front to back, once. What is in them goes into numbered files in the store's
temporary folder, so no name from outside ever becomes a path; links are looked up in the archive's
own list of names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from runtime.errors import ImageError, LayerError
from runtime.images.formats import tar_reader
from runtime.images.formats.compression import decompressed
from runtime.images.formats.digest import (
    BLOB_LIMIT_BYTES,
    BLOCK_BYTES,
    DOCUMENT_LIMIT_BYTES,
    ByteSource,
    hexadecimal,
)
from runtime.images.formats.pipeline import ReadAhead
from runtime.images.formats.schema import printable
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_reader import TarReader
from runtime.images.layer.view import split_name
from runtime.images.store.layout import StoreLayout

_ENTRIES_LIMIT = 100_000
_ARCHIVE_LIMIT_BYTES = 4 * BLOB_LIMIT_BYTES
_LINK_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Member:
    """Describes a file of an archive or layout.

    Attributes:
        path: Where its content is now.
        size_bytes: Length of the content.
        digest: Of its content; empty if not computed yet.
        movable: Whether the file is in the store's temporary folder, and nobody else's.
    """

    path: Path
    size_bytes: int
    digest: str
    movable: bool


class Members(Protocol):
    """Finds the files of an image on disk by their names in it."""

    where: str

    def find(self, name: str) -> Member | None:
        """Return the file of that name, links followed; None if there is none."""


def find_member(members: Members, name: str) -> Member:
    """Return the file of that name, or raise ImageError."""
    member = members.find(name)
    if member is None:
        raise ImageError(f"{members.where} has no file {printable(name)}")
    return member


def find_hashed(members: Members, name: str) -> Member:
    """Return the file of that name with its digest, or raise ImageError."""
    member = find_member(members, name)
    if member.digest:
        return member
    with open_regular(member.path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return replace(member, digest=f"sha256:{digest}")


def read_member(members: Members, name: str) -> bytes:
    """Read a small file, or raise ImageError."""
    with find_member(members, name).path.open("rb") as file:
        data = file.read(DOCUMENT_LIMIT_BYTES + 1)
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise ImageError(
            f"{printable(name)} in {members.where} is over {DOCUMENT_LIMIT_BYTES} bytes"
        )
    return data


@contextlib.contextmanager
def open_members(root: Path, source: Path | BinaryIO) -> Iterator[Members]:
    """Give the files of a folder or archive, for as long as this is held.

    An archive, compressed or not, is split in the store's folder `root`, whose writers' lock is
    held.

    Raises:
        ImageError: It cannot be read, or is no archive.
    """
    if isinstance(source, Path) and source.is_dir():
        yield _Folder(source)
        return
    with StoreLayout(root).temporary_folder() as folder, contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            where = str(source)
            try:
                file = stack.enter_context(open_regular(source))
            except OSError as error:
                raise ImageError(f"cannot read {source}: {error.strerror}") from error
        else:
            where = "the standard input"
            spooled = folder / "archive"
            with spooled.open("xb") as copy:
                _copy(source, copy)
            file = stack.enter_context(spooled.open("rb"))
        archive = _Archive(folder, where)
        with decompressed(file) as stream:
            archive.fill(stream)
        yield archive


class _Folder:
    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self._root = root

    def find(self, name: str) -> Member | None:
        path = self._root / name
        try:
            with open_regular(path) as file:
                return Member(path, os.fstat(file.fileno()).st_size, "", movable=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error


class _Archive:
    """The files of an archive, unpacked under numbers."""

    def __init__(self, folder: Path, where: str) -> None:
        self.where = where
        self._folder = folder
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}

    def fill(self, stream: ByteSource) -> None:
        try:
            with contextlib.closing(ReadAhead(_Limited(stream))) as plain:
                reader = TarReader(plain)
                for number, entry in enumerate(reader):
                    self._add(number, entry, reader)
        except LayerError as error:
            raise LayerError(f"{self.where}: {error}") from None

    def find(self, name: str) -> Member | None:
        for _ in range(_LINK_DEPTH):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def _add(self, number: int, entry: tar_reader.TarEntry, reader: TarReader) -> None:
        if number >= _ENTRIES_LIMIT:
            raise LayerError(f"more than {_ENTRIES_LIMIT} files")
        name = _decoded(split_name(entry.name))
        # As with tar, the last one of a name counts.
        self._files.pop(name, None)
        self._links.pop(name, None)
        if entry.kind == tar_reader.REGULAR:
            self._files[name] = self._store(number, entry, reader)
        elif entry.kind == tar_reader.HARD_LINK:
            self._links[name] = _decoded(split_name(entry.link))
        elif entry.kind == tar_reader.SYMLINK:
            target = entry.link.decode("utf-8", "surrogateescape")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            # One that leads out leads to nothing: it is only ever looked up in here.
            self._links[name] = target

    def _store(self, number: int, entry: tar_reader.TarEntry, reader: TarReader) -> Member:
        if entry.sparse is not None:
            raise LayerError(f"{show(entry.name)}: sparse files are not supported in an archive")
        if entry.size_bytes > BLOB_LIMIT_BYTES:
            raise LayerError(f"{show(entry.name)}: over {BLOB_LIMIT_BYTES} bytes, the limit")
        path = self._folder / str(number)
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for chunk in reader.chunks():
                digest.update(chunk)
                file.write(chunk)
        return Member(path, entry.size_bytes, f"sha256:{digest.hexdigest()}", movable=True)


class _Limited:
    """A stream that ends with an error when it goes on for too long."""

    def __init__(self, stream: ByteSource) -> None:
        self._stream = stream
        self._left = _ARCHIVE_LIMIT_BYTES

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise LayerError(f"unpacks to more than {_ARCHIVE_LIMIT_BYTES} bytes, the limit")
        return data


def _decoded(parts: tuple[bytes, ...]) -> str:
    return b"/".join(parts).decode("utf-8", "surrogateescape")


def open_regular(path: Path) -> BinaryIO:
    """Open a file without waiting if it is a FIFO; raise ImageError if it is no file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(fd, "rb", BLOCK_BYTES)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise ImageError(f"{path} is neither a file nor a folder")
    return file


def _copy(source: BinaryIO, copy: BinaryIO) -> None:
    left = _ARCHIVE_LIMIT_BYTES
    while data := source.read(BLOCK_BYTES):
        copy.write(data)
        left -= len(data)
        if left < 0:
            raise LayerError(f"an archive of more than {_ARCHIVE_LIMIT_BYTES} bytes")


def blob_name(digest: str) -> str:
    """Return the name of a blob's file in a layout."""
    return f"blobs/sha256/{hexadecimal(digest)}"


def compact_json(document: object) -> bytes:
    """Write JSON with one spelling for equal documents, in ASCII: it may hold half characters."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
