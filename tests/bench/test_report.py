"""A report of a million trials, charts included: under 20 s and 1.5 GB."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.model import Trial
from harness.records import RUN_FILE, TRIALS_FILE
from harness.records.codec import encode
from tests.support.synthetic import synthetic_run

TRIALS = 1_000_000
MOST_SECONDS = 20.0
MOST_BYTES = 1.5e9
ROOT = Path(__file__).parents[2]

# In an interpreter of its own: its peak memory is the report's, and its time begins with nothing.
# Memory is that of it and of the largest process that it started; CPU time is printed because a
# busy host stretches the other.
REPORT = """
import resource, sys, time
began = time.monotonic()
from harness.cli import main as cli
sys.argv = ["steelyard", "report", sys.argv[1]]
try:
    cli.main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = [sum(resource.getrusage(who)[:2]) for who in (0, resource.RUSAGE_CHILDREN)]
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print("SECONDS", time.monotonic() - began, "BYTES", peak + helpers, end=" ", file=sys.stderr)
    print("CPU", *used, file=sys.stderr)
"""


def write_large_run(folder: Path, trials: int) -> None:
    """Write a run as `RunWriter` would, which would take hours to flush each line to the disk.

    Every line is one of a synthetic run of 40 blocks, failures and missing readings among them,
    with its own block, and times and sizes that were shifted by its own few parts in a thousand.
    """
    run = synthetic_run(blocks=40, failure_rate=0.01, warmup_blocks=0)
    by_place: dict[tuple[str, str], list[tuple[str, list[int]]]] = {}
    for trial in run.trials:
        line = json.dumps(encode(trial, ""), separators=(",", ":"))
        by_place.setdefault((trial.scenario, trial.arm), []).append(_template(line, trial))
    dice = random.Random(1)
    blocks = trials // len(by_place)
    folder.mkdir()
    with (folder / TRIALS_FILE).open("w") as file:
        for block in range(blocks):
            for lines in by_place.values():
                template, numbers = lines[block % len(lines)]
                factor = dice.gauss(1, 0.01)
                shifted = [n if n < 1000 else int(n * factor) for n in numbers]
                file.write(template % (block, *shifted))
    info = json.dumps(encode(dataclasses.replace(run.info, blocks=blocks), ""))
    (folder / RUN_FILE).write_text(info)


def _template(line: str, trial: Trial) -> tuple[str, list[int]]:
    """Make a line into a template: holes for its block and for the numbers that follow it."""
    head, tail = line.split(f'"block":{trial.block},')
    numbers = [int(n) for n in re.findall(r"(?<=[a-z]\":)\d+(?=[,}])", tail)]
    holes = re.sub(r"(?<=[a-z]\":)\d+(?=[,}])", "%d", tail.replace("%", "%%"))
    return f'{head}"block":%d,{holes}\n', numbers


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_a_million_trials_are_reported_in_time_and_memory(tmp_path: Path) -> None:
    write_large_run(tmp_path / "run", TRIALS)
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stderr.splitlines()[-1])
    found = re.search(r"SECONDS (\S+) BYTES (\S+)", done.stderr)
    assert found is not None
    assert (tmp_path / "run" / "report.html").stat().st_size < 20e6
    assert float(found[1]) < MOST_SECONDS
    assert float(found[2]) < MOST_BYTES
