"""`steelyard image build` and `image bootstrap`: images made here rather than fetched."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from runtime.build.bootstrap import VARIANTS, bootstrap_image
from runtime.build.plan import BuildRequest
from runtime.cli.common import assignments, open_store, pairs
from runtime.containers.signals import signal_handler
from runtime.library.images import build_image


class _InterruptedError(KeyboardInterrupt):
    """A signal asked us to end; `signal_number` says which."""

    signal_number: int = signal.SIGTERM


@click.command("build")
@click.argument("context", type=click.Path(path_type=Path), default=".")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="Name of the image.")
@click.option(
    "-f", "--file", "containerfile", type=click.Path(path_type=Path), metavar="FILE",
    help="Default: CONTEXT/Containerfile, else CONTEXT/Dockerfile.",
)  # fmt: skip
@click.option(
    "--build-arg", "arguments", multiple=True, metavar="NAME[=VALUE]",
    help="Value of an ARG; without a value, the caller's variable.",
)  # fmt: skip
@click.option("--target", default="", metavar="STAGE", help="Stage to build; default: the last.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Set a label.")
@click.option(
    "--build-context", "contexts", multiple=True, metavar="NAME=FOLDER",
    help="A further folder that COPY --from=NAME takes files from.",
)  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Do every step anew.")
@click.option(
    "--network", type=click.Choice(["none", "host"]), default="none", show_default=True,
    help="The network that RUN has.",
)  # fmt: skip
@click.option(
    "--source-date-epoch", "epoch_s", type=click.IntRange(min=0), envvar="SOURCE_DATE_EPOCH",
    metavar="SECONDS", help="No time in the image is later; equal input then gives equal digests.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the digest.")
def build(
    arguments: tuple[str, ...],
    labels: tuple[str, ...],
    contexts: tuple[str, ...],
    no_cache: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Build an image from a Containerfile and the files in the folder CONTEXT.

    Each RUN is a container of Steelyard's own; what it leaves becomes a layer. Prints the digest.
    """
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if quiet else -1
    request = BuildRequest(
        arguments=assignments(arguments, "--build-arg"),
        labels=pairs(labels, "--label"),
        contexts={name: Path(each) for name, each in pairs(contexts, "--build-context").items()},
        use_cache=not no_cache,
        output=(null, 2) if quiet else (1, 2),
        **fields,
    )
    with open_store() as store, _ended_by_signals():
        image = build_image(request, store=store, progress=None if quiet else click.echo)
    click.echo(image.digest)


@click.command("bootstrap")
@click.argument("base", metavar="debian:SUITE")
@click.option("-t", "--tag", "reference", default="", metavar="NAME", help="Default: as given.")
@click.option(
    "--variant", type=click.Choice(VARIANTS), default="minbase", show_default=True,
    help="Which packages, as mmdebstrap(1) says; extract runs no scripts and needs no root.",
)  # fmt: skip
@click.option("--include", "packages", multiple=True, metavar="PACKAGE,…", help="Further packages.")
@click.option("--mirror", default="", metavar="URL", help="Default: mmdebstrap's own choice.")
def bootstrap(base: str, packages: tuple[str, ...], **options: Any) -> None:
    """Make an image of Debian from its packages: something to start FROM without a registry.

    Prints the digest, which is the same every time until Debian publishes newer packages.
    """

    def progress(message: str) -> None:
        click.echo(message, err=True)

    names = [name for item in packages for name in item.replace(",", " ").split()]
    with open_store() as store, _ended_by_signals():
        image = bootstrap_image(store, base, progress, include=tuple(names), **options)
    click.echo(image.digest)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is under way as Ctrl-C does, so that it is tidied up."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        error = _InterruptedError()
        error.signal_number = number
        raise error

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # not the main thread: its owner sees to signals
            numbers = (signal.SIGTERM, signal.SIGHUP)
            stack.enter_context(signal_handler(numbers, interrupt))
        yield
