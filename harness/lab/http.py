"""The little of HTTP/1 that a prober needs (RFC 9112): a request, and where an answer's body is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

HEADER_LIMIT_BYTES = 64 << 10
BODY_LIMIT_BYTES = 64 << 20
_HEADER_END = re.compile(rb"\r?\n\r?\n")
"""A lone LF ends a line too (RFC 9112 2.2)."""
_LINE_END = re.compile(rb"\r?\n")
_VERSION = b"HTTP/"
_WITHOUT_BODY = (204, 304)
_SWITCHING_PROTOCOLS = 101
_TLS_RECORD = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
_SHOWN_BYTES = 20


class NotHttpError(ValueError):
    """What came is no HTTP answer; says what it begins with."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a final answer.

    Attributes:
        status: The status code.
        body_at: Offset of the body in what came.
        body_bytes: Length of the body; None: it ends where the connection does.
    """

    status: int
    body_at: int
    body_bytes: int | None


def request(path: str) -> bytes:
    """Make the request for a path.

    HTTP/1.0, so that the body needs no decoding. The same bytes for every arm: the address, which
    differs between instances, does not appear.
    """
    return f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()


def read_header(received: bytes | bytearray) -> Header | None:
    """Find the header of the final answer: those of 1xx come before it (RFC 9110 15.2).

    Returns:
        The header; None as long as it is not whole.

    Raises:
        NotHttpError: It cannot become one.
    """
    at = 0
    while True:
        begin = received[at : at + len(_VERSION)]
        if not _VERSION.startswith(begin):
            raise NotHttpError(_not_http(bytes(received[at:])))
        end = _HEADER_END.search(received, at)
        if end is None:
            return None
        status, length = parse_header(bytes(received[at : end.start()]))
        if status is None:
            raise NotHttpError(_not_http(bytes(received[at:])))
        if status // 100 != 1 or status == _SWITCHING_PROTOCOLS:
            return Header(status, end.end(), 0 if status in _WITHOUT_BODY else length)
        at = end.end()


def parse_header(header: bytes) -> tuple[int | None, int | None]:
    """Parse status and length of the body of a response header; None if absent.

    A body that is sent in chunks has no length: it ends with the connection.
    """
    lines = _LINE_END.split(header)
    words = lines[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(_VERSION) or not words[1].isdigit():
        return None, None
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in lines[1:])
    }
    length = fields.get(b"content-length", b"")
    if b"transfer-encoding" in fields or not length.isdigit():
        return int(words[1]), None
    return int(words[1]), int(length)


def _not_http(received: bytes) -> str:
    first = received[:_SHOWN_BYTES].decode("latin-1")
    more = "…" if len(received) > _SHOWN_BYTES else ""
    hint = "; that is TLS: set readiness.tls = true" if _TLS_RECORD.match(received) else ""
    return f"not HTTP: it sent {f'{first}{more}'!r}{hint}"


@cache
def tls_context() -> ssl.SSLContext:
    """The TLS of all probes. Certificates are not verified: a box has none for its address."""
    import ssl  # 15 ms, and only for those who ask for it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
