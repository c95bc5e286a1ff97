"""COPY, ADD and WORKDIR: which entries a layer gets, by docker's rules.

* A folder as source means what is in it; a file goes into the destination if that is a folder, or
  ends in a slash, or there are several sources; else the destination is its new name.
* Folders that are missing on the way are made: 0755, and owned as `--chown` says, else by root.
* A folder that is there keeps its attributes when it is the destination itself; one below it gets
  those of the source.
* The destination may lead through symlinks of the image, never out of it. Below the destination
  nothing is followed: a file takes the place of a symlink.

Nothing is mounted and nothing is written: what is there already is looked up in the layers. What
would not change anything (the same file with the same attributes) is left out of the layer.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runtime.build.tree import FolderTree, Tree, find_sources, follow, link_target, show_parts
from runtime.errors import ImageError
from runtime.images.formats.tar_reader import DIRECTORY, REGULAR, SYMLINK
from runtime.images.layer.layer_builder import Item, LayerDraft, read_item, same_item
from runtime.images.layer.view import MergedView, Parts, resolve

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


class Copier:
    """Fills the draft of one layer, above the layers of a view.

    A relative destination starts from the absolute `working_directory`; what has no modification
    time of its own gets `moment_ns`. Without `owner` and `mode` the source's are kept.
    """

    def __init__(
        self,
        view: MergedView,
        working_directory: str,
        moment_ns: int,
        *,
        owner: tuple[int, int] | None = None,
        mode: int | None = None,
    ) -> None:
        self.draft = LayerDraft()
        self._view = view
        self._working_directory = working_directory
        self._moment_ns = moment_ns
        self._owner = owner
        self._mode = mode
        self._below: dict[Parts, Item | None] = {}

    def copy(
        self,
        tree: Tree,
        pattern: str,
        destination: str,
        *,
        more: bool,
        unpack: Callable[[Item], Path | None] = lambda _: None,
    ) -> None:
        """Copy what a pattern names in a tree.

        Args:
            tree: Where from.
            pattern: The source.
            destination: As written, variables replaced.
            more: Whether other sources go to the same destination.
            unpack: For a file that is an archive, gives a folder of what is in it.

        Raises:
            ImageError: A source is missing, or something of another type is in the way.
        """
        named = find_sources(tree, pattern)
        several = more or len(named) > 1
        target, is_folder = self._destination(destination, several=several)
        for parts in named:
            real = follow(tree, b"/".join(parts))
            item = None if real is None else tree.item(real)
            if real is None or item is None:
                raise ImageError(f"{show_parts(parts)} in {tree.name} is a symlink to nothing")
            if item.is_folder:
                self.make_folders(target)
                self._contents(tree, real, target)
            elif item.kind == REGULAR and (folder := unpack(item)) is not None:
                self._extract(folder, show_parts(parts), destination)
            else:
                self._put((*target, parts[-1]) if is_folder else target, self._owned(item))

    def write(self, name: str, data: bytes, destination: str, *, more: bool) -> None:
        """Make a file of a here-document."""
        target, is_folder = self._destination(destination, several=more)
        item = Item(REGULAR, _FILE_MODE, mtime_ns=self._moment_ns, size_bytes=len(data), data=data)
        self._put((*target, os.fsencode(name)) if is_folder else target, self._owned(item))

    def _extract(self, folder: Path, name: str, destination: str) -> None:
        """Lay an unpacked archive over a folder of the image; its owners are kept."""
        tree = FolderTree(folder, name, keep_owners=True)
        target, _ = self._destination(destination, several=True)
        self.make_folders(target)
        root = tree.item(())
        # An archive that says nothing of its own root leaves it without a time.
        if root is not None and root.mtime_ns and target:
            self._put(target, self._owned(root))
        self._contents(tree, (), target)

    def make_folders(self, parts: Parts) -> None:
        """Make a folder and those above it that are missing."""
        if parts:
            there = self._find(parts)
            if there is None:
                self._parents(parts)
                self.draft.put(parts, self._new_folder())
            elif not there.is_folder:
                raise ImageError(f"{show_parts(parts)} is there already, and is no folder")

    def resolve(self, path: str) -> Parts:
        """Where an absolute path of the image leads."""
        found = resolve(os.fsencode(path), lambda parts: link_target(self._find(parts)))
        if found is None:
            raise ImageError(f"{path} leads through a ring of symlinks")
        return found

    def finished(self) -> LayerDraft:
        """The draft, with the attributes of the root if there is anything in it."""
        if self.draft:
            root = self._find(()) or Item(DIRECTORY, _FOLDER_MODE, mtime_ns=self._moment_ns)
            self.draft.put((), root)
        return self.draft

    def _destination(self, text: str, *, several: bool) -> tuple[Parts, bool]:
        """Where that is, and whether it is a folder."""
        folder = several or text.endswith("/") or text.rpartition("/")[2] in (".", "..")
        parts = self.resolve(posixpath.join(self._working_directory, text))
        there = self._find(parts)
        return parts, folder or (there is not None and there.is_folder) or not parts

    def _contents(self, tree: Tree, source: Parts, target: Parts) -> None:
        """All that is in a folder."""
        for name in tree.names(source):
            item = tree.item((*source, name))
            if item is None:
                continue  # a socket
            self._put((*target, name), self._owned(item))
            if item.is_folder:
                self._contents(tree, (*source, name), (*target, name))

    def _owned(self, item: Item) -> Item:
        if self._owner is not None:
            item = replace(item, uid=self._owner[0], gid=self._owner[1])
        if self._mode is not None and item.kind != SYMLINK:
            item = replace(item, mode=self._mode)
        return item

    def _put(self, parts: Parts, item: Item) -> None:
        there = self._find(parts)
        if there is not None and there.is_folder != item.is_folder:
            kind = "a folder" if there.is_folder else "no folder"
            raise ImageError(f"{show_parts(parts)} is there already, and is {kind}")
        if there is not None and parts not in self.draft.items and same_item(there, item):
            return
        self._parents(parts)
        self.draft.put(parts, item)

    def _parents(self, parts: Parts) -> None:
        """The folders above, as they are: a layer that leaves them out would reset them."""
        for depth in range(len(parts) - 1, 0, -1):
            above = parts[:depth]
            if above in self.draft.items:
                return
            there = self._find(above)
            if there is None:
                there = self._new_folder()
            elif not there.is_folder:
                raise ImageError(f"{show_parts(above)} is there already, and is no folder")
            self.draft.put(above, there)

    def _new_folder(self) -> Item:
        return Item(DIRECTORY, _FOLDER_MODE, *(self._owner or (0, 0)), self._moment_ns)

    def _find(self, parts: Parts) -> Item | None:
        """What is there: put by us, or below."""
        known = self.draft.items.get(parts)
        if known is not None:
            return known
        if parts not in self._below:
            path = self._view.find(parts)
            self._below[parts] = None if path is None else read_item(path)
        return self._below[parts]
