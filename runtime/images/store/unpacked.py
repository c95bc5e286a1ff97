"""A layer that is being unpacked beside its place, and then takes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.images.formats.digest import ByteSource
from runtime.images.layer.attributes import UnpackOptions
from runtime.images.layer.unpack import UnpackResult, unpack
from runtime.images.store.files import measure, sync_filesystem
from runtime.images.store.layout import (
    Layout,
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A layer that has been unpacked aside."""

    folder: Path
    options: UnpackOptions
    result: UnpackResult

    @classmethod
    def make(cls, stream: ByteSource, aside: Path, *, needs_end: bool = True) -> Unpacked:
        """Unpack a layer into a new folder below `aside`."""
        options = UnpackOptions.for_this_user()
        folder = aside / "layer"
        with new_layer_folder(folder) as folder_fd:
            return cls(folder, options, unpack(stream, folder_fd, options, needs_end=needs_end))

    def adopt(self, layout: Layout, diff_id: str) -> None:
        """Flush everything and move the layer to its place."""
        # Measured afterwards, when every block has been allocated.
        sync_filesystem(self.folder)
        record: dict[str, Any] = {
            **measure(self.folder),
            "entries": self.result.entries,
            "overlay_xattr": self.options.overlay_xattr,
            "skipped_devices": self.result.skipped_devices,
            "whiteouts": self.result.whiteouts,
        }
        layout.adopt_layer(self.folder, diff_id, record, self.result.implied)


@contextlib.contextmanager
def new_layer_folder(folder: Path) -> Iterator[int]:
    """Make an empty folder that hands nothing down to what is made in it; gives a descriptor."""
    folder.mkdir(mode=0o755)
    with contextlib.suppress(OSError):
        os.removexattr(folder, "system.posix_acl_default")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Without a setgid bit from above either, which would give its group to everything.
        os.fchmod(fd, 0o755)
        yield fd
    finally:
        os.close(fd)
