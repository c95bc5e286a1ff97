"""Records on disk: what is written comes back, and what is broken is told in a sentence."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.model import SCHEMA_VERSION, DiskPart, Milestone, Outcome, RunInfo, Sharing, Trial
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import RecordError
from harness.records import (
    RUN_FILE,
    TRIALS_FILE,
    RunWriter,
    find_runs,
    new_run_id,
    read_run,
    write_atomically,
)

ROOT = Path(__file__).parents[4]

TEXT = st.text(st.characters(codec=None))  # lone surrogates too: undecodable bytes of a console
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
SCALARS: Mapping[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    type(None): st.none(),
    Any: JSON,
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that an annotation of the model allows, so that new fields are tested too."""
    if kind in SCALARS:
        return SCALARS[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return st.one_of([values(member) for member in arguments])
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        pairs = st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
        return pairs.map(MappingProxyType)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})


TRIAL = Trial(
    scenario="hello",
    arm="container",
    block=0,
    position=1,
    outcome=Outcome.OK,
    milestones_ns={Milestone.REQUESTED: 0, Milestone.READY: 3_000_000},
    disk=(DiskPart("upperdir", Sharing.EXCLUSIVE, 4096, 4096),),
    diagnostics=(Diagnostic(DiagnosticCode.FORCED_STOP, "killed"),),
)
INFO = RunInfo(
    schema=SCHEMA_VERSION,
    steelyard="0.1.0",
    run_id="20261124T120335Z-1a2b3c",
    started_at="2026-11-24T12:03:35Z",
    ended_at=None,
    command=("steelyard", "run"),
    seed=1,
    blocks=2,
    warmup_blocks=0,
    scenarios=(),
    arms=(),
    environment={},
    environment_missing={},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of two trials."""
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(INFO)
        writer.append(TRIAL)
        writer.append(dataclasses.replace(TRIAL, block=1))
    return tmp_path / "run"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(info=values(RunInfo), trials=st.lists(values(Trial), max_size=3))
def test_what_is_written_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, info: RunInfo, trials: list[Trial]
) -> None:
    info = dataclasses.replace(info, schema=SCHEMA_VERSION)
    directory = tmp_path_factory.mktemp("exact")
    with RunWriter(directory) as writer:
        writer.write_info(info)
        for trial in trials:
            writer.append(trial)
    run = read_run(directory)
    assert run.info == info
    assert run.trials == tuple(trials)
    assert same_types(run.info, info)
    assert all(map(same_types, run.trials, trials))


def test_a_stored_run_is_written_again_as_it_was_with_what_it_does_not_say_yet(
    tmp_path: Path,
) -> None:
    stored = ROOT / "results" / "reference"
    run = read_run(stored)
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(run.info)
        for trial in run.trials:
            writer.append(trial)
    for name in (RUN_FILE, TRIALS_FILE):
        was, now = (json_lines(folder / name) for folder in (stored, tmp_path / "run"))
        assert [kept(new, old) for new, old in zip(now, was, strict=True)] == was
    assert read_run(tmp_path / "run").info == run.info


def json_lines(path: Path) -> list[object]:
    text = path.read_text()
    return [json.loads(text)] if path.name == RUN_FILE else [*map(json.loads, text.splitlines())]


def kept(new: object, old: object) -> object:
    """What is in `new` of all fields that `old` has."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {name: kept(new.get(name), value) for name, value in old.items()}
    if isinstance(new, list) and isinstance(old, list):
        return [kept(*pair) for pair in zip(new, old, strict=True)]
    return new


def test_what_git_did_to_a_run_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "support" / "schema_1", tmp_path / "run")
    trials = tmp_path / "run" / TRIALS_FILE
    lines = trials.read_bytes().splitlines(keepends=True)
    trials.write_bytes(b"".join([*lines[:2], b"<<<<<<< HEAD\n", *lines[2:]]))
    with pytest.raises(RecordError, match=r"trials\.jsonl, line 3: holds an unresolved merge"):
        read_run(tmp_path / "run")
    (tmp_path / "run" / RUN_FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RecordError, match=r"run\.json, line 1: is a pointer of Git LFS"):
        read_run(tmp_path / "run")


def test_a_run_of_schema_1_is_read_with_the_defaults_of_what_it_does_not_say() -> None:
    run = read_run(ROOT / "tests" / "support" / "schema_1")
    assert (run.info.schema, len(run.trials), len(run.info.arms)) == (1, 16, 8)
    assert run.info.wanted_blocks is None
    trial = run.trials[0]
    assert (trial.readings, trial.alive, trial.together) == ((), 0, 1)
    assert trial.milestones_ns[Milestone.READY] > 0
    assert Milestone.STOPPING not in trial.milestones_ns


def same_types(read: object, written: object) -> bool:
    """Equality is not enough: `Outcome.OK == "ok"` and `True == 1`."""
    if dataclasses.is_dataclass(written):
        return type(read) is type(written) and all(
            same_types(getattr(read, f.name), getattr(written, f.name))
            for f in dataclasses.fields(written)
        )
    if isinstance(written, tuple | list):
        assert isinstance(read, tuple | list)
        return type(read) is type(written) and all(map(same_types, read, written))
    if isinstance(written, Mapping):
        assert isinstance(read, Mapping)
        return all(map(same_types, sorted(read), sorted(written))) and all(
            same_types(read[key], written[key]) for key in written
        )
    return type(read) is type(written)


def test_a_torn_last_line_is_left_out_at_every_byte(folder: Path) -> None:
    path = folder / "trials.jsonl"
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for length in range(second, len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = 2 if length >= len(whole) - 1 else 1  # only the newline may be missing
        assert len(read_run(folder).trials) == expected, length


def test_a_torn_line_elsewhere_is_an_error_with_its_line(folder: Path) -> None:
    path = folder / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0][:30] + b"\n" + lines[1])
    with pytest.raises(RecordError, match=r"trials\.jsonl, line 1, column \d+: not JSON"):
        read_run(folder)


def test_a_run_killed_before_its_first_trial_has_none(folder: Path) -> None:
    (folder / "trials.jsonl").unlink()
    assert read_run(folder).trials == ()


def _set(*keys: str | int, to: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set("block", to="0"), "line 2: block: expected `int`, got `str`"),
        (_set("block", to=True), "line 2: block: expected `int`, got `bool`"),
        (_set("block", to=1.5), "line 2: block: expected `int`, got `float`"),
        (_set("arm", to=None), "line 2: arm: expected `str`, got `null`"),
        (_set("outcome", to="fine"), "line 2: outcome: invalid enum value 'fine'"),
        (_set("milestones_ns", to=[]), "line 2: milestones_ns: expected `object`, got `array`"),
        (
            _set("milestones_ns", "boot", to=1),
            "line 2: key in milestones_ns: invalid enum value 'boot'",
        ),
        (_set("disk", 0, "name", to=7), "line 2: disk[0].name: expected `str`, got `int`"),
        (_set("disk", to={}), "line 2: disk: expected `array`, got `object`"),
        (_set("error", to=["x" * 90]), "line 2: error: expected `str | null`, got `array`"),
        (
            lambda document: document.pop("arm"),
            "line 2: the record: object missing required field `arm`",
        ),
    ],
)
def test_a_wrong_shape_is_told_with_file_line_and_field(
    folder: Path, change: Callable[[Any], None], sentence: str
) -> None:
    path = folder / "trials.jsonl"
    first, second = path.read_text().splitlines()
    document = json.loads(second)
    change(document)
    path.write_text(f"{first}\n{json.dumps(document)}\n")
    with pytest.raises(RecordError) as caught:
        read_run(folder)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1, column 1: not JSON"),
        ('{\n "schema": 1,\n "steelyard"}', "line 3, column 13: not JSON"),
        ("[]", "the record: expected `object`, got `array`"),
        ('{"schema": NaN}', "not JSON: NaN is not JSON"),
        ('{"schema": 1}', "the record: object missing required field `steelyard`"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_broken_run_file_is_told(folder: Path, text: str, sentence: str) -> None:
    (folder / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError) as caught:
        read_run(folder)
    assert str(caught.value).startswith(str(folder / "run.json"))
    assert sentence in str(caught.value)


def test_a_newer_schema_is_refused_before_anything_else(folder: Path) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({"schema": SCHEMA_VERSION + 1, "entirely": "different"}))
    with pytest.raises(RecordError, match=r"written with schema 3.*read it with a newer Steelyard"):
        read_run(folder)


def test_fields_of_a_newer_minor_are_ignored_and_of_an_older_one_default(folder: Path) -> None:
    path = folder / "run.json"
    document = json.loads(path.read_text())
    document["mood"] = "fine"
    del document["interrupted"]
    path.write_text(json.dumps(document))
    assert read_run(folder).info == INFO


def test_no_run_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is no run: it has no run\.json"):
        read_run(tmp_path)


def test_runs_are_never_mixed(folder: Path) -> None:
    with pytest.raises(RecordError, match="holds a run already"):
        RunWriter(folder)
    assert len(read_run(folder).trials) == 2


def test_a_run_never_goes_among_other_files(tmp_path: Path) -> None:
    mine = tmp_path / "summary.md"
    mine.write_text("mine\n")
    with pytest.raises(RecordError, match=r"is not empty \(it holds summary\.md\); give a new or"):
        RunWriter(tmp_path)
    assert mine.read_text() == "mine\n"
    assert list(tmp_path.iterdir()) == [mine]


def test_a_closed_run_takes_no_trial(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "deep" / "run")
    writer.close()
    writer.close()
    with pytest.raises(RecordError, match="closed"):
        writer.append(TRIAL)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1: 2}, {"deep": [object()]}, b"bytes"]
)
def test_what_json_cannot_say_is_not_written(tmp_path: Path, value: Any) -> None:
    info = dataclasses.replace(INFO, environment={"fact": value})
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(INFO)
        with pytest.raises(RecordError, match=r"cannot record RunInfo: environment\.fact"):
            writer.write_info(info)
    assert read_run(tmp_path / "run").info == INFO


def test_each_trial_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(INFO)
        for count in range(1, 4):
            writer.append(TRIAL)
            assert len(read_run(tmp_path / "run").trials) == count


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path) -> None:
    """Files may not grow past a limit for a moment: write(2) is cut short, then fails."""
    with RunWriter(tmp_path / "run") as writer:
        writer.write_info(INFO)
        writer.append(TRIAL)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (tmp_path / "run" / "trials.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(RecordError, match=os.strerror(errno.EFBIG)):
                writer.append(TRIAL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.append(dataclasses.replace(TRIAL, block=9))
    assert [trial.block for trial in read_run(tmp_path / "run").trials] == [0, 9]


def test_replacing_is_atomic_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    before = path.open("rb")
    write_atomically(path, b"new")
    with before:
        assert before.read() == b"old"  # whoever was reading still has the whole old one
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_replacement_leaves_the_old_and_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RecordError, match=os.strerror(errno.EFBIG)):
            write_atomically(path, bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_runs_are_found_oldest_first(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nowhere") == []
    names = ["20261124T120335Z-1a2b3c", "20251124T120335Z-ffffff"]
    for name in names:
        with RunWriter(tmp_path / name) as writer:
            writer.write_info(INFO)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "README.md").touch()
    assert [run.name for run in find_runs(tmp_path)] == sorted(names)
    assert find_runs(tmp_path / names[0]) == [tmp_path / names[0]]


def test_run_ids_are_utc_sortable_and_unique() -> None:
    now = datetime(2026, 11, 24, 13, 3, 35, tzinfo=timezone(timedelta(hours=1)))
    names = {new_run_id(now) for _ in range(50)}
    assert len(names) > 45
    assert all(name.startswith("20261124T120335Z-") and len(name) == 23 for name in names)
    assert new_run_id(now.astimezone(UTC) + timedelta(seconds=1)) > max(names)
