"""A run read from its folder straight into columns: a million trials in seconds.

The lines of `trials.jsonl` that one arm leaves differ from another mostly in their numbers. The
first lines of a form are read by `harness.records`, as every reader does it, and become a pattern
in which each integer is a hole. Whatever the pattern matches is therefore a line that would have
been read to the same trial but for those integers, and only they are taken from it. What no pattern
matches is read whole, so a damaged line is found, and told, by the same code as ever.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness.model import Trial
from harness.model.errors import RecordError
from harness.records import TRIALS_FILE, is_torn, parse_trial, read_growth, read_info
from harness.records.columns import Columns, Name, Packed, form_of, numbers_of
from harness.records.dataset import RunData, laid_out

MOST_PATTERNS = 24
"""Of one arm. Lines of further forms are read one by one."""

MOST_BODIES = 8
"""Distinct answers to the prober that are told apart; of more, it is known that they differ."""

PIECE_BYTES = 32 << 20
"""A file is worth a process for each so many bytes of it."""

MOST_PROCESSES = 4

BATCH = 8192
"""Lines of one pattern whose numbers are converted at a time."""

_TOKEN = re.compile(
    rb'(?<=_sha256":)"(?P<digest>[0-9a-f]{64})"'
    rb'|"(?:[^"\\]|\\.)*"'
    rb"|(?P<integer>-?(?:0|[1-9][0-9]*))(?![0-9.eE])"
    rb"|-?[0-9.eE+-]+"
)
_HOLE = rb"-?(?:0|[1-9][0-9]{0,17})"
_SENTINEL = 10**17


def read_data(directory: Path) -> RunData:
    """Read a run, its trials as columns; the same as `run_data(read_run(directory))`.

    A large file is read in pieces by several processes, which are gone when this returns.

    Raises:
        RecordError: As `harness.records.read_run`.
    """
    info, growth = read_info(directory), read_growth(directory)
    path = directory / TRIALS_FILE
    columns = Columns()
    flaws: tuple[str, ...] = ()
    try:
        pieces = _pieces(path, len(os.sched_getaffinity(0)))
        if len(pieces) < 2 or not _read_side_by_side(path, pieces, columns):
            flaws = _read_piece(path, (0, None), columns)
    except FileNotFoundError:
        flaws = (f"{path.name} is not there, so no trial is",)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
    return laid_out(columns.pack(), info, growth, flaws)


_Piece = tuple[int, int | None]
"""Where a piece of a file begins and ends, in bytes, at the beginning of a line; None: its end."""


def _pieces(path: Path, most: int) -> list[_Piece]:
    """Divide a file into pieces that are worth a process each."""
    size = path.stat().st_size
    number = max(1, min(most, MOST_PROCESSES, size // PIECE_BYTES))
    starts = [0]
    with path.open("rb") as file:
        for place in range(1, number):
            file.seek(size * place // number)
            file.readline()
            starts.append(file.tell())
    return list(zip(starts, [*starts[1:], None], strict=True))


def _read_side_by_side(path: Path, pieces: list[_Piece], columns: Columns) -> bool:
    """Read the pieces at the same time; False, and nothing added, if one is flawed.

    A piece does not know the numbers of its lines, so what is wrong with one cannot be told here.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(len(pieces) - 1, get_context("spawn")) as pool:
        others = [pool.submit(_packed_piece, path, piece) for piece in pieces[1:]]
        packed = [_packed_piece(path, pieces[0]), *(other.result() for other in others)]
    if any(one is None for one in packed):
        return False
    for one in packed:
        if one is not None:
            columns.append(one)
    return True


def _packed_piece(path: Path, piece: _Piece) -> Packed | None:
    columns = Columns()
    try:
        flaws = _read_piece(path, piece, columns)
    except RecordError:
        return None
    return columns.pack() if not flaws else None


def _read_piece(path: Path, piece: _Piece, columns: Columns) -> tuple[str, ...]:
    """Read the lines of a piece; returns what is wrong with the file as a whole."""
    scanner = _Scanner(path, columns)
    start, end = piece
    left = math.inf if end is None else end - start
    with path.open("rb", buffering=1 << 20) as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line.strip() and is_torn(line):
                scanner.end()
                return (f"the last line of {path.name} breaks off and is left out",)
            scanner.take(line, number)
            left -= len(line)
            if left <= 0:
                break
    scanner.end()
    return ()


class _Pattern:
    """What matches the lines of one form, and where their numbers go."""

    def __init__(self, line: bytes, columns: Columns) -> None:
        """Make it of a line that was read without complaint."""
        pieces, end, holes = [], 0, 0
        filled = []
        for token in _TOKEN.finditer(line):
            if token.lastgroup is None:
                continue
            literal = line[end : token.start()]
            if token.lastgroup == "integer":
                pieces.append((literal, holes))
                filled += [literal, str(_SENTINEL + holes).encode()]
                holes += 1
            else:
                is_response = literal.endswith(b'"response_sha256":')
                pieces.append((literal, -1 if is_response else -2))
                filled += [literal, token[0]]
            end = token.end()
        sample = parse_trial(b"".join((*filled, line[end:])), Path(), 0)
        self._columns = columns
        self._sample = sample
        self._constant: list[tuple[Name, int]] = []
        wanted: dict[int, Name] = {}
        for name, value in numbers_of(sample):
            if value >= _SENTINEL:
                wanted[value - _SENTINEL] = name
            else:
                self._constant.append((name, value))
        self._names: list[Name] = []
        self._body: int | None = None
        parts = []
        for literal, hole in pieces:
            parts.append(re.escape(literal))
            if hole == -1:
                self._body = len(self._names)
                parts.append(b'"([0-9a-f]{64})"')
            elif hole == -2:
                parts.append(b'"[0-9a-f]{64}"')
            elif hole in wanted:
                self._names.append(wanted[hole])
                parts.append(b"(" + _HOLE + b")")
            else:
                parts.append(_HOLE)
        self.matches = re.compile(b"".join((*parts, re.escape(line[end:]), b"\n?"))).fullmatch
        self._rows: list[int] = []
        self._numbers: list[bytes] = []
        self._form = columns.form(form_of(sample))
        self._forms: dict[bytes, int] = {}

    def take(self, found: re.Match[bytes]) -> None:
        """Take the numbers of a line that matched."""
        form = self._form
        if self._body is not None:
            form = self._form_of_body(found[self._body + 1])
        self._rows.append(self._columns.reserve(form))
        self._numbers.extend(found.groups())
        if len(self._rows) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand the numbers over to the columns."""
        import numpy as np

        if not self._rows:
            return
        rows = np.array(self._rows, np.int64)
        width = len(self._names)
        if self._body is not None:
            del self._numbers[self._body :: width + 1]
        # One text read in one go: a third of what as many int() cost. A hole has 18 digits at most.
        numbers = np.fromstring(b" ".join(self._numbers), np.int64, sep=" ").astype(np.float64)
        for name, values in zip(self._names, numbers.reshape(-1, width).T, strict=True):
            self._columns.fill(rows, name, np.ascontiguousarray(values))
        for name, value in self._constant:
            self._columns.fill(rows, name, value)
        self._rows.clear()
        self._numbers.clear()

    def _form_of_body(self, digest: bytes) -> int:
        form = self._forms.get(digest)
        if form is None:
            if len(self._forms) >= MOST_BODIES:
                return next(iter(self._forms.values()))
            answered = dataclasses.replace(self._sample, response_sha256=digest.decode())
            form = self._forms[digest] = self._columns.form(form_of(answered))
        return form


class _Scanner:
    """Reads lines into columns, fast where it has met their like."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns
        self._patterns: dict[bytes, list[_Pattern]] = defaultdict(list)
        self._seen: dict[bytes, set[bytes]] = defaultdict(set)
        self._adapter: Any = None

    def end(self) -> None:
        """Hand over what is still held back."""
        for patterns in self._patterns.values():
            for pattern in patterns:
                pattern.flush()

    def take(self, line: bytes, number: int) -> None:
        """Take the next line, its newline included."""
        arm = line[: max(line.find(b',"block":'), 0)]
        patterns = self._patterns[arm]
        for place, pattern in enumerate(patterns):
            found = pattern.matches(line)
            if found is not None:
                pattern.take(found)
                if place:  # the most frequent ones drift to the front
                    patterns[place - 1 : place + 1] = pattern, patterns[place - 1]
                return
        line = line.removesuffix(b"\n")
        if not line.strip():
            return
        if len(self._seen[arm]) < 4 * MOST_PATTERNS and len(patterns) < MOST_PATTERNS:
            trial = parse_trial(line, self._path, number)
            skeleton = _TOKEN.sub(_hollow, line)
            if skeleton in self._seen[arm]:
                patterns.append(_Pattern(line, self._columns))
            self._seen[arm].add(skeleton)
        else:
            trial = self._read(line, number)
        self._columns.add(trial)

    def _read(self, line: bytes, number: int) -> Trial:
        """Read one line by itself; whatever is odd about it, the exact reader shall tell."""
        from pydantic import TypeAdapter, ValidationError

        if self._adapter is None:
            self._adapter = TypeAdapter(Trial)
        # pydantic lets these pass where they do not matter; they are no JSON.
        if b"NaN" not in line and b"Infinity" not in line:
            try:
                read: Trial = self._adapter.validate_json(line, strict=True)
            except ValidationError:
                pass
            else:
                return read
        return parse_trial(line, self._path, number)


def _hollow(token: re.Match[bytes]) -> bytes:
    return token[0] if token.lastgroup is None else b"?"
