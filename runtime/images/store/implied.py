"""Folders that a layer fills without describing them.

An archive may hold `srv/app/main.py` and no entry for `srv`. Then `srv` keeps whatever owner, mode
and times it has in the layers below: who unpacks layer upon layer in one folder gets that for
nothing. Ours are unpacked apart and shared by images with other layers below, and overlayfs takes
the attributes of the topmost folder. So what is *implied* is noted when a layer is unpacked; and an
image in which that makes a difference gets one more lower folder of its own, on top: a tree of
nothing but those folders, each with the attributes that it should show.

The root is implied in most layers but the first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from runtime.images.formats.image import Layer
from runtime.images.layer.merged import lookup
from runtime.images.store.layout import Layout

_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


class ImpliedFolders:
    """What must be shown for the implied folders of a chain of layers.

    Args:
        layout: Where the layers are, and what they imply.
        layers: Bottom first.
    """

    def __init__(self, layout: Layout, layers: Sequence[Layer]) -> None:
        self._layout = layout
        self._roots = tuple(os.fsencode(layer.path) for layer in reversed(layers))
        self._implied = {
            os.fsencode(layer.path): layout.read_implied(layer.diff_id) for layer in layers
        }
        self._merged: dict[bytes, tuple[bytes, ...]] = {b"": self._roots}
        # In the bottom layer nothing is below whose attributes could count.
        above = [self._implied[root] for root in self._roots[:-1]]
        self._sources = self._find_sources(set().union(*above))

    def __bool__(self) -> bool:
        """Whether there are any that would look wrong otherwise."""
        return bool(self._sources)

    def make(self, folder: Path) -> None:
        """Fill an empty folder with the tree that goes on top of the layers."""
        wanted: dict[bytes, bytes] = {b"": self._source(b"")}
        for path in self._sources:
            while path not in wanted:
                wanted[path] = self._source(path)
                path = os.path.dirname(path)
        base = os.fsencode(folder)
        for path in sorted(wanted):
            if path:
                os.mkdir(os.path.join(base, path), 0o700)
        for path in sorted(wanted, reverse=True):
            _copy_attributes(wanted[path], os.path.join(base, path) if path else base)

    def _find_sources(self, paths: set[bytes]) -> dict[bytes, bytes]:
        """For each folder that is shown as implied though a layer below describes it: where."""
        sources = {}
        for path in sorted(paths):
            merged = self._folders(path)
            if not merged or not self._is_implied(merged[0], path):
                continue
            described = (place for place in merged if not self._is_implied(place, path))
            if source := next(described, None):
                sources[path] = source
        return sources

    def _source(self, path: bytes) -> bytes:
        """Where the attributes of any folder of the tree come from."""
        return self._sources.get(path) or self._folders(path)[0]

    def _is_implied(self, place: bytes, path: bytes) -> bool:
        root = place[: len(place) - len(path) - 1] if path else place
        return path in self._implied[root]

    def _folders(self, path: bytes) -> tuple[bytes, ...]:
        """The folders that merge into one, topmost first; none if it is no folder any more."""
        known = self._merged.get(path)
        if known is None:
            parent, name = os.path.split(path)
            _, known = lookup(self._folders(parent), name)
            self._merged[path] = known
        return known


def _copy_attributes(source: bytes, target: bytes) -> None:
    status = os.lstat(source)
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith(_OVERLAY_XATTRS):
            os.setxattr(target, name, os.getxattr(source, name))
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
