"""Folders that a layer fills without describing them.

An archive may hold `srv/app/main.py` and no entry for `srv`. Then `srv` keeps the owner, mode and
times that it has in the layers below, as tools that unpack layer upon layer in one folder get it.
Ours are unpacked apart and shared by images with other layers below, and overlayfs takes the
attributes of the topmost folder. So unpacking a layer records its *implied* folders; and an image
in which they make a difference gets one more lower folder of its own, on top: a tree of nothing but
those folders, each with the attributes that it should show.

The root is implied in most layers but the first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from runtime.images.formats.image import Layer
from runtime.images.formats.tar_writer import read_xattrs
from runtime.images.layer.merged import split_path
from runtime.images.layer.view import OVERLAY_XATTRS, MergedView
from runtime.images.store.layout import StoreLayout


class ImpliedFolders:
    """Finds what must be shown for the implied folders of a chain of layers, bottom first."""

    def __init__(self, layout: StoreLayout, layers: Sequence[Layer]) -> None:
        roots = [os.fsencode(layer.path) for layer in reversed(layers)]
        self._view = MergedView(roots)
        self._implied = {
            os.fsencode(layer.path): layout.read_implied(layer.diff_id) for layer in layers
        }
        # In the bottom layer nothing is below whose attributes could count.
        above = [self._implied[root] for root in roots[:-1]]
        self._sources = self._find_sources(set().union(*above))

    def __bool__(self) -> bool:
        """Whether any folder would look wrong otherwise."""
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
        """Where a layer describes each folder that a layer above implies."""
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
        """The path on disk whose attributes a folder of the tree gets."""
        return self._sources.get(path) or self._folders(path)[0]

    def _is_implied(self, place: bytes, path: bytes) -> bool:
        root = place[: len(place) - len(path) - 1] if path else place
        return path in self._implied[root]

    def _folders(self, path: bytes) -> tuple[bytes, ...]:
        return self._view.folders(split_path(path))


def _copy_attributes(source: bytes, target: bytes) -> None:
    status = os.lstat(source)
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    for name, value in read_xattrs(source).items():
        if not name.startswith(OVERLAY_XATTRS):
            os.setxattr(target, name, value)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
