"""Names of a layer's entries, and the two kinds that mean deletions (OCI image spec, layer.md)."""

from __future__ import annotations

from runtime.errors import LayerError
from runtime.images.formats.tar_fields import show

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARK = b".wh..wh..opq"
_NAME_LIMIT_BYTES = 4095
"""PATH_MAX without its zero: what is longer no program could name."""
DEPTH_LIMIT = 256
"""Folders within folders; far more than anyone uses, and no more than can be removed again."""


def split_name(name: bytes) -> tuple[bytes, ...]:
    """The components of an entry's name; `.` and a leading `/` mean nothing.

    Raises:
        LayerError: There is a `..` in it, or it is longer or deeper than the limits.
    """
    if len(name) > _NAME_LIMIT_BYTES:
        raise LayerError(f"{show(name)}: a name longer than {_NAME_LIMIT_BYTES} bytes")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise LayerError(f"{show(name)}: a name with '..' in it is refused")
    if len(parts) > DEPTH_LIMIT:
        raise LayerError(f"{show(name)}: more than {DEPTH_LIMIT} folders deep")
    return parts
