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

from runtime.linux.caller import PATH_VARIABLE, VARIABLE

MAY = "STEELYARD_MAY_USE_SUDO"
"""Set by the script `./steelyard`: the installed command never becomes root by itself."""

_NEED_ROOT = frozenset({"run", "compare", "container", "image", "doctor"})
_SHOWN = re.compile(
    r"STEELYARD_(HOME|CACHE|COMMAND|MAY_USE_SUDO|DEBUG|PYTHON|LAUNCHER|REGISTRY)|CI|"
    r"GITHUB_(ACTIONS|WORKSPACE|STEP_SUMMARY)|TERM|COLORTERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|"
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|SOURCE_DATE_EPOCH|PYTHONUTF8|DOCKER_CONFIG|"
    r"REGISTRY_AUTH_FILE|SSL_CERT_(FILE|DIR)"
)
"""Variables that go along on the command line, for all users of the host and sudo's log to see. So
it has those that are of use here, by name, and no secrets. Root's own home is the one that its
images lie in."""
_HIDDEN = re.compile(r"https?_proxy|all_proxy|no_proxy", re.IGNORECASE)
"""Those that may hold a password: sudo preserves them by name, where its policy allows that."""


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
    if not _allows():
        return
    click.echo(f"steelyard: {arguments[0]} needs root: going on by sudo", err=True)
    hidden = sorted(name for name in os.environ if _HIDDEN.fullmatch(name))
    preserve = [f"--preserve-env={','.join(hidden)}"] if hidden else []
    if preserve and not _allows(*preserve):
        click.echo(
            f"steelyard: sudo does not pass on {', '.join(hidden)}: to download through a proxy, "
            "call it as root, or add them to env_keep in sudoers(5)",
            err=True,
        )
        preserve = []
    assignments = [f"{name}={value}" for name, value in _environment()]
    # -H: root's home, or what root makes would lie in the caller's.
    os.execvp(  # noqa: S606 - in the place of this process, as a shell's exec
        "sudo",
        [
            *("sudo", "-n", "-H", *preserve, "--", "env", *assignments),
            *(sys.executable, sys.argv[0], *arguments),
        ],
    )


def _allows(*options: str) -> bool:
    """Whether sudo works here, with such options, without a password."""
    try:
        subprocess.run(["sudo", "-n", *options, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _environment() -> Iterator[tuple[str, str]]:
    kept = {name: value for name, value in os.environ.items() if _SHOWN.fullmatch(name)}
    login = os.path.expanduser("~/.docker")  # credentials for registries
    if os.path.isfile(os.path.join(login, "config.json")):
        kept.setdefault("DOCKER_CONFIG", login)
    kept[VARIABLE] = f"{os.getuid()}:{os.getgid()}"
    kept[PATH_VARIABLE] = os.environ.get("PATH", os.defpath)
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # no files of root's beside the sources
    yield from kept.items()
