"""Reads a run from its folder straight into columns: a million trials in seconds.

Lines are read one by one as every reader does it, and each trial is taken apart at once, so memory
grows with the numbers alone.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from harness.model import Trial
from harness.model.errors import RecordError
from harness.records import store
from harness.records.columns import Columns, PackedColumns
from harness.records.dataset import RunData, laid_out

PIECE_BYTES = 32 << 20
"""A file is worth a process for each so many bytes of it."""

MOST_PROCESSES = 4


def read_data(directory: Path) -> RunData:
    """Read a run, its trials as columns; the same as `run_data(read_run(directory))`.

    A large file is read in pieces by several processes, which are gone when this returns.

    Raises:
        RecordError: As `harness.records.read_run`.
    """
    info, growth = store.read_info(directory), store.read_growth(directory)
    path = directory / store.TRIALS_FILE
    columns = Columns()
    problems: tuple[str, ...] = ()
    with store.os_errors_reported("read", path):
        try:
            pieces = _pieces(path, len(os.sched_getaffinity(0)))
            if len(pieces) < 2 or not _read_side_by_side(path, pieces, columns):
                problems = _read_piece(path, (0, None), columns)
        except FileNotFoundError:
            problems = (f"{path.name} is not there, so no trial is",)
    return laid_out(columns.pack(), info, growth, problems)


_Piece = tuple[int, int | None]
"""Where a piece of a file begins and ends, in bytes, at the beginning of a line; None: its end."""


def _pieces(path: Path, most: int) -> list[_Piece]:
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
    """Read the pieces at the same time; False, and nothing added, if one has a problem.

    A piece does not know the numbers of its lines, so its problem cannot be reported from here.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(len(pieces) - 1, get_context("spawn")) as pool:
        others = [pool.submit(_packed_piece, path, piece) for piece in pieces[1:]]
        packed = [_packed_piece(path, pieces[0]), *(other.result() for other in others)]
    whole = [one for one in packed if one is not None]
    if len(whole) < len(pieces):
        return False
    for one in whole:
        columns.append(one)
    return True


def _packed_piece(path: Path, piece: _Piece) -> PackedColumns | None:
    columns = Columns()
    try:
        problems = _read_piece(path, piece, columns)
    except RecordError:
        return None
    return None if problems else columns.pack()


def _read_piece(path: Path, piece: _Piece, columns: Columns) -> tuple[str, ...]:
    """Read the lines of a piece; returns the problems of the file as a whole."""
    start, end = piece
    left = math.inf if end is None else end - start
    with path.open("rb", buffering=1 << 20) as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line.strip() and store.is_torn(line):
                return (f"the last line of {path.name} breaks off and is left out",)
            if line.strip():
                trial = store.parse_record(Trial, line.removesuffix(b"\n"), path, number)
                columns.add(trial)
            left -= len(line)
            if left <= 0:
                break
    return ()
