"""What the commands share: groups that load late, values of options, tables and sizes.

Imports nothing but click at the top: this is on the launch path.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datetime import datetime

    from runtime.images import ImageStore

format_option = click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)


class LazyGroup(click.Group):
    """A group that loads some of its commands when they are asked for.

    Args:
        *arguments: As for `click.Group`.
        elsewhere: Name of a command -> the module that has it, under that name.
        **settings: As for `click.Group`.
    """

    def __init__(self, *arguments: Any, elsewhere: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command, and load its module if need be."""
        if module := self._elsewhere.get(cmd_name):
            command = getattr(importlib.import_module(module), cmd_name)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several, in the order in which `--help` shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def assignments(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Read `NAME=value` as given, and `NAME` as the caller's own variable, if it has one.

    Raises:
        click.BadParameter: One of the option's values has no name.
    """
    result: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name:
            raise click.BadParameter(f"{value!r} has no name before the '='", param_hint=option)
        if equals:
            result[name] = text
        elif name in os.environ:
            result[name] = os.environ[name]
    return result


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Read `NAME=VALUE`.

    Raises:
        click.BadParameter: One of the option's values is not of that form.
    """
    for value in values:
        if not value.partition("=")[0] or "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param_hint=option)
    return assignments(values, option)


@contextlib.contextmanager
def open_store() -> Iterator[ImageStore]:
    """Give the default store; what goes wrong is one sentence on stderr and exit code 1."""
    from runtime.errors import ContainerError
    from runtime.images import ImageStore

    try:
        yield ImageStore.default()
    except ContainerError as error:
        click.echo(f"steelyard: {error}", err=True)
        raise SystemExit(1) from None


def remove_each(names: Iterable[str], remove: Callable[[str], None]) -> None:
    """Remove all that can be; what cannot is said on stderr, and then the exit code is 1."""
    from runtime.errors import ContainerError

    failed = False
    for name in names:
        try:
            remove(name)
        except ContainerError as error:
            click.echo(f"steelyard: {error}", err=True)
            failed = True
    if failed:
        raise SystemExit(1)


def echo_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their longest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        click.echo("   ".join(texts).rstrip())


def short_digest(digest: str) -> str:
    """Shorten a digest to docker's twelve digits."""
    return digest.removeprefix("sha256:")[:12]


def size_text(size_bytes: int) -> str:
    """Spell a size as docker does: powers of 1000, three digits."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}TB"


_UNITS_S = {"years": 31536000, "months": 2592000, "weeks": 604800, "days": 86400, "hours": 3600,
            "minutes": 60}  # fmt: skip


def age_text(moment: datetime | None, now: datetime) -> str:
    """Say how long ago, in the largest unit of which there are at least two."""
    if moment is None:
        return "unknown"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in _UNITS_S.items():
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} seconds ago"
