"""Paths in layers, and layers read as one tree without mounting anything.

Paths are tuples of names below the root, `()` the root itself. The rules of merging are those of
`runtime.images.layer.merged`; a symlink is followed only by `resolve`, and never out of the tree.
Two kinds of names mean deletions (OCI image-spec, layer.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.errors import LayerError
from runtime.images.formats.tar_fields import show
from runtime.images.layer.merged import SYMLINK_LIMIT, lookup, split_path

Parts = tuple[bytes, ...]
WHITEOUT_PREFIX = b".wh."
OPAQUE_MARK = b".wh..wh..opq"
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
"""Prefixes of overlayfs's own bookkeeping."""
_NAME_LIMIT_BYTES = 4095
"""PATH_MAX without its zero: no program could name what is longer."""
DEPTH_LIMIT = 256
"""Folders within folders; far more than anyone uses, and no more than can be removed again."""


def split_name(name: bytes) -> Parts:
    """Return the components of an entry's name; raise LayerError for `..` or over the limits."""
    if len(name) > _NAME_LIMIT_BYTES:
        raise LayerError(f"{show(name)}: a name longer than {_NAME_LIMIT_BYTES} bytes")
    parts = split_path(name)
    if b".." in parts:
        raise LayerError(f"{show(name)}: a name with '..' in it is refused")
    if len(parts) > DEPTH_LIMIT:
        raise LayerError(f"{show(name)}: more than {DEPTH_LIMIT} folders deep")
    return parts


class MergedView:
    """Shows a stack of unpacked layers, topmost first, as a container above them sees it."""

    def __init__(self, lowerdirs: Sequence[Path | bytes]) -> None:
        roots = tuple(os.fsencode(path) for path in lowerdirs)
        self._merged: dict[Parts, tuple[bytes, ...]] = {(): roots}

    def find(self, parts: Parts) -> bytes | None:
        """Return the path on disk, the topmost of what merges there; None if it is not there."""
        if not parts:
            return next(iter(self._merged[()]), None)
        found, merged = lookup(self.folders(parts[:-1]), parts[-1])
        return found or next(iter(merged), None)

    def names(self, parts: Parts) -> list[bytes]:
        """Return what is in a folder, sorted; nothing if it is none."""
        names = {name for folder in self.folders(parts) for name in os.listdir(folder)}
        return sorted(name for name in names if self.find((*parts, name)) is not None)

    def folders(self, parts: Parts) -> tuple[bytes, ...]:
        """Return the folders that merge into this one, topmost first; none if it is no folder."""
        known = self._merged.get(parts)
        if known is None:
            _, known = lookup(self.folders(parts[:-1]), parts[-1])
            self._merged[parts] = known
        return known


def resolve(
    path: bytes, link_at: Callable[[Parts], bytes | None], *, follow_last: bool = True
) -> Parts | None:
    """Return where a path leads when no symlink and no `..` can leave the root.

    `link_at` gives the target of the symlink at a path, None if that is no symlink; `follow_last`
    says whether a symlink at the very end is followed too.

    Returns:
        None if there are more symlinks in it than the kernel would follow.
    """
    done: list[bytes] = []
    pending = [*reversed(split_path(path))]
    links = 0
    while pending:
        part = pending.pop()
        if part == b"..":
            done = done[:-1]
            continue
        target = link_at((*done, part)) if pending or follow_last else None
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > SYMLINK_LIMIT:
            return None
        if target.startswith(b"/"):
            done = []
        pending += reversed(split_path(target))
    return tuple(done)
