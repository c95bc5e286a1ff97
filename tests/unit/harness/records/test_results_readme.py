"""The schema as told in results/README.md is that of the model, and its example works."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from harness.model import (
    SCHEMA_VERSION,
    Arm,
    ArmRecord,
    Budget,
    CacheState,
    DiskPart,
    GrowthPoint,
    Hooks,
    Limits,
    Meter,
    Milestone,
    NoiseFloor,
    Outcome,
    Pair,
    PairedLimit,
    PairedQuestions,
    Readiness,
    Reading,
    Repetitions,
    RunInfo,
    Scale,
    Scenario,
    Sharing,
    Trial,
    Workload,
)
from harness.model.diagnostics import Diagnostic
from harness.records import RunWriter
from tests.support.synthetic import synthetic_run

README = Path(__file__).parents[4] / "results" / "README.md"


KINDS = [
    RunInfo, Scenario, Workload, Readiness, Limits, Arm, Hooks, Scale, Budget, ArmRecord, DiskPart,
    Diagnostic, NoiseFloor, Pair, PairedLimit, PairedQuestions, Repetitions, Trial, Reading,
    GrowthPoint,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_told(kind: type) -> None:
    text = README.read_text()
    for field in dataclasses.fields(kind):
        assert f"`{field.name}`" in text, f"{kind.__name__}.{field.name}"


def test_every_value_and_the_version_are_told() -> None:
    text = README.read_text()
    assert f"## Schema {SCHEMA_VERSION}" in text
    values = (*Milestone, *Outcome, *Meter, *CacheState, *Sharing)
    assert all(f"`{value}`" in text for value in values)


def test_no_dataclass_of_the_records_is_left_out() -> None:
    """Whatever the records hold is reached from these three."""
    reached: set[type] = set()
    pending: list[object] = [RunInfo, Trial, GrowthPoint]
    while pending:
        kind = pending.pop()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in reached:
            reached.add(kind)
            pending += typing.get_type_hints(kind).values()
        pending += typing.get_args(kind)
    assert reached == set(KINDS)


def test_the_python_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = synthetic_run(blocks=3)
    with RunWriter(tmp_path / "results" / "reference") as writer:
        writer.write_info(run.info)
        for trial in run.trials:
            writer.append(trial)
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    *lines, expression = found[1].strip().split("\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    medians = eval(expression, names)
    assert set(medians.index) == {(s.name, a.name) for s in run.info.scenarios for a in s.arms}
    assert medians[("hello", "container")] > 1e6
