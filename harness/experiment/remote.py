"""Arms whose trials another process takes: a worker of another revision of Steelyard.

See `harness.worker` for what is said between the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from harness.measure.interruption import Interruption
from harness.measure.prepare import ReadyArm
from harness.model import Arm, ArmRecord, Scenario, Slot, Trial
from harness.model.backend import Progress
from harness.model.errors import HarnessError, PrepareError
from harness.records.codec import ShapeError, decode, encode

if TYPE_CHECKING:
    from harness.model.network import Network

_T = TypeVar("_T")

MODULE = "harness.worker"
_PATIENCE_S = 30.0
"""For a worker to remove what it has, once a signal ends it."""


class Worker:
    """A process that takes trials with the code of one folder.

    Args:
        tree: A copy of Steelyard.
        revision: What it is called in sentences and records.

    Raises:
        PrepareError: The copy has no worker, or it does not start.
    """

    def __init__(self, tree: Path, revision: str) -> None:
        self.revision = revision
        if not (tree / (MODULE.replace(".", "/") + ".py")).is_file():
            message = f"revision {revision} cannot be compared: it is older than {MODULE}, which "
            raise PrepareError(f"{message}takes its trials; name a later one")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            # -P: the folder that the user stands in may be another Steelyard.
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": str(tree)},
            # Ctrl-C at the terminal is for us, who then end the worker in order.
            process_group=0,
        )
        try:
            file = Path(str(self._answer().get("file")))
            if not file.resolve().is_relative_to(tree.resolve()):
                message = f"the worker of revision {revision} runs {file}"
                raise PrepareError(f"{message}; take that out of Python's path")  # noqa: TRY301
        except BaseException:
            self.close()
            raise

    def ask(self, question: Mapping[str, Any], progress: Progress | None = None) -> Any:
        """Put a question and wait for the answer.

        Raises:
            HarnessError: The answer is an error, or the worker has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        while True:
            answer = self._answer()
            if "error" in answer:
                raise HarnessError(f"revision {self.revision}: {answer['error']}")
            if "progress" not in answer:
                return answer
            if progress is not None:
                progress(str(answer["progress"]))

    def close(self) -> None:
        """End it, and wait until it has removed what it had. Idempotent."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            if process.poll() is None:
                # The end of its input would do, but not in the middle of a trial.
                process.send_signal(signal.SIGTERM)
                process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            self._errors.close()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _gone(self) -> HarnessError:
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        message = f"the worker of revision {self.revision} has ended"
        return PrepareError(f"{message}: {said[-1] if said else 'without a word'}")


class RemoteArms:
    """Arms that workers prepare, and take the trials of. Implements `ArmSource`.

    Args:
        workers: Arm name -> who takes its trials.
    """

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def require_usable(self, backend: str, interruption: Interruption) -> None:
        """Nothing here: each revision judges for itself when it prepares."""

    def prepare(
        self,
        scenario: Scenario,
        arm: Arm,
        lab: Network | None,
        progress: Progress,
        interruption: Interruption,
    ) -> ReadyArm:
        """See `harness.measure.prepare.ArmSource.prepare`; the worker has a lab of its own."""
        del lab
        process = self._workers[arm.name]
        begun_ns = monotonic_ns()
        document = encode(scenario.for_arm(arm), "")
        question = {"do": "prepare", "scenario": document, "arm": arm.name}
        try:
            with interruption.safe():
                answer = process.ask(question, progress)
            found = _decoded(ArmRecord, answer["record"], process.revision)
        except PrepareError:
            raise
        except HarnessError as error:
            raise PrepareError(str(error)) from error
        record = replace(
            found,
            scenario=scenario.name,
            arm=arm,
            prepare_ns=monotonic_ns() - begun_ns,
            facts=MappingProxyType({**found.facts, "revision": process.revision}),
        )

        def take(slot: Slot) -> Trial:
            # The worker removes the instance of an interrupted trial when it is closed.
            with interruption.safe():
                answer = process.ask({"do": "trial", **asdict(slot)})
            trial: Trial = _decoded(Trial, answer["trial"], process.revision)
            return trial

        # The worker closes its arms when it ends.
        return ReadyArm(record, take, close=lambda: None)


def _decoded(kind: type[_T], document: object, revision: str) -> _T:
    try:
        return decode(kind, document, "")
    except ShapeError as error:
        message = f"revision {revision} records what this Steelyard does not know"
        where = f"({error.field}: {error.problem})"
        raise HarnessError(f"{message} {where}; compare from the newer of the two") from error
