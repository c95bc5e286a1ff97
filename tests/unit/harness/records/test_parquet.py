"""Parquet tables: the same history as from the folders, and every refusal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.gather import export_runs, gather
from harness.analysis.history import History
from harness.analysis.trends import trends_of
from harness.model import Outcome
from harness.model.errors import RecordError
from harness.model.metrics import METRICS
from harness.records.parquet import KEY
from tests.support.histories import one_run, write_history, write_run

needs_pyarrow = pytest.mark.skipif(
    find_spec("pyarrow") is None, reason="no pyarrow here: pip install 'steelyard[parquet]'"
)


def told(history: History) -> list[Any]:
    """Everything of the series but where the records lie."""
    return [
        (
            series.id,
            series.host,
            [
                dataclasses.replace(point, run=dataclasses.replace(point.run, folder=None))
                for point in series.points
            ],
        )
        for series in history.series
    ]


@needs_pyarrow
def test_a_table_gives_the_history_of_the_folders(tmp_path: Path) -> None:
    folders = write_history(tmp_path / "runs", 5)
    run = one_run(9, arms=("container", "vm-micro"))
    failed = dataclasses.replace(run.trials[4], outcome=Outcome.FAILED, error="it \udc80 broke")
    write_run(dataclasses.replace(run, trials=(*run.trials[:4], failed)), tmp_path / "runs" / "x")
    table = tmp_path / "new" / "table.parquet"
    direct = gather([tmp_path / "runs"], METRICS)
    assert export_runs([tmp_path / "runs"], direct, table) == sum(r.trials for r in direct.runs)
    again = gather([table], METRICS)
    assert told(again) == told(direct)
    assert len(direct.series) > 10
    assert [path.name for path in table.parent.iterdir()] == [table.name]
    # Merged with newer folders, and exported once more: no run twice.
    write_run(one_run(30), tmp_path / "more" / "y")
    places = [table, tmp_path / "more", folders[0]]
    both = gather(places, METRICS)
    assert len(both.runs) == 7
    second = tmp_path / "second.parquet"
    export_runs(places, both, second)
    assert told(gather([second], METRICS)) == told(both)


@needs_pyarrow
def test_the_table_is_tidy_for_others(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (folder,) = write_history(tmp_path / "runs", 1)
    export_runs([folder], gather([folder]), tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [row["ready_ns"] for row in rows] == [t["milestones_ns"]["ready"] for t in trials]
    assert [row["block"] for row in rows] == [trial["block"] for trial in trials]
    assert rows[0]["kernel_ns"] is None
    assert rows[0]["arm"] == "container"
    assert {row["run_id"] for row in rows} == {folder.name}


@needs_pyarrow
def test_tables_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 no table")
    with pytest.raises(RecordError, match="cannot be read as a Parquet table"):
        gather([path])

    def table(metadata: Mapping[bytes, bytes]) -> None:
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(dict(metadata)), path)

    table({})
    with pytest.raises(RecordError, match="one that `history --export` wrote"):
        gather([path])
    table({KEY: json.dumps({"version": 99, "runs": []}).encode()})
    with pytest.raises(RecordError, match=r"version 99.*newer Steelyard"):
        gather([path])
    table({KEY: b"["})
    with pytest.raises(RecordError, match="metadata is damaged"):
        gather([path])
    entries = [{"groups": [0, 1], "run": {"schema": 99}}, {"groups": [7, 9], "run": 3}, {}, 4]
    table({KEY: json.dumps({"version": 1, "runs": entries}).encode()})
    problems = gather([path]).problems
    assert len(problems) == 4
    assert "newer Steelyard" in problems[0]
    assert all("the others count" in problem for problem in problems)


@needs_pyarrow
def test_a_table_is_not_written_over_itself_nor_left_half(tmp_path: Path) -> None:
    (folder,) = write_history(tmp_path / "runs", 1)
    path = tmp_path / "t.parquet"
    export_runs([folder], gather([folder]), path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="name another file"):
        export_runs([path], gather([path]), path)
    with pytest.raises(RecordError, match="cannot write"):
        export_runs([folder], gather([folder]), tmp_path / "t.parquet" / "below")
    (tmp_path / "aside").mkdir()
    with pytest.raises(RecordError, match="cannot write"):
        export_runs([folder], gather([folder]), tmp_path / "aside")
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["aside", "runs", "t.parquet"]


@needs_pyarrow
def test_changes_are_the_same(tmp_path: Path) -> None:
    folders = write_history(
        tmp_path / "runs", 24, lambda n: one_run(n, factor=1.5 if n >= 12 else 1.0)
    )
    path = tmp_path / "t.parquet"
    export_runs(folders, gather(folders), path)
    changes = [
        [(trend.series.id, [change.found for change in trend.changes]) for trend in found.trends]
        for found in (trends_of(gather(folders)), trends_of(gather([path])))
    ]
    assert changes[0] == changes[1]
    assert any(found for _, found in changes[0])


def test_without_pyarrow_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    found = importlib.import_module

    def gone(name: str, package: str | None = None) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return found(name, package)

    monkeypatch.setattr("harness.records.parquet.import_module", gone)
    (folder,) = write_history(tmp_path / "runs", 1)
    (tmp_path / "t.parquet").touch()
    for act in (
        lambda: gather([tmp_path / "t.parquet"]),
        lambda: export_runs([folder], gather([folder]), tmp_path / "new.parquet"),
    ):
        with pytest.raises(RecordError, match=r"python.* -m pip install pyarrow"):
            act()
    assert not (tmp_path / "new.parquet").exists()
