"""The `steelyard image` commands that look: list, tree, history, inspect, verify; and gc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.common import (
    age_text,
    echo_table,
    format_option,
    open_store,
    short_digest,
    size_text,
)
from runtime.cli.image import echo_removal

if TYPE_CHECKING:
    from runtime.images.formats.image import Image
    from runtime.images.store.sharing import ImageUsage, LayerNode


@click.command()
@format_option
def ls(style: str) -> None:
    """List images, and what each takes on disk.

    SIZE is SHARED, which other images stand on too, and EXCLUSIVE, which removing the image frees.
    Counted are unpacked layers, the blobs that they came from, and kept copies, as du counts.
    """
    with open_store() as store:
        usage = store.usage()
    if style == "json":
        documents = [_identity(each.image) | _sizes(each) for each in usage.images]
        click.echo(json.dumps(documents, indent=2))
        return
    now = datetime.now(UTC)
    rows = [("REFERENCE", "DIGEST", "LAYERS", "SIZE", "SHARED", "EXCLUSIVE", "CREATED")]
    rows += [
        (
            each.image.reference,
            short_digest(each.image.digest),
            str(len(each.image.layers)),
            size_text(each.size_bytes),
            size_text(each.shared_bytes),
            size_text(each.exclusive_bytes),
            age_text(each.image.created, now),
        )
        for each in usage.images
    ]
    echo_table(rows)
    count = len({each.image.digest for each in usage.images})
    text = f"{count} {'image' if count == 1 else 'images'}, {size_text(usage.total_bytes)} on disk"
    if usage.unneeded_bytes:
        text += f"; `steelyard image gc` can free {size_text(usage.unneeded_bytes)} more"
    click.echo(text, err=True)


@click.command()
def tree() -> None:
    """Draw which images share which layers.

    Below each layer come those that were built on it. A layer marked * is on other branches too:
    it is there once on disk all the same.
    """
    from runtime.images.store.sharing import layer_tree

    with open_store() as store:
        root = layer_tree(store.images())
    for line in draw_tree(root):
        click.echo(line)


def draw_tree(root: LayerNode) -> Iterator[str]:
    """The lines of the drawing; a branch is indented, a run of layers without one is not."""
    places: dict[str, int] = {}
    pending = list(root.above)
    while pending:
        node = pending.pop()
        assert node.layer is not None
        places[node.layer.diff_id] = places.get(node.layer.diff_id, 0) + 1
        pending += node.above
    # What is still to be drawn: a node, what leads its line, and what leads the lines above it.
    lines: list[tuple[LayerNode, str, str]] = [(n, "", "") for n in reversed(root.above)]
    while lines:
        node, lead, below = lines.pop()
        assert node.layer is not None
        mark = "*" if places[node.layer.diff_id] > 1 else ""
        names = f"  {', '.join(node.names)}" if node.names else ""
        size = size_text(node.layer.allocated_bytes)
        yield f"{lead}{short_digest(node.layer.diff_id)}{mark}  {size}{names}"
        if len(node.above) == 1:
            lines.append((node.above[0], below, below))
            continue
        for number, above in enumerate(reversed(node.above)):
            corner, line = ("└─ ", "   ") if number == 0 else ("├─ ", "│  ")
            lines.append((above, below + corner, below + line))


@click.command()
@click.argument("reference")
@format_option
def history(reference: str, style: str) -> None:
    """Show the steps that an image was made by, the last first."""
    from runtime.images.formats.config import format_time

    with open_store() as store:
        steps = store.history(store.get(reference))[::-1]
    if style == "json":
        documents = [
            {
                "created": format_time(step.created) if step.created else None,
                "created_by": step.created_by,
                "comment": step.comment,
                "diff_id": step.layer.diff_id if step.layer else None,
                "allocated_bytes": step.layer.allocated_bytes if step.layer else 0,
            }
            for step in steps
        ]
        click.echo(json.dumps(documents, indent=2))
        return
    now = datetime.now(UTC)
    rows = [("LAYER", "CREATED", "SIZE", "CREATED BY")]
    rows += [
        (
            short_digest(step.layer.diff_id) if step.layer else "-",
            age_text(step.created, now),
            size_text(step.layer.allocated_bytes if step.layer else 0),
            _one_line(step.created_by or step.comment),
        )
        for step in steps
    ]
    echo_table(rows)


@click.command()
@click.argument("reference")
def inspect(reference: str) -> None:
    """Print all that is known of an image, as JSON."""
    with open_store() as store:
        found = store.get(reference)
        usage = store.usage()
    same = [each for each in usage.images if each.image.digest == found.digest]
    details = _identity(found) | {
        "config_digest": found.config_digest,
        "media_type": found.media_type,
        "references": [each.image.reference for each in same],
        **(_sizes(same[0]) if same else {}),
        "config": found.config.to_oci(),
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "size_bytes": layer.size_bytes,
                "allocated_bytes": layer.allocated_bytes,
                "shared_with": sorted(
                    each.image.reference
                    for each in usage.images
                    if each.image.digest != found.digest
                    and layer.diff_id in {other.diff_id for other in each.image.layers}
                ),
                "path": str(layer.path),
            }
            for layer in found.layers
        ],
    }
    click.echo(json.dumps(details, indent=2))


@click.command()
def gc() -> None:
    """Remove everything that no image, running instance or kept container needs."""
    from runtime.containers.kept_containers import kept_images

    with open_store() as store:
        removal = store.collect(keep=kept_images)
    echo_removal(removal)
    if not removal.freed_bytes:
        click.echo("Nothing to free: images need all that is there.")


@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Only say what is wrong.")
def verify(quiet: bool) -> None:
    """Check the whole store: hash every blob, compare every layer with what its blob holds.

    Exit code 1 if anything is wrong. Needs room for the largest layer.
    """

    def progress(what: str) -> None:
        if not quiet:
            click.echo(f"checking {what}", err=True)

    with open_store() as store:
        problems = store.verify(progress)
    for problem in problems:
        click.echo(f"{problem}")
    if problems:
        click.echo(
            "Remove the damaged images and pull, load or import them again; "
            "`steelyard image gc` takes away what is left.",
            err=True,
        )
        raise SystemExit(1)
    if not quiet:
        click.echo("The store is whole.")


def _identity(each: Image) -> dict[str, Any]:
    from runtime.images.formats.config import format_time

    return {
        "reference": each.reference,
        "digest": each.digest,
        "architecture": each.architecture,
        "created": format_time(each.created) if each.created else None,
        "layer_count": len(each.layers),
        "size_bytes": sum(layer.size_bytes for layer in each.layers),
        "allocated_bytes": each.allocated_bytes,
    }


def _sizes(usage: ImageUsage) -> dict[str, int]:
    return {
        "disk_bytes": usage.size_bytes,
        "shared_bytes": usage.shared_bytes,
        "exclusive_bytes": usage.exclusive_bytes,
    }


def _one_line(text: str) -> str:
    """Text from an image, on one line, without what a terminal would obey."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(plain.split()) or "-"
