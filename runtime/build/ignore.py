"""`.containerignore` and `.dockerignore`: what of a build context does not exist for COPY and ADD.

The patterns are those of moby's patternmatcher: Go's filepath.Match, a `**` for any number of
folders, a `!` in front for an exception. The last line that matches decides, and a pattern that
matches a folder matches all that is in it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from runtime.errors import ImageError

IGNORE_FILES = (".containerignore", ".dockerignore")


class Ignore:
    """The patterns of an ignore file; `name` is for messages.

    Raises:
        ImageError: A pattern is malformed.
    """

    def __init__(self, text: str = "", name: str = ".containerignore") -> None:
        self.name = name
        self._patterns: list[tuple[re.Pattern[str], bool]] = []  # whether it is an exception
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            pattern = line.strip()
            exception = pattern.startswith("!")
            pattern = pattern.removeprefix("!").strip()
            if not pattern:
                raise ImageError(f"{name}:{number}: '!' without a pattern")
            pattern = posixpath.normpath(pattern).lstrip("/")
            if pattern in ("", "."):
                continue
            try:
                expression = re.compile(translate(pattern), re.DOTALL)
            except (ValueError, re.error):
                raise ImageError(f"{name}:{number}: {line.strip()!r} is no pattern") from None
            self._patterns.append((expression, exception))

    @property
    def has_exceptions(self) -> bool:
        """Whether something in an ignored folder may not be ignored."""
        return any(exception for _, exception in self._patterns)

    def ignores(self, path: str) -> bool:
        """Whether a path, relative to the context, does not exist for the build."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        ignored = False
        for expression, exception in self._patterns:
            # Only a line that would change the answer needs to be tried.
            if exception is ignored and any(map(expression.match, prefixes)):
                ignored = not exception
        return ignored


def find_ignore(context: Path, containerfile: Path) -> Ignore:
    """The ignore file of a build: `<Containerfile>.<name>` goes before one in the context.

    Raises:
        ImageError: It cannot be read, or a pattern in it is malformed.
    """
    beside = [Path(f"{containerfile}{name}") for name in IGNORE_FILES]
    for path in (*beside, *(context / name for name in IGNORE_FILES)):
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        return Ignore(text, path.name)
    return Ignore()


def translate(pattern: str) -> str:
    """A pattern as a regular expression for a whole path.

    Raises:
        ValueError: A `[` is not closed, or it ends in a backslash.
    """
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if pattern.startswith("*", position):
                position += 1
                if pattern.startswith("/", position):
                    position += 1
                    out.append("(?:.*/)?")
                else:
                    out.append(".*")
            else:
                out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            end = _class_end(pattern, position)
            out.append(_class(pattern[position:end]))
            position = end + 1
        elif character == "\\":
            if position == len(pattern):
                raise ValueError(pattern)
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(character))
    return "".join(out) + r"\Z"


def _class_end(pattern: str, start: int) -> int:
    """Where the `]` is that closes a class; a backslash keeps the next character in it."""
    position = start
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] == "]" and position > start:
            return position
        position += 1
    raise ValueError(pattern)


def _class(text: str) -> str:
    """The inside of a `[…]`, with Go's `^` for "not" and nothing else special to Python."""
    negated = text.startswith("^")
    body = text.removeprefix("^").replace("[", r"\[").replace("&&", r"&\&").replace("||", r"|\|")
    # A class never matches the slash, as in filepath.Match.
    return f"(?!/)[{'^' if negated else ''}{body}]"
