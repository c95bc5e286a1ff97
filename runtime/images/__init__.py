"""Images: a content-addressed store of layers, unpacked once, shared by all that stand on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.images.config import ImageConfig
from runtime.images.image import Image, Layer
from runtime.images.store import ImageStore, Removal

if TYPE_CHECKING:
    from runtime.images.shipped import SHIPPED_IMAGES, ensure_image

__all__ = [
    "SHIPPED_IMAGES",
    "Image",
    "ImageConfig",
    "ImageStore",
    "Layer",
    "Removal",
    "ensure_image",
]


def __getattr__(name: str) -> Any:
    """Load the makers of shipped images when they are asked for: a launch does without them."""
    if name in ("SHIPPED_IMAGES", "ensure_image"):
        from runtime.images import shipped

        return getattr(shipped, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
