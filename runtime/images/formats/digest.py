"""Digests: names of content that the content itself proves.

A digest is written `sha256:<64 hexadecimal digits>` (OCI image-spec, descriptor.md). Only sha256 is
read and written here; the spec's sha512 is used by nobody.
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


def chain_key(diff_ids: Iterable[str]) -> str:
    """One digest for a chain of layers, bottom first."""
    return "sha256:" + hashlib.sha256("\n".join(diff_ids).encode()).hexdigest()
