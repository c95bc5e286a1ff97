"""A run read from its folder straight into columns: a million trials in seconds.

Lines are read one by one as every reader does it, and each trial is taken apart at once, so memory
grows with the numbers alone.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from harness.model.errors import RecordError
from harness.records import TRIALS_FILE, is_torn, parse_trial, read_growth, read_info
from harness.records.columns import Columns, Packed
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
    start, end = piece
    left = math.inf if end is None else end - start
    with path.open("rb", buffering=1 << 20) as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line.strip() and is_torn(line):
                return (f"the last line of {path.name} breaks off and is left out",)
            if line.strip():
                columns.add(parse_trial(line.removesuffix(b"\n"), path, number))
            left -= len(line)
            if left <= 0:
                break
    return ()
