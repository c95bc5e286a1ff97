"""Gives what is made for a user to that user, where root works on behalf of one.

`./steelyard` goes on as root by sudo(8) where an ordinary user calls it; results, reports and
exported files belong to that user all the same. `STEELYARD_CALLER` names the user: `UID:GID`;
`STEELYARD_CALLER_PATH` holds the user's PATH, as sudo sets root's own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

VARIABLE = "STEELYARD_CALLER"
PATH_VARIABLE = "STEELYARD_CALLER_PATH"
_FORM = re.compile(r"(\d{1,10}):(\d{1,10})")


def caller() -> tuple[int, int] | None:
    """Return the uid and gid of whom root works for; None where nobody is behind it."""
    found = _FORM.fullmatch(os.environ.get(VARIABLE, ""))
    if found is None or os.geteuid() != 0:
        return None
    return int(found[1]), int(found[2])


def give(file: int | str | os.PathLike[str]) -> None:
    """Make the caller the owner of what this process has just made: a descriptor, or a path.

    Raises:
        OSError: It cannot be given.
    """
    if owner := caller():
        if isinstance(file, int):
            os.fchown(file, *owner)
        else:
            os.lchown(file, *owner)


def make_folders(path: Path) -> None:
    """Make a folder with its parents, as `Path.mkdir`, each new one the caller's.

    Raises:
        OSError: It cannot be made, or is no folder.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        give(folder)
