"""What a container changed: its upperdir read as changes, and as a layer.

Overlayfs's marks become those of the OCI image-spec (layer.md):

    character device 0:0 called NAME   .wh.NAME, if there is something below to hide
    xattr trusted.overlay.opaque=y     .wh..wh..opq in it, if there is a folder below to hide
    other xattrs trusted.overlay.*     bookkeeping, left out

A file that was copied up and is what it was (opened for writing, say, and not written) is no
change, and neither is a folder that only such files are in. Files with several names always count
as changed, since comparing them one by one does not show which names they have.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import ImageError
from runtime.images.formats.tar_fields import show
from runtime.images.formats.tar_writer import read_xattrs
from runtime.images.layer.layer_builder import Item, LayerDraft, read_item, same_item
from runtime.images.layer.merged import is_opaque, is_whiteout
from runtime.images.layer.view import DEPTH_LIMIT, MergedView, Parts

ADDED, CHANGED, DELETED = "A", "C", "D"
_MOUNT_POINTS: frozenset[Parts] = frozenset({(b"dev",), (b"proc",), (b"sys",)})
_FOREIGN_MARKS = ("overlay.redirect", "overlay.metacopy")


@dataclass(frozen=True, slots=True, order=True)
class PathChange:
    """Says how a path has changed.

    Attributes:
        path: Absolute.
        kind: `A` for added, `C` for changed, `D` for deleted, as docker-diff(1).
    """

    path: bytes
    kind: str


def read_changes(
    upperdir: Path, lowerdirs: Sequence[Path], made_by_us: frozenset[Parts] = frozenset()
) -> tuple[LayerDraft, tuple[PathChange, ...]]:
    """Read the writable layer of a container that has ended, over its lower layers, topmost first.

    `made_by_us` are files that the runtime made as mount points, besides `/dev`, `/proc` and
    `/sys`; they are left out where they are empty and new.

    Returns:
        The changes as a layer, empty if there are none, and sorted by path.

    Raises:
        ImageError: It cannot be read, or holds marks that only this overlay can resolve.
    """
    reader = _Reader(os.fsencode(upperdir), MergedView(lowerdirs), made_by_us | _MOUNT_POINTS)
    try:
        reader.read()
    except OSError as error:
        where = show(os.fsencode(error.filename)) if error.filename else str(upperdir)
        raise ImageError(f"cannot read {where}: {error.strerror}") from error
    return reader.draft, tuple(sorted(reader.changes))


class _Reader:
    """One walk through an upperdir."""

    def __init__(self, upper: bytes, view: MergedView, made_by_us: frozenset[Parts]) -> None:
        self.draft = LayerDraft()
        self.changes: list[PathChange] = []
        self._upper = upper
        self._view = view
        self._made_by_us = made_by_us

    def read(self) -> None:
        root, below = read_item(self._upper), self._below(())
        assert root is not None
        self._folder((), hidden=False)
        # Its time tells nothing: our own mount points changed it.
        changed = below is not None and replace(below, mtime_ns=root.mtime_ns) != root
        if self.draft or changed:
            self.draft.put((), root)

    def _folder(self, parts: Parts, *, hidden: bool) -> bool:
        """Read what is in a folder, and return whether anything in it is a change.

        `hidden` says whether an opaque folder on the way here hides all that is below.
        """
        if len(parts) > DEPTH_LIMIT:
            where = show(b"/".join(parts[:8]))
            raise ImageError(f"/{where}…: more than {DEPTH_LIMIT} folders deep")
        before = len(self.changes)
        for name in sorted(os.listdir(os.path.join(self._upper, *parts))):
            self._entry((*parts, name), hidden=hidden)
        return len(self.changes) > before

    def _entry(self, parts: Parts, *, hidden: bool) -> None:
        path = os.path.join(self._upper, *parts)
        status = os.lstat(path)
        below = self._below(parts)
        if is_whiteout(status):
            if below is not None:
                # Where all is hidden anyway, the mark would hide nothing more.
                if not hidden:
                    self.draft.whiteout(parts)
                self._note(parts, DELETED)
            return
        if stat.S_ISSOCK(status.st_mode):
            return  # a program's; no archive can hold it
        self._refuse_foreign_marks(path)
        item = read_item(path)
        assert item is not None
        if item.is_folder:
            self._changed_folder(parts, item, below, hidden=hidden)
            return
        if below is None:
            if parts in self._made_by_us and not item.size_bytes:
                return
        elif not hidden and same_item(item, below):
            return
        self.draft.put(parts, item)
        self._note(parts, ADDED if below is None else CHANGED)

    def _changed_folder(
        self, parts: Parts, item: Item, below: Item | None, *, hidden: bool
    ) -> None:
        merges = below is not None and below.is_folder
        hides = merges and not hidden and is_opaque(os.path.join(self._upper, *parts))
        changed = self._folder(parts, hidden=hidden or hides)
        if hides or (merges and hidden):
            changed |= self._hidden_names(parts)
        if not changed and not hides and not hidden and below is not None and item == below:
            return
        if not changed and below is None and parts in self._made_by_us:
            return
        self.draft.put(parts, item)
        if hides:
            self.draft.opaque(parts)
        self._note(parts, ADDED if below is None else CHANGED)

    def _hidden_names(self, parts: Parts) -> bool:
        """Note what was in a folder below and is not in the opaque one above it."""
        here = set(os.listdir(os.path.join(self._upper, *parts)))
        gone = [name for name in self._view.names(parts) if name not in here]
        for name in gone:
            self._note((*parts, name), DELETED)
        return bool(gone)

    def _below(self, parts: Parts) -> Item | None:
        found = self._view.find(parts)
        return None if found is None else read_item(found)

    def _note(self, parts: Parts, kind: str) -> None:
        self.changes.append(PathChange(b"/" + b"/".join(parts), kind))

    def _refuse_foreign_marks(self, path: bytes) -> None:
        for name in read_xattrs(path):
            if name.startswith(("trusted.", "user.")) and name.endswith(_FOREIGN_MARKS):
                raise ImageError(
                    f"{show(path)} has the mark {name}, which cannot become part of a layer; set "
                    "redirect_dir and metacopy under /sys/module/overlay/parameters to N, and run "
                    "it again"
                )
