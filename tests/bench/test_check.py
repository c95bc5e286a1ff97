"""A check of a million trials: under 30 s and 1.5 GB."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.analysis.judgement import ExitCode
from tests.bench.test_report import REPORT, ROOT, TRIALS, write_large_run

MOST_SECONDS = 30.0
MOST_BYTES = 1.5e9
CHECK = REPORT.replace('"report", sys.argv[1]', '"check", *sys.argv[1:]')


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_a_million_trials_are_checked_in_time_and_memory(tmp_path: Path) -> None:
    assert CHECK != REPORT
    large, small = tmp_path / "run", tmp_path / "baseline"
    write_large_run(large, TRIALS)
    write_large_run(small, 1000)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(large), "--baseline", str(small)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (ExitCode.FINE, ExitCode.CANNOT_TELL), done.stderr
    print(done.stderr.splitlines()[-1])
    found = re.search(r"SECONDS (\S+) BYTES (\S+)", done.stderr)
    assert found is not None
    assert float(found[1]) < MOST_SECONDS
    assert float(found[2]) < MOST_BYTES
