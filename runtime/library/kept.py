"""Containers that are kept after their end: what one changed, and an image made of it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runtime.containers.container import Container, launch_container, writable_root
from runtime.containers.kept_containers import KeptContainer, get_kept, keep, note_end
from runtime.containers.session import Session
from runtime.errors import ContainerError, InvalidReferenceError
from runtime.images.formats.image import Image
from runtime.images.store.store import ImageStore
from runtime.launch.spec import ContainerSpec, OverlayRoot
from runtime.linux.files import remove_tree

if TYPE_CHECKING:
    from runtime.images.layer.changes import PathChange
    from runtime.images.layer.layer_builder import LayerDraft


@contextlib.contextmanager
def start_kept(
    spec: ContainerSpec, image: Image, name: str | None, progress: Callable[[str], None] | None
) -> Iterator[Container]:
    """Run a container whose writable layer is kept; the image is leased.

    Without a name one is made up, and said to `progress` at the end.

    Raises:
        ContainerError: It could not be started; nothing is kept.
    """
    assert isinstance(spec.root, OverlayRoot)
    session = Session.current()
    chosen = name or _new_name(image)
    kept = keep(chosen, image, spec.command, session.identifier)
    try:
        root = replace(writable_root(session, os.fspath(kept.directory), spec.root), volatile=False)
        # Not volatile: this layer is not to be thrown away.
        container = launch_container(replace(spec, root=root), name=chosen, session=session)
    except BaseException as error:
        remove_tree(kept.directory)
        if isinstance(error, OSError):
            raise ContainerError(f"cannot make {error.filename}: {error.strerror}") from error
        raise
    try:
        with container:
            yield container
    finally:
        if container.exit_status is not None:
            note_end(kept, container.exit_status)
    if name is None and progress is not None:
        progress(f"kept as {chosen}")


def _new_name(image: Image) -> str:
    """A name that says which image it was."""
    last = re.sub(r"[^A-Za-z0-9_.-]", "-", image.reference.partition("@")[0].rpartition("/")[2])
    stem = last.partition(":")[0] if not last.startswith("sha256") else "container"
    return f"{stem.strip('.-_')[:40] or 'container'}-{secrets.token_hex(3)}"


def kept_changes(name: str, *, store: ImageStore | None = None) -> tuple[PathChange, ...]:
    """What a kept container changed in its image, sorted by path.

    Args:
        name: Of a container that has ended.
        store: Where its image is; by default the user's.

    Raises:
        ContainerError: None of that name is kept, or it is running.
        ImageError: Its layer, or its image, cannot be read.
    """
    return _changes(store or ImageStore.default(), _ended(name))[1][1]


def commit_container(
    name: str,
    reference: str,
    *,
    store: ImageStore | None = None,
    message: str = "",
    author: str = "",
    changes: tuple[str, ...] = (),
) -> Image:
    """Make an image of what a kept container left: its image, and a layer above.

    No time in it is later than SOURCE_DATE_EPOCH, where that is set.

    Args:
        name: Of a container that has ended.
        reference: The new image's name; one that is taken moves.
        store: Where its image is and the new one goes; by default the user's.
        message: Kept in the image's history.
        author: Kept in the image.
        changes: Instructions as in a Containerfile: CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, …

    Raises:
        ContainerError: None of that name is kept, or it is running; or a change is none.
        ImageError: Its layer, or its image, cannot be read; or `reference` is no name.
    """
    from runtime.build.metadata import ConfigurationState, change
    from runtime.images.formats.config import format_time
    from runtime.images.formats.reference import parse_reference
    from runtime.images.formats.tar_writer import source_date_epoch_ns
    from runtime.images.layer.source import PieceStream
    from runtime.images.store.assembly import LayerReference, put_together, take_apart
    from runtime.images.store.layout import StoreLayout

    store = store or ImageStore.default()
    wanted = parse_reference(reference)
    if wanted.digest:
        raise InvalidReferenceError(f"{reference!r}: a new image's digest cannot be chosen")
    kept = _ended(name)
    image, (draft, _) = _changes(store, kept)
    latest_ns = source_date_epoch_ns()
    with store.lease(image), store.adding() as adder:
        document, layers = take_apart(StoreLayout(store.root), image)
        state = ConfigurationState(document)
        for text in changes:
            change(state, text)
        now_ns = time.time_ns() if latest_ns is None else latest_ns
        created = format_time(datetime.fromtimestamp(now_ns // 1_000_000_000, UTC))
        entry: dict[str, Any] = {"created": created, "created_by": " ".join(kept.command)}
        if message:
            entry["comment"] = message
        if author:
            document["author"] = author
        if draft:
            added = adder.add_tar(PieceStream(draft.tar(latest_ns)))
            layers = (*layers, LayerReference(added.descriptor, added.diff_id))
        else:
            entry["empty_layer"] = True
        document["history"].append(entry)
        document["created"] = created
        return put_together(adder, document, layers, (str(wanted),))


def _ended(name: str) -> KeptContainer:
    """A kept container that does not run: only then does its layer stand still."""
    kept = get_kept(name)
    if kept.status == "running":
        raise ContainerError(f"container {name} is running; wait for its end")
    return kept


def _changes(
    store: ImageStore, kept: KeptContainer
) -> tuple[Image, tuple[LayerDraft, tuple[PathChange, ...]]]:
    from runtime.images.formats.schema import OCI_MANIFEST
    from runtime.images.layer.changes import read_changes

    with store.adding() as adder:
        # By its digest alone: its name may be gone by now.
        manifest = {"mediaType": OCI_MANIFEST, "digest": kept.image_digest, "size": 0}
        image = adder.add_image(manifest)
    return image, read_changes(kept.upperdir, image.lowerdirs)
