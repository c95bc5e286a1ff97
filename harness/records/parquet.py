"""Keeps all trials of many runs in one Parquet table, for millions of them and other programs.

A row is a trial, as in `harness.records.dataset`: names, outcome, error, and every milestone and
metric as an integer in the unit of its column's name, null where the trial does not have it. The
circumstances of the runs (`run.json`) lie in the file's metadata under `steelyard_runs`, so a
history made from the table is the history of the folders. Consoles, digests, single parts on disk
and diagnostics of single trials stay in the folders alone.

pyarrow comes with the extra `parquet` and is imported when a table is read or written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.model import SCHEMA_VERSION, RunInfo
from harness.model.comparability import host_class
from harness.model.errors import RecordError
from harness.records.codec import ShapeError, decode, encode
from harness.records.columns import COUNTS
from harness.records.dataset import COLUMNS, RunData
from runtime.linux.caller import make_folders
from runtime.linux.output_file import output_file

if TYPE_CHECKING:
    import pandas as pd

KEY = b"steelyard_runs"
VERSION = 1
"""Of the form of this table; raised when an old reader could misread a new one."""

_NAMES = ("scenario", "arm", "outcome", "error")
_NUMBERS = [n for n in COLUMNS if n not in {*_NAMES, *COUNTS, "counted", "form"}]
_GROUP_ROWS = 1 << 20


def write_table(runs: Iterable[RunData], path: Path) -> int:
    """Write the trials of runs, one run in memory at a time; the file is replaced as a whole.

    Returns:
        How many trials.

    Raises:
        RecordError: pyarrow is not there, or the file cannot be written.
    """
    pyarrow, parquet = _pyarrow(path)
    entries: list[dict[str, object]] = []
    count = groups = 0
    schema = _schema(pyarrow)
    try:
        make_folders(path.parent)
        with (
            output_file(path) as file,
            parquet.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for data in runs:
                table = pyarrow.Table.from_pydict(_columns(pyarrow, data), schema=schema)
                writer.write_table(table, row_group_size=_GROUP_ROWS)
                more = -(-len(data.frame) // _GROUP_ROWS)
                entries.append({"groups": [groups, groups + more], "run": encode(data.info, "run")})
                count, groups = count + len(data.frame), groups + more
            document = {"version": VERSION, "runs": entries}
            writer.add_key_value_metadata({KEY.decode(): json.dumps(document)})
    except OSError as error:  # also what pyarrow raises
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error
    return count


def read_table(path: Path, problems: list[str]) -> Iterator[RunData]:
    """Read the runs of a table back, one at a time.

    Args:
        path: As `write_table` wrote it.
        problems: Gets a sentence for each run that cannot be used.

    Raises:
        RecordError: pyarrow is not there, or the file is no such table.
    """
    pyarrow, parquet = _pyarrow(path)
    broken = (OSError, pyarrow.lib.ArrowException, ValueError)
    try:
        file = parquet.ParquetFile(path)
    except broken as error:
        raise RecordError(
            f"{path} cannot be read as a Parquet table: {error}; export it again"
        ) from error
    with file:
        for entry in _entries(file, path):
            try:
                info = _info(entry, path)
                first, after = cast("list[int]", entry["groups"])
                data = _run(info, file.read_row_groups(list(range(first, after))).to_pandas())
            except (ShapeError, KeyError, TypeError, IndexError, *broken) as error:
                problems.append(f"{path}: a run in it is damaged ({error}); the others count")
            else:
                yield data


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        # By name: it is not there for everyone, nor for everyone's type checker.
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise RecordError(
            f"{path}: Parquet tables need pyarrow; "
            f"install it: {sys.executable} -m pip install pyarrow"
        ) from None


def _schema(pyarrow: Any) -> Any:
    words = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    kinds = dict.fromkeys(("run_id", "started_at", "host", *_NAMES), words)
    kinds |= dict.fromkeys(COUNTS, pyarrow.int64())
    kinds["counted"] = pyarrow.bool_()
    return pyarrow.schema(kinds | dict.fromkeys(_NUMBERS, pyarrow.int64()))


def _columns(pyarrow: Any, data: RunData) -> Mapping[str, Any]:
    import numpy as np

    frame, info = data.frame, data.info
    same = {
        "run_id": info.run_id,
        "started_at": info.started_at,
        "host": host_class(info.environment),
    }
    found: dict[str, Any] = {
        name: pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(np.zeros(len(frame), np.int32)), pyarrow.array([_sound(value)])
        )
        for name, value in same.items()
    }
    for name in _NAMES:
        codes = frame[name].cat.codes.to_numpy(np.int32)
        words = pyarrow.array([_sound(word) for word in frame[name].cat.categories], "string")
        indices = pyarrow.array(codes, mask=codes < 0)
        found[name] = pyarrow.DictionaryArray.from_arrays(indices, words)
    for name in (*COUNTS, "counted"):
        found[name] = pyarrow.array(frame[name].to_numpy())
    for name in _NUMBERS:
        values = frame[name].to_numpy(np.float64)
        missing = np.isnan(values)
        whole = np.where(missing, 0.0, values).round().astype(np.int64)
        found[name] = pyarrow.array(whole, mask=missing)
    return found


def _sound(word: str) -> str:
    """Replace what stands for undecodable bytes: Parquet holds UTF-8."""
    return word.encode("utf-8", "replace").decode()


def _entries(file: Any, path: Path) -> list[dict[str, object]]:
    raw = (file.metadata.metadata or {}).get(KEY)
    if raw is None:
        raise RecordError(
            f"{path} holds no circumstances of runs; name one that `history --export` wrote"
        )
    try:
        document = json.loads(raw)
        version, runs = document["version"], list(document["runs"])
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path}: its metadata is damaged: {error}; export it again") from error
    if version != VERSION:
        raise RecordError(
            f"{path} has version {version}, and this Steelyard reads {VERSION}; "
            "read it with a newer Steelyard"
        )
    return cast("list[dict[str, object]]", runs)


def _info(entry: Mapping[str, object], path: Path) -> RunInfo:
    document = entry["run"]
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        message = f"schema {schema} is newer than {SCHEMA_VERSION}: read it with a newer Steelyard"
        raise ShapeError(str(path), message)
    return decode(RunInfo, document, "")


def _run(info: RunInfo, table: pd.DataFrame) -> RunData:
    import numpy as np
    import pandas as pd

    found: dict[str, object] = {name: table[name] for name in (*_NAMES, *COUNTS, "counted")}
    found |= {name: table[name].astype(np.float64) for name in _NUMBERS}
    found["form"] = np.zeros(len(table), np.int32)
    frame = pd.DataFrame({name: found[name] for name in COLUMNS})
    return RunData(info, frame, forms=(), parts={})
