"""`steelyard image …`: look after the image store.

The group and the commands that every store needs. Others live in modules of their own, which are
imported when one of their commands is named: `steelyard --help` loads none of them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from runtime.images import ImageStore, Removal

_ELSEWHERE = {
    "bootstrap": "runtime.cli.image_build",
    "build": "runtime.cli.image_build",
    "gc": "runtime.cli.image_views",
    "history": "runtime.cli.image_views",
    "inspect": "runtime.cli.image_views",
    "load": "runtime.cli.image_transfer",
    "ls": "runtime.cli.image_views",
    "pull": "runtime.cli.image_transfer",
    "push": "runtime.cli.image_transfer",
    "save": "runtime.cli.image_transfer",
    "tree": "runtime.cli.image_views",
    "verify": "runtime.cli.image_views",
}
"""Which module has which command, as an attribute of the command's name."""


class _Commands(click.Group):
    """A group most of whose commands are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if module := _ELSEWHERE.get(cmd_name):
            command = getattr(importlib.import_module(module), cmd_name)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands)
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
        environment=_variables(environment),
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
    from runtime.errors import ContainerError

    failed = False
    with open_store() as store:
        for reference in references:
            try:
                echo_removal(store.remove(reference, keep=kept_images))
            except ContainerError as error:
                click.echo(f"steelyard: {error}", err=True)
                failed = True
    if failed:
        raise SystemExit(1)


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
def open_store() -> Iterator[ImageStore]:
    """The default store; what goes wrong is one sentence on stderr and exit code 1."""
    from runtime.errors import ContainerError
    from runtime.images import ImageStore

    try:
        yield ImageStore.default()
    except ContainerError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"steelyard: {message}", err=True)
    raise SystemExit(1)


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
