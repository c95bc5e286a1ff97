"""A stage under way: its configuration and its layers so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.build.metadata import ConfigurationState
from runtime.images.formats.image import Image
from runtime.images.layer import merged
from runtime.images.store.assembly import LayerReference


@dataclass(slots=True)
class StageState(ConfigurationState):
    """A stage under way.

    Attributes:
        layers: So far, bottom first.
        image: The layers as an image, leased; None while there are none.
    """

    layers: tuple[LayerReference, ...] = ()
    image: Image | None = None

    @property
    def lowerdirs(self) -> tuple[Path, ...]:
        """As overlayfs wants them."""
        return self.image.lowerdirs if self.image else ()

    def read_file(self, path: str) -> bytes | None:
        """A file of the stage as it is now."""
        return merged.read_file(self.image, path) if self.image else None
