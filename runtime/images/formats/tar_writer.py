"""Writing a folder as tar so that equal folders give equal bytes.

Entries are sorted, owners are numbers, nothing of the writer or the hour gets in. What plain ustar
cannot hold goes into pax records (POSIX.1-2001): long names, large numbers, nanoseconds, and
extended attributes as `SCHILY.xattr.<name>`, which every image tool reads. The standard library's
tarfile keeps times as floats and names as text, and chooses pax records of its own: equal layers
would not stay equal from one Python to the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import ImageError
from runtime.images.formats import tar_reader
from runtime.images.formats.digest import BLOCK_BYTES
from runtime.images.formats.tar_fields import RECORD_BYTES, show
from runtime.images.formats.tar_reader import DIRECTORY, REGULAR, SYMLINK, TarEntry

END = bytes(2 * RECORD_BYTES)
"""The end mark of an archive."""
KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: tar_reader.CHARACTER,
    stat.S_IFBLK: tar_reader.BLOCK,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: tar_reader.FIFO,
}
"""File type of stat(2) -> type of a tar entry; sockets have none."""


def tar_folder(
    folder: Path, *, latest_ns: int | None = None, owner: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """Yield a folder as an uncompressed tar, piece by piece; sockets are left out.

    Args:
        folder: Its own mode, owner and times are the archive's first entry, `./`.
        latest_ns: Later modification times become this one (`SOURCE_DATE_EPOCH`).
        owner: Uid and gid of every entry instead of its own.

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
    """Return `SOURCE_DATE_EPOCH` in nanoseconds, None if not set (reproducible-builds.org's spec).

    Raises:
        ImageError: It is no number of seconds.
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
                kind, link = tar_reader.HARD_LINK, first
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
        xattrs = {} if kind == tar_reader.HARD_LINK else read_xattrs(path)
        mode, device = stat.S_IMODE(status.st_mode), device_of(status)
        return encode_header(
            TarEntry(name, kind, mode, uid, gid, mtime_ns, size, size, link, device, xattrs)
        )


def device_of(status: os.stat_result) -> tuple[int, int]:
    """Return a device node's major and minor; zeros for what is none."""
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return os.major(status.st_rdev), os.minor(status.st_rdev)
    return 0, 0


def encode_header(entry: TarEntry) -> bytes:
    """Write an entry's header, after an extended one for what plain ustar cannot hold."""
    name = entry.name + (b"/" if entry.kind == DIRECTORY else b"")
    records = b"".join(_record(key, value) for key, value in sorted(_needed_records(entry, name)))
    plain = _ustar(name, entry)
    if not records:
        return plain
    size = len(records)
    extended = TarEntry(b"././@PaxHeader", b"x", 0o644, 0, 0, 0, size, size)
    return _ustar(extended.name, extended) + records + bytes(-size % RECORD_BYTES) + plain


def read_contents(fd: int, size: int, path: bytes) -> Iterator[bytes]:
    """Yield a file's data as an archive holds it: filled up with zeros to whole records."""
    left = size
    while left:
        chunk = os.read(fd, min(left, BLOCK_BYTES))
        if not chunk:
            raise ImageError(f"{show(path)} became shorter while it was read")
        left -= len(chunk)
        yield chunk
    if size % RECORD_BYTES:
        yield bytes(-size % RECORD_BYTES)


def _needed_records(entry: TarEntry, name: bytes) -> list[tuple[bytes, bytes]]:
    """Extended records for what the plain header cannot hold."""
    texts = [(b"path", name), (b"linkpath", entry.link)]
    numbers = [(b"size", entry.stored_bytes, 11), (b"uid", entry.uid, 7), (b"gid", entry.gid, 7)]
    pax = [(key, text) for key, text in texts if len(text) > 100]
    pax += [(key, b"%d" % number) for key, number, digits in numbers if number >= 8**digits]
    seconds, ns = divmod(abs(entry.mtime_ns), 1_000_000_000)
    if ns or entry.mtime_ns < 0 or seconds >= 8**11:
        sign = b"-" if entry.mtime_ns < 0 else b""
        pax.append((b"mtime", sign + b"%d" % seconds + (b".%09d" % ns if ns else b"")))
    pax += [(b"SCHILY.xattr." + os.fsencode(key), value) for key, value in entry.xattrs.items()]
    return pax


def read_xattrs(path: bytes) -> dict[str, bytes]:
    """Return the extended attributes of a path; of a symlink, its own."""
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


def _ustar(name: bytes, entry: TarEntry) -> bytes:
    """A plain header; what does not fit is cut or 0 here, and whole in the extended one."""

    def octal(value: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, value if 0 <= value < 8 ** (width - 1) else 0)

    fields = (
        name[:100].ljust(100, b"\0"),
        octal(entry.mode, 8) + octal(entry.uid, 8) + octal(entry.gid, 8),
        octal(entry.stored_bytes, 12) + octal(entry.mtime_ns // 1_000_000_000, 12),
        b" " * 8 + entry.kind + entry.link[:100].ljust(100, b"\0"),
        b"ustar\x0000" + bytes(64),
        octal(entry.device[0], 8) + octal(entry.device[1], 8),
    )
    header = b"".join(fields).ljust(RECORD_BYTES, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
