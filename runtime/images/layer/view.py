"""Layers seen as one tree, to be asked many times: what is at a path, what is in a folder.

Nothing is mounted. Paths are tuples of names below the root, `()` the root itself. The rules of
merging are those of `runtime.images.layer.merged`; a symlink is followed only by `resolve`, and
never out of the tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.images.layer.merged import lookup

Parts = tuple[bytes, ...]
_SYMLINK_LIMIT = 40


class MergedView:
    """A stack of unpacked layers as a container above them would see it.

    Args:
        lowerdirs: Topmost first; none is an empty tree.
    """

    def __init__(self, lowerdirs: Sequence[Path | bytes]) -> None:
        roots = tuple(os.fsencode(path) for path in lowerdirs)
        self._merged: dict[Parts, tuple[bytes, ...]] = {(): roots}

    def find(self, parts: Parts) -> bytes | None:
        """Where on disk that is, the topmost of what merges there; None if it is not there."""
        if not parts:
            roots = self._merged[()]
            return roots[0] if roots else None
        found, merged = lookup(self._folders(parts[:-1]), parts[-1])
        return found or (merged[0] if merged else None)

    def names(self, parts: Parts) -> list[bytes]:
        """What is in a folder, sorted; nothing if it is none."""
        folders = self._folders(parts)
        names = {name for folder in folders for name in os.listdir(folder)}
        return sorted(name for name in names if self.find((*parts, name)) is not None)

    def _folders(self, parts: Parts) -> tuple[bytes, ...]:
        """The folders that merge into this one, topmost first; none if it is no folder."""
        known = self._merged.get(parts)
        if known is None:
            _, known = lookup(self._folders(parts[:-1]), parts[-1])
            self._merged[parts] = known
        return known


def split_path(path: bytes) -> Parts:
    """The names in a path; `.` and empty ones mean nothing, `..` stays."""
    return tuple(part for part in path.split(b"/") if part not in (b"", b"."))


def resolve(
    path: bytes, link_at: Callable[[Parts], bytes | None], *, follow_last: bool = True
) -> Parts | None:
    """Where a path leads when no symlink and no `..` can leave the root.

    Args:
        path: As seen from the root, absolute or not.
        link_at: The target of the symlink at a path, None if that is no symlink.
        follow_last: Whether a symlink at the very end is followed too.

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
        if links > _SYMLINK_LIMIT:
            return None
        if target.startswith(b"/"):
            done = []
        pending += reversed(split_path(target))
    return tuple(done)
