"""Known truths: a run of the same thing is not called worse than an earlier one, a slower one is.

Real containers, by the commands that users type: a run, and a check that takes its anchor along,
some seconds later. Quiet, and beside processes of our own that keep every CPU busy. The injected
delay is a loop in the shell whose length is worked out anew for each pair, as 30 % of the start
that the baseline's run took. `STEELYARD_BENCH_RUNS` sets the number of pairs, by default 40.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.analysis.judgement import ExitCode
from harness.model.metrics import trial_value
from harness.records import read_run

pytestmark = [pytest.mark.bench, pytest.mark.privileged, pytest.mark.timeout(4 * 3600)]

PAIRS = int(os.environ.get("STEELYARD_BENCH_RUNS", "40"))
BLOCKS = 60
ROOT = Path(__file__).parents[2]
SCENARIO = """
question = "Is it as good as before?"
image = "busybox"
arms = ["container"]

[workload]
command = ["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt {turns} ]; do i=$((i+1)); done"]

[readiness]
kind = "exit"
"""


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Keep every CPU busy with a process of our own."""
    program = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(program) for _ in range((os.cpu_count() or 1) * wanted)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def steelyard(folder: Path, *arguments: str) -> int:
    program = "from harness.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in list(ExitCode), done.stderr
    assert done.returncode != ExitCode.USAGE, done.stderr
    return done.returncode


def ready_ns(folder: Path) -> float:
    """Median start of the judged arm, warm-up left out."""
    trials = read_run(folder).trials
    return statistics.median(
        trial_value("ready", trial)
        for trial in trials
        if trial.is_counted and trial.arm == "container"
    )


def take(folder: Path, turns: int, *arguments: str) -> int:
    (folder / "sample.toml").write_text(SCENARIO.format(turns=turns))
    return steelyard(folder, *arguments, "--blocks", str(BLOCKS))


def turn_ns(folder: Path, number: int) -> float:
    """What a turn of the loop takes now, by two short runs."""
    found = []
    for turns in (0, 4000):
        name = f"turns-{number}-{turns}"
        (folder / "sample.toml").write_text(SCENARIO.format(turns=turns))
        steelyard(folder, "run", "sample.toml", "--blocks", "10", "--no-aa", "--output", name)
        found.append(ready_ns(folder / name))
    return max(found[1] - found[0], 1.0) / 4000


def pairs(folder: Path, share: float) -> Counter[ExitCode]:
    """Take pairs of runs whose second is slower by a share; count how the checks end."""
    counts: Counter[ExitCode] = Counter()
    for number in range(PAIRS):
        each = turn_ns(folder, number) if share else 1.0
        name = f"before-{number}"
        take(folder, 0, "run", "sample.toml", "--no-aa", "--output", name)
        turns = round(share * ready_ns(folder / name) / each)
        time.sleep(3)
        counts[
            ExitCode(take(folder, turns, "check", "--run", "sample.toml", "--baseline", name))
        ] += 1
    return counts


@pytest.mark.parametrize("is_loaded", [False, True], ids=["quiet", "loaded"])
def test_the_same_thing_is_not_called_worse(tmp_path: Path, is_loaded: bool) -> None:
    with busy(is_loaded):
        counts = pairs(tmp_path, 0.0)
    print(dict(counts))
    assert counts[ExitCode.REGRESSED] <= max(1, PAIRS // 40)


@pytest.mark.parametrize("is_loaded", [False, True], ids=["quiet", "loaded"])
def test_a_start_made_30_percent_longer_is_found_and_never_fine(
    tmp_path: Path, is_loaded: bool
) -> None:
    with busy(is_loaded):
        counts = pairs(tmp_path, 0.3)
    print(dict(counts))
    assert counts[ExitCode.FINE] == 0
    assert counts[ExitCode.REGRESSED] >= 0.75 * PAIRS
