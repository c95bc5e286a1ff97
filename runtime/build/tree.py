"""Where COPY and ADD take files from: a folder of this machine, or the layers of an image.

Both are trees of `Item`s, in which a symlink never leads out. A folder of this machine hides what
its ignore file says; all of it belongs to root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from runtime.build.ignore import Ignore, translate
from runtime.errors import ImageError
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_reader import SYMLINK
from runtime.images.layer.layer_builder import Item, read_item
from runtime.images.layer.view import MergedView, Parts, resolve

_WILDCARDS = re.compile(r"[*?\[]")


class FolderTree:
    """A folder of this machine; `name` is for messages.

    Files belong to root unless they are to keep their owners.
    """

    def __init__(
        self, root: Path, name: str, ignore: Ignore | None = None, *, keep_owners: bool = False
    ) -> None:
        self.name = name
        self._root = os.fsencode(root)
        self._ignore = ignore or Ignore()
        self._keep_owners = keep_owners

    def item(self, parts: Parts) -> Item | None:
        """Give what is there and not ignored, a symlink as itself; None if nothing is."""
        if parts and not self._visible(parts):
            return None
        found = self._read(parts)
        if found is None or self._keep_owners:
            return found
        return replace(found, uid=0, gid=0)

    def names(self, parts: Parts) -> list[bytes]:
        """Name what is in a folder and not ignored, sorted."""
        names = sorted(os.listdir(os.path.join(self._root, *parts)))
        return [name for name in names if self._visible((*parts, name))]

    def is_ignored(self, parts: Parts) -> bool:
        """Whether something is there, and hidden."""
        return self._read(parts) is not None and not self._visible(parts)

    def _read(self, parts: Parts) -> Item | None:
        try:
            return read_item(os.path.join(self._root, *parts))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _visible(self, parts: Parts) -> bool:
        if not self._ignore.ignores(os.fsdecode(b"/".join(parts))):
            return True
        if not self._ignore.has_exceptions:
            return False
        # An ignored folder is there for the sake of what in it is not.
        path = os.path.join(self._root, *parts)
        if os.path.islink(path) or not os.path.isdir(path):
            return False
        return any(self._visible((*parts, name)) for name in os.listdir(path))


class LayerTree:
    """The merged layers of an image or stage, topmost first; `name` is for messages."""

    def __init__(self, lowerdirs: Sequence[Path], name: str) -> None:
        self.name = name
        self._view = MergedView(lowerdirs)

    def item(self, parts: Parts) -> Item | None:
        """Give what a container of the image would see there."""
        path = self._view.find(parts)
        return None if path is None else read_item(path)

    def names(self, parts: Parts) -> list[bytes]:
        """Name what is in a merged folder, sorted."""
        return self._view.names(parts)


Tree: TypeAlias = FolderTree | LayerTree


def follow(tree: Tree, path: bytes) -> Parts | None:
    """Where a path leads in a tree, every symlink followed; None for a ring of symlinks."""
    return resolve(path, lambda parts: link_target(tree.item(parts)))


def link_target(item: Item | None) -> bytes | None:
    """Where a symlink points; None for all else."""
    return item.link if item is not None and item.kind == SYMLINK else None


def find_sources(tree: Tree, pattern: str) -> list[Parts]:
    """Find what the source of a COPY names: one path, or all that its wildcards match.

    The pattern is as for Go's filepath.Match; `..` ends at the root. Paths are given as named, so
    that a symlink among them still gives its own name to the copy.

    Raises:
        ImageError: There is nothing of that name.
    """
    names = _clean(pattern)
    found: list[Parts] = [()]
    for name in names:
        found = [below for folder in found for below in _step(tree, folder, name)]
    if not found:
        parts = tuple(os.fsencode(name) for name in names)
        if isinstance(tree, FolderTree) and tree.is_ignored(parts):
            raise ImageError(f"{pattern} is hidden by the ignore file of {tree.name}")
        kind = "nothing matches" if _WILDCARDS.search(pattern) else "there is no"
        raise ImageError(f"{kind} {pattern} in {tree.name}")
    return found


def _clean(pattern: str) -> list[str]:
    names: list[str] = []
    for name in pattern.split("/"):
        if name == "..":
            names = names[:-1]
        elif name not in ("", "."):
            names.append(name)
    return names


def _step(tree: Tree, folder: Parts, name: str) -> list[Parts]:
    """What a name or pattern is in a folder, which may be a symlink to one."""
    real = follow(tree, b"/".join(folder))
    if real is None:
        return []
    if not _WILDCARDS.search(name):
        plain = os.fsencode(name.replace("\\", ""))
        return [(*folder, plain)] if tree.item((*real, plain)) else []
    item = tree.item(real)
    if item is None or not item.is_folder:
        return []
    try:
        expression = re.compile(translate(name), re.DOTALL)
    except (ValueError, re.error):
        raise ImageError(f"{name!r} is no pattern") from None
    matches = [each for each in tree.names(real) if expression.match(os.fsdecode(each))]
    return [(*folder, each) for each in matches]


def show_parts(parts: Parts) -> str:
    """A path for a message."""
    return "/" + show(b"/".join(parts))
