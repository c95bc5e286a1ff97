"""Digests: names of content that the content itself proves.

A digest is written `sha256:<64 hexadecimal digits>` (OCI image-spec, descriptor.md). Only sha256 is
read and written here; the spec's sha512 is used by nobody.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import BinaryIO, Protocol

from runtime.errors import LayerError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BLOCK_BYTES = 1 << 20
"""How much is read and written at once."""


class ByteSource(Protocol):
    """Anything bytes can be read from, front to back."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none only at the end."""


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed sha256 digest."""
    return _DIGEST.fullmatch(text) is not None


def hexadecimal(digest: str) -> str:
    """The 64 digits of a digest, fit for a file name.

    Raises:
        LayerError: Not a sha256 digest. What comes from outside never reaches a path unchecked.
    """
    if not is_digest(digest):
        raise LayerError(
            f"{digest[:80]!r} is not a digest of the form sha256:<64 hexadecimal digits>"
        )
    return digest.partition(":")[2]


def digest_of(data: bytes) -> str:
    """The digest of what is in memory."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class RecordingSource(io.RawIOBase):
    """Passes a stream on while hashing it and keeping a copy.

    Args:
        source: What is read.
        copy: Where the bytes are written as they pass.
        limit_bytes: More than this is refused: the answer to decompression bombs.
    """

    def __init__(self, source: ByteSource, copy: BinaryIO, limit_bytes: int) -> None:
        self._source = source
        self._copy = copy
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill the buffer as far as one read of the source goes."""
        data = self._source.read(len(buffer))
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise LayerError(
                f"unpacks to more than {self._limit_bytes} bytes, the limit for one layer"
            )
        self._hash.update(data)
        self._copy.write(data)
        buffer[: len(data)] = data
        return len(data)

    @property
    def digest(self) -> str:
        """Of all that has passed so far."""
        return "sha256:" + self._hash.hexdigest()

    def buffered(self) -> io.BufferedReader:
        """This stream with a buffer, so that small reads are cheap."""
        return io.BufferedReader(self, BLOCK_BYTES)
