"""`NAME[=VALUE]` as docker's options take it."""

from __future__ import annotations

import os

import click


def assignments(values: tuple[str, ...], option: str) -> dict[str, str]:
    """The values by name: of `NAME=value` the one given, of `NAME` the caller's own, if it has one.

    Args:
        values: As the user gave them.
        option: Which option they were given to, for the error.

    Raises:
        click.BadParameter: One has no name.
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
