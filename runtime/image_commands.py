"""`steelyard image …`: look after the image store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from runtime.images import Image, ImageStore


@click.group()
def image() -> None:
    """Import, list, inspect and remove images."""


@image.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("reference")
@click.option(
    "--env", "-e", "environment", multiple=True, metavar="NAME=VALUE", help="Set a variable."
)
@click.option("--cmd", metavar="COMMAND", help="What runs by default: shell words, or a JSON list.")
@click.option(
    "--entrypoint", metavar="COMMAND", help="What comes before it: shell words, or a JSON list."
)
@click.option("--workdir", "-w", default="", metavar="DIR", help="Absolute working directory.")
@click.option("--user", "-u", default="", metavar="USER[:GROUP]", help="Who runs it.")
def import_(
    source: Path,
    reference: str,
    environment: tuple[str, ...],
    cmd: str | None,
    entrypoint: str | None,
    workdir: str,
    user: str,
) -> None:
    """Make an image of one layer from SOURCE, a root filesystem: a folder or a tar.

    The tar may be compressed by gzip, bzip2, xz or zstd. Equal content gives an equal digest; of a
    folder, SOURCE_DATE_EPOCH caps the times of its files. Prints the digest.
    """
    from runtime.images import ImageConfig

    if workdir and not workdir.startswith("/"):
        raise click.BadParameter("must be absolute", param_hint="--workdir")
    config = ImageConfig(
        environment=_variables(environment),
        entrypoint=_words(entrypoint, "--entrypoint"),
        command=_words(cmd, "--cmd"),
        working_directory=workdir,
        user=user,
    )
    with _told() as store:
        click.echo(store.import_rootfs(source, reference, config).digest)


@image.command("ls")
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def ls(style: str) -> None:
    """List images.

    SIZE is what the unpacked layers take on disk; layers that images share are counted for each.
    """
    with _told() as store:
        images = store.images()
    if style == "json":
        click.echo(json.dumps([_summary(each) for each in images], indent=2))
        return
    rows = [("REFERENCE", "DIGEST", "LAYERS", "SIZE", "CREATED")]
    now = datetime.now(UTC)
    rows += [
        (
            each.reference,
            each.digest.removeprefix("sha256:")[:12],
            str(len(each.layers)),
            size_text(each.allocated_bytes),
            age_text(each.created, now),
        )
        for each in images
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@image.command("rm")
@click.argument("references", nargs=-1, required=True, metavar="REFERENCE...")
def rm(references: tuple[str, ...]) -> None:
    """Remove images by name, and the layers that no other image and no running instance needs."""
    from runtime.errors import ContainerError

    failed = False
    with _told() as store:
        for reference in references:
            try:
                removal = store.remove(reference)
            except ContainerError as error:
                click.echo(f"Error: {error}", err=True)
                failed = True
                continue
            for name in removal.untagged:
                click.echo(f"Untagged: {name}")
            for digest in removal.deleted:
                click.echo(f"Deleted: {digest}")
            if removal.freed_bytes:
                click.echo(f"Freed: {size_text(removal.freed_bytes)}")
    if failed:
        raise SystemExit(1)


@image.command("inspect")
@click.argument("reference")
def inspect(reference: str) -> None:
    """Print all that is known of an image, as JSON."""
    with _told() as store:
        found = store.get(reference)
    details = _summary(found) | {
        "config": found.config.to_oci(),
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "size_bytes": layer.size_bytes,
                "allocated_bytes": layer.allocated_bytes,
                "path": str(layer.path),
            }
            for layer in found.layers
        ],
    }
    click.echo(json.dumps(details, indent=2))


def size_text(size_bytes: int) -> str:
    """A size as docker prints it: powers of 1000, three digits."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}TB"


def age_text(moment: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit of which there are at least two (or one, of years)."""
    if moment is None:
        return "unknown"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("years", 31536000), ("months", 2592000), ("weeks", 604800)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} seconds ago"


@contextlib.contextmanager
def _told() -> Iterator[ImageStore]:
    """The default store; what goes wrong is one sentence on stderr and exit code 1."""
    from runtime.errors import ContainerError
    from runtime.images import ImageStore

    try:
        yield ImageStore.default()
    except ContainerError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(1)


def _summary(each: Image) -> dict[str, Any]:
    from runtime.images.config import format_time

    return {
        "reference": each.reference,
        "digest": each.digest,
        "architecture": each.architecture,
        "created": format_time(each.created) if each.created else None,
        "layer_count": len(each.layers),
        "size_bytes": sum(layer.size_bytes for layer in each.layers),
        "allocated_bytes": each.allocated_bytes,
    }


def _variables(items: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{item!r} is not NAME=VALUE", param_hint="--env")
        variables[name] = value
    return variables


def _words(text: str | None, option: str) -> tuple[str, ...]:
    """A command as shell words, or, when it begins with `[`, as a JSON list."""
    import shlex

    if text is None:
        return ()
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    if not all(isinstance(word, str) for word in words):
        raise click.BadParameter("a JSON list must hold strings only", param_hint=option)
    return tuple(words)
