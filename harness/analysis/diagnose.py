"""The diagnostics that a run as a whole gives rise to: pure functions of its records.

What the host gives rise to is in `harness.environment.diagnose`. What one trial shows by itself is
attached where it is seen: by the trial, the instance, or the watch on the host
(`harness.meters.host_activity`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from harness.model import ArmRecord, CacheState, Outcome, RunInfo, Scenario, Trial
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.metrics import trial_value
from harness.model.units import count
from harness.stats import FEWEST_FOR_LEVEL

PROBER_SHARE = 0.01
"""Measuring may be this part of the shortest start,"""
PROBER_NS = 100_000
"""or this long, which no start of a whole process comes near."""
_NULL_BACKEND = "null"
"""The backend with nothing in it: what its trials take is the cost of measuring."""
_UNMEASURED = frozenset({_NULL_BACKEND, "fake"})
"""Backends that put nothing on the host, so that its settings do not matter to them."""


@dataclass(frozen=True, slots=True)
class _Matter:
    """One scenario of a run.

    Attributes:
        info: The run.
        scenario: The scenario.
        records: Of its arms that were prepared.
        trials: Of its arms, by name: those that count, in the order in which they were taken.
    """

    info: RunInfo
    scenario: Scenario
    records: tuple[ArmRecord, ...]
    trials: Mapping[str, list[Trial]]

    def doubt(self, code: DiagnosticCode, detail: str) -> Diagnostic:
        """A doubt about this scenario."""
        return Diagnostic(code, f"{self.scenario.name}: {detail}")

    def facts(self, name: str) -> dict[str, str]:
        """Arm -> one fact of it, where it has it."""
        return {
            record.arm.name: record.facts[name] for record in self.records if name in record.facts
        }


def run_diagnostics(info: RunInfo, trials: Collection[Trial]) -> list[Diagnostic]:
    """The doubts that only the arms and the trials together show.

    Args:
        info: The run, its noise floors filled in as far as they are known.
        trials: All of its trials, in the order in which they were taken.
    """
    found = [*_few_blocks(info, trials)]
    for scenario in info.scenarios:
        by_arm: dict[str, list[Trial]] = {}
        for trial in trials:
            if trial.scenario == scenario.name and trial.block >= 0:
                by_arm.setdefault(trial.arm, []).append(trial)
        records = tuple(record for record in info.arms if record.scenario == scenario.name)
        matter = _Matter(info, scenario, records, by_arm)
        for check in _RUN_CHECKS:
            found += check(matter)
    return found


def _few_blocks(info: RunInfo, trials: Collection[Trial]) -> Iterator[Diagnostic]:
    """Of what was taken, whether or not it failed: failures are another doubt."""
    # A block that was broken off has trials and is none of the run's.
    blocks = min(info.blocks, len({trial.block for trial in trials if trial.block >= 0}))
    if blocks < FEWEST_FOR_LEVEL:
        yield Diagnostic(
            DiagnosticCode.FEW_BLOCKS, count(blocks, "block") if blocks else "none was taken"
        )


def _failed(matter: _Matter) -> Iterator[Diagnostic]:
    for arm, trials in matter.trials.items():
        failed = sum(trial.outcome is not Outcome.OK for trial in trials)
        if not failed:
            continue
        told = f"{arm}: {failed} of {len(trials)}"
        if failed == len(trials):
            told = f"{arm}: all {failed}" if failed > 1 else f"{arm}: the only one"
        elif 2 * failed >= len(trials):
            told += ", so that its median was not reached"
        yield matter.doubt(DiagnosticCode.FAILED_TRIALS, told)


def _different_responses(matter: _Matter) -> Iterator[Diagnostic]:
    answers: dict[str, set[str]] = {}
    for arm, trials in matter.trials.items():
        for trial in trials:
            if trial.response_sha256 is not None:
                answers.setdefault(trial.response_sha256, set()).add(arm)
    if len(answers) > 1:
        groups = " / ".join(
            f"{', '.join(sorted(arms))} served sha256 {digest[:12]}"
            for digest, arms in sorted(answers.items())
        )
        yield matter.doubt(DiagnosticCode.RESPONSE_DIFFERS, groups)


def _mixed_facts(matter: _Matter) -> Iterator[Diagnostic]:
    for name, code in (
        ("kernel_format", DiagnosticCode.KERNEL_FORMAT),
        ("accelerator", DiagnosticCode.ACCELERATOR_MIX),
    ):
        told = matter.facts(name)
        if len(set(told.values())) > 1:
            yield matter.doubt(code, ", ".join(f"{arm} {value}" for arm, value in told.items()))


def _mixed_caches(matter: _Matter) -> Iterator[Diagnostic]:
    """Cold arms beside warm ones, unless each is there in both states: then that is the point."""
    boxes: dict[CacheState, set[str]] = {}
    for record in matter.records:
        arm = record.arm
        if arm.backend != _NULL_BACKEND and arm.repeats is None:
            box = repr((arm.backend, sorted(arm.options.items()), arm.image, arm.command))
            boxes.setdefault(arm.cache, set()).add(box)
    if len(boxes) > 1 and len({frozenset(names) for names in boxes.values()}) > 1:
        told = ", ".join(
            f"{record.arm.name} {record.arm.cache}"
            for record in matter.records
            if record.arm.backend != _NULL_BACKEND
        )
        yield matter.doubt(DiagnosticCode.CACHE_MIX, told)


def _nested(matter: _Matter) -> Iterator[Diagnostic]:
    around = matter.info.environment.get("hypervisor")
    machines = [arm for arm, kind in matter.facts("accelerator").items() if kind == "kvm"]
    if machines and isinstance(around, str) and around != "none":
        told = f"{', '.join(machines)} on KVM, on a host that is itself a guest ({around})"
        yield matter.doubt(DiagnosticCode.NESTED, told)


def _huge_pages(matter: _Matter) -> Iterator[Diagnostic]:
    setting = matter.info.environment.get("transparent_huge_pages")
    machines = matter.facts("accelerator")
    boxes = [record for record in matter.records if record.arm.backend not in _UNMEASURED]
    if setting == "always" and boxes:
        yield matter.doubt(DiagnosticCode.THP, "set to always")
    # QEMU asks for them for the guest's memory (madvise(2), MADV_HUGEPAGE), containers do not.
    elif setting == "madvise" and machines and len(machines) < len(boxes):
        told = f"set to madvise: in effect for {', '.join(machines)}, and not for the other arms"
        yield matter.doubt(DiagnosticCode.THP, told)


def _unknown_noise(matter: _Matter) -> Iterator[Diagnostic]:
    compared = [
        record
        for record in matter.records
        if record.arm.repeats is None and record.arm.backend not in _UNMEASURED
    ]
    known = any(floor.scenario == matter.scenario.name for floor in matter.info.noise)
    if len(compared) > 1 and not known and matter.scenario.scale is None:
        yield matter.doubt(DiagnosticCode.NOISE_UNKNOWN, "no noise floor")


def _prober_cost(matter: _Matter) -> Iterator[Diagnostic]:
    medians: dict[str, float] = {}
    for arm, trials in matter.trials.items():
        took = [trial_value("ready", trial) for trial in trials if trial.outcome is Outcome.OK]
        if took:
            medians[arm] = statistics.median(took)
    nulls = {record.arm.name for record in matter.records if record.arm.backend == _NULL_BACKEND}
    costs = [(median, arm) for arm, median in medians.items() if arm in nulls]
    starts = [(median, arm) for arm, median in medians.items() if arm not in nulls]
    if not costs or not starts:
        return
    cost_ns, null = max(costs)
    start_ns, shortest = min(starts)
    if cost_ns > max(start_ns * PROBER_SHARE, PROBER_NS):
        told = (
            f"{null} took {cost_ns / 1e6:.2f} ms, {cost_ns / start_ns * 100:.1f} % of the "
            f"{start_ns / 1e6:.2f} ms of {shortest}"
        )
        yield matter.doubt(DiagnosticCode.PROBER_COST, told)


def _odd_shapes(matter: _Matter) -> Iterator[Diagnostic]:
    """What a median of the time until ready hides; not where more and more neighbours live."""
    from harness import stats

    arms = [record.arm for record in matter.records if record.arm.backend not in _UNMEASURED]
    for arm in arms if matter.scenario.scale is None else ():
        ready = [trial_value("ready", trial) for trial in matter.trials.get(arm.name, ())]
        if not ready:
            continue
        seen = stats.shape(ready)
        if seen.is_bimodal:
            yield matter.doubt(DiagnosticCode.BIMODAL, arm.name)
        if seen.drift is not None:
            change = f"{arm.name}: {seen.drift * 100:+.0f} % from the first block to the last"
            yield matter.doubt(DiagnosticCode.DRIFT, change)
        # A drift is one way to resemble one's neighbours, and is told already.
        elif seen.is_dependent and seen.autocorrelation is not None:
            told = f"{arm.name}: rank correlation {seen.autocorrelation:.2f} with the next sample"
            yield matter.doubt(DiagnosticCode.DEPENDENT, told)


_RUN_CHECKS: tuple[Callable[[_Matter], Iterator[Diagnostic]], ...] = (
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
