"""An image as the rest of Steelyard sees it: frozen, and with paths that can be mounted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runtime.images.formats.config import ImageConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image.

    Attributes:
        digest: Of the blob, as the manifest names it.
        diff_id: Of the uncompressed tar.
        size_bytes: Length of the blob.
        path: The unpacked layer, shared by every image that has it: never write there.
        allocated_bytes: What the unpacked layer takes on disk.
        whiteouts: How many of its entries hide something below.
        overlay_xattr: Namespace of its opaque marks: `trusted.overlay`, or `user.overlay`, which
            overlayfs reads only with the mount option `userxattr`.
    """

    digest: str
    diff_id: str
    size_bytes: int
    path: Path
    allocated_bytes: int
    whiteouts: int = 0
    overlay_xattr: str = "trusted.overlay"


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store.

    Attributes:
        reference: Its name, with tag; or `sha256:…` when it was asked for by digest.
        digest: Of its manifest: the same digest, the same image.
        config: How to run it.
        layers: Bottom first.
        architecture: `amd64`, `arm64`, …
        created: When, in UTC; None if the image does not say.
        config_digest: Of its configuration, which docker calls the image's ID.
        media_type: Of its manifest.
        folders: Goes on top of the layers, with the attributes of folders that they imply; None
            if there are none (see `runtime.images.store.implied`).
    """

    reference: str
    digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    architecture: str
    created: datetime | None
    config_digest: str = ""
    media_type: str = ""
    folders: Path | None = None

    @property
    def lowerdirs(self) -> tuple[Path, ...]:
        """The unpacked layers for overlayfs, topmost first."""
        layers = tuple(layer.path for layer in reversed(self.layers))
        return layers if self.folders is None else (self.folders, *layers)

    @property
    def allocated_bytes(self) -> int:
        """Bytes that its unpacked layers take on disk, those shared with other images included."""
        return sum({layer.diff_id: layer.allocated_bytes for layer in self.layers}.values())
