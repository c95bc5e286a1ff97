"""Doing the steps of a build: each from the cache where it is known, and its layer on the stack.

Every step has a key made of all that it depends on (`runtime.build.cache`): the layers below, the
configuration so far, its own text with variables replaced, and the content of what it copies. A
step whose key is known is not done again.

After each step that made a layer, the image so far is leased, so that no collection takes it while
the build goes on and no lock is held meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.build.cache import BuildCache, CachedStep
from runtime.build.ignore import Ignore
from runtime.build.metadata import ConfigurationState
from runtime.build.plan import BuildPlan, BuildRequest
from runtime.build.tree import FolderTree, LayerTree, Tree
from runtime.errors import ImageError, ImageNotFoundError
from runtime.images.formats.config import format_time
from runtime.images.formats.image import Image
from runtime.images.layer import merged
from runtime.images.layer.layer_builder import LayerDraft
from runtime.images.layer.source import PieceStream
from runtime.images.store.assembly import LayerReference, empty_document, put_together
from runtime.images.store.layout import StoreLayout
from runtime.images.store.store import ImageStore

Progress = Callable[[str], None]
FindImage = Callable[[str], Image]
"""Where FROM and `COPY --from` take images; raises ImageNotFoundError."""
Draft = contextlib.AbstractContextManager[LayerDraft]


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
        """Read a file of the stage as it is now."""
        return merged.read_file(self.image, path) if self.image else None


class StepExecutor:
    """Does the steps of one build; what it holds is let go by the stack that it gets.

    Attributes:
        request: What is built.
        stages: Those begun so far, by their index in the file.
        cache: Of steps that were done before.
    """

    def __init__(
        self,
        store: ImageStore,
        request: BuildRequest,
        plan: BuildPlan,
        ignore: Ignore,
        progress: Progress,
        find_image: FindImage,
        stack: contextlib.ExitStack,
    ) -> None:
        self.request = request
        self._epoch_ns = None if request.epoch_s is None else request.epoch_s * 1_000_000_000
        self.stages: dict[int, StageState] = {}
        self.cache = BuildCache(StoreLayout(store.root))
        self._store = store
        self._plan = plan
        self._ignore = ignore
        self._progress = progress
        self._find_image = find_image
        self._stack = stack

    @property
    def moment_ns(self) -> int:
        """The time of what is made now."""
        return time.time_ns() if self._epoch_ns is None else self._epoch_ns

    def find_image(self, reference: str) -> Image:
        """An image that the Containerfile names; leased until the end."""
        try:
            image = self._find_image(reference)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"no image {reference!r} here; `steelyard image pull` fetches one, "
                "`steelyard image bootstrap debian:bookworm` makes one"
            ) from error
        self._stack.enter_context(self._store.lease(image))
        return image

    def step(
        self, state: StageState, text: str, facts: dict[str, Any], make: Callable[[], Draft] | None
    ) -> None:
        """Do one step, or take what it gave before; the configuration is changed already.

        Args:
            state: Of the stage.
            text: What is done, for the history.
            facts: What it depends on besides the layers, the configuration and the text.
            make: Gives the layer's draft; None if the step has no layer.
        """
        layers = [layer.diff_id for layer in state.layers]
        context = {"layers": layers, "config": state.config, "epoch": self.request.epoch_s}
        key = BuildCache.key({**context, "text": text, **facts})
        step = self._cached(state, key) if self.request.use_cache else None
        if step is None:
            step = self._done(state, key, make)
        entry: dict[str, Any] = {"created": step.created, "created_by": text}
        if step.layer is None:
            entry["empty_layer"] = True
        state.document["history"].append(entry)
        state.document["created"] = step.created

    def _cached(self, state: StageState, key: str) -> CachedStep | None:
        step = self.cache.get(key)
        if step is None:
            return None
        if step.layer is not None:
            try:
                self._stack_layer(state, step.layer)
            except ImageError:
                return None  # collected since we looked
        self._progress(f"--> Using cache {key[:12]}")
        return step

    def _done(self, state: StageState, key: str, make: Callable[[], Draft] | None) -> CachedStep:
        layer = None
        with make() if make else contextlib.nullcontext(LayerDraft()) as draft:
            if draft:
                layer = self._add_layer(state, draft)
        # With SOURCE_DATE_EPOCH the moment is that one, whenever it is.
        created = format_time(datetime.fromtimestamp(self.moment_ns // 1_000_000_000, UTC))
        step = CachedStep(created, layer)
        with self._store.adding():
            self.cache.put(key, step)
        return step

    def _add_layer(self, state: StageState, draft: LayerDraft) -> LayerReference:
        with self._store.adding() as adder:
            added = adder.add_tar(PieceStream(draft.tar(self._epoch_ns)))
            layer = LayerReference(added.descriptor, added.diff_id)
            self._stack_layer(state, layer)
        return layer

    def _stack_layer(self, state: StageState, layer: LayerReference) -> None:
        """Put a layer on top, and see to it that all layers stay."""
        layers = (*state.layers, layer)
        with self._store.adding() as adder:
            document = {**empty_document(), "created": format_time(datetime.fromtimestamp(0, UTC))}
            image = put_together(adder, document, layers)
            self._stack.enter_context(self._store.lease(image))
        state.image, state.layers = image, layers

    def source_tree(self, name: str) -> Tree:
        """What `COPY --from` names: a stage, a further context, an image; empty: the context."""
        if not name:
            return FolderTree(self.request.context, "the build context", self._ignore)
        index = self._plan.stage_named(name)
        if index is not None:
            return LayerTree(self.stages[index].lowerdirs, f"stage {name}")
        if name in self.request.contexts:
            return FolderTree(self.request.contexts[name], f"the context {name}")
        return LayerTree(self.find_image(name).lowerdirs, name)
