"""The files of an image on disk: a layout's folder, or an archive taken apart.

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
from runtime.images.formats.digest import BLOCK_BYTES, ByteSource, hexadecimal
from runtime.images.formats.pipeline import ReadAhead
from runtime.images.formats.schema import BLOB_LIMIT_BYTES, DOCUMENT_LIMIT_BYTES, printable
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_reader import TarReader
from runtime.images.layer.names import split_name
from runtime.images.store.layout import Layout

_ENTRIES_LIMIT = 100_000
_ARCHIVE_LIMIT_BYTES = 4 * BLOB_LIMIT_BYTES
_LINK_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive or layout.

    Attributes:
        path: Where its content is now.
        size_bytes: How long it is.
        digest: Of its content; empty if nobody has looked yet.
        movable: Whether the file is in the store's temporary folder, and nobody else's.
    """

    path: Path
    size_bytes: int
    digest: str
    movable: bool


class Members(Protocol):
    """The files of an image on disk, by their names in it."""

    where: str

    def find(self, name: str) -> Member | None:
        """The file of that name, links followed; None if there is none."""

    def hashed(self, member: Member) -> Member:
        """The same with its digest."""


def read_member(members: Members, name: str) -> bytes:
    """A small file.

    Raises:
        ImageError: It is missing, or larger than a document may be.
    """
    member = members.find(name)
    if member is None:
        raise ImageError(f"{members.where} has no file {printable(name)}")
    with member.path.open("rb") as file:
        data = file.read(DOCUMENT_LIMIT_BYTES + 1)
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise ImageError(
            f"{printable(name)} in {members.where} is over {DOCUMENT_LIMIT_BYTES} bytes"
        )
    return data


@contextlib.contextmanager
def open_members(root: Path, source: Path | BinaryIO) -> Iterator[Members]:
    """The files of a folder or archive, for as long as this is held.

    Args:
        root: The store's folder, whose writers' lock is held: an archive is taken apart in it.
        source: The folder, the archive (compressed or not), or a stream of one.

    Raises:
        ImageError: It cannot be read, or is no archive.
    """
    if isinstance(source, Path) and source.is_dir():
        yield _Folder(source)
        return
    with Layout(root).temporary_folder() as folder, contextlib.ExitStack() as stack:
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
    """A layout's folder."""

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

    def hashed(self, member: Member) -> Member:
        with open_regular(member.path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return replace(member, digest=f"sha256:{digest}")


class _Archive:
    """An archive's files, unpacked under numbers."""

    def __init__(self, folder: Path, where: str) -> None:
        self.where = where
        self._folder = folder
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}

    def fill(self, stream: ByteSource) -> None:
        """Read the archive.

        Raises:
            LayerError: It is none, damaged, or larger than any limit.
        """
        try:
            with contextlib.closing(ReadAhead(_Limited(stream))) as ahead:
                reader = TarReader(ahead)
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

    def hashed(self, member: Member) -> Member:
        return member

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
    """Open a file, without waiting for the other end if it is a FIFO.

    Raises:
        ImageError: It is no file.
    """
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
    """Where a layout keeps a blob."""
    return f"blobs/sha256/{hexadecimal(digest)}"


def compact_json(document: object) -> bytes:
    """JSON with one spelling for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
