"""`steelyard image pull, push, load, save`: images from and to other places, in docker's words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from runtime.cli.common import open_store, short_digest, with_options

if TYPE_CHECKING:
    from runtime.images.formats.schema import Platform
    from runtime.images.registry.transfer import PushListener
    from runtime.images.registry.upload import Sent
    from runtime.images.store.ingest import Listener


_registry_options = with_options(
    click.option("--registry", envvar="STEELYARD_REGISTRY", metavar="HOST[:PORT]",
                 help="For names without a registry  [env: STEELYARD_REGISTRY]."),
    click.option("--plain-http", is_flag=True,
                 help="Speak http. On this machine it is tried anyway."),
    # Not by flag_value=False with default=True, which some versions of click take for each other.
    click.option("--insecure", "verify", is_flag=True,
                 callback=lambda _context, _option, is_insecure: not is_insecure,
                 help="Accept any certificate of the registry."),
    click.option("--cert-dir", "certificates", metavar="FOLDER",
                 type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="Folder with *.crt (authorities), *.cert and *.key (ours)."),
    click.option("--quiet", "-q", is_flag=True, help="Print the name or digest alone."),
)  # fmt: skip


@click.command()
@click.argument("reference")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="In place of this machine's.")
@_registry_options
def pull(reference: str, platform: str | None, quiet: bool, **access: Any) -> None:
    """Bring an image from a registry. Layers that are here already are not sent again.

    REFERENCE is HOST[:PORT]/NAME[:TAG] or HOST[:PORT]/NAME@DIGEST; no registry is assumed.
    Credentials are those of `docker login` and `podman login`.
    """
    from runtime.images.registry import transfer
    from runtime.library.images import registry_client

    with open_store() as store, registry_client(reference, **access) as (client, name):
        if not quiet:
            click.echo(f"{name.digest or name.tag}: Pulling from {name.repository}")
        with _pull_progress(quiet) as listener:
            wanted = _platform(platform)
            done = transfer.pull(store, client, name, platform=wanted, listener=listener)
    if quiet:
        click.echo(name)
        return
    click.echo(f"Digest: {done.digest}")
    status = "Downloaded newer image" if done.changed else "Image is up to date"
    click.echo(f"Status: {status} for {name}")


@click.command()
@click.argument("image")
@click.argument("target", required=False)
@_registry_options
def push(image: str, target: str | None, quiet: bool, **access: Any) -> None:
    """Send IMAGE to a registry, under its own name or as TARGET, with the digest it has here."""
    from runtime.images.registry import transfer
    from runtime.library.images import registry_client

    with open_store() as store:
        found = store.get(image)
        if target is None and found.reference.startswith("sha256:"):
            raise click.UsageError(f"{image} has no name: say where it goes by TARGET")
        where = target or found.reference
        with registry_client(where, **access) as (client, name):
            if not quiet:
                click.echo(f"The push refers to repository [{name.name}]")
            with _push_progress(quiet) as listener:
                manifest = transfer.push(store, client, found, name, listener)
    if quiet:
        click.echo(manifest.digest)
        return
    click.echo(f"{name.tag or name.digest}: digest: {manifest.digest} size: {len(manifest.data)}")


@click.command()
@click.argument("source", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--input", "-i", "source_option", type=click.Path(path_type=Path, allow_dash=True),
              help="The same as SOURCE.")  # fmt: skip
@click.option("--name", metavar="NAME[:TAG]", help="In place of the names that it brings.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="In place of this machine's.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing about the layers.")
def load(
    source: Path | None,
    source_option: Path | None,
    name: str | None,
    platform: str | None,
    quiet: bool,
) -> None:
    """Bring images from SOURCE: an OCI layout's folder or archive, or what `docker save` wrote.

    Archives may be compressed; without SOURCE or with `-`, one is read from the standard input.
    """
    from runtime.images.archive.load import load as load_images

    if source and source_option:
        raise click.UsageError("SOURCE and --input say the same thing: give one of them")
    where: Path | BinaryIO | None = source or source_option
    if where is None or str(where) == "-":
        if sys.stdin.isatty():
            raise click.UsageError("name an archive or a layout's folder, or pipe an archive in")
        where = sys.stdin.buffer
    with open_store() as store, _pull_progress(quiet) as listener:
        loaded = load_images(
            store, where, name=name, platform=_platform(platform), listener=listener
        )
    for each in loaded:
        for reference in each.names:
            click.echo(f"Loaded image: {reference}")
        if not each.names:
            click.echo(f"Loaded image ID: {each.image.digest}")


@click.command()
@click.argument("references", nargs=-1, required=True, metavar="REFERENCE...")
@click.option("--output", "-o", type=click.Path(path_type=Path, allow_dash=True),
              help="Where to; otherwise the standard output.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(["docker", "oci", "oci-dir"]),
              default="docker", show_default=True,
              help="docker: an OCI archive that docker reads too. oci-dir: a folder.")  # fmt: skip
def save(references: tuple[str, ...], output: Path | None, style: str) -> None:
    """Write images to an archive that docker, podman and skopeo read, with the digests kept."""
    from runtime.library.images import save_images

    target: Path | BinaryIO | None = output
    if output is None or str(output) == "-":
        if style == "oci-dir":
            raise click.UsageError("--format oci-dir makes a folder: name it by --output")
        if sys.stdout.isatty():
            raise click.UsageError("an archive is not for a terminal: use --output, or redirect")
        target = sys.stdout.buffer
    assert target is not None
    with open_store() as store:
        save_images(references, target, style=style, store=store)
        if target is not output:
            sys.stdout.buffer.flush()


def _platform(text: str | None) -> Platform | None:
    from runtime.images.formats.schema import Platform

    return Platform.parse(text) if text else None


@contextlib.contextmanager
def _pull_progress(quiet: bool) -> Iterator[Listener]:
    """Give what is called with each event: nothing, a line a new state, or a bar a layer."""
    from runtime.images.store.ingest import LayerEvent, LayerState

    with _bars(quiet) as bars:

        def show(event: LayerEvent) -> None:
            if bars is not None:
                done = event.total_bytes if event.state is LayerState.EXISTS else event.done_bytes
                bars(event.digest, event.state.value, done, event.total_bytes)
            elif not quiet and event.state is not LayerState.DOWNLOADING:
                click.echo(f"{short_digest(event.digest)}: {event.state.value}")

        yield show


@contextlib.contextmanager
def _push_progress(quiet: bool) -> Iterator[PushListener]:
    with _bars(quiet) as bars:

        def show(digest: str, sent: Sent | None, done: int, total: int) -> None:
            if bars is not None:
                bars(digest, sent.value if sent else "Pushing", done, total)
            elif not quiet and sent is not None:
                click.echo(f"{short_digest(digest)}: {sent.value}")

        yield show


@contextlib.contextmanager
def _bars(quiet: bool) -> Iterator[Any]:
    """Give a function that draws a bar: digest, words, bytes done, bytes in all; None: no bars."""
    if quiet or not sys.stdout.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.fields[digest]}: {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns) as progress:

        def bar(digest: str, words: str, done: int, total: int) -> None:
            if digest not in tasks:
                tasks[digest] = progress.add_task(words, total=total, digest=short_digest(digest))
            progress.update(tasks[digest], description=f"{words:<16}", completed=done)

        yield bar
