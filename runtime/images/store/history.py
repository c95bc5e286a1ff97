"""The history of an image, from its configuration (OCI image-spec, config.md, `history`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runtime.errors import StoreError
from runtime.images.formats.config import parse_time
from runtime.images.formats.image import Image, Layer


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Describes one step.

    Attributes:
        created: When, in UTC, if given.
        created_by: The instruction or command.
        comment: Free text.
        layer: What it added; None for a step that changed the configuration alone.
    """

    created: datetime | None
    created_by: str
    comment: str
    layer: Layer | None


def read_history(config: Mapping[str, Any], image: Image) -> tuple[HistoryEntry, ...]:
    """Return the steps of an image, first one first, or raise StoreError.

    Layers that no step mentions are steps too.
    """
    steps = config.get("history") or []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise StoreError(f"image {image.digest}: its history is not a list of objects")
    layers = list(image.layers)
    unmentioned = len(layers) - sum(not step.get("empty_layer") for step in steps)
    if unmentioned < 0:
        raise StoreError(f"image {image.digest}: its history has more layers than the image")
    # A partial history describes the layers that were added last.
    entries = [HistoryEntry(None, "", "", layer) for layer in layers[:unmentioned]]
    rest = iter(layers[unmentioned:])
    entries += [
        HistoryEntry(
            created=parse_time(step.get("created")),
            created_by=_text(step, "created_by", image),
            comment=_text(step, "comment", image),
            layer=None if step.get("empty_layer") else next(rest),
        )
        for step in steps
    ]
    return tuple(entries)


def _text(step: Mapping[str, Any], key: str, image: Image) -> str:
    value = step.get(key) or ""
    if not isinstance(value, str):
        raise StoreError(f"image {image.digest}: {key} in its history is no text")
    return value
