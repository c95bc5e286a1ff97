"""The fields of tar headers and pax records: numbers, times, texts (tar(5), pax(1)).

Every one is checked: a layer comes from outside, and an odd field is an error, never a guess.
"""

from __future__ import annotations

import re

from runtime.errors import LayerError
from runtime.images.formats.schema import printable

RECORD_BYTES = 512
_TIME_LIMIT_S = 1 << 40
_PAX_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?")


def show(name: bytes) -> str:
    """Return a name fit for a message: control characters and non-UTF-8 escaped, long ones cut."""
    return printable(name.decode("utf-8", "backslashreplace"))


def check_sum(header: bytes) -> None:
    """Check the sum of a header's bytes, its checksum field read as spaces."""
    stored = number_field(header[148:156], "checksum")
    if sum(header) - sum(header[148:156]) + 8 * 0x20 != stored:
        signed = sum(b - 256 if b > 127 else b for b in header[:148] + b" " * 8 + header[156:])
        if signed != stored:
            raise LayerError("not a tar archive, or a damaged one: a header's checksum is wrong")


def is_plausible(header: bytes) -> bool:
    """Whether a first header could be one: its checksum is right, or it names a tar format."""
    try:
        check_sum(header)
    except LayerError:
        return header[257:262] == b"ustar"
    return True


def text_field(raw: bytes) -> bytes:
    """Read a text field, which ends with its first NUL."""
    return raw.partition(b"\0")[0]


def number_field(raw: bytes, what: str, *, signed: bool = False) -> int:
    """Read a number field: octal digits, or GNU's base 256 when the first bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
    else:
        digits = text_field(raw).strip()
        if not digits:
            return 0
        try:
            value = int(digits, 8)
        except ValueError:
            raise LayerError(f"a malformed header: {what} is {raw!r}") from None
    if value < 0 and not signed:
        raise LayerError(f"a malformed header: {what} is negative")
    return value


def decimal_number(raw: bytes, what: str) -> int:
    """Read a number of an extended header."""
    if not raw.isdigit() or len(raw) > 20:
        raise LayerError(f"a malformed extended header: {what} is {raw[:40]!r}")
    return int(raw)


def device_number(header: bytes) -> tuple[int, int]:
    """Read major and minor; Linux has 12 and 20 bits for them."""
    major, minor = number_field(header[329:337], "major"), number_field(header[337:345], "minor")
    if major >= 1 << 12 or minor >= 1 << 20:
        raise LayerError(f"{major}:{minor} cannot be a device's number")
    return major, minor


def owner_number(number: int) -> int:
    """Check a uid or gid."""
    # (uid_t)-1 means "leave as it is" to chown(2): as an owner it cannot be.
    if number >= 0xFFFFFFFF:
        raise LayerError(f"{number} cannot be an owner's number")
    return number


def time_in_seconds(number: int) -> int:
    """Check a time, in seconds since the epoch."""
    if abs(number) > _TIME_LIMIT_S:
        raise LayerError(f"{number} cannot be a time in seconds")
    return number


def pax_time(raw: bytes) -> int:
    """Read a time of an extended header, in nanoseconds since the epoch."""
    match = _PAX_TIME.fullmatch(raw)
    if match is None or len(match[2]) > 20:
        raise LayerError(f"a malformed extended header: mtime is {raw[:40]!r}")
    ns = time_in_seconds(int(match[2])) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -ns if match[1] else ns


def pax_records(data: bytes) -> dict[str, bytes]:
    r"""Read records `<length> <key>=<value>\n`; the length counts itself (pax(1))."""
    records: dict[str, bytes] = {}
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        if space < 0 and not data[position:].strip(b"\0"):
            break
        end = position + decimal_number(data[position:space] if space > 0 else b"", "record length")
        if end > len(data) or end < space + 3 or data[end - 1 : end] != b"\n":
            raise LayerError("a malformed extended header: a record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise LayerError("a malformed extended header: a record without a proper key")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # Form 0.0 repeats these two keys; gathered, they are form 0.1's map.
            pieces.append(value)
        else:
            records[key.decode("utf-8", "surrogateescape")] = value
        position = end
    if pieces:
        records["GNU.sparse.map"] = b",".join(pieces)
    return records
