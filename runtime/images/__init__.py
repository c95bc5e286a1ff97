"""Images: a content-addressed store of layers, unpacked once, shared by all that stand on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.images.config import ImageConfig
from runtime.images.image import Image, Layer
from runtime.images.store import ImageStore, Removal

if TYPE_CHECKING:
    from runtime.images.archive_save import save as save_images
    from runtime.images.shipped import SHIPPED_IMAGES, ensure_image

__all__ = [
    "SHIPPED_IMAGES",
    "Image",
    "ImageConfig",
    "ImageStore",
    "Layer",
    "Removal",
    "ensure_image",
    "save_images",
]


def __getattr__(name: str) -> Any:
    """Load what a launch does without when it is asked for."""
    if name == "save_images":
        from runtime.images.archive_save import save

        return save
    if name in ("SHIPPED_IMAGES", "ensure_image"):
        from runtime.images import shipped

        return getattr(shipped, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
