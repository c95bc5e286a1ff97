"""`API.md`: the library's names with their signatures and docstrings, as Markdown."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):")
_ENTRY = re.compile(r"((?:\*\*)?\w[\w, ]*): (.*)")


def render(packages: Mapping[str, ModuleType]) -> str:
    """The whole page.

    Args:
        packages: Title -> package with `__all__`.
    """
    parts = [
        "# The library",
        "",
        "Generated from the docstrings; `import steelyard` offers all of these names. Times are",
        "integers in nanoseconds, sizes integers in bytes, and their names say so.",
        "",
    ]
    for title, package in packages.items():
        names = [name for name in package.__all__ if not name.startswith("_")]
        parts += [f"## {title}", "", _first_paragraph(package), ""]
        for name in names:
            parts += _entry(name, getattr(package, name))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _first_paragraph(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0]


def _entry(name: str, thing: object) -> Iterator[str]:
    yield f"### `{name}`"
    yield ""
    if inspect.isclass(thing):
        yield from _class(name, thing)
    elif callable(thing):
        yield from ("```python", f"{name}{_signature(thing)}", "```", "", *_docstring(thing))
    elif isinstance(thing, Mapping):
        yield from (f"- `{key}`: {_in_short(value)}" for key, value in thing.items())
        yield ""
    else:
        yield f"`{thing!r}`"
        yield ""


def _in_short(value: object) -> object:
    for attribute in ("title", "summary"):
        if hasattr(value, attribute):
            return getattr(value, attribute)
    return value


def _class(name: str, thing: type) -> Iterator[str]:
    if issubclass(thing, enum.Enum):
        yield from _docstring(thing)
        yield ", ".join(f"`{member.name}`" for member in thing)
        yield ""
        return
    if dataclasses.is_dataclass(thing):
        yield from ("```python", f"{name}{_signature(thing)}", "```", "")
    yield from _docstring(thing)
    for attribute, value in vars(thing).items():
        if attribute.startswith("_") or not inspect.getdoc(value):
            continue
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(function):
            line = _first_paragraph(function).replace("\n", " ")
            yield f"- `{attribute}{_signature(function)}`: {line}"
        elif isinstance(value, property):
            yield f"- `{attribute}`: {_first_paragraph(value)}".replace("\n", " ")
    yield ""


def _signature(thing: Any) -> str:
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing)))
    # A default that is a whole object says no more than that there is one.
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)
    text = re.sub(r"<function \S*<lambda> at 0x[0-9a-f]+>", "…", text)
    text = re.sub(
        r"<factory>|<(\w+)\.(\w+): [^>]*>", lambda m: f"{m[1]}.{m[2]}" if m[1] else "…", text
    )
    # The order of a set differs from run to run.
    text = re.sub(r"frozenset\(\{[^}]*\}\)", "…", text)
    if len(text) <= 88:
        return text
    inside, _, result = text.rpartition(")")
    parts = re.split(r", (?![^\[(]*[\])])", inside.removeprefix("("))
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _docstring(thing: object) -> Iterator[str]:
    """Google's sections as lists; everything else as it is."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    place = 0
    while place < len(lines):
        match = _SECTION.fullmatch(lines[place])
        if match is None:
            yield lines[place]
            place += 1
            continue
        end = place + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
            end += 1
        body = textwrap.dedent("\n".join(lines[place + 1 : end])).splitlines()
        yield f"**{match[1]}**"
        yield ""
        yield from _items(body)
        yield ""
        place = end
    yield ""


def _items(body: list[str]) -> Iterator[str]:
    item = ""
    for line in [*body, ""]:
        if item and line.startswith(" "):
            item += " " + line.strip()
            continue
        if item:
            yield item
        entry = _ENTRY.fullmatch(line)
        item = f"- `{entry[1]}`: {entry[2]}" if entry else (f"- {line}" if line else "")
