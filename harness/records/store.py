"""Writes and reads a run on disk: `run.json` and `trials.jsonl` in a folder of its own.

`run.json` holds a `RunInfo` and is replaced as a whole, so a reader never finds half of it.
`trials.jsonl` holds one `Trial` a line, appended and flushed as each trial ends, so a crash loses
at most the trial under way; `read_run` leaves out the torn last line of a crash. `growth.jsonl`
holds the `GrowthPoint`s of scale scenarios in the same way, `hooks.log` the output of the user's
hooks; both are there only where they are needed.

The form of the dataclasses of `harness.model` in JSON is that of `harness.records.codec`.
Everything is ASCII with escapes, so any `str`, also one that stands for undecodable bytes, comes
back exactly, and no reader can meet half a character. What an old reader could *misread* raises
`SCHEMA_VERSION`, and a newer schema is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from harness.model import SCHEMA_VERSION, GrowthPoint, RunInfo, Trial
from harness.model.errors import RecordError
from harness.records.codec import ShapeError, decode, encode, loads, parse
from harness.records.dataset import Run
from runtime.linux.caller import give, make_folders
from runtime.linux.git_text import damage_by_git
from runtime.linux.output_file import output_file

RUN_FILE = "run.json"
TRIALS_FILE = "trials.jsonl"
GROWTH_FILE = "growth.jsonl"
HOOKS_FILE = "hooks.log"

_T = TypeVar("_T")


def _refuse_strangers(directory: Path) -> None:
    """Raise RecordError if there is anything in the folder but, perhaps, a run."""
    # The log of hooks outlives a run that failed before its first trial, and is added to.
    names = {entry.name for entry in directory.iterdir()} - {HOOKS_FILE}
    if names and not names & {RUN_FILE, TRIALS_FILE}:
        raise RecordError(
            f"{directory.absolute()} is not empty (it holds {min(names)}); give a new or an empty "
            "folder, so that nothing of yours is overwritten"
        )
    if names:
        raise _holds_a_run(directory)


def _is_no_run(directory: Path) -> RecordError:
    return RecordError(
        f"{directory} is no run: it has no {RUN_FILE}; name a folder that `steelyard run` made"
    )


def _holds_a_run(directory: Path) -> RecordError:
    return RecordError(
        f"{directory} holds a run already; give another folder, runs are never mixed"
    )


class RunWriter:
    """Writes one run into its folder. Use it as a context manager, or call `close`.

    Attributes:
        directory: The run's folder; made, with its parents, if it is not there.

    Raises:
        RecordError: The folder cannot be made, holds a run already (runs are never mixed), or
            holds anything else: a report would overwrite files of the same names.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with os_errors_reported("write", directory):
            try:
                make_folders(directory)
                _refuse_strangers(directory)
                self._fd: int | None = _claim(directory, os.O_EXCL)
            except FileExistsError as error:  # another run was quicker
                raise _holds_a_run(directory) from error

    @classmethod
    def resume(cls, directory: Path) -> typing.Self:
        """Open a run that was interrupted, to add to it.

        What a crash left of a last line is cut off; nothing else of the records is changed.

        Raises:
            RecordError: No run is there, it cannot be written, or another process writes it.
        """
        if not (directory / RUN_FILE).is_file():
            raise _is_no_run(directory)
        self = cls.__new__(cls)
        self.directory = directory
        self._fd = None
        with contextlib.ExitStack() as stack, os_errors_reported("write", directory):
            stack.callback(self.close)
            self._fd = _claim(directory)
            _mend_end(directory / TRIALS_FILE)
            _mend_end(directory / GROWTH_FILE)
            stack.pop_all()
        return self

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_info(self, info: RunInfo) -> None:
        """Replace `run.json` by `info`, atomically.

        Raises:
            RecordError: It cannot be written; the old one is still there.
        """
        text = json.dumps(_encoded(info), indent=1, allow_nan=False) + "\n"
        write_atomically(self.directory / RUN_FILE, text.encode("ascii"))

    def append(self, trial: Trial) -> None:
        """Append one trial and flush it to the disk.

        Raises:
            RecordError: It cannot be written, or the writer is closed.
        """
        path = self.directory / TRIALS_FILE
        if self._fd is None:
            raise RecordError(f"{path}: the run is closed, no trial can be added to it")
        with os_errors_reported("write", path):
            _append_line(self._fd, _line(trial))

    def append_growth(self, point: GrowthPoint) -> None:
        """Append one footprint of many instances and flush it to the disk.

        Raises:
            RecordError: It cannot be written.
        """
        path = self.directory / GROWTH_FILE
        with os_errors_reported("write", path), open(path, "ab", buffering=0) as file:
            give(file.fileno())
            _append_line(file.fileno(), _line(point))

    def close(self) -> None:
        """Give the file back. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _claim(directory: Path, more_flags: int = 0) -> int:
    """Open the trials, and lock the run until this process ends, however it does (flock(2))."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | more_flags
    fd = os.open(directory / TRIALS_FILE, flags, 0o644)
    try:
        give(fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise
        raise RecordError(
            f"{directory} is being written by a run that goes on; let it end"
        ) from None
    return fd


def _mend_end(path: Path) -> None:
    """Make the file end with a whole line: complete the last one or cut it off."""
    if not path.exists():
        return
    whole, newline, last = _content(path).rpartition(b"\n")
    if not last:
        return
    with open(path, "r+b") as file:
        if is_torn(last):
            file.truncate(len(whole) + len(newline))
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _line(record: Trial | GrowthPoint) -> bytes:
    text = json.dumps(_encoded(record), separators=(",", ":"), allow_nan=False) + "\n"
    return text.encode("ascii")


def _append_line(fd: int, data: bytes) -> None:
    end = os.fstat(fd).st_size
    try:
        while data:  # write(2) may take less than it was given, on a full disk for one
            data = data[os.write(fd, data) :]
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, end)  # half a line would spoil the next one
        raise


def read_run(directory: Path | str) -> Run:
    """Read a run back, exactly as it was written.

    A last line of `trials.jsonl` without its newline that is no JSON is the trace of a crash and is
    left out; a run killed before its first trial has no trials.

    Raises:
        RecordError: No run is there, its schema is newer than this reader, or something in it is
            not as it should be; the sentence names file, line and field.
    """
    directory = Path(directory)
    return Run(
        info=read_info(directory),
        trials=tuple(_lines(Trial, directory / TRIALS_FILE)),
        growth=read_growth(directory),
        directory=directory,
    )


def read_info(directory: Path) -> RunInfo:
    """Read the circumstances of a run alone.

    Raises:
        RecordError: As `read_run`.
    """
    path = directory / RUN_FILE
    if not path.is_file():
        raise _is_no_run(directory)
    content = _content(path)
    try:
        document = loads(content)
        _refuse_newer(document, path)
        return decode(RunInfo, document, "")
    except (ShapeError, ValueError) as error:
        raise _unreadable(error, str(path), content) from error


def read_growth(directory: Path) -> tuple[GrowthPoint, ...]:
    """Read the footprints of many instances alone.

    Raises:
        RecordError: As `read_run`.
    """
    return tuple(_lines(GrowthPoint, directory / GROWTH_FILE))


def parse_record(kind: type[_T], line: bytes, path: Path, number: int) -> _T:
    """Read one line of `trials.jsonl` or `growth.jsonl`, without its newline.

    Raises:
        RecordError: It is no such record; the sentence names file and line, from 1.
    """
    try:
        return parse(kind, line)
    except (ShapeError, ValueError) as error:
        raise _unreadable(error, f"{path}, line {number}", line) from error


def is_torn(line: bytes) -> bool:
    """Whether a last line without its newline is the trace of a crash, and no JSON."""
    try:
        loads(line)
    except ValueError:
        return True
    return False


def find_runs(root: Path) -> list[Path]:
    """List the run folders directly below `root`, oldest first; `root` itself if it is one.

    A missing `root` has no runs. The order is that of the folders' names: they start with the time.
    """
    if (root / RUN_FILE).is_file():
        return [root]
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if (entry / RUN_FILE).is_file())


def new_run_id(now: datetime) -> str:
    """Name a run by UTC time and six random hexadecimal digits: `20261124T120335Z-1a2b3c`.

    Args:
        now: An aware datetime of any zone.
    """
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` as a whole, or write through it if it is no regular file.

    Raises:
        RecordError: It cannot be written; a regular file that was at `path` is still there.
    """
    with os_errors_reported("write", path), output_file(path) as file:
        file.write(data)


def _lines(kind: type[_T], path: Path) -> typing.Iterator[_T]:
    """Yield the records of a file, leaving out a torn last line; a missing file has none."""
    content = _content(path) if path.exists() else b""
    *lines, last = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_record(kind, line, path, number)
    # Every line is one JSON object in ASCII, so no proper beginning of one is valid JSON: what
    # parses lacks only its newline and is whole.
    if last.strip() and not is_torn(last):
        yield parse_record(kind, last, path, len(lines) + 1)


def _refuse_newer(document: object, path: Path) -> None:
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA_VERSION:
        raise RecordError(
            f"{path} was written with schema {schema}, and this Steelyard reads up to schema "
            f"{SCHEMA_VERSION}; read it with a newer Steelyard"
        )


def _content(path: Path) -> bytes:
    with os_errors_reported("read", path):
        return path.read_bytes()


@contextlib.contextmanager
def os_errors_reported(verb: str, path: Path) -> typing.Iterator[None]:
    """Turn an OSError into a RecordError that names the path."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _unreadable(error: ShapeError | ValueError, where: str, content: bytes) -> RecordError:
    """Describe in one sentence, which begins with `where`, what is wrong with records."""
    if damage := damage_by_git(content.decode(errors="replace")):
        begins, problem = damage
        return RecordError(f"{where}{'' if ', line ' in where else f', line {begins}'}: {problem}")
    if isinstance(error, ShapeError):
        return RecordError(f"{where}: {error.field or 'the record'}: {error.problem}")
    if isinstance(error, json.JSONDecodeError):
        line = f", line {error.lineno}" if ", line " not in where else ""
        return RecordError(f"{where}{line}, column {error.colno}: not JSON: {error.msg}")
    return RecordError(f"{where}: not JSON: {error}")  # UnicodeDecodeError is a ValueError too


def _encoded(value: object) -> object:
    try:
        return encode(value, "")
    except ShapeError as error:
        raise RecordError(
            f"cannot record {type(value).__name__}: {error.field}: {error.problem}"
        ) from error
