"""Takes trials for another process: `python -m harness.worker`, one JSON object a line.

Two revisions of Steelyard cannot be loaded into one process, so `steelyard compare --revision`
starts a worker from a copy of each, and only one of them works at a time. A worker takes whole
trials, so every milestone counts from its own t0. Standard output has the answers alone.

    -> {"do": "prepare", "scenario": {…}, "arm": "container-a"}
    <- {"progress": "…"} …      {"record": {…}}
    -> {"do": "trial", "scenario": "hello", "arm": "container-a", "block": 0, "position": 1}
    <- {"trial": {…}}
    <- {"error": "…"} to either

At the end of its input, or by a signal, arms are closed and the instance under way is removed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import harness
from harness.backends import get_backend
from harness.measure.interruption import Interruption
from harness.measure.prepare import LocalArms, ReadyArm
from harness.measure.trial import without_collection
from harness.model import ArmRecord, Scenario, Slot
from harness.model.errors import HarnessError
from harness.model.version import VERSION
from harness.records.codec import decode, encode

if TYPE_CHECKING:
    from harness.lab import Lab


class _Worker:
    """Keeps the prepared arms, and answers."""

    def __init__(self, answers: IO[str], stack: contextlib.ExitStack) -> None:
        self.interruption = stack.enter_context(Interruption())
        self._answers = answers
        self._stack = stack
        self._source = LocalArms(get_backend)
        self._lab: Lab | None = None
        self._arms: dict[tuple[str, str], ReadyArm] = {}

    def answer(self, **content: object) -> None:
        """Write one line."""
        self._answers.write(json.dumps(content, separators=(",", ":")) + "\n")
        self._answers.flush()

    def handle(self, asked: Mapping[str, Any]) -> None:
        """Handle one request."""
        try:
            if asked["do"] == "prepare":
                scenario = decode(Scenario, asked["scenario"], "")
                record = self._prepare(scenario, asked["arm"])
                self.answer(record=encode(record, ""))
            else:
                self.answer(trial=self._take(asked))
        except (HarnessError, OSError) as error:
            self.answer(error=str(error) or type(error).__name__)

    def _prepare(self, scenario: Scenario, name: str) -> ArmRecord:
        arm = next(arm for arm in scenario.arms if arm.name == name)
        self._source.require_usable(arm.backend, self.interruption)
        lab = self._find_lab() if scenario.readiness.needs_network else None
        ready = self._source.prepare(
            scenario, arm, lab, lambda message: self.answer(progress=message), self.interruption
        )
        self._stack.callback(ready.close)
        self._arms[scenario.name, name] = ready
        # What preparing left in memory stays; collecting before each trial need not look at it.
        gc.collect()
        gc.freeze()
        return ready.record

    def _find_lab(self) -> Lab:
        if self._lab is None:
            from harness.lab import Lab

            self._lab = self._stack.enter_context(Lab())
        return self._lab

    def _take(self, asked: Mapping[str, Any]) -> object:
        place = (asked["block"], asked["position"], asked.get("repetition", 0))
        slot = Slot(asked["scenario"], asked["arm"], *place)
        with without_collection():
            return encode(self._arms[slot.scenario, slot.arm].take(slot), "")


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        worker = _Worker(answers, stack)
        worker.answer(steelyard=VERSION, file=harness.__file__)
        while True:
            with worker.interruption.safe():
                line = sys.stdin.readline()
            if not line:
                break
            worker.handle(json.loads(line))


if __name__ == "__main__":
    main()
