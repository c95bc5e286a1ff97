"""Takes trials for another process: `python -m harness.worker`, one JSON object a line.

Two revisions of Steelyard cannot be loaded into one process, so `steelyard compare --revision`
starts one such worker from a copy of each, and only one of them works at a time. A worker takes
whole trials, so every milestone counts from its own t0. It answers on its standard output; what
anything else prints goes to the standard error.

    -> {"do": "prepare", "scenario": {…}, "arm": "container-a"}
    <- {"progress": "…"} …      {"record": {…}}
    -> {"do": "trial", "scenario": "hello", "arm": "container-a", "block": 0, "position": 1}
    <- {"trial": {…}}
    <- {"error": "…"} to either

It ends in order when its input ends or it is told to by a signal: arms are closed, the instance
under way is removed.
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
from harness.measure.trial import take_trial
from harness.model import ArmRecord, Scenario, Slot
from harness.model.errors import BackendUnavailableError, HarnessError
from harness.model.version import VERSION
from harness.records.codec import decode, encode

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.model.backend import PreparedArm


class _Worker:
    """The arms that were prepared, and the answers."""

    def __init__(self, answers: IO[str], stack: contextlib.ExitStack) -> None:
        self.interruption = stack.enter_context(Interruption())
        self._answers = answers
        self._stack = stack
        self._lab: Lab | None = None
        self._arms: dict[tuple[str, str], tuple[Scenario, PreparedArm]] = {}

    def answer(self, **content: object) -> None:
        """One line."""
        self._answers.write(json.dumps(content, separators=(",", ":")) + "\n")
        self._answers.flush()

    def handle(self, asked: Mapping[str, Any]) -> None:
        """One request."""
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
        backend = get_backend(arm.backend)
        with self.interruption.safe():
            verdict = backend.availability()
        if not verdict.usable:
            raise BackendUnavailableError(backend.name, verdict.reason, verdict.remedy)
        lab = self._find_lab() if scenario.readiness.needs_network else None
        with self.interruption.safe():
            prepared = backend.prepare(
                scenario.for_arm(arm), arm, lab, lambda message: self.answer(progress=message)
            )
        self._stack.callback(prepared.close)
        self._arms[scenario.name, name] = scenario, prepared
        record = ArmRecord(
            scenario=scenario.name,
            arm=arm,
            prepare_ns=0,
            disk=prepared.disk_parts(),
            facts=prepared.facts,
            diagnostics=prepared.diagnostics,
            initial_disk=prepared.initial_disk_parts(),
        )
        # What preparing left in memory stays; collecting before each trial need not look at it.
        gc.collect()
        gc.freeze()
        return record

    def _find_lab(self) -> Lab:
        if self._lab is None:
            from harness.lab import Lab

            self._lab = self._stack.enter_context(Lab())
        return self._lab

    def _take(self, asked: Mapping[str, Any]) -> object:
        slot = Slot(asked["scenario"], asked["arm"], asked["block"], asked["position"])
        scenario, prepared = self._arms[slot.scenario, slot.arm]
        lab = self._lab if scenario.readiness.needs_network else None
        gc.collect()
        gc.disable()
        try:
            return encode(take_trial(slot, scenario, prepared, lab, self.interruption), "")
        finally:
            gc.enable()


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
