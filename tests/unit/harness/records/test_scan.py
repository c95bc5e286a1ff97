"""Columns read straight from a file must be those of the trials that every reader sees."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.analysis.summary import summarise
from harness.model import DiskPart, Meter, Milestone, Reading, Sharing, Trial
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import RecordError
from harness.model.metrics import trial_value
from harness.records import GROWTH_FILE, RUN_FILE, TRIALS_FILE, Run, read_run, scan
from harness.records.codec import encode
from harness.records.columns import MOST_BODIES
from harness.records.dataset import MEASURED, RunData, run_data, trial_samples
from harness.records.scan import read_data
from tests.support.synthetic import synthetic_run, synthetic_scale_run

ROOT = Path(__file__).parents[4]


def write(folder: Path, run: Run) -> Path:
    """Write a run as `RunWriter` does, without its waiting for the disk at each line."""
    folder.mkdir(exist_ok=True)
    (folder / RUN_FILE).write_text(json.dumps(encode(run.info, "")))
    for name, records in ((TRIALS_FILE, run.trials), (GROWTH_FILE, run.growth)):
        lines = [json.dumps(encode(r, ""), separators=(",", ":")) + "\n" for r in records]
        (folder / name).write_text("".join(lines))
    return folder


def assert_same(found: RunData, expected: RunData) -> None:
    words = dict.fromkeys(("scenario", "arm", "outcome", "error"), object)
    pd.testing.assert_frame_equal(
        found.frame.drop(columns="form").astype(words),
        expected.frame.drop(columns="form").astype(words),
    )
    assert [found.forms[n] for n in found.frame["form"]] == [
        expected.forms[n] for n in expected.frame["form"]
    ]
    assert found.parts.keys() == expected.parts.keys()
    for key, column in found.parts.items():
        np.testing.assert_array_equal(column, expected.parts[key])
    assert (found.info, found.growth) == (expected.info, expected.growth)


def plain() -> Run:
    return synthetic_run(blocks=30, failure_rate=0.1, cold=True, again="container")


def many_forms() -> Run:
    """Nearly every line of a form of its own, and texts that JSON has to escape."""
    run = synthetic_run(blocks=40, scenarios=("python-http",), failure_rate=0.3)
    dice = random.Random(7)
    texts = ("ü", '"quoted", "block":7,', "\\", "\udc80", "9" * 64, "a\nb", "0123456789abcdef" * 4)

    def changed(trial: Trial) -> Trial:
        if trial.error is not None:
            return dataclasses.replace(trial, error=f"{dice.choice(texts)} {dice.random()}")
        digest = f"{dice.randrange(3):064x}"
        doubts = (Diagnostic(DiagnosticCode.LOADED_HOST, f"load {dice.random():.2f}"),)
        return dataclasses.replace(
            trial, response_sha256=digest, diagnostics=doubts if dice.random() < 0.4 else ()
        )

    return dataclasses.replace(run, trials=tuple(map(changed, run.trials)))


def odd_numbers() -> Run:
    run = synthetic_run(blocks=12, scenarios=("hello",), warmup_blocks=4)
    huge = {5: 10**18, 6: 0, 7: -3, 9: 10**30}
    trials = [
        dataclasses.replace(
            trial,
            readings=tuple(
                r if r.value is None else dataclasses.replace(r, value=huge.get(trial.block, 7))
                for r in trial.readings
            ),
        )
        for trial in run.trials
    ]
    return dataclasses.replace(run, trials=tuple(trials))


RUNS: dict[str, Callable[[], Run]] = {
    "plain": plain,
    "scale": lambda: synthetic_scale_run(full_at=5),
    "many forms": many_forms,
    "odd numbers": odd_numbers,
    "no trial": lambda: synthetic_run(blocks=0, warmup_blocks=0),
}


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS.keys())
def test_columns_are_those_of_the_trials(make: Callable[[], Run], tmp_path: Path) -> None:
    run = make()
    folder = write(tmp_path / "run", run)
    assert read_run(folder) == run
    assert_same(read_data(folder), run_data(run))


def test_of_very_many_answers_it_is_known_that_they_differ(tmp_path: Path) -> None:
    run = synthetic_run(blocks=12, scenarios=("python-http",), failure_rate=0)
    bodies = [f"{number:064x}" for number in range(len(run.trials))]
    answered = zip(run.trials, bodies, strict=True)
    trials = tuple(dataclasses.replace(trial, response_sha256=body) for trial, body in answered)
    data = read_data(write(tmp_path / "run", dataclasses.replace(run, trials=trials)))
    arms = {record.arm.name for record in run.info.arms}
    for arm in arms:
        told = {form.response_sha256 for form in data.forms if form.arm == arm}
        assert len(told) == MOST_BODIES
        assert told <= set(bodies)
    assert not summarise(data).tables[0].same_response


@pytest.mark.parametrize("processors", [2, 3])
def test_pieces_read_side_by_side_are_the_whole(
    processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(scan.os, "sched_getaffinity", lambda _: set(range(processors)))
    run = many_forms()
    folder = write(tmp_path / "run", run)
    assert len(scan._pieces(folder / TRIALS_FILE, processors)) == processors
    assert_same(read_data(folder), run_data(run))


# -- Metrics --------------------------------------------------------------------------------------


def odd_trials() -> Run:
    """Twice the same meter or part, values without a reason, an arm without a record."""
    run = synthetic_run(blocks=8, scenarios=("hello",), failure_rate=0.3, seed=4)
    meters, scope = (Meter.CPU_NS, Meter.PSS_BYTES), "workload"
    readings = [(Reading(meter, None, scope), Reading(meter, 5, scope, "odd")) for meter in meters]
    part = DiskPart("file", Sharing.EXCLUSIVE, 9000, 8192, 4096)
    parts = (part, part, DiskPart("layer", Sharing.SHARED, 9000, 8192))

    def changed(place: int, trial: Trial) -> Trial:
        match place % 4:
            case 0:
                pair = readings[place // 4 % 2]
                return dataclasses.replace(trial, readings=(*pair, *trial.readings, *pair[::-1]))
            case 1:
                return dataclasses.replace(trial, disk=(*parts, *trial.disk), readings=())
            case 2:
                return dataclasses.replace(trial, disk=())
            case _:
                kept = {m: at for m, at in trial.milestones_ns.items() if m != Milestone.STOPPING}
                return dataclasses.replace(trial, milestones_ns=kept)

    trials = tuple(changed(place, trial) for place, trial in enumerate(run.trials))
    info = dataclasses.replace(run.info, arms=run.info.arms[1:])
    return dataclasses.replace(run, info=info, trials=trials)


SCHEMA_1 = ROOT / "tests" / "support" / "schema_1"
METRIC_RUNS: dict[str, Callable[[], Run]] = {
    "reference": lambda: read_run(ROOT / "results" / "reference"),
    "schema 1": lambda: read_run(SCHEMA_1),
    "cold and failures": lambda: synthetic_run(blocks=8, failure_rate=0.2, cold=True, seed=4),
    "scale": lambda: synthetic_scale_run(full_at=5),
    "odd trials": odd_trials,
    "odd numbers": odd_numbers,
}


@pytest.mark.parametrize("make", METRIC_RUNS.values(), ids=METRIC_RUNS.keys())
def test_every_column_is_its_metric(make: Callable[[], Run]) -> None:
    """The table computes in columns what `harness.model.metrics` says of one trial."""
    run = make()
    frame = run_data(run).frame
    records = {(record.scenario, record.arm.name): record for record in run.info.arms}
    arms = dict.fromkeys((trial.scenario, trial.arm) for trial in run.trials)
    for scenario, arm in arms:
        rows = frame[(frame["scenario"] == scenario) & (frame["arm"] == arm)]
        trials = [t for t in run.trials if (t.scenario, t.arm) == (scenario, arm)]
        for metric in MEASURED:
            found = [
                (trial.block, trial_value(metric.name, trial, records.get((scenario, arm))))
                for trial in trials
            ]
            expected = [(block, value) for block, value in found if not math.isnan(value)]
            blocks, values = trial_samples(rows, metric.column)
            assert list(zip(blocks.tolist(), values.tolist(), strict=True)) == expected, metric.name


def test_nobody_knows_what_was_written_in_a_run_of_schema_1() -> None:
    """It does not say what an instance begins with: all of a disk copy would count as written."""
    run = read_run(SCHEMA_1)
    record = next(r for r in run.info.arms if r.arm.name == "vm-classic")
    trial = next(t for t in run.trials if t.arm == "vm-classic")
    assert trial_value("disk", trial, record) == 2_207_744
    assert math.isnan(trial_value("disk-growth", trial, record))
    assert run_data(run).frame["disk_growth_bytes"].isna().all()


# -- Damage ---------------------------------------------------------------------------------------


def outcome_of(read: Callable[[Path], object], folder: Path) -> object:
    """What a reader makes of a folder: the sentence it refuses it with, or the data."""
    try:
        return read(folder)
    except RecordError as error:
        return str(error)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a field is missing": lambda line: line.replace(b'"block"', b'"blok"'),
    "a string for a number": lambda line: line.replace(b'"position":', b'"position":"x","p":'),
    "a number with a point": lambda line: line.replace(b'"together":1', b'"together":1.0'),
    "true where a number should be": lambda line: line.replace(b'"alive":0', b'"alive":true'),
    "a leading zero": lambda line: line.replace(b'"alive":0', b'"alive":00'),
    "no such outcome": lambda line: line.replace(b'"outcome":"ok"', b'"outcome":"good"'),
    "no such milestone": lambda line: line.replace(b'"ready"', b'"redy"'),
    "NaN": lambda line: line.replace(b'"alive":0', b'"alive":0,"extra":NaN'),
    "cut in the middle": lambda line: line[: len(line) // 2],
    "two records on a line": lambda line: line + line,
    "bytes that are no text": lambda line: line.replace(b"hello", b"\xff\xfe"),
    "no object": lambda _: b"[1, 2]",
    "null": lambda _: b"null",
}  # fmt: skip


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_lines_are_told_as_ever(
    damage: Callable[[bytes], bytes],
    side_by_side: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if side_by_side:
        monkeypatch.setattr(scan, "PIECE_BYTES", 1000)
        # The same pieces, one after the other: a process for each of 26 files would take long.
        monkeypatch.setattr(scan, "_read_side_by_side", read_pieces_in_turn)
    folder = write(tmp_path / "run", synthetic_run(blocks=30, scenarios=("hello",)))
    lines = (folder / TRIALS_FILE).read_bytes().splitlines()
    place = next(n for n in range(100, 124) if b'"ok"' in lines[n])
    lines[place] = damage(lines[place])
    (folder / TRIALS_FILE).write_bytes(b"\n".join(lines) + b"\n")
    told = outcome_of(read_run, folder)
    assert isinstance(told, str)
    assert f"line {place + 1}" in told
    assert outcome_of(read_data, folder) == told


def read_pieces_in_turn(path: Path, pieces: list[tuple[int, int | None]], columns: object) -> bool:
    return all(scan._packed_piece(path, piece) is not None for piece in pieces)


def test_any_damage_has_the_same_end_for_both_readers(tmp_path: Path) -> None:
    """Bytes changed at random: both read the same trials, or both refuse with one sentence."""
    folder = write(tmp_path / "run", synthetic_run(blocks=6, scenarios=("hello",), seed=3))
    whole = (folder / TRIALS_FILE).read_bytes()
    dice = random.Random(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 3))):
            at = dice.randrange(len(damaged))
            match dice.randrange(4):
                case 0:
                    damaged[at] = dice.choice(b'0123456789-.eE"{}[],:\\ \nxf\x00\xff')
                case 1:
                    del damaged[at : at + dice.choice((1, 2, 200))]
                case 2:
                    damaged[at:at] = damaged[at : at + dice.choice((1, 5, 400))]
                case _:
                    del damaged[at:]
        (folder / TRIALS_FILE).write_bytes(damaged)
        expected = outcome_of(read_run, folder)
        found = outcome_of(read_data, folder)
        if isinstance(expected, str):
            refused += 1
            assert found == expected
        else:
            assert isinstance(expected, Run)
            assert isinstance(found, RunData)
            assert_same(found, run_data(expected))
    assert 20 < refused < 145


# -- Records that are not whole -------------------------------------------------------------------


def doubts(folder: Path) -> tuple[str, ...]:
    summary = summarise(read_data(folder))
    return next(
        (d.occurrences for d in summary.diagnostics if d.code is DiagnosticCode.RECORDS), ()
    )


def test_whole_records_raise_no_doubt(tmp_path: Path) -> None:
    assert doubts(write(tmp_path / "one", plain())) == ()
    assert doubts(write(tmp_path / "two", synthetic_run(interrupted=True))) == ()
    assert doubts(write(tmp_path / "three", synthetic_scale_run())) == ()


def test_missing_trials_raise_a_doubt(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", plain())
    (folder / TRIALS_FILE).unlink()
    told = doubts(folder)
    assert "trials.jsonl is not there, so no trial is" in told
    assert any("none of its trials is there" in sentence for sentence in told)


def test_a_cut_file_raises_a_doubt(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", synthetic_run(blocks=10, scenarios=("hello",)))
    path = folder / TRIALS_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    told = doubts(folder)
    assert "the last line of trials.jsonl breaks off and is left out" in told
    assert (
        "hello: the run ended properly with 10 complete blocks, and 9 of them can be found" in told
    )
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-8]))  # at the end of a line, even of a block
    assert doubts(folder) == (
        "hello: the run ended properly with 10 complete blocks, and 8 of them can be found",
    )


def test_repeated_trials_raise_a_doubt_and_count_once(tmp_path: Path) -> None:
    run = synthetic_run(blocks=10, scenarios=("hello",))
    folder = write(tmp_path / "run", run)
    whole = summarise(read_data(folder))
    path = folder / TRIALS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, *lines[-6:]]))
    assert doubts(folder) == (
        "6 of 50 trials are there more than once; the last version of each counts",
    )
    again = summarise(read_data(folder))
    for before, after in zip(whole.tables[0].rows, again.tables[0].rows, strict=True):
        assert (before.metrics, before.ratios) == (after.metrics, after.ratios)
