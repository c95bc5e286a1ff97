"""Containerfile in, frozen instructions out (docker's Dockerfile reference; Containerfile(5)).

Text only: nothing is looked up, no variable is replaced, so every rule can be tested without an
image. Written by hand: the libraries for this skip what they do not understand, know neither
here-documents nor `${name:-word}`, and give no place for an error; this must refuse with the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.build.expand import expand, split_words
from runtime.errors import ImageError

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*?)\s*$")
_DIRECTIVES = ("escape", "syntax", "check")
_KEYWORD = re.compile(r"([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"([0-9]*)<<(-?)([^<]+)")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")

# Which flags each instruction takes; those of docker's that are not here are refused by name.
_FLAGS: dict[str, tuple[str, ...]] = {
    "ADD": ("chown", "chmod"),
    "COPY": ("from", "chown", "chmod"),
    "FROM": ("platform",),
    "RUN": ("network",),
    **dict.fromkeys(
        (
            "ARG",
            "CMD",
            "ENTRYPOINT",
            "ENV",
            "EXPOSE",
            "LABEL",
            "MAINTAINER",
            "SHELL",
            "STOPSIGNAL",
            "USER",
            "VOLUME",
            "WORKDIR",
        ),
        (),
    ),
}
_UNSUPPORTED = {
    "HEALTHCHECK": "nothing here would run the check; leave it out",
    "ONBUILD": "write the instructions into the Containerfiles that would inherit them",
}
_JSON = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
_ONE_WORD = ("STOPSIGNAL", "USER", "WORKDIR")
_HEREDOCS = ("ADD", "COPY", "RUN")


class BuildError(ImageError):
    """A Containerfile cannot be read, or one of its instructions failed.

    Attributes:
        path: The file's name as the user gave it.
        line: Where the instruction begins, from 1; 0 if it is about the whole file.
        keyword: The instruction, in capitals; empty if it is about none.
    """

    def __init__(self, path: str, line: int, keyword: str, problem: str) -> None:
        place = f"{path}:{line}" if line else path
        super().__init__(f"{place}: {keyword}: {problem}" if keyword else f"{place}: {problem}")
        self.path = path
        self.line = line
        self.keyword = keyword
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document.

    Attributes:
        name: The word that ends it.
        content: Its lines; those of `<<-` without their leading tabs.
        expands: Whether variables in it are replaced: its word was not quoted.
    """

    name: str
    content: str
    expands: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, as written.

    Attributes:
        keyword: In capitals.
        line: Where it begins, from 1.
        text: What follows the keyword, continuation lines joined.
        flags: Name and value of each `--name=value`.
        words: The arguments. In shell form RUN, CMD and ENTRYPOINT have one: the whole command.
        pairs: For ENV, LABEL and ARG: names and values; an ARG without one has None.
        is_exec: Whether the arguments were a JSON list.
        heredocs: In order.
    """

    keyword: str
    line: int
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str | None], ...] = ()
    is_exec: bool = False
    heredocs: tuple[Heredoc, ...] = ()

    def flag(self, name: str) -> str:
        """A flag's value; empty if it is not there."""
        return dict(self.flags).get(name, "")

    def __str__(self) -> str:
        return f"{self.keyword} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Stage:
    """What stands between one FROM and the next.

    Attributes:
        index: From 0.
        name: Lower case; empty if it has none.
        base: The FROM: its first word is the image.
        instructions: All after it.
    """

    index: int
    name: str
    base: Instruction
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Containerfile:
    """A whole file.

    Attributes:
        path: Its name, for messages.
        escape: The escape character, backslash or backtick.
        arguments: The ARGs before the first FROM.
        stages: In order; at least one.
    """

    path: str
    escape: str
    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


def parse_containerfile(text: str, path: str = "Containerfile") -> Containerfile:
    """Read a Containerfile.

    Raises:
        BuildError: With line and instruction.
    """
    # Not splitlines: that also parts at form feeds and the like.
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    escape = _escape_character(lines, path)
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    for instruction in _Parser(lines, path, escape).instructions():
        if instruction.keyword == "FROM":
            stages.append(_stage(instruction, stages, path))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.index, last.name, last.base, (*last.instructions, instruction))
        elif instruction.keyword == "ARG":
            arguments.append(instruction)
        else:
            raise BuildError(
                path, instruction.line, instruction.keyword, "only ARG may stand before FROM"
            )
    if not stages:
        raise BuildError(path, 0, "", "has no FROM instruction")
    return Containerfile(path, escape, tuple(arguments), tuple(stages))


def _escape_character(lines: list[str], path: str) -> str:
    """What the parser directives at the top say; they end at the first line that is none."""
    escape = "\\"
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in _DIRECTIVES:
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise BuildError(path, number, "", "the escape character can be \\ or ` only")
            escape = match[2]
    return escape


def _stage(base: Instruction, stages: list[Stage], path: str) -> Stage:
    words = base.words
    if len(words) == 1:
        return Stage(len(stages), "", base, ())
    if len(words) != 3 or words[1].upper() != "AS":
        raise BuildError(path, base.line, "FROM", "write FROM IMAGE or FROM IMAGE AS NAME")
    name = words[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        problem = f"{words[2]!r} is no name for a stage: a letter, then letters, digits, _ . -"
        raise BuildError(path, base.line, "FROM", problem)
    if any(stage.name == name for stage in stages):
        raise BuildError(path, base.line, "FROM", f"there is a stage {name!r} already")
    return Stage(len(stages), name, base, ())


class _Parser:
    """Lines in, instructions out."""

    def __init__(self, lines: list[str], path: str, escape: str) -> None:
        self._lines = lines
        self._path = path
        self._escape = escape
        # A line goes on if it ends in one escape character; two are one that was meant.
        quoted = re.escape(escape)
        self._continues = re.compile(rf"(?:^|[^{quoted}]){quoted}[ \t]*$")
        self._at = 0

    def instructions(self) -> Iterator[Instruction]:
        while self._at < len(self._lines):
            line = self._at + 1
            text = self._logical_line()
            if text:
                yield self._instruction(text, line)

    def _logical_line(self) -> str:
        """One instruction's text; lines that are empty or comments count for nothing in it."""
        pieces: list[str] = []
        while self._at < len(self._lines):
            raw = self._lines[self._at]
            self._at += 1
            stripped = raw.strip()
            if stripped.startswith("#") or not stripped:
                if pieces:
                    continue
                return ""
            piece = raw if pieces else raw.lstrip()
            match = self._continues.search(piece)
            if match is None:
                pieces.append(piece)
                break
            pieces.append(piece[: piece.rindex(self._escape)])
        return "".join(pieces).rstrip()

    def _instruction(self, text: str, line: int) -> Instruction:
        match = _KEYWORD.fullmatch(text)
        keyword = match[1].upper() if match else text.split(maxsplit=1)[0]
        rest = (match[2] or "").strip() if match else ""
        try:
            return self._parse(keyword, rest, line)
        except ValueError as error:
            raise BuildError(self._path, line, keyword, str(error)) from None

    def _parse(self, keyword: str, text: str, line: int) -> Instruction:
        if keyword in _UNSUPPORTED:
            raise ValueError(f"is not supported: {_UNSUPPORTED[keyword]}")
        if keyword not in _FLAGS:
            raise ValueError("there is no such instruction")
        flags, rest = _flags(keyword, text)
        if not rest:
            raise ValueError("an argument is missing")
        listed = _json_list(rest) if keyword in _JSON else None
        if listed is not None:
            _check_count(keyword, listed, is_exec=True)
            return Instruction(keyword, line, text, flags, listed, is_exec=True)
        heredocs = self._heredocs(rest) if keyword in _HEREDOCS else ()
        words, pairs = self._arguments(keyword, rest)
        _check_count(keyword, words, is_exec=False)
        return Instruction(keyword, line, text, flags, words, pairs, heredocs=heredocs)

    def _arguments(
        self, keyword: str, rest: str
    ) -> tuple[tuple[str, ...], tuple[tuple[str, str | None], ...]]:
        if keyword in ("ENV", "LABEL"):
            return (), self._pairs(rest)
        if keyword == "ARG":
            return (), tuple(
                (word.partition("=")[0], word.partition("=")[2] if "=" in word else None)
                for word in split_words(rest, self._escape)
            )
        if keyword in ("RUN", "CMD", "ENTRYPOINT", "MAINTAINER", *_ONE_WORD):
            return (rest,), ()
        if keyword == "SHELL":
            raise ValueError('wants a JSON list, as in SHELL ["/bin/bash", "-c"]')
        # Blanks part them, also within quotes: names with blanks need the JSON form.
        return tuple(rest.split()), ()

    def _pairs(self, rest: str) -> tuple[tuple[str, str | None], ...]:
        words = split_words(rest, self._escape)
        if "=" not in words[0]:
            # The old form: one name, and all that follows is its value.
            name, *value = rest.split(None, 1)
            if not value:
                raise ValueError(f"{name} has no value; write {name}=value")
            return ((name, value[0]),)
        pairs = []
        for word in words:
            name, equals, value_text = word.partition("=")
            if not name or not equals:
                raise ValueError(f"{word!r} is not name=value")
            pairs.append((name, value_text))
        return tuple(pairs)

    def _heredocs(self, rest: str) -> tuple[Heredoc, ...]:
        """Take the lines of the here-documents that an instruction names."""
        try:
            words = split_words(rest, self._escape)
        except ValueError:
            return ()  # a shell may see it otherwise; it is its command
        found = []
        for word in words:
            match = _HEREDOC.fullmatch(word)
            if match is None:
                continue
            name = expand(match[3], {}, self._escape)
            quoted = name != match[3]
            found.append(Heredoc(name, self._heredoc(name, tabs=bool(match[2])), not quoted))
        return tuple(found)

    def _heredoc(self, name: str, *, tabs: bool) -> str:
        content: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if tabs:
                line = line.lstrip("\t")
            if line == name:
                return "".join(text + "\n" for text in content)
            content.append(line)
        raise ValueError(f"the here-document is not ended by a line {name}")


def _flags(keyword: str, text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The flags at the beginning, and what follows them."""
    flags: list[tuple[str, str]] = []
    while match := _FLAG.match(text):
        name, value = match[1], match[2]
        if name not in _FLAGS[keyword]:
            known = ", ".join(f"--{flag}" for flag in _FLAGS[keyword]) or "none"
            raise ValueError(f"--{name} is not supported (known here: {known})")
        if not value:
            raise ValueError(f"--{name} needs a value, as in --{name}=VALUE")
        if name in dict(flags):
            raise ValueError(f"--{name} is given twice")
        flags.append((name, value))
        text = text[match.end() :]
    return tuple(flags), text.strip()


def _json_list(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON list; None if it is none: docker then takes the text as shell form."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return tuple(words)


def _check_count(keyword: str, words: tuple[str, ...], *, is_exec: bool) -> None:
    if keyword in ("ADD", "COPY") and len(words) < 2:
        raise ValueError("wants at least one source and the destination")
    if keyword in ("RUN", "SHELL") and is_exec and not words:
        raise ValueError("the list is empty")
