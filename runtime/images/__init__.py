"""Images: a content-addressed store of layers, unpacked once, shared by all images above them."""

from __future__ import annotations

from runtime.images.formats.config import ImageConfig
from runtime.images.formats.image import Image, Layer
from runtime.images.store.gc import Removal
from runtime.images.store.store import ImageStore

__all__ = ["Image", "ImageConfig", "ImageStore", "Layer", "Removal"]
