"""On which line of a TOML file a key stands: tomllib does not say.

A scanner, not a parser: it runs only over text that tomllib has accepted, so it need not check
anything, only skip values correctly (strings of all four kinds, brackets, comments).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"""': True, '"': True, "'''": False, "'": False}
Path = tuple[str | int, ...]


class KeyLines:
    """Line numbers, from 1, of the keys and tables of a TOML text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {(): 1}
        self._array_lengths: dict[Path, int] = {}
        self._scan()

    def find(self, path: Sequence[str | int]) -> int:
        """Line of the key, or of the innermost table around it that has a line of its own."""
        path = tuple(path)
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _scan(self) -> None:
        table: Path = ()
        while self._skip_blank():
            line = self._text.count("\n", 0, self._at) + 1
            if self._text[self._at] == "[":
                table = self._take_header(line)
                continue
            path = table
            for part in self._take_key("="):
                path = (*path, part)
                self._lines.setdefault(path, line)
            self._skip_value()

    def _take_header(self, line: int) -> Path:
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        path: Path = ()
        for part in self._take_key("]"):
            path = (*path, part)
            if path in self._array_lengths:
                # A table below an array of tables belongs to the array's last element.
                path = (*path, self._array_lengths[path] - 1)
        self._at += 1 if is_array else 0
        if is_array:
            array = path[:-1] if path and isinstance(path[-1], int) else path
            count = self._array_lengths.get(array, 0)
            self._array_lengths[array] = count + 1
            self._lines.setdefault(array, line)
            path = (*array, count)
        self._lines[path] = line
        return path

    def _take_key(self, end: str) -> list[str]:
        """The parts of a dotted key; leaves the position after `end`."""
        parts: list[str] = []
        while True:
            self._skip_spaces()
            character = self._text[self._at]
            if character == end:
                self._at += 1
                return parts
            if character == ".":
                self._at += 1
            elif character in "\"'":
                start = self._at
                self._skip_string()
                parts.append(_unquoted(self._text[start : self._at]))
            else:
                match = _BARE_KEY.match(self._text, self._at)
                assert match is not None
                parts.append(match.group())
                self._at = match.end()

    def _skip_value(self) -> None:
        """Past the value and its line's end."""
        depth = 0
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "\"'":
                self._skip_string()
                continue
            if character == "#":
                self._skip_comment()
                continue
            if character == "\n" and depth == 0:
                return
            depth += (character in "[{") - (character in "]}")
            self._at += 1

    def _skip_string(self) -> None:
        quote = next(q for q in _ESCAPES if self._text.startswith(q, self._at))
        escapes = _ESCAPES[quote]
        self._at += len(quote)
        while not self._text.startswith(quote, self._at):
            self._at += 2 if escapes and self._text[self._at] == "\\" else 1
        self._at += len(quote)
        # Up to two more quotes may belong to the content of a multi-line string.
        while len(quote) == 3 and self._text.startswith(quote[0], self._at):
            self._at += 1

    def _skip_comment(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end

    def _skip_spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> bool:
        """To the next statement; False at the end of the text."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._skip_comment()
            elif self._text[self._at] in " \t\r\n":
                self._at += 1
            else:
                return True
        return False


def _unquoted(key: str) -> str:
    import tomllib

    value = tomllib.loads(f"key = {key}")["key"]
    assert isinstance(value, str)
    return value
