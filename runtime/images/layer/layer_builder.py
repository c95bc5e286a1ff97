"""A layer in the making: its entries, and its tar.

A draft knows its entries by path, of two with one path the later, and reads files only when its
tar is written. The tar depends on the entries alone: sorted, owners as numbers, times no later
than a given instant.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from runtime.errors import ImageError
from runtime.images.formats import tar_writer
from runtime.images.formats.tar_fields import RECORD_BYTES, show
from runtime.images.formats.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, TarEntry
from runtime.images.layer.view import OPAQUE_MARK, OVERLAY_XATTRS, WHITEOUT_PREFIX, Parts

# What the security policy of one host says of a file means nothing on another.
_HOST_XATTRS = ("security.selinux", "security.ima", "security.evm", "security.apparmor")
_NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a layer.

    Attributes:
        kind: A type flag of `runtime.images.formats.tar_reader`; hard links are regular files here.
        mode: Permission bits, setuid, setgid and sticky included.
        mtime_ns: Modification time, nanoseconds since the epoch.
        size_bytes: Of a regular file.
        link: A symlink's target.
        device: Major and minor.
        xattrs: Extended attributes, without overlayfs's own and the host's policy.
        source: Where on disk a file's data is; empty: it is `data`.
        data: A small file's data.
        inode: Device and inode number, the same for all names of one file; None if it has one name.
    """

    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size_bytes: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: _NO_XATTRS)
    source: bytes = b""
    data: bytes = b""
    inode: tuple[int, int] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.kind == DIRECTORY


def read_item(path: bytes) -> Item | None:
    """Read what is at a path on disk; None for a socket, which no archive can hold."""
    status = os.lstat(path)
    kind = tar_writer.KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    xattrs = {
        name: value
        for name, value in tar_writer.read_xattrs(path).items()
        if not name.startswith(OVERLAY_XATTRS) and name not in _HOST_XATTRS
    }
    shared = kind != DIRECTORY and status.st_nlink > 1
    return Item(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=_as_root(status.st_uid, os.geteuid()),
        gid=_as_root(status.st_gid, os.getegid()),
        mtime_ns=status.st_mtime_ns,
        size_bytes=status.st_size if kind == REGULAR else 0,
        link=os.readlink(path) if kind == SYMLINK else b"",
        device=tar_writer.device_of(status),
        xattrs=xattrs or _NO_XATTRS,
        source=path if kind == REGULAR else b"",
        inode=(status.st_dev, status.st_ino) if shared else None,
    )


def _as_root(number: int, own: int) -> int:
    """An ordinary user owns all that it has unpacked: its own number stands for root's."""
    return 0 if number == own and os.geteuid() != 0 else number


def same_item(one: Item, other: Item) -> bool:
    """Whether a tar says the same of two entries, data included.

    A file with several names is like no other: which names it has is not in the entry.
    """
    if one.inode or other.inode:
        return False
    blank = replace(one, source=b"", data=b""), replace(other, source=b"", data=b"")
    return blank[0] == blank[1] and _data_digest(one) == _data_digest(other)


class LayerDraft:
    """Holds the entries of a layer to be, by path; `put`, `whiteout` and `opaque` change them."""

    def __init__(self) -> None:
        self.items: dict[Parts, Item] = {}

    def put(self, parts: Parts, item: Item) -> None:
        """Set an entry; raise ImageError for a name that means a deletion in a layer."""
        if parts and parts[-1].startswith(WHITEOUT_PREFIX):
            name = show(b"/".join(parts))
            raise ImageError(f"{name}: names that begin with .wh. mean deletions in an image")
        self.items[parts] = item

    def whiteout(self, parts: Parts) -> None:
        """Note that what is below at this path is gone."""
        self.items[(*parts[:-1], WHITEOUT_PREFIX + parts[-1])] = Item(REGULAR, 0)

    def opaque(self, parts: Parts) -> None:
        """Note that all that was in this folder below is gone."""
        self.items[(*parts, OPAQUE_MARK)] = Item(REGULAR, 0)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.items)

    def tar(self, latest_ns: int | None = None) -> Iterator[bytes]:
        """Yield the layer as an uncompressed tar; later times than `latest_ns` become that one.

        Raises:
            ImageError: A file cannot be read, or has changed since its entry was read.
        """
        first: dict[tuple[int, int], bytes] = {}
        for parts in sorted(self.items):
            item, name = self.items[parts], b"/".join(parts) or b"."
            kind, link, size, xattrs = item.kind, item.link, item.size_bytes, dict(item.xattrs)
            if item.inode is not None:
                shown = first.setdefault(item.inode, name)
                if shown != name:
                    kind, link, size, xattrs = HARD_LINK, shown, 0, {}
            mtime_ns = item.mtime_ns if latest_ns is None else min(item.mtime_ns, latest_ns)
            yield tar_writer.encode_header(
                TarEntry(name, kind, item.mode, item.uid, item.gid, mtime_ns, size, size, link,
                         item.device, xattrs)
            )  # fmt: skip
            if kind == REGULAR:
                yield from _data(item)
        yield tar_writer.END

    def content_digest(self) -> str:
        """Hash names, types, modes, owners and data, but no times, for the build cache."""
        total = hashlib.sha256()
        for parts in sorted(self.items):
            item = self.items[parts]
            facts = (
                [part.hex() for part in parts], item.kind.decode(), item.mode, item.uid, item.gid,
                item.size_bytes, item.link.hex(), item.device,
                sorted((name, value.hex()) for name, value in item.xattrs.items()),
                _data_digest(item),
            )  # fmt: skip
            total.update(json.dumps(facts).encode() + b"\n")
        return "sha256:" + total.hexdigest()


def _data_digest(item: Item) -> str:
    """The digest of a file's data; of nothing for what has none."""
    total = hashlib.sha256()
    if item.kind == REGULAR:
        for chunk in _data(item):
            total.update(chunk)
    return total.hexdigest()


def _data(item: Item) -> Iterator[bytes]:
    """A regular file's data, filled up to whole records."""
    if not item.source:
        if item.data:
            yield item.data + bytes(-len(item.data) % RECORD_BYTES)
        return
    try:
        fd = os.open(item.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != item.size_bytes:
                raise ImageError(f"{show(item.source)} changed while it was being read")
            yield from tar_writer.read_contents(fd, item.size_bytes, item.source)
        finally:
            os.close(fd)
    except OSError as error:
        raise ImageError(f"cannot read {show(item.source)}: {error.strerror}") from error
