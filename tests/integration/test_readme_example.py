"""The example in README.md runs as it stands, in a folder and a data home of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.backends import get_backend
from harness.records import read_run

pytestmark = pytest.mark.privileged


def the_example(readme: Path) -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, where the arms of the example can run."""
    for arm in ("process", "container"):
        verdict = get_backend(arm).availability()
        if not verdict.usable:
            pytest.skip(f"{arm}: {verdict.reason}")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_the_example_in_the_readme_runs(folder: Path, checkout: Path, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(the_example(checkout / "README.md"))
    done = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={**os.environ, "STEELYARD_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    medians, code, findings = re.split(r"^([0-3])$", done.stdout, maxsplit=1, flags=re.MULTILINE)
    assert {"process", "container"} <= {line.split(" ")[0] for line in medians.splitlines()}
    assert code == "0"  # of the budgets of hello.toml, only exact disk is about these arms
    assert "time until ready" in findings
    assert "disk of each instance" in findings

    runs = [read_run(path) for path in (folder / "results").iterdir()]
    asked, compared = sorted(runs, key=lambda run: run.info.paired)
    assert (asked.info.paired, compared.info.paired) == (False, True)
    assert {"process", "container"} <= {record.arm.name for record in asked.info.arms}
    assert asked.directory is not None
    assert (asked.directory / "report.html").is_file()
    assert list((tmp_path / "home" / "instances").iterdir()) == []
