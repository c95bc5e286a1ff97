"""Building an image from a Containerfile: the image is containers frozen, layer on layer.

Each instruction is a step. A step that changes files has a draft of its layer (`copying`,
`buildrun`), every step has a key made of all that it depends on (`buildcache`): the layers below,
the configuration so far, its own text with variables replaced, and the content of what it copies.
A step whose key is known is not done again.

After each step that made a layer, the image so far is leased, so that no collection takes it while
the build goes on and no lock is held meanwhile. It gets its name at the very end: a build that
fails, or is killed, leaves layers that the next build can use and the next collection takes.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runtime.build.cache import BuildCache, CachedStep
from runtime.build.containerfile import (
    BuildError,
    Containerfile,
    Instruction,
    Stage,
    parse_containerfile,
)
from runtime.build.ignore import find_ignore
from runtime.build.metadata import ConfigurationState, apply
from runtime.build.plan import PROXY_ARGUMENTS, BuildPlan, plan_build
from runtime.build.tree import FolderTree, LayerTree, Tree
from runtime.errors import ContainerError, ImageError, ImageNotFoundError, InvalidReferenceError
from runtime.images.formats.config import format_time
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.layer import merged
from runtime.images.layer.layer_builder import LayerDraft
from runtime.images.layer.source import PieceStream
from runtime.images.store.assembly import (
    Document,
    LayerReference,
    empty_document,
    put_together,
    take_apart,
    this_architecture,
)
from runtime.images.store.layout import Layout
from runtime.images.store.store import ImageStore

Progress = Callable[[str], None]
Draft = contextlib.AbstractContextManager[LayerDraft]
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    Attributes:
        context: The folder that COPY and ADD take files from.
        containerfile: The file; by default `Containerfile`, else `Dockerfile`, in the context.
        tags: Names for the image.
        arguments: Values for ARGs.
        target: Name or number of the stage to build; empty is the last one.
        labels: On top of the Containerfile's.
        contexts: Further folders that `COPY --from` can name.
        use_cache: Whether steps of earlier builds count.
        network: Of RUN: `none` or `host`.
        epoch_s: `SOURCE_DATE_EPOCH`: no time in the image is later, and all that the build itself
            would set is this one.
        output: Descriptors that RUN's stdout and stderr go to.
    """

    context: Path
    containerfile: Path | None = None
    tags: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    target: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    contexts: Mapping[str, Path] = field(default_factory=dict)
    use_cache: bool = True
    network: str = "none"
    epoch_s: int | None = None
    output: tuple[int, int] = (1, 2)


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


def build_image(store: ImageStore, request: BuildRequest, progress: Progress) -> Image:
    """Build an image.

    Args:
        store: Where it goes, and where FROM looks.
        request: What to build.
        progress: Told each step, in docker's words.

    Raises:
        BuildError: The Containerfile is wrong or a step of it failed; names the line.
        ImageError: The context, or a name, is wrong.
    """
    for tag in request.tags:
        if parse_reference(tag).digest:
            raise InvalidReferenceError(f"{tag!r}: a new image's digest cannot be chosen")
    with contextlib.ExitStack() as stack:
        return Build(store, request, progress, stack).run()


def find_containerfile(context: Path) -> Path:
    """The Containerfile of a folder.

    Raises:
        ImageError: There is none.
    """
    for name in ("Containerfile", "Dockerfile"):
        if (context / name).is_file():
            return context / name
    raise ImageError(f"{context} has neither a Containerfile nor a Dockerfile; name one with -f")


class Build:
    """One build. What it holds is let go by the stack that it is given."""

    def __init__(
        self,
        store: ImageStore,
        request: BuildRequest,
        progress: Progress,
        stack: contextlib.ExitStack,
    ) -> None:
        self.store = store
        self.request = request
        self.progress = progress
        self.stack = stack
        self.file, path = _read(request)
        self.ignore = find_ignore(request.context, path)
        self.plan: BuildPlan = plan_build(self.file, request.target, request.arguments)
        self.used_arguments: set[str] = set(self.plan.used_arguments)
        self._layout = Layout(store.root)
        self._cache = BuildCache(self._layout)
        self._stages: dict[int, StageState] = {}
        self._step = 0

    @property
    def moment_ns(self) -> int:
        """The time of what is made now."""
        if self.request.epoch_s is not None:
            return self.request.epoch_s * 1_000_000_000
        return time.time_ns()

    def run(self) -> Image:
        """Build all stages that the target needs, and name the last."""
        total = sum(1 + len(stage.instructions) for stage in self.plan.stages)
        for stage in self.plan.stages:
            with self._located(stage.base):
                self._announce(stage.base, total)
                state = self._stages[stage.index] = self._begin(stage)
            for instruction in stage.instructions:
                with self._located(instruction):
                    self._announce(instruction, total)
                    self._instruction(state, instruction)
                    for warning in state.warnings:
                        self.progress(f"warning: {self.file.path}:{instruction.line}: {warning}")
                    state.warnings.clear()
        unused = set(self.request.arguments) - self.used_arguments - PROXY_ARGUMENTS
        if unused:
            names = ", ".join(sorted(unused))
            self.progress(f"warning: no ARG takes the build argument {names}")
        return self._finish(self._stages[self.plan.stages[-1].index])

    @contextlib.contextmanager
    def _located(self, instruction: Instruction) -> Iterator[None]:
        """Say of which instruction it is that something is wrong."""
        try:
            yield
        except BuildError:
            raise
        except (ContainerError, ValueError) as error:
            raise BuildError(
                self.file.path, instruction.line, instruction.keyword, str(error)
            ) from error

    def _announce(self, instruction: Instruction, total: int) -> None:
        self._step += 1
        self.progress(f"STEP {self._step}/{total}: {instruction}")

    # FROM.

    def _begin(self, stage: Stage) -> StageState:
        """The state that a stage starts from."""
        base = self.plan.bases[stage.index]
        if isinstance(base, int):
            below = self._stages[base]
            return StageState(
                copy.deepcopy(below.document),
                self.file.escape,
                # ARGs of a stage are those of the stages based on it as well.
                dict(below.arguments),
                layers=below.layers,
                image=below.image,
            )
        if base == "scratch":
            return StageState(empty_document(), self.file.escape)
        image = self.find_image(base)
        document, layers = take_apart(self._layout, image)
        if document["config"].get("OnBuild"):
            raise ImageError(f"{base} has ONBUILD instructions, which are not supported")
        if document.get("architecture") != this_architecture():
            self.progress(f"warning: {base} is for {document.get('architecture')}")
        return StageState(document, self.file.escape, layers=layers, image=image)

    def find_image(self, reference: str) -> Image:
        """An image of the store, or one that comes with Steelyard; leased until the end."""
        from runtime.build.shipped import ensure_image

        try:
            image = ensure_image(self.store, reference, self.progress)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"no image {reference!r} here; `steelyard image pull` fetches one, "
                "`steelyard image bootstrap debian:bookworm` makes one"
            ) from error
        self.stack.enter_context(self.store.lease(image))
        return image

    # Steps.

    def _instruction(self, state: StageState, instruction: Instruction) -> None:
        from runtime.build import steps

        if instruction.keyword == "ARG":
            self._argument(state, instruction)
        elif instruction.keyword == "RUN":
            steps.run(self, state, instruction)
        elif instruction.keyword in ("ADD", "COPY"):
            steps.copy(self, state, instruction)
        elif instruction.keyword == "WORKDIR":
            steps.work_directory(self, state, instruction)
        else:
            self.step(state, apply(state, instruction), {}, None)

    def _argument(self, state: StageState, instruction: Instruction) -> None:
        shown = []
        for name, default in instruction.pairs:
            value = self.plan.globals.get(name) if default is None else state.expand(default)
            if name in self.request.arguments:
                self.used_arguments.add(name)
                value = self.request.arguments[name]
            elif name == "SOURCE_DATE_EPOCH" and self.request.epoch_s is not None:
                value = str(self.request.epoch_s)
            if value is not None:
                state.arguments[name] = value
            shown.append(name if value is None else f"{name}={value}")
        self.step(state, "ARG " + " ".join(shown), {}, None)

    def step(
        self, state: StageState, text: str, facts: dict[str, Any], make: Callable[[], Draft] | None
    ) -> None:
        """Do one step, or take what it gave before.

        Args:
            state: Of the stage; the configuration is changed already.
            text: What is done, for the history.
            facts: What it depends on besides the layers, the configuration and the text.
            make: Gives the layer's draft; None if the step has no layer.
        """
        key = BuildCache.key(
            {
                "layers": [layer.diff_id for layer in state.layers],
                "config": state.config,
                "text": text,
                "epoch": self.request.epoch_s,
                **facts,
            }
        )
        step = self._cached(state, key) if self.request.use_cache else None
        if step is None:
            step = self._done(state, key, make)
        entry: dict[str, Any] = {"created": step.created, "created_by": text}
        if step.layer is None:
            entry["empty_layer"] = True
        state.document["history"].append(entry)
        state.document["created"] = step.created

    def _cached(self, state: StageState, key: str) -> CachedStep | None:
        step = self._cache.get(key)
        if step is None:
            return None
        if step.layer is not None:
            try:
                self._stack_layer(state, step.layer)
            except ImageError:
                return None  # collected since we looked
        self.progress(f"--> Using cache {key[:12]}")
        return step

    def _done(self, state: StageState, key: str, make: Callable[[], Draft] | None) -> CachedStep:
        layer = None
        with make() if make else contextlib.nullcontext(LayerDraft()) as draft:
            if draft:
                layer = self._add_layer(state, draft)
        # With SOURCE_DATE_EPOCH the moment is that one, whenever it is.
        created = format_time(datetime.fromtimestamp(self.moment_ns // 1_000_000_000, UTC))
        step = CachedStep(created, layer)
        with self.store.adding():
            self._cache.put(key, step)
        return step

    def _add_layer(self, state: StageState, draft: LayerDraft) -> LayerReference:
        latest_ns = None if self.request.epoch_s is None else self.request.epoch_s * 1_000_000_000
        with self.store.adding() as adder:
            added = adder.add_tar(PieceStream(draft.tar(latest_ns)))
            layer = LayerReference(added.descriptor, added.diff_id)
            self._stack_layer(state, layer)
        return layer

    def _stack_layer(self, state: StageState, layer: LayerReference) -> None:
        """Put a layer on top, and see to it that all layers stay."""
        layers = (*state.layers, layer)
        with self.store.adding() as adder:
            document = {**empty_document(), "created": format_time(datetime.fromtimestamp(0, UTC))}
            image = put_together(adder, document, layers)
            self.stack.enter_context(self.store.lease(image))
        state.image, state.layers = image, layers

    def source_tree(self, name: str) -> Tree:
        """What `COPY --from` names: a stage, a further context, an image; empty: the context."""
        if not name:
            return FolderTree(self.request.context, "the build context", self.ignore)
        index = self.plan.stage_named(name)
        if index is not None:
            return LayerTree(self._stages[index].lowerdirs, f"stage {name}")
        if name in self.request.contexts:
            return FolderTree(self.request.contexts[name], f"the context {name}")
        return LayerTree(self.find_image(name).lowerdirs, name)

    def _finish(self, state: StageState) -> Image:
        document: Document = state.document
        if self.request.labels:
            labels = {**(state.config.get("Labels") or {}), **self.request.labels}
            document["config"]["Labels"] = labels
        names = tuple(str(parse_reference(tag)) for tag in self.request.tags)
        with self.store.adding() as adder:
            image = put_together(adder, document, state.layers, names)
            if not names:
                # Without a name it is kept by its digest.
                descriptor = {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": image.digest,
                    "size": self._layout.blob_path(image.digest).stat().st_size,
                }
                self._layout.update_index(
                    lambda entries: (
                        entries
                        if any(entry["digest"] == image.digest for entry in entries)
                        else [descriptor, *entries]
                    )
                )
            self._cache.prune()
        for name in names:
            self.progress(f"COMMIT {name}")
        return image


def _read(request: BuildRequest) -> tuple[Containerfile, Path]:
    if not request.context.is_dir():
        raise ImageError(f"{request.context} is not a folder: a build context is one")
    path = request.containerfile or find_containerfile(request.context)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BuildError(str(path), 0, "", "is not UTF-8 text") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    return parse_containerfile(text, str(path)), path
