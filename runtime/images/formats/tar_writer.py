"""Writing a folder as tar so that equal folders give equal bytes.

Entries are sorted, owners are numbers, nothing of the writer or the hour gets in. What plain ustar
cannot hold goes into pax records (POSIX.1-2001): long names, large numbers, nanoseconds, and
extended attributes as `SCHILY.xattr.<name>`, which is what every image tool reads. Written by
hand: the standard library's tarfile keeps times as floats and names as text, and chooses pax
records of its own, so that equal layers would not stay equal from one Python to the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import ImageError
from runtime.images.formats.digest import BLOCK_BYTES
from runtime.images.formats.tar_fields import RECORD_BYTES, show
from runtime.images.formats.tar_reader import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    TarEntry,
)

END = bytes(2 * RECORD_BYTES)
"""What ends an archive."""
KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}
"""File type of stat(2) -> type of a tar entry; sockets have none."""


def tar_folder(
    folder: Path, *, latest_ns: int | None = None, owner: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """The folder as an uncompressed tar, piece by piece; sockets are left out.

    Args:
        folder: Its own mode, owner and times are the archive's first entry, `./`.
        latest_ns: Later modification times are set to this one (`SOURCE_DATE_EPOCH`).
        owner: If given, uid and gid of every entry instead of its own.

    Raises:
        ImageError: Something in the folder cannot be read, or changed while it was.
    """
    writer = _Writer(os.fsencode(folder), latest_ns, owner)
    try:
        for name in _walk(writer.root):
            yield from writer.entry(name)
    except OSError as error:
        where = show(os.fsencode(error.filename)) if error.filename else str(folder)
        raise ImageError(f"cannot read {where}: {error.strerror}") from error
    yield END


def source_date_epoch_ns() -> int | None:
    """`SOURCE_DATE_EPOCH` in nanoseconds, None when it is not set (reproducible-builds.org's spec).

    Raises:
        ImageError: It is set to something that is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ImageError(
            f"SOURCE_DATE_EPOCH is {text!r}; it must be a number of seconds since 1970"
        )
    return int(text) * 1_000_000_000


def _walk(root: bytes) -> Iterator[bytes]:
    """Paths below `root`, each folder before what is in it, siblings in byte order."""
    pending = [b"."]
    while pending:
        name = pending.pop()
        yield name
        path = os.path.join(root, name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            children = sorted(os.listdir(path), reverse=True)
            pending += [child if name == b"." else name + b"/" + child for child in children]


class _Writer:
    """Makes the entries; remembers which files have been seen, for hard links."""

    def __init__(self, root: bytes, latest_ns: int | None, owner: tuple[int, int] | None) -> None:
        self.root = root
        self._latest_ns = latest_ns
        self._owner = owner
        self._links: dict[tuple[int, int], bytes] = {}

    def entry(self, name: bytes) -> Iterator[bytes]:
        path = os.path.join(self.root, name)
        status = os.lstat(path)
        kind = KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        link = b""
        if kind == SYMLINK:
            link = os.readlink(path)
        elif kind != DIRECTORY and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                kind, link = HARD_LINK, first
        if kind != REGULAR:
            yield self._header(name, kind, link, status, path)
            return
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            yield self._header(name, kind, link, status, path)
            yield from read_contents(fd, status.st_size, path)
        finally:
            os.close(fd)

    def _header(
        self, name: bytes, kind: bytes, link: bytes, status: os.stat_result, path: bytes
    ) -> bytes:
        uid, gid = self._owner or (status.st_uid, status.st_gid)
        mtime_ns = status.st_mtime_ns
        if self._latest_ns is not None:
            mtime_ns = min(mtime_ns, self._latest_ns)
        size = status.st_size if kind == REGULAR else 0
        device = (0, 0)
        if kind in (CHARACTER, BLOCK):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        xattrs = {} if kind == HARD_LINK else read_xattrs(path)
        mode = stat.S_IMODE(status.st_mode)
        return encode_header(
            TarEntry(name, kind, mode, uid, gid, mtime_ns, size, size, link, device, xattrs)
        )


def encode_header(entry: TarEntry) -> bytes:
    """An entry's header, with an extended one before it for what plain ustar cannot hold."""
    name = entry.name + (b"/" if entry.kind == DIRECTORY else b"")
    size, uid, gid, mtime_ns = entry.stored_bytes, entry.uid, entry.gid, entry.mtime_ns
    pax = _needed_records(name, entry.link, size, uid, gid, mtime_ns)
    pax += [(b"SCHILY.xattr." + os.fsencode(key), value) for key, value in entry.xattrs.items()]
    seconds = mtime_ns // 1_000_000_000
    plain = _ustar(name, entry.kind, entry.link, entry.mode, uid, gid, size, seconds, entry.device)
    if not pax:
        return plain
    records = b"".join(_record(key, value) for key, value in sorted(pax))
    header = _ustar(b"././@PaxHeader", b"x", b"", 0o644, 0, 0, len(records), 0, (0, 0))
    return header + records + bytes(-len(records) % RECORD_BYTES) + plain


def read_contents(fd: int, size: int, path: bytes) -> Iterator[bytes]:
    """A file's data as an archive holds it: filled up with zeros to whole records."""
    left = size
    while left:
        chunk = os.read(fd, min(left, BLOCK_BYTES))
        if not chunk:
            raise ImageError(f"{show(path)} became shorter while it was read")
        left -= len(chunk)
        yield chunk
    if size % RECORD_BYTES:
        yield bytes(-size % RECORD_BYTES)


def _needed_records(
    name: bytes, link: bytes, size: int, uid: int, gid: int, mtime_ns: int
) -> list[tuple[bytes, bytes]]:
    """Extended records for what the plain header cannot hold."""
    pax = []
    if len(name) > 100:
        pax.append((b"path", name))
    if len(link) > 100:
        pax.append((b"linkpath", link))
    if size >= 8**11:
        pax.append((b"size", b"%d" % size))
    if uid >= 8**7:
        pax.append((b"uid", b"%d" % uid))
    if gid >= 8**7:
        pax.append((b"gid", b"%d" % gid))
    seconds, ns = divmod(abs(mtime_ns), 1_000_000_000)
    if ns or mtime_ns < 0 or seconds >= 8**11:
        fraction = b".%09d" % ns if ns else b""
        pax.append((b"mtime", (b"-" if mtime_ns < 0 else b"") + b"%d" % seconds + fraction))
    return pax


def read_xattrs(path: bytes) -> dict[str, bytes]:
    """The extended attributes of a path; of a symlink, its own."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        # The filesystem has none (ENOTSUP), which is all that can happen to what lstat just saw.
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _record(key: bytes, value: bytes) -> bytes:
    r"""`<length> <key>=<value>\n`, the length counting its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(b"%d" % len(body))
    if len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def _ustar(
    name: bytes,
    kind: bytes,
    link: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime_s: int,
    device: tuple[int, int],
) -> bytes:
    """A plain header; what does not fit is cut or 0 here, and whole in the extended one."""

    def octal(value: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, value if 0 <= value < 8 ** (width - 1) else 0)

    fields = (
        name[:100].ljust(100, b"\0"),
        octal(mode, 8) + octal(uid, 8) + octal(gid, 8) + octal(size, 12) + octal(mtime_s, 12),
        b" " * 8 + kind + link[:100].ljust(100, b"\0"),
        b"ustar\x0000" + bytes(64),
        octal(device[0], 8) + octal(device[1], 8),
    )
    header = b"".join(fields).ljust(RECORD_BYTES, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
