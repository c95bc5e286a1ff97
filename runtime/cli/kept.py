"""`steelyard container ls|diff|commit|rm`: containers that `container run --keep` has kept."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runtime.errors import ContainerError

if TYPE_CHECKING:
    from runtime.containers.container import Container, ExitStatus
    from runtime.containers.kept_containers import KeptContainer
    from runtime.images import Image, ImageStore
    from runtime.images.layer.changes import Change
    from runtime.images.layer.layer_builder import LayerDraft
    from runtime.launch.spec import ContainerSpec


def run_kept(
    spec: ContainerSpec,
    image: Image,
    name: str | None,
    run: Callable[[Callable[[], Container]], ExitStatus],
) -> ExitStatus:
    """Run a container whose writable layer is kept; the image is leased.

    Args:
        spec: Its root has no writable layer yet.
        image: What it runs.
        name: Made up if None, and then told on stderr.
        run: Starts the container by what it is given, waits for its end, and removes it.

    Raises:
        ContainerError: It could not be started; nothing is kept.
    """
    from runtime.containers.container import launch_container, writable_root
    from runtime.containers.kept_containers import keep, note_end
    from runtime.containers.session import Session
    from runtime.launch.spec import OverlayRoot
    from runtime.linux.files import remove_tree

    assert isinstance(spec.root, OverlayRoot)
    session = Session.current()
    chosen = name or _new_name(image)
    kept = keep(chosen, image, spec.command, session.identifier)
    started: list[Container] = []

    def start() -> Container:
        # Not volatile: this layer is not to be thrown away.
        started.append(launch_container(replace(spec, root=root), name=chosen, session=session))
        return started[0]

    try:
        root = replace(writable_root(session, os.fspath(kept.directory), spec.root), volatile=False)
        status = run(start)
    except OSError as error:
        raise ContainerError(f"cannot make {error.filename}: {error.strerror}") from error
    finally:
        if not started:
            remove_tree(kept.directory)
        elif started[0].exit_status is not None:
            note_end(kept, started[0].exit_status)
    if name is None:
        click.echo(f"kept as {chosen}", err=True)
    return status


def _new_name(image: Image) -> str:
    """A name that says which image it was."""
    last = re.sub(r"[^A-Za-z0-9_.-]", "-", image.reference.partition("@")[0].rpartition("/")[2])
    stem = last.partition(":")[0] if not last.startswith("sha256") else "container"
    return f"{stem.strip('.-_')[:40] or 'container'}-{secrets.token_hex(3)}"


@click.command()
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def ls(style: str) -> None:
    """List containers that are kept."""
    from runtime.cli.image import age_text
    from runtime.containers.kept_containers import kept_containers
    from runtime.images.formats.config import parse_time

    found = kept_containers()
    if style == "json":
        facts = [
            {"name": kept.name, "image": kept.image, "image_digest": kept.image_digest,
             "command": list(kept.command), "created": kept.created, "status": kept.status,
             "exit_code": kept.exit_code}
            for kept in found
        ]  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
        return
    rows = [("NAME", "IMAGE", "COMMAND", "CREATED", "STATUS")]
    now = datetime.now(UTC)
    for kept in found:
        command = " ".join(kept.command)
        shown = command if len(command) <= 30 else command[:29] + "…"
        created = age_text(parse_time(kept.created), now)
        rows.append((kept.name, kept.image, shown, created, kept.status))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


@click.command()
@click.argument("name")
def diff(name: str) -> None:
    """Show what the container NAME changed: A added, C changed, D deleted."""
    from runtime.cli.image import open_store

    with open_store() as store:
        _, (_, changes) = _changes(store, _ended(name))
    for change in changes:
        # As bytes: names need not be UTF-8.
        click.echo(change.kind.encode() + b" " + change.path)


@click.command()
@click.argument("name")
@click.argument("reference")
@click.option("-m", "--message", default="", metavar="TEXT", help="Kept in the image's history.")
@click.option("-a", "--author", default="", metavar="NAME", help="Kept in the image.")
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="INSTRUCTION",
    help="An instruction as in a Containerfile: CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, …",
)  # fmt: skip
def commit(name: str, reference: str, message: str, author: str, changes: tuple[str, ...]) -> None:
    """Make the image REFERENCE of what the container NAME left: its image, and a layer above.

    The image's own command stays; --change sets another. Prints the digest.
    """
    from runtime.cli.image import open_store

    with open_store() as store:
        click.echo(_commit(store, name, reference, message, author, changes).digest)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove containers that are kept."""
    from runtime.containers.kept_containers import remove_kept

    failed = False
    for name in names:
        try:
            remove_kept(name)
            click.echo(name)
        except ContainerError as error:
            click.echo(f"steelyard: {error}", err=True)
            failed = True
    if failed:
        raise SystemExit(1)


def _ended(name: str) -> KeptContainer:
    """A kept container that does not run: only then does its layer stand still."""
    from runtime.containers.kept_containers import get_kept

    kept = get_kept(name)
    if kept.status == "running":
        raise ContainerError(f"container {name} is running; wait for its end")
    return kept


def _changes(
    store: ImageStore, kept: KeptContainer
) -> tuple[Image, tuple[LayerDraft, tuple[Change, ...]]]:
    """Its image, and what `read_changes` says."""
    from runtime.images.layer.changes import read_changes
    from runtime.images.store.manifest import MANIFEST_TYPE

    with store.adding() as adder:
        # By its digest alone: its name may be gone by now.
        manifest = {"mediaType": MANIFEST_TYPE, "digest": kept.image_digest, "size": 0}
        image = adder.add_image(manifest)
    return image, read_changes(kept.upperdir, image.lowerdirs)


def _commit(
    store: ImageStore,
    name: str,
    reference: str,
    message: str,
    author: str,
    changes: tuple[str, ...],
) -> Image:
    from runtime.build.metadata import ConfigurationState, change
    from runtime.errors import InvalidReferenceError
    from runtime.images.formats.config import format_time
    from runtime.images.formats.reference import parse_reference
    from runtime.images.formats.tar_writer import source_date_epoch_ns
    from runtime.images.layer.source import PieceStream
    from runtime.images.store.assembly import LayerReference, put_together, take_apart
    from runtime.images.store.layout import Layout

    wanted = parse_reference(reference)
    if wanted.digest:
        raise InvalidReferenceError(f"{reference!r}: a new image's digest cannot be chosen")
    kept = _ended(name)
    image, (draft, _) = _changes(store, kept)
    latest_ns = source_date_epoch_ns()
    moment = datetime.now(UTC)
    if latest_ns is not None:
        moment = datetime.fromtimestamp(latest_ns // 1_000_000_000, UTC)
    with store.lease(image), store.adding() as adder:
        document, layers = take_apart(Layout(store.root), image)
        state = ConfigurationState(document)
        for text in changes:
            change(state, text)
        entry: dict[str, Any] = {
            "created": format_time(moment),
            "created_by": " ".join(kept.command),
        }
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
        document["created"] = entry["created"]
        return put_together(adder, document, layers, (str(wanted),))
