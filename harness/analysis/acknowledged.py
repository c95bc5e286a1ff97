"""Reads which changes for the worse are meant, from a file that is kept with the sources. Pure.

```toml
[[acknowledged]]
series = "hello/container/ready@4f3a21bc9d0e-native"   # or a pattern: "hello/*/ready@*"
commit = "1989360f22cb"                                # where it began, as the history names it
reason = "seccomp is on by default now"
```

An entry holds for a change that began within two points of its commit: as points are added, the
place of a change can still move a little.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harness.analysis.history import Point, Series
from harness.model.errors import RecordError
from harness.model.suggestions import did_you_mean
from harness.model.toml_positions import KeyLines
from runtime.linux.git_text import damage_by_git

FILE = "steelyard-acknowledged.toml"
NEAR = 2
"""An entry holds up to so many points beside its commit."""
SHORTEST_PREFIX = 7
"""Of a commit: as short as Git itself abbreviates."""

_TABLE = "acknowledged"
_FIELDS = ("series", "commit", "reason")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """One entry of the file.

    Attributes:
        series: Name of a series, or a pattern with `*` and `?`.
        commit: Where the change began; its first characters are enough.
        where: `steelyard-acknowledged.toml:12`.
    """

    series: str
    commit: str
    reason: str
    where: str

    def is_of(self, series: Series) -> bool:
        """Whether it names the series."""
        return self.series == str(series.id) or fnmatchcase(str(series.id), self.series)

    def covers(self, series: Series, index: int) -> bool:
        """Whether it holds for a change that begins at a point of the series."""
        near = series.points[max(index - NEAR, 0) : index + NEAR + 1]
        return self.is_of(series) and any(self._names(point) for point in near)

    def _names(self, point: Point) -> bool:
        if self.commit == point.run.run_id:
            return True
        known = point.commit or ""
        if min(len(known), len(self.commit)) < SHORTEST_PREFIX:
            return known == self.commit
        return known.startswith(self.commit) or self.commit.startswith(known)


def read_acknowledged(path: Path) -> tuple[Acknowledgement, ...]:
    """Read the file; a missing one acknowledges nothing.

    Raises:
        RecordError: It cannot be read, or an entry is not as it should be: file, line and what to
            do.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin with a BOM
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"cannot read {path}: {reason}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, problem = damage_by_git(text) or (None, f"no TOML: {error}")
        where = path if line is None else f"{path}:{line}"
        raise RecordError(f"{where}: {problem}") from error
    lines = KeyLines(text)
    for key in document:
        _refuse_unknown(key, (_TABLE,), f"{path}:{lines.find((key,))}")
    entries = document.get(_TABLE, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        where = f"{path}:{lines.find((_TABLE,))}"
        raise RecordError(f"{where}: each entry is a table of its own; write [[{_TABLE}]] above it")
    return tuple(
        _entry(entry, f"{path}:{lines.find((_TABLE, place))}")
        for place, entry in enumerate(entries)
    )


def _refuse_unknown(key: str, known: tuple[str, ...], where: str) -> None:
    if key not in known:
        raise RecordError(f"{where}: {key!r} is not known; {did_you_mean(key, known)}")


def _entry(entry: dict[str, object], where: str) -> Acknowledgement:
    for key in entry:
        _refuse_unknown(key, _FIELDS, where)
    found = {}
    for name in _FIELDS:
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "is missing" if value is None else "must be a text that is not empty"
            advice = ": say why the change is meant" if name == "reason" else ""
            raise RecordError(f"{where}: {name} {what}{advice}")
        found[name] = value.strip()
    return Acknowledgement(**found, where=where)


def stale(
    entries: Sequence[Acknowledgement], changes: Sequence[tuple[Series, tuple[int, ...]]]
) -> Iterator[str]:
    """Say of each entry that acknowledges nothing why, by the indices at which changes begin."""
    for entry in entries:
        named = [(series, places) for series, places in changes if entry.is_of(series)]
        if not named:
            yield (
                f"{entry.where}: there is no series {entry.series!r} in these runs; correct the "
                "name, or remove the entry"
            )
        elif not any(entry.covers(series, at) for series, places in named for at in places):
            yield (
                f"{entry.where}: {entry.series} has no change near commit {entry.commit} (any "
                "more); remove the entry"
            )


def entry_for(series: Series, index: int) -> str:
    """Word the entry of the file that acknowledges a change."""
    label = series.points[index].label
    return (
        f"[[{_TABLE}]]\nseries = {_quoted(str(series.id))}\ncommit = {_quoted(label)}\n"
        'reason = ""  # say why it is meant\n'
    )


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's, but for surrogates."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
