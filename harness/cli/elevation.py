"""Goes on as root by sudo(8), where the script `./steelyard` is called by an ordinary user.

Containers, the private network and the meters of a run need root; hosted CI runners give an
ordinary user and sudo without a password. What reads records alone stays the user's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

import click

from runtime.linux.caller import VARIABLE

MAY = "STEELYARD_MAY_USE_SUDO"
"""Set by the script `./steelyard`: the installed command never becomes root by itself."""

_NEED_ROOT = frozenset({"run", "compare", "container", "image", "doctor"})
_KEPT = re.compile(
    r"STEELYARD_.*|CI|GITHUB_(?!TOKEN).*|GITLAB_CI|CI_.*(?<!TOKEN)(?<!PASSWORD)|TERM|COLORTERM|"
    r"COLUMNS|LINES|NO_COLOR|FORCE_COLOR|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|SOURCE_DATE_EPOCH|"
    r"(?i:https?_proxy|no_proxy|all_proxy)|SSL_CERT_(FILE|DIR)|PYTHONUTF8|DOCKER_CONFIG"
)
"""Variables that go along. No others: the command line that carries them is no place for secrets,
and root's own home is the one that its images lie in."""


def needs_root(arguments: Sequence[str]) -> bool:
    """Whether a command line measures, or works on images and containers."""
    command, rest = arguments[:1], arguments[1:]
    if not command or rest[:1] in (["--help"], ["-h"]):
        return False
    if command[0] == "check":
        return any(word == "--run" or word.startswith("--run=") for word in rest)
    return command[0] in _NEED_ROOT


def go_on_as_root(arguments: Sequence[str]) -> None:
    """Replace this process by root's, if the command needs root, and root is to be had for free.

    Where it is not, the command goes on as it is and says itself what it cannot do.
    """
    if not os.environ.get(MAY) or os.geteuid() == 0 or not needs_root(arguments):
        return
    try:
        subprocess.run(["sudo", "-n", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return
    click.echo(f"steelyard: {arguments[0]} needs root: going on by sudo", err=True)
    assignments = [f"{name}={value}" for name, value in _environment()]
    # -H: root's home, or what root makes would lie in the caller's.
    os.execvp(  # noqa: S606 - in the place of this process, as a shell's exec
        "sudo",
        ["sudo", "-n", "-H", "--", "env", *assignments, sys.executable, sys.argv[0], *arguments],
    )


def _environment() -> Iterator[tuple[str, str]]:
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    login = os.path.expanduser("~/.docker")  # credentials for registries
    if os.path.isfile(os.path.join(login, "config.json")):
        kept.setdefault("DOCKER_CONFIG", login)
    kept[VARIABLE] = f"{os.getuid()}:{os.getgid()}"
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # no files of root's beside the sources
    yield from kept.items()
