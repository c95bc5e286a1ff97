"""`steelyard container ls|diff|commit|rm`: containers that `container run --keep` has kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from runtime.cli.common import age_text, echo_table, format_option, open_store, remove_each
from runtime.containers.kept_containers import kept_containers, remove_container
from runtime.images.formats.config import parse_time
from runtime.library.kept import commit_container, kept_changes


@click.command()
@format_option
def ls(style: str) -> None:
    """List containers that are kept."""
    found = kept_containers()
    if style == "json":
        names = ["name", "image", "image_digest", "command", "created", "status", "exit_code"]
        facts = [{name: getattr(kept, name) for name in names} for kept in found]
        click.echo(json.dumps(facts, indent=2))
        return
    rows = [("NAME", "IMAGE", "COMMAND", "CREATED", "STATUS")]
    now = datetime.now(UTC)
    for kept in found:
        command = " ".join(kept.command)
        shown = command if len(command) <= 30 else command[:29] + "…"
        created = age_text(parse_time(kept.created), now)
        rows.append((kept.name, kept.image, shown, created, kept.status))
    echo_table(rows)


@click.command()
@click.argument("name")
def diff(name: str) -> None:
    """Show what the container NAME changed: A added, C changed, D deleted."""
    with open_store() as store:
        changes = kept_changes(name, store=store)
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
    with open_store() as store:
        image = commit_container(
            name, reference, store=store, message=message, author=author, changes=changes
        )
    click.echo(image.digest)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove containers that are kept."""

    def remove(name: str) -> None:
        remove_container(name)
        click.echo(name)

    remove_each(names, remove)
