"""`steelyard doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.experiment.doctor import Examination


@click.command()
@click.option("--clean", is_flag=True, help="Remove what dead runs left behind.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the report.",
)
def doctor(*, clean: bool, format_: str) -> int:
    """Report what works here, exactly why not where it does not, and what was left behind.

    Exit code 0: an arm is usable and nothing is left behind; 1 otherwise.
    """
    from harness.experiment.doctor import examine_host

    is_watched = format_ == "text" and sys.stderr.isatty()

    def progress(what: str) -> None:
        if is_watched:
            click.echo(f"\r\x1b[Klooking at {what}", err=True, nl=False)

    found = examine_host(clean=clean, progress=progress)
    if is_watched:
        click.echo("\r\x1b[K", err=True, nl=False)
    if format_ == "json":
        click.echo(json.dumps({"well": found.is_well, **asdict(found)}, indent=2))
    else:
        click.echo("\n".join(_lines(found, clean=clean)))
    return 0 if found.is_well else 1


def _lines(found: Examination, *, clean: bool) -> list[str]:
    lines = ["Arms"]
    for arm in found.arms:
        is_usable = "usable" if arm.availability.usable else "NOT usable"
        lines.append(f"  {arm.name:<12} {is_usable}: {arm.availability.reason}")
        if arm.availability.remedy:
            lines.append(f"  {'':<12} {arm.availability.remedy}")
    lines += ["", "Built on"]
    lines += [f"  {feature.name:<20} {feature.value}" for feature in found.features]
    lines += ["", "Missing programs"]
    lines += [f"  {need.proof:<20} for {need.purpose}" for need in found.missing]
    lines.append(f"  install them with: {found.install}" if found.missing else "  none")
    lines += ["", "Left behind by dead runs"]
    for leftover in found.leftovers:
        state = "removed: " if leftover.removed else ""
        if leftover.problem is not None:
            state = f"NOT removed, {leftover.problem}: "
        lines.append(f"  {state}{leftover.kind} {leftover.name}")
    if not found.leftovers:
        lines.append("  nothing")
    elif not clean:
        lines.append("  remove them with: steelyard doctor --clean")
    if found.left_alone:
        groups = "control group" if found.left_alone == 1 else "control groups"
        lines.append(
            f"  {found.left_alone} {groups} of another home or namespace left alone, dead or alive"
        )
    return lines
