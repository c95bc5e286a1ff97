"""Digests: names of content that the content itself proves.

A digest is written `sha256:<64 hexadecimal digits>` (OCI image-spec, descriptor.md). Only sha256 is
read and written here; nobody uses the specification's sha512.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Protocol

from runtime.errors import LayerError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BLOCK_BYTES = 1 << 20
"""How much is read and written at once."""
BLOB_LIMIT_BYTES = 1 << 36
"""64 GiB for one layer, packed or unpacked: the answer to decompression bombs."""
DOCUMENT_LIMIT_BYTES = 4 << 20
"""What registries accept as a manifest at most; configurations are held to it too."""


class ByteSource(Protocol):
    """Anything bytes can be read from, front to back."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""


def drain(source: ByteSource) -> None:
    """Read a stream to its end."""
    while source.read(BLOCK_BYTES):
        pass


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed sha256 digest."""
    return _DIGEST.fullmatch(text) is not None


def hexadecimal(digest: str) -> str:
    """Return the 64 digits of a digest, fit for a file name, or raise LayerError."""
    # What comes from outside never reaches a path unchecked.
    if not is_digest(digest):
        raise LayerError(
            f"{digest[:80]!r} is not a digest of the form sha256:<64 hexadecimal digits>"
        )
    return digest.partition(":")[2]


def digest_of(data: bytes) -> str:
    """Return the digest of what is in memory."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_key(diff_ids: Iterable[str]) -> str:
    """Return one digest for a chain of layers, bottom first."""
    return digest_of("\n".join(diff_ids).encode())
