"""What is said while a run goes on."""

from __future__ import annotations

import io
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from harness.cli.progress import PlainListener
from harness.model.events import BlockFinished, BlockStarted, HostBusy, RunStarted
from tests.support.synthetic import synthetic_run


def test_blocks_that_share_a_line_are_named_by_the_first_and_the_last_of_them() -> None:
    out = io.StringIO()
    listener = PlainListener(Console(file=out, width=200))
    listener(RunStarted(synthetic_run(blocks=4).info, Path("run"), 0))
    for block in (0, 1, 1, 1, 2, 3):  # block 1 was taken again
        listener(BlockStarted(block, 4, 4, 0, MappingProxyType({})))
        listener(BlockFinished(block, 1_000_000))
    assert out.getvalue().splitlines()[1:] == ["blocks 1 to 4 of 4: 0 trials in 6.0 ms"]


def test_a_block_that_waits_says_for_what() -> None:
    out = io.StringIO()
    PlainListener(Console(file=out, width=200))(HostBusy(2, 0.374, 0.1))
    assert out.getvalue() == "block 3 waits: others use 37 % of the CPUs, and may use 10 %\n"
