"""`steelyard image …`: look after the image store.

The group and the commands that every store needs. Others live in modules of their own, which are
imported when one of their commands is named: `steelyard --help` loads none of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.common import LazyGroup, open_store, pairs, remove_each, size_text

if TYPE_CHECKING:
    from runtime.images import Removal

_ELSEWHERE = {
    "bootstrap": "image_build",
    "build": "image_build",
    "gc": "image_views",
    "history": "image_views",
    "inspect": "image_views",
    "load": "image_transfer",
    "ls": "image_views",
    "pull": "image_transfer",
    "push": "image_transfer",
    "save": "image_transfer",
    "tree": "image_views",
    "verify": "image_views",
}


@click.group(
    cls=LazyGroup,
    elsewhere={name: f"runtime.cli.{module}" for name, module in _ELSEWHERE.items()},
)
def image() -> None:
    """Pull, build, import, look at and remove images."""


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
        environment=pairs(environment, "--env"),
        entrypoint=_words(entrypoint, "--entrypoint"),
        command=_words(cmd, "--cmd"),
        working_directory=workdir,
        user=user,
    )
    with open_store() as store:
        click.echo(store.import_rootfs(source, reference, config).digest)


@image.command("tag")
@click.argument("reference")
@click.argument("name")
def tag(reference: str, name: str) -> None:
    """Give the image REFERENCE another NAME; one that is taken moves to it."""
    with open_store() as store:
        click.echo(store.tag(reference, name).reference)


@image.command("rm")
@click.argument("references", nargs=-1, required=True, metavar="REFERENCE...")
def rm(references: tuple[str, ...]) -> None:
    """Remove images by name, and the layers that no other image and no instance needs."""
    from runtime.containers.kept_containers import kept_images

    with open_store() as store:
        remove_each(references, lambda name: echo_removal(store.remove(name, keep=kept_images)))


def echo_removal(removal: Removal) -> None:
    """Print what went, in docker's words."""
    for name in removal.untagged:
        click.echo(f"Untagged: {name}")
    for digest in removal.deleted:
        click.echo(f"Deleted: {digest}")
    for diff_id in removal.layers:
        click.echo(f"Deleted layer: {diff_id}")
    if removal.freed_bytes:
        click.echo(f"Freed: {size_text(removal.freed_bytes)}")


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
