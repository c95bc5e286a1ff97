"""The schema as told in results/README.md is that of the model, and its example works."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from harness.diagnostics import Diagnostic
from harness.model import (
    SCHEMA_VERSION,
    ArmRecord,
    DiskPart,
    Limits,
    Milestone,
    Outcome,
    Readiness,
    RunInfo,
    Scenario,
    Trial,
    Workload,
)
from harness.records import RunWriter
from tests.support.synthetic import synthetic_run

README = Path(__file__).parents[2] / "results" / "README.md"


@pytest.mark.parametrize(
    "kind",
    [RunInfo, Scenario, Workload, Readiness, Limits, ArmRecord, DiskPart, Diagnostic, Trial],
)
def test_every_field_is_told(kind: type) -> None:
    text = README.read_text()
    for field in dataclasses.fields(kind):
        assert f"`{field.name}`" in text, f"{kind.__name__}.{field.name}"


def test_every_value_and_the_version_are_told() -> None:
    text = README.read_text()
    assert f"## Schema {SCHEMA_VERSION}" in text
    assert all(f"`{value}`" in text for value in (*Milestone, *Outcome))


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
