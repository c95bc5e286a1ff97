from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import click
import pytest

from runtime.cli.common import age_text, size_text
from runtime.cli.image import image


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (2_131_968, "2.13MB"),
        (67_117_056, "67.1MB"),
        (999_600, "1MB"),
        (4_500_000_000, "4.5GB"),
        (3 * 10**12, "3TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds ago"),
        (119, "119 seconds ago"),
        (120, "2 minutes ago"),
        (3 * 3600, "3 hours ago"),
        (3 * 86400, "3 days ago"),
        (20 * 86400, "2 weeks ago"),
        (70 * 86400, "2 months ago"),
        (800 * 86400, "2 years ago"),
        (-5, "0 seconds ago"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age_text(now - timedelta(seconds=seconds), now) == text
    assert age_text(None, now) == "unknown"


def test_looking_an_image_up_loads_no_more_than_it_needs() -> None:
    code = (
        "import sys, runtime.cli.image\n"
        "assert not [m for m in sys.modules if m.startswith('runtime.images')]\n"
        "from runtime.images import ImageStore\n"
        "heavy = {'numpy', 'pandas', 'rich', 'pydantic', 'tarfile',\n"
        "         'runtime.images.layer.unpack', 'runtime.images.formats.tar_reader',\n"
        "         'runtime.build.shipped'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_every_command_is_where_the_group_says() -> None:
    context = click.Context(image)
    names = image.list_commands(context)
    assert {"import", "ls", "pull", "build", "tree", "gc", "verify", "tag", "rm"} <= set(names)
    for name in names:
        command = image.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(), name
    assert image.get_command(context, "nothing") is None


@pytest.mark.parametrize("name", ["pull", "push"])
def test_certificates_are_verified_unless_asked_otherwise(name: str) -> None:
    from runtime.cli import image_transfer

    command = getattr(image_transfer, name)
    assert command.make_context(name, ["a.example/b:1"]).params["verify"] is True
    assert command.make_context(name, ["--insecure", "a.example/b:1"]).params["verify"] is False
