"""Words of a Containerfile: quotes, escapes, and `$variables` ("environment replacement").

The rules are those of BuildKit's shell lexer (moby/buildkit, frontend/dockerfile/shell/lex.go),
which are not quite a shell's: nothing is split after expansion, and inside double quotes the escape
character keeps its place unless it stands before `"`, `$` or itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-]")


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at white space outside quotes; quotes and escapes stay, for `expand` to take away.

    Raises:
        ValueError: A quote is not closed.
    """
    mark = re.escape(escape)
    # A final escape character stands for itself; in single quotes all of them do.
    escaped = rf"{mark}.|{mark}\Z"
    word = rf"""(?:{escaped}|'[^']*'|"(?:{escaped}|[^"{mark}])*"|[^\s'"{mark}])+"""
    pattern = re.compile(word, re.DOTALL)
    if unmatched := pattern.sub("", text).strip():
        raise ValueError(f"a {unmatched[0]} is not closed")
    return pattern.findall(text)


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Replace variables and take quotes and escapes away. An unknown variable is empty.

    `${name:-word}`, `${name:+word}` and `${name:?message}` are known, also without the colon, which
    then asks whether the variable is set rather than whether it is not empty.

    Raises:
        ValueError: A quote or brace is not closed, or the form is not one of these.
    """
    return _Expansion(word, variables, escape).until("")


def expand_document(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Replace variables in a here-document: quotes mean nothing there, as in a shell's.

    Raises:
        ValueError: A brace is not closed, or the form is not known.
    """
    return _Expansion(text, variables, escape).quoted("")


class _Expansion:
    """A place in a word."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._position = 0

    def _next(self) -> str:
        """The character here, passed over; empty at the end."""
        character = self._text[self._position : self._position + 1]
        self._position += len(character)
        return character

    def until(self, stop: str) -> str:
        """The expansion up to the character `stop`, which is passed over; empty: up to the end."""
        out: list[str] = []
        while character := self._next():
            if character == stop:
                return "".join(out)
            if character == "'":
                out.append(self._single_quoted())
            elif character == '"':
                out.append(self.quoted('"'))
            elif character == "$":
                out.append(self._dollar())
            elif character == self._escape:
                out.append(self._next() or character)
            else:
                out.append(character)
        if stop:
            raise ValueError(f"a {stop} is missing")
        return "".join(out)

    def quoted(self, stop: str) -> str:
        """The same where an escape counts only before `$`, itself and `stop`, and quotes do not."""
        out: list[str] = []
        escaped = {stop, "$", self._escape} - {""}
        while character := self._next():
            if character == stop:
                return "".join(out)
            if character == "$":
                out.append(self._dollar())
            elif character == self._escape:
                following = self._next()
                out.append(following if following in escaped else character + following)
            else:
                out.append(character)
        if stop:
            raise ValueError(f"a {stop} is not closed")
        return "".join(out)

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position)
        if end < 0:
            raise ValueError("a ' is not closed")
        text = self._text[self._position : end]
        self._position = end + 1
        return text

    def _dollar(self) -> str:
        if self._text.startswith("{", self._position):
            self._position += 1
            return self._braced()
        match = _NAME.match(self._text, self._position)
        if match is None:
            return "$"
        self._position = match.end()
        return self._variables.get(match[0], "")

    def _braced(self) -> str:
        match = _NAME.match(self._text, self._position)
        if match is None:
            raise ValueError("${ is not followed by a variable's name")
        name = match[0]
        self._position = match.end()
        value = self._variables.get(name)
        form = self._next()
        if form == "}":
            return value or ""
        there = value is not None
        if form == ":":
            there = bool(value)
            form += self._next()
        kind = form[-1:]
        if kind not in ("-", "+", "?"):
            raise ValueError(f"${{{name}{form}…}} is not supported; known are :- :+ :? - + ?")
        word = self.until("}")
        if kind == "+":
            return word if there else ""
        if kind == "?" and not there:
            raise ValueError(f"{name}: {word or 'not set, and it must be'}")
        return (value or "") if there else word
