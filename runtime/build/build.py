"""Building an image from a Containerfile: the image is containers frozen, layer on layer.

Each instruction is a step. What a step changes in files is in `runtime.build.steps`; how it is done
once and then taken from the cache, in `runtime.build.executor`. The image gets its name at the very
end: a build that fails, or is killed, leaves layers that the next build can use and the next
collection takes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

from runtime.build import steps
from runtime.build.containerfile import BuildError, Instruction, Stage, parse_containerfile
from runtime.build.executor import FindImage, Progress, StageState, StepExecutor
from runtime.build.ignore import find_ignore
from runtime.build.metadata import apply
from runtime.build.plan import PROXY_ARGUMENTS, BuildPlan, BuildRequest, plan_build
from runtime.errors import ContainerError, ImageError, InvalidReferenceError
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.formats.schema import OCI_MANIFEST
from runtime.images.store.assembly import (
    Document,
    empty_document,
    put_together,
    take_apart,
    this_architecture,
)
from runtime.images.store.layout import StoreLayout
from runtime.images.store.store import ImageStore


def build(
    store: ImageStore, request: BuildRequest, progress: Progress, find_image: FindImage
) -> Image:
    """Build an image.

    Args:
        store: Where it goes.
        request: What to build.
        progress: Called with each step, in docker's words.
        find_image: See `FindImage`.

    Raises:
        BuildError: The Containerfile is wrong or a step of it failed; names the line.
        ImageError: The context, or a name, is wrong.
    """
    for tag in request.tags:
        if parse_reference(tag).digest:
            raise InvalidReferenceError(f"{tag!r}: a new image's digest cannot be chosen")
    with contextlib.ExitStack() as stack:
        return _Build(store, request, progress, find_image, stack).run()


def find_containerfile(context: Path) -> Path:
    """The Containerfile of a folder.

    Raises:
        ImageError: There is none.
    """
    for name in ("Containerfile", "Dockerfile"):
        if (context / name).is_file():
            return context / name
    raise ImageError(f"{context} has neither a Containerfile nor a Dockerfile; name one with -f")


class _Build:
    """One build: its stages in order, instruction by instruction."""

    def __init__(
        self,
        store: ImageStore,
        request: BuildRequest,
        progress: Progress,
        find_image: FindImage,
        stack: contextlib.ExitStack,
    ) -> None:
        self.store = store
        self.request = request
        self.progress = progress
        if not request.context.is_dir():
            raise ImageError(f"{request.context} is not a folder: a build context is one")
        path = request.containerfile or find_containerfile(request.context)
        try:
            text = path.read_text(encoding="utf-8-sig")  # as docker-build(1) takes it
        except UnicodeDecodeError:
            raise BuildError(str(path), 0, "", "is not UTF-8 text") from None
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        self.file = parse_containerfile(text, str(path))
        self.plan: BuildPlan = plan_build(self.file, request.target, request.arguments)
        self.used_arguments: set[str] = set(self.plan.used_arguments)
        ignore = find_ignore(request.context, path)
        self.executor = StepExecutor(store, request, self.plan, ignore, progress, find_image, stack)
        self._layout = StoreLayout(store.root)
        self._step = 0

    def run(self) -> Image:
        """Build all stages that the target needs, and name the last."""
        total = sum(1 + len(stage.instructions) for stage in self.plan.stages)
        for stage in self.plan.stages:
            with self._located(stage.base):
                self._announce(stage.base, total)
                state = self.executor.stages[stage.index] = self._begin(stage)
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
        return self._finish(self.executor.stages[self.plan.stages[-1].index])

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

    def _begin(self, stage: Stage) -> StageState:
        """The state that a stage starts from."""
        base = self.plan.bases[stage.index]
        if isinstance(base, int):
            below = self.executor.stages[base]
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
        image = self.executor.find_image(base)
        document, layers = take_apart(self._layout, image)
        if document["config"].get("OnBuild"):
            raise ImageError(f"{base} has ONBUILD instructions, which are not supported")
        if document.get("architecture") != this_architecture():
            self.progress(f"warning: {base} is for {document.get('architecture')}")
        return StageState(document, self.file.escape, layers=layers, image=image)

    def _instruction(self, state: StageState, instruction: Instruction) -> None:
        if instruction.keyword == "ARG":
            self._argument(state, instruction)
        elif instruction.keyword == "RUN":
            steps.run(self.executor, state, instruction)
        elif instruction.keyword in ("ADD", "COPY"):
            steps.copy(self.executor, state, instruction)
        elif instruction.keyword == "WORKDIR":
            steps.work_directory(self.executor, state, instruction)
        else:
            self.executor.step(state, apply(state, instruction), {}, None)

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
        self.executor.step(state, "ARG " + " ".join(shown), {}, None)

    def _finish(self, state: StageState) -> Image:
        document: Document = state.document
        if self.request.labels:
            state.config["Labels"] = {**(state.config.get("Labels") or {}), **self.request.labels}
        names = tuple(str(parse_reference(tag)) for tag in self.request.tags)
        with self.store.adding() as adder:
            image = put_together(adder, document, state.layers, names)
            if not names:
                # Without a name it is kept by its digest.
                descriptor = {
                    "mediaType": OCI_MANIFEST,
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
            self.executor.cache.prune()
        for name in names:
            self.progress(f"COMMIT {name}")
        return image
