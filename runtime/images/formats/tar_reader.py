"""Reading tar, front to back, as bytes: ustar, pax (POSIX.1-2001, pax(1)) and GNU's extensions.

Not the standard library's tarfile, for three reasons: names are bytes here from end to end, every
malformed header is one sentence, and a header costs a fraction of the time. Sizes of extended
headers are limited, so that memory does not depend on what an archive claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.errors import LayerError
from runtime.images.formats import tar_fields
from runtime.images.formats.digest import BLOCK_BYTES, ByteSource, drain
from runtime.images.formats.tar_fields import RECORD_BYTES, number_field, show
from runtime.linux.git_text import LFS_POINTER

_ZEROS = bytes(RECORD_BYTES)
_HEADER_LIMIT_BYTES = 1 << 20
"""They hold names (PATH_MAX is 4096) and xattrs (at most 64 KiB each) alone."""
_SPARSE_LIMIT = 1 << 17
"""Pieces of a sparse file."""
_XATTR_PREFIX = "SCHILY.xattr."

_PLAIN_KINDS = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = _PLAIN_KINDS
_KINDS = {kind: kind for kind in _PLAIN_KINDS} | dict.fromkeys((b"\0", b"7", b"S"), REGULAR)
_EXTENDED = (b"x", b"g", b"L", b"K")
_PAX_SPARSE = frozenset({"GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size"})


@dataclass(slots=True)
class TarEntry:
    """Describes one member, extended headers included.

    Attributes:
        name: As stored, without trailing slashes.
        kind: One of the type flags above.
        mode: Permission bits, setuid, setgid and sticky included.
        mtime_ns: Modification time, nanoseconds since the epoch.
        stored_bytes: Length of the data in the archive.
        size_bytes: Length of the file; more than `stored_bytes` when it is sparse.
        link: Target of a symlink or hard link, as stored.
        device: Major and minor.
        xattrs: Extended attributes by name.
        sparse: For a sparse file, (offset, length) of each piece that is stored, in order.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    stored_bytes: int
    size_bytes: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    sparse: tuple[tuple[int, int], ...] | None = None


class TarReader:
    """Iterates over the entries of a tar stream; of each, the data may be read before going on.

    Args:
        source: The uncompressed stream, read to its end so that all of it can be hashed.
        needs_end: Whether an archive that just stops between two entries is cut short. Some image
            tools write no end mark (umoci insert 0.4.7), and a known digest can replace it.

    Raises:
        LayerError: While iterating or reading, if the archive is malformed or cut short.
    """

    def __init__(self, source: ByteSource, *, needs_end: bool = True) -> None:
        self._source = source
        self._needs_end = needs_end
        self._left = 0
        self._padding = 0
        self._globals: dict[str, bytes] = {}
        self._is_at_start = True

    def __iter__(self) -> Iterator[TarEntry]:
        while True:
            self._skip_data()
            header = self._source.read(RECORD_BYTES)
            if not header and not self._needs_end:
                return
            if header != _ZEROS:
                if self._is_at_start and header.startswith(LFS_POINTER.encode()):
                    raise LayerError(
                        "it is a pointer of Git LFS and not the file itself; fetch it by: git lfs "
                        "pull"
                    )
                if len(header) < RECORD_BYTES:
                    raise LayerError("the archive is cut short: it has no end mark")
                if self._is_at_start and not tar_fields.is_plausible(header):
                    raise LayerError("it is no tar archive, plain or compressed")
                self._is_at_start = False
                entry = self._entry(header)
                if entry is not None:
                    yield entry
                    continue
            drain(self._source)
            return

    def chunks(self) -> Iterator[bytes]:
        """Yield the data of the entry last returned, as stored, in pieces of at most 1 MiB."""
        while self._left:
            chunk = self._source.read(min(self._left, BLOCK_BYTES))
            if not chunk:
                raise LayerError("the archive is cut short in the middle of a file")
            self._left -= len(chunk)
            yield chunk

    def _skip_data(self) -> None:
        for _ in self.chunks():
            pass
        if self._padding:
            padding = self._source.read(self._padding)
            # Without an end mark there may be no padding of the last file either.
            if len(padding) < self._padding and (padding or self._needs_end):
                raise LayerError("the archive is cut short")
            self._padding = 0

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise LayerError("the archive is cut short")
        return data

    def _entry(self, header: bytes) -> TarEntry | None:
        """One member, read from its first header on; None if nothing follows the headers."""
        pax = dict(self._globals)
        names: dict[bytes, bytes] = {}
        while header[156:157] in _EXTENDED:
            self._read_extended(header, pax, names)
            after, header = header[156:157], self._source.read(RECORD_BYTES)
            if after == b"g" and header == _ZEROS:
                return None
            if len(header) < RECORD_BYTES or header == _ZEROS:
                raise LayerError("the archive is cut short after an extended header")
        tar_fields.check_sum(header)
        entry = _plain_entry(header)
        entry.name = names.get(b"L", entry.name)
        entry.link = names.get(b"K", entry.link)
        _apply_pax(entry, pax)
        if header[156] == 0 and entry.name.endswith(b"/"):
            entry.kind = DIRECTORY
        if entry.kind != REGULAR:
            # As other readers do: only files have data, whatever the size field says.
            entry.stored_bytes = entry.size_bytes = 0
        self._left = entry.stored_bytes
        self._padding = -entry.stored_bytes % RECORD_BYTES
        if header[156:157] == b"S":
            self._gnu_sparse(entry, header)
        elif not _PAX_SPARSE.isdisjoint(pax):
            self._pax_sparse(entry, pax)
        entry.name = entry.name.rstrip(b"/") or b"."
        if b"\0" in entry.name or b"\0" in entry.link:
            raise LayerError(f"{show(entry.name)}: a name with a zero byte in it")
        return entry

    def _read_extended(
        self, header: bytes, pax: dict[str, bytes], names: dict[bytes, bytes]
    ) -> None:
        tar_fields.check_sum(header)
        kind, size = header[156:157], number_field(header[124:136], "size")
        if size > _HEADER_LIMIT_BYTES:
            raise LayerError(f"an extended header of {size} bytes is over {_HEADER_LIMIT_BYTES}")
        data = self._exactly(size)
        self._exactly(-size % RECORD_BYTES)
        if kind in (b"L", b"K"):
            names[kind] = tar_fields.text_field(data)
            return
        records = tar_fields.pax_records(data)
        if kind == b"g":
            self._globals.update(records)
            records = {key: value for key, value in records.items() if key not in pax}
        pax.update(records)

    def _gnu_sparse(self, entry: TarEntry, header: bytes) -> None:
        """GNU's old form: a map in the header, continued in records before the data."""
        pieces = _sparse_structs(header[386:482])
        entry.size_bytes = number_field(header[483:495], "size of a sparse file")
        more = header[482]
        while more:
            record = self._exactly(RECORD_BYTES)
            pieces += _sparse_structs(record[:504])
            more = record[504]
            if len(pieces) > _SPARSE_LIMIT:
                raise LayerError(
                    f"{show(entry.name)}: more than {_SPARSE_LIMIT} pieces of a sparse file"
                )
        _set_sparse(entry, pieces)

    def _pax_sparse(self, entry: TarEntry, pax: dict[str, bytes]) -> None:
        """GNU's pax forms 0.0, 0.1 (map in the extended header) and 1.0 (map before the data)."""
        if "GNU.sparse.name" in pax:
            entry.name = pax["GNU.sparse.name"]
        real = pax.get("GNU.sparse.realsize", pax.get("GNU.sparse.size", b""))
        entry.size_bytes = tar_fields.decimal_number(real, "size of a sparse file")
        if pax.get("GNU.sparse.major") == b"1":
            numbers = self._sparse_numbers(entry)
        else:
            numbers = [
                tar_fields.decimal_number(n, "sparse map")
                for n in pax.get("GNU.sparse.map", b"").split(b",")
                if n
            ]
        if len(numbers) % 2 or len(numbers) > 2 * _SPARSE_LIMIT:
            raise LayerError(f"{show(entry.name)}: a malformed map of a sparse file")
        _set_sparse(entry, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _sparse_numbers(self, entry: TarEntry) -> list[int]:
        """The map of form 1.0: decimal lines at the head of the data, padded to a record."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < RECORD_BYTES:
                raise LayerError(f"{show(entry.name)}: a malformed map of a sparse file")
            *whole, rest = (rest + self._exactly(RECORD_BYTES)).split(b"\n")
            self._left -= RECORD_BYTES
            entry.stored_bytes -= RECORD_BYTES
            lines += whole
            if lines:
                wanted = 1 + 2 * tar_fields.decimal_number(lines[0], "sparse map")
                if wanted > 2 * _SPARSE_LIMIT:
                    raise LayerError(f"{show(entry.name)}: more than {_SPARSE_LIMIT} pieces")
        return [tar_fields.decimal_number(line, "sparse map") for line in lines[1:wanted]]


def _plain_entry(header: bytes) -> TarEntry:
    kind = _KINDS.get(header[156:157])
    name = tar_fields.text_field(header[0:100])
    size = number_field(header[124:136], "size")
    if kind is None:
        raise LayerError(f"{show(name)}: entries of type {header[156:157]!r} are not supported")
    if header[257:263] == b"ustar\0" and header[345]:
        name = tar_fields.text_field(header[345:500]) + b"/" + name
    return TarEntry(
        name=name,
        kind=kind,
        mode=number_field(header[100:108], "mode") & 0o7777,
        uid=tar_fields.owner_number(number_field(header[108:116], "uid")),
        gid=tar_fields.owner_number(number_field(header[116:124], "gid")),
        mtime_ns=tar_fields.time_in_seconds(number_field(header[136:148], "mtime", signed=True))
        * 1_000_000_000,
        stored_bytes=size,
        size_bytes=size,
        link=tar_fields.text_field(header[157:257]),
        device=tar_fields.device_number(header) if kind in (CHARACTER, BLOCK) else (0, 0),
    )


def _apply_pax(entry: TarEntry, pax: dict[str, bytes]) -> None:
    """Let extended headers overrule the plain one. An empty value means: not given."""
    for key, value in pax.items():
        if key.startswith(_XATTR_PREFIX):
            entry.xattrs[key[len(_XATTR_PREFIX) :]] = value
        elif not value:
            continue
        elif key == "path":
            entry.name = value
        elif key == "linkpath":
            entry.link = value
        elif key == "size":
            entry.stored_bytes = entry.size_bytes = tar_fields.decimal_number(value, "size")
        elif key == "uid":
            entry.uid = tar_fields.owner_number(tar_fields.decimal_number(value, "uid"))
        elif key == "gid":
            entry.gid = tar_fields.owner_number(tar_fields.decimal_number(value, "gid"))
        elif key == "mtime":
            entry.mtime_ns = tar_fields.pax_time(value)


def _sparse_structs(raw: bytes) -> list[tuple[int, int]]:
    """Pairs of offset and length, twelve bytes each; the first empty one ends them."""
    pieces = []
    for at in range(0, len(raw), 24):
        offset, length = raw[at : at + 12], raw[at + 12 : at + 24]
        if not offset[0] or not length[0]:
            break
        pieces.append((number_field(offset, "offset"), number_field(length, "length")))
    return pieces


def _set_sparse(entry: TarEntry, pieces: list[tuple[int, int]]) -> None:
    """Set a map after checking that it is in order, fits, and matches the data."""
    end = 0
    for offset, length in pieces:
        if offset < end or offset + length > entry.size_bytes:
            raise LayerError(f"{show(entry.name)}: a malformed map of a sparse file")
        end = offset + length
    if sum(length for _, length in pieces) != entry.stored_bytes:
        raise LayerError(f"{show(entry.name)}: the map of a sparse file does not match its data")
    entry.sparse = tuple(pieces)
