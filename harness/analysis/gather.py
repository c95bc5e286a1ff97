"""Reads run folders and tables of trials into a history.

No run is left out silently: one that cannot be read (damaged, or of a newer schema) is passed over
with a sentence, and all others count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis import history
from harness.analysis.history import METRICS_OF_INTEREST, REVISION, History
from harness.model.errors import RecordError
from harness.model.units import count
from harness.records import RUN_FILE, TRIALS_FILE

if TYPE_CHECKING:
    from harness.records.dataset import RunData

TABLE_SUFFIX = ".parquet"

_PASSED_OVER = "this run is passed over, the others count"


def gather(
    places: Sequence[Path], metrics: Iterable[str] = METRICS_OF_INTEREST, commit_of: str = REVISION
) -> History:
    """Read every run in some places: run folders, folders that hold some, Parquet tables.

    For `metrics` and `commit_of` see `harness.analysis.history.take`.

    Raises:
        RecordError: A place is not there or holds no run, or a table cannot be read.
    """
    wanted = tuple(metrics)
    problems: list[str] = []
    runs: list[history.TakenRun] = []
    paired = 0
    for place in places:
        for data, folder in _all_in(place, problems):
            if data.info.paired:
                paired += 1
                continue
            try:
                runs.append(history.take(data, folder, wanted, commit_of))
            except RecordError as error:
                problems.append(f"{error}; {_PASSED_OVER}")
    if paired:
        many = f"{count(paired, 'paired run')} (compare, check --against)"
        problems.append(f"{many} passed over: sides of a comparison are no points of a history")
    return history.history_of(runs, problems)


def export_runs(places: Sequence[Path], gathered: History, path: Path) -> int:
    """Write all trials of a history as one Parquet table; see `harness.records.parquet`.

    The history was gathered from these places and says which copy of a run counts.

    Returns:
        The number of trials.

    Raises:
        RecordError: As for `gather`, or the table cannot be written.
    """
    from harness.records.parquet import write_table

    if any(path.exists() and place.samefile(path) for place in places):
        raise RecordError(f"{path} is read and cannot be written too; name another file")
    return write_table(_each_once(places, gathered), path)


def folders_in(place: Path) -> Iterator[Path]:
    """Yield the run folders at or below a place, in the order of their names; follow no links.

    A folder that has lost its `run.json` and still has trials is one, too: its reader reports it.
    """
    for folder, names, files in os.walk(place):
        names.sort()
        if RUN_FILE in files or TRIALS_FILE in files:
            names.clear()
            yield Path(folder)


def _each_once(places: Sequence[Path], gathered: History) -> Iterator[RunData]:
    wanted = {(run.run_id, run.folder, run.trials) for run in gathered.runs}
    for place in places:
        for data, folder in _all_in(place, []):
            key = (data.info.run_id, folder, len(data.frame))
            if key in wanted:
                wanted.remove(key)
                yield data


def _all_in(place: Path, problems: list[str]) -> Iterator[tuple[RunData, Path | None]]:
    """Read every run of a place, with the folder of its records."""
    if place.suffix == TABLE_SUFFIX and place.is_file():
        from harness.records.parquet import read_table

        yield from ((data, None) for data in read_table(place, problems))
        return
    from harness.records.scan import read_data

    folders = list(folders_in(place))
    if not folders:
        what = "holds no run" if place.exists() else "is not there"
        raise RecordError(f"{place} {what}; name a folder with runs, or take one: `steelyard run`")
    for folder in folders:
        try:
            data = read_data(folder)
        except RecordError as error:
            problems.append(f"{error}; {_PASSED_OVER}")
            continue
        yield data, folder
