"""Diagnoses a run as a whole: pure functions of its records.

Diagnostics of the host are in `harness.environment.diagnose`. Those of a single trial are attached
where they are seen: by the trial, the instance, or the watch on the host
(`harness.meters.host_activity`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from harness import stats
from harness.model import Arm, ArmRecord, CacheState, Outcome, RunInfo, Scenario, Trial, latest
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.metrics import block_value, trial_value
from harness.model.units import count

PROBER_SHARE = 0.01
"""Measuring may be this part of the shortest start,"""
PROBER_NS = 100_000
"""or this long, which no start of a whole process comes near."""
_NULL_BACKEND = "null"
"""The backend with nothing in it: what its trials take is the cost of measuring."""
_UNMEASURED = frozenset({_NULL_BACKEND, "fake"})
"""Backends that put nothing on the host, so that its settings do not matter to them."""


@dataclass(frozen=True, slots=True)
class _ScenarioRun:
    """One scenario of a run, with the records of its prepared arms.

    Attributes:
        trials: Of its arms, by name: those that count, in the order in which they were taken.
    """

    info: RunInfo
    scenario: Scenario
    records: tuple[ArmRecord, ...]
    trials: Mapping[str, list[Trial]]

    def diagnostic(self, code: DiagnosticCode, detail: str) -> Diagnostic:
        """Make a diagnostic of this scenario."""
        return Diagnostic(code, f"{self.scenario.name}: {detail}")

    def measured(self) -> list[Arm]:
        """List the arms that put something on the host."""
        return [r.arm for r in self.records if r.arm.backend not in _UNMEASURED]

    def facts(self, name: str) -> dict[str, str]:
        """Map arms to one fact of them, where they have it."""
        return {
            record.arm.name: record.facts[name] for record in self.records if name in record.facts
        }


def run_diagnostics(info: RunInfo, trials: Collection[Trial]) -> list[Diagnostic]:
    """Diagnose a run by its arms and all its trials, in the order in which they were taken.

    Its noise floors are filled in as far as they are known.
    """
    found = [*_few_blocks(info, trials)]
    for scenario in info.scenarios:
        by_arm: dict[str, list[Trial]] = {}
        for trial in latest(trials):
            if trial.scenario == scenario.name and trial.is_counted:
                by_arm.setdefault(trial.arm, []).append(trial)
        records = tuple(record for record in info.arms if record.scenario == scenario.name)
        run = _ScenarioRun(info, scenario, records, by_arm)
        for check in _RUN_CHECKS:
            found += check(run)
    return found


def _few_blocks(info: RunInfo, trials: Collection[Trial]) -> Iterator[Diagnostic]:
    # A block that was broken off has trials and is none of the run's. Failures are another matter.
    blocks = min(info.blocks, len({trial.block for trial in trials if trial.block >= 0}))
    if blocks < stats.FEWEST_FOR_LEVEL:
        yield Diagnostic(
            DiagnosticCode.FEW_BLOCKS, count(blocks, "block") if blocks else "none was taken"
        )


def _failed(run: _ScenarioRun) -> Iterator[Diagnostic]:
    for arm, trials in run.trials.items():
        failed = sum(trial.outcome is not Outcome.OK for trial in trials)
        if not failed:
            continue
        detail = f"{failed} of {len(trials)}"
        if failed == len(trials):
            detail = f"all {failed}" if failed > 1 else "the only one"
        elif (ready := _ready_by_block(trials)) and math.isinf(statistics.median(ready)):
            detail += ", so that its median was not reached"
        yield run.diagnostic(DiagnosticCode.FAILED_TRIALS, f"{arm}: {detail}")


def _different_responses(run: _ScenarioRun) -> Iterator[Diagnostic]:
    answers: dict[str, set[str]] = {}
    # An anchor is on an older image, which may well answer with something else.
    anchors = {record.arm.name for record in run.records if record.arm.anchors is not None}
    for trial in chain.from_iterable(run.trials.values()):
        if trial.response_sha256 is not None and trial.arm not in anchors:
            answers.setdefault(trial.response_sha256, set()).add(trial.arm)
    if len(answers) > 1:
        groups = " / ".join(
            f"{', '.join(sorted(arms))} served sha256 {digest[:12]}"
            for digest, arms in sorted(answers.items())
        )
        yield run.diagnostic(DiagnosticCode.RESPONSE_DIFFERS, groups)


def _mixed_facts(run: _ScenarioRun) -> Iterator[Diagnostic]:
    for name, code in (
        ("kernel_format", DiagnosticCode.KERNEL_FORMAT),
        ("accelerator", DiagnosticCode.ACCELERATOR_MIX),
    ):
        facts = run.facts(name)
        if len(set(facts.values())) > 1:
            yield run.diagnostic(code, ", ".join(f"{arm} {fact}" for arm, fact in facts.items()))


def _mixed_caches(run: _ScenarioRun) -> Iterator[Diagnostic]:
    """Cold arms beside warm ones, unless each is there in both states: then that is the point."""
    boxes: dict[CacheState, set[str]] = {}
    arms = [record.arm for record in run.records if record.arm.backend != _NULL_BACKEND]
    for arm in arms:
        if arm.repeats is None and arm.anchors is None:
            box = repr((arm.backend, sorted(arm.options.items()), arm.image, arm.command))
            boxes.setdefault(arm.cache, set()).add(box)
    if len(boxes) > 1 and len({frozenset(names) for names in boxes.values()}) > 1:
        detail = ", ".join(f"{arm.name} {arm.cache}" for arm in arms)
        yield run.diagnostic(DiagnosticCode.CACHE_MIX, detail)


def _nested(run: _ScenarioRun) -> Iterator[Diagnostic]:
    around = run.info.environment.get("hypervisor")
    machines = [arm for arm, kind in run.facts("accelerator").items() if kind == "kvm"]
    if machines and isinstance(around, str) and around != "none":
        detail = f"{', '.join(machines)} on KVM, on a host that is itself a guest ({around})"
        yield run.diagnostic(DiagnosticCode.NESTED, detail)


def _huge_pages(run: _ScenarioRun) -> Iterator[Diagnostic]:
    setting = run.info.environment.get("transparent_huge_pages")
    machines = run.facts("accelerator")
    boxes = run.measured()
    if setting == "always" and boxes:
        yield run.diagnostic(DiagnosticCode.THP, "set to always")
    # QEMU asks for them for the guest's memory (madvise(2), MADV_HUGEPAGE), containers do not.
    elif setting == "madvise" and machines and len(machines) < len(boxes):
        detail = f"set to madvise: in effect for {', '.join(machines)}, and not for the other arms"
        yield run.diagnostic(DiagnosticCode.THP, detail)


def _unknown_noise(run: _ScenarioRun) -> Iterator[Diagnostic]:
    compared = sum(arm.repeats is None and arm.anchors is None for arm in run.measured())
    known = any(floor.scenario == run.scenario.name for floor in run.info.noise)
    if compared > 1 and not known and run.scenario.scale is None:
        yield run.diagnostic(DiagnosticCode.NOISE_UNKNOWN, "no noise floor")


def _prober_cost(run: _ScenarioRun) -> Iterator[Diagnostic]:
    medians: dict[str, float] = {}
    for arm, trials in run.trials.items():
        took = [trial_value("ready", trial) for trial in trials if trial.outcome is Outcome.OK]
        if took:
            medians[arm] = statistics.median(took)
    nulls = {record.arm.name for record in run.records if record.arm.backend == _NULL_BACKEND}
    costs = [(median, arm) for arm, median in medians.items() if arm in nulls]
    starts = [(median, arm) for arm, median in medians.items() if arm not in nulls]
    if not costs or not starts:
        return
    (cost_ns, null), (start_ns, shortest) = max(costs), min(starts)
    if cost_ns > max(start_ns * PROBER_SHARE, PROBER_NS):
        detail = (
            f"{null} took {cost_ns / 1e6:.2f} ms, {cost_ns / start_ns * 100:.1f} % of the "
            f"{start_ns / 1e6:.2f} ms of {shortest}"
        )
        yield run.diagnostic(DiagnosticCode.PROBER_COST, detail)


def _ready_by_block(trials: Iterable[Trial]) -> list[float]:
    """List the time until ready of each block, as `block_value`, in the order taken.

    Where instances grow in number: of those that started alone.
    """
    blocks: dict[int, list[float]] = {}
    for trial in trials:
        if trial.alive == 0 and trial.together == 1:
            blocks.setdefault(trial.block, []).append(trial_value("ready", trial))
    return list(map(block_value, blocks.values()))


def _odd_shapes(run: _ScenarioRun) -> Iterator[Diagnostic]:
    """Find what a median of the time until ready hides; not where more and more neighbours live."""
    for arm in run.measured() if run.scenario.scale is None else ():
        seen = stats.shape(_ready_by_block(run.trials.get(arm.name, ())))
        if seen.is_bimodal:
            yield run.diagnostic(DiagnosticCode.BIMODAL, arm.name)
        if seen.drift is not None:
            change = f"{arm.name}: {seen.drift * 100:+.0f} % from the first block to the last"
            yield run.diagnostic(DiagnosticCode.DRIFT, change)
        # A drift is one way to resemble one's neighbours, and is reported already.
        elif seen.is_dependent and seen.autocorrelation is not None:
            detail = f"{arm.name}: rank correlation {seen.autocorrelation:.2f} with the next sample"
            yield run.diagnostic(DiagnosticCode.DEPENDENT, detail)


_RUN_CHECKS: tuple[Callable[[_ScenarioRun], Iterator[Diagnostic]], ...] = (
    _failed,
    _different_responses,
    _mixed_facts,
    _mixed_caches,
    _nested,
    _huge_pages,
    _unknown_noise,
    _prober_cost,
    _odd_shapes,
)
