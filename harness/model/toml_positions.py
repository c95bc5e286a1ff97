"""On which line of a TOML file a key stands: tomllib does not say.

A scanner, not a parser: it runs only over text that tomllib has accepted, so it need not check
anything, only skip values correctly (strings of all four kinds, brackets, comments).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

# Up to two quotes before the closing three belong to the content of a multi-line string.
_STRING = r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'"""
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(rf"[ \t]*({_STRING}|[A-Za-z0-9_-]+|[.=\]])", re.DOTALL)
_IN_VALUE = re.compile(rf"{_STRING}|#[^\n]*|[\[\]{{}}\n]", re.DOTALL)
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
        while self._take(_BLANK).end() < len(self._text):
            line = self._text.count("\n", 0, self._at) + 1
            if self._text[self._at] == "[":
                table = self._take_header(line)
                continue
            path = table
            for part in self._take_key("="):
                path = (*path, part)
                self._lines.setdefault(path, line)
            self._skip_value()

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return match

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
        while (part := self._take(_KEY_PART)[1]) != end:
            if part[0] in "\"'":
                parts.append(tomllib.loads(f"key = {part}")["key"])
            elif part != ".":
                parts.append(part)
        return parts

    def _skip_value(self) -> None:
        depth = 0
        for match in _IN_VALUE.finditer(self._text, self._at):
            if match[0] == "\n" and depth == 0:
                self._at = match.start()
                return
            depth += (match[0] in "[{") - (match[0] in "]}")
        self._at = len(self._text)
