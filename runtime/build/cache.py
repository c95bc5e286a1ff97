"""What earlier builds made: a record for each step, found by what the step was made from.

A record is a hint and never a promise: it counts only while its layer is in the store, and the
collection of garbage needs to know nothing of it. Records lie in the folder `build-cache` of the
store, one small file each; those whose layer has gone are taken away by the next build.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.images.formats.digest import is_digest
from runtime.images.store.assembly import LayerReference
from runtime.images.store.layout import StoreLayout

_VERSION = 1
"""Of the way in which layers are made: another one makes all records miss."""


@dataclass(frozen=True, slots=True)
class CachedStep:
    """What a step gave.

    Attributes:
        created: When it was made, as the image's history says.
        layer: Its layer; None if it made none.
    """

    created: str
    layer: LayerReference | None


class BuildCache:
    """The records of a store."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._folder = layout.root / "build-cache"

    @staticmethod
    def key(facts: dict[str, Any]) -> str:
        """The name of a step made from `facts`, which are JSON: equal facts, equal step."""
        text = json.dumps({"version": _VERSION, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def get(self, key: str) -> CachedStep | None:
        """What that step gave, if that is still there."""
        step = _read(self._folder / key)
        return step if step is not None and self._is_there(step) else None

    def put(self, key: str, step: CachedStep) -> None:
        """Keep a record; the store's writers' lock is held."""
        record: dict[str, Any] = {"created": step.created}
        if step.layer is not None:
            record |= {"descriptor": step.layer.descriptor, "diff_id": step.layer.diff_id}
        self._folder.mkdir(exist_ok=True)
        with self._layout.temporary_folder() as aside:
            # Not flushed: a record that a power cut tears is one that does not count.
            (aside / key).write_text(json.dumps(record), encoding="utf-8")
            (aside / key).rename(self._folder / key)

    def prune(self) -> None:
        """Take away the records that no longer count."""
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self._folder)):
                step = _read(Path(entry.path))
                if step is None or not self._is_there(step):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)

    def _is_there(self, step: CachedStep) -> bool:
        return step.layer is None or (
            self._layout.layer_path(step.layer.diff_id).is_dir()
            and self._layout.blob_path(step.layer.descriptor["digest"]).exists()
        )


def _read(path: Path) -> CachedStep | None:
    """A record; None for what is none."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("created"), str):
        return None
    descriptor, diff_id = record.get("descriptor"), record.get("diff_id")
    if descriptor is None and diff_id is None:
        return CachedStep(record["created"], None)
    if (
        not isinstance(descriptor, dict)
        or not isinstance(diff_id, str)
        or not isinstance(descriptor.get("size"), int)
        or not is_digest(diff_id)
        or not is_digest(str(descriptor.get("digest")))
    ):
        return None
    return CachedStep(record["created"], LayerReference(descriptor, diff_id))
