"""Recognises what git leaves in the place of a file: a pointer of Git LFS, an unresolved merge.

Readers ask once they know that a file is not what it should be, so that the message names the cause
and not its first symptom. Pure.
"""

from __future__ import annotations

import re

LFS_POINTER = "version https://git-lfs.github.com/spec/v1"
"""How a pointer begins: git-lfs's specification, docs/spec.md."""
_CONFLICT = re.compile(r"^<{7} ", re.MULTILINE)


def damage_by_git(text: str) -> tuple[int, str] | None:
    """Say what git left of a file.

    Returns:
        The line, from 1, and a sentence that says what to do; None if git is not to blame.
    """
    if text.startswith(LFS_POINTER):
        return 1, "is a pointer of Git LFS and not the file itself; fetch it by: git lfs pull"
    if found := _CONFLICT.search(text):
        line = text.count("\n", 0, found.start()) + 1
        return line, "holds an unresolved merge conflict; edit it, then: git add"
    return None
