"""Finds the rule by which one metric of one arm is held against earlier runs. Pure.

    the new run holds an anchor, and a baseline the same one, or what it is pinned to    anchor
    else: two or more earlier runs of the same thing                                     history
    neither                                                  cannot tell, with what would be needed

What has no noise (layers, disk that every instance has alike) is compared exactly by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from harness import stats
from harness.analysis.baseline import rules
from harness.analysis.baseline.case import Case, any_of, disturbance, pairs_them
from harness.analysis.baseline.filesystem import FilesystemShare, filesystem_share
from harness.analysis.baseline.match import Pin, anchor_of, comparability, pin_of
from harness.analysis.baseline.rules import Level
from harness.analysis.baseline.values import RunValues, Values
from harness.model import Budget, units
from harness.model.metrics import METRICS, Metric, Unit
from harness.model.units import spell
from harness.stats.arrays import np

MOST_RUNS = 20
"""Earlier runs that a spread is taken from, the newest ones; more make it hardly any surer."""
_OTHER_ANCHOR = "the anchor is neither what the baseline ran nor what it was anchored to"
UNLIKE_SHARES = 0.3
"""Shares of disturbed trials that lie further apart: such runs are no measure of each other's times
by the history rule. Disturbed trials stay in every figure: without them less is found, and nothing
is truer."""


class Earlier:
    """Earlier runs that a run is held against, the newest last."""

    def __init__(self, ours: RunValues, runs: Sequence[RunValues]) -> None:
        self._ours = ours
        self.runs = sorted(runs, key=lambda run: run.info.started_at)

    def newest_with(self, scenario: str, arm: str, metric: Metric) -> RunValues | None:
        """Find the newest run that has a metric of an arm."""
        return next(
            (run for run in reversed(self.runs) if len(run.values(scenario, arm, metric)[1])), None
        )

    def case(self, scenario: str, budget: Budget, source: str) -> Case | str:
        """Prepare a budget of a metric that has noise; a sentence where nothing is comparable."""
        ours, arm, metric = self._ours, budget.arm, METRICS[budget.metric]
        reasons = {run: comparability(ours.info, run.info, scenario, arm) for run in self.runs}
        runs = [run for run, reason in reasons.items() if reason is None]
        if not runs:
            return reasons[self.runs[-1]] or ""
        found = stats.estimate(ours.values(scenario, arm, metric)[1])
        theirs = {run: run.values(scenario, arm, metric) for run in runs}
        theirs = {run: values for run, values in theirs.items() if len(values[1])}
        if found is None or not theirs:
            which = "run" if found is None else "baseline"
            where = f"{source}: " if source else ""
            text = f"{where}the {which} has no {metric.name} of {scenario}, {arm}"
            return f"{text}; measure it in both"
        case = Case(
            scenario, budget, source, found.median, rules.level_of(found), blocks=found.count
        )
        anchored = self._anchored(case, tuple(theirs))
        return anchored if isinstance(anchored, Case) else self._among(case, theirs, anchored)

    def _anchored(self, case: Case, runs: Sequence[RunValues]) -> Case | str:
        """Apply the anchor rule to the newest run with the same anchor and enough blocks.

        Returns:
            Why it has no answer, where there is none; empty without an anchor.
        """
        ours, scenario, arm = self._ours, case.scenario, case.budget.arm
        anchor = anchor_of(ours.info, scenario, arm)
        pin = None if anchor is None else pin_of(ours.info, anchor)
        if anchor is None or pin is None:
            return ""
        arms, metric = (arm, anchor.arm.name), METRICS[case.budget.metric]
        new = _ratio(ours, scenario, arms, metric)
        if new is None:
            return f"no block of the run has {metric.name} of both {arm} and its anchor"
        reasons = []
        for run in reversed(runs):
            own = _pinned(run, scenario, arm, pin)
            base = _ratio(run, scenario, own, metric)
            if base is None and own:
                both = f"{metric.name} of both {arm} and its anchor"
                reasons.append(f"no block of the baseline has {both}")
            if base is not None and base.is_short:
                blocks = units.count(base.blocks, "block")
                reasons.append(f"the baseline has {blocks}, take {stats.FEWEST_FOR_LEVEL} or more")
            if base is None or base.is_short:
                continue
            quiet = [
                _ratio(one, scenario, both, metric, quiet=True)
                for one, both in ((ours, arms), (run, own))
            ]
            shares = ours.disturbed_share(scenario, *arms), run.disturbed_share(scenario, *own)
            note = disturbance(shares, _difference(quiet[0], quiet[1:]))
            return replace(case, new=new, base=base, note=note, blocks=new.blocks)
        return reasons[0] if reasons else _OTHER_ANCHOR

    def _among(self, case: Case, theirs: Mapping[RunValues, Values], without: str) -> Case:
        """Apply the history rule, or say why nothing can be told.

        Args:
            case: Of no rule yet.
            theirs: What each comparable run has, the newest last.
            without: Why the anchor rule has no answer; empty without an anchor.
        """
        ours, scenario, arm = self._ours, case.scenario, case.budget.arm
        metric = METRICS[case.budget.metric]
        levels = {
            run: level
            for run, values in theirs.items()
            if (level := _level(values)) is not None and math.isfinite(level.error)
        }
        runs = list(levels)[-MOST_RUNS:]
        earlier = tuple(levels[run] for run in runs)
        if len(runs) < rules.FEWEST_RUNS:
            return self._untold(case, list(theirs.values()), without)
        shares = (
            ours.disturbed_share(scenario, arm),
            fmean(run.disturbed_share(scenario, arm) for run in runs),
        )
        quiet = [
            _level(run.undisturbed(scenario, run.values(scenario, arm, metric), arm))
            for run in (ours, *runs)
        ]
        reason = ""
        if metric.is_milestone and abs(shares[0] - shares[1]) > UNLIKE_SHARES:
            reason = (
                "shares so unlike cannot tell: take the run when the host is as busy as before, or "
                + pairs_them(scenario)
            )
        if metric.unit is Unit.NANOSECONDS and (taken := self._filesystem(scenario, arm, runs)):
            reason = (
                f"the file system takes {spell(metric.unit, taken.new_ns)} of each start, and took "
                f"{spell(metric.unit, taken.base_ns)}: so far apart, the levels say more of the "
                f"disk than of the arm; {pairs_them(scenario)}"
            )
        return replace(
            case,
            earlier=earlier,
            reference=math.exp(fmean(level.middle for level in earlier)),
            note=disturbance(shares, _difference(quiet[0], quiet[1:])),
            reason=reason,
        )

    def _filesystem(
        self, scenario: str, arm: str, runs: Sequence[RunValues]
    ) -> FilesystemShare | None:
        """Find what the file system takes, where that differs too much from earlier runs."""
        base_ns, base_ready_ns = (
            np.concatenate([run.values(scenario, arm, METRICS[name])[1] for run in runs])
            for name in ("file-system", "ready")
        )
        new_ns, new_ready_ns = (
            self._ours.values(scenario, arm, METRICS[name])[1] for name in ("file-system", "ready")
        )
        found = filesystem_share(base_ns, base_ready_ns, new_ns, new_ready_ns)
        return found if found is not None and found.is_too_large else None

    def _untold(self, case: Case, theirs: Sequence[Values], without: str) -> Case:
        few = f"{stats.FEWEST_FOR_LEVEL} blocks or more"
        reasons = [without] if without else []
        if len(theirs) >= rules.FEWEST_RUNS:
            reasons.append(
                f"of {len(theirs)} earlier runs fewer than {rules.FEWEST_RUNS} have {few} of which "
                "most succeed"
            )
        ways = [
            f"name {rules.FEWEST_RUNS} or more earlier runs of {few}", pairs_them(case.scenario)
        ]  # fmt: skip
        if without in ("", _OTHER_ANCHOR):
            taken = f"take the run by `steelyard check --run {case.scenario} --baseline RUN`"
            ways.insert(0, f"{taken}, which brings an anchor along")
        reason = "; ".join(reasons) or "one run does not say how runs differ among themselves"
        found = stats.estimate(theirs[-1][1])
        return replace(
            case,
            reference=found.median if found else None,
            reason=f"{reason}: {any_of(ways)}",
        )


def _pinned(run: RunValues, scenario: str, arm: str, pin: Pin) -> tuple[str, ...]:
    """The arms of an earlier run whose ratio is that to the pin: one where the arm itself was it.

    Empty where the run has nothing of it.
    """
    record, anchor = run.record(scenario, arm), anchor_of(run.info, scenario, arm)
    if record is not None and pin_of(run.info, record) == pin:
        return (arm,)
    is_same = anchor is not None and pin_of(run.info, anchor) == pin
    return (arm, anchor.arm.name) if anchor is not None and is_same else ()


def _ratio(
    run: RunValues, scenario: str, arms: tuple[str, ...], metric: Metric, *, quiet: bool = False
) -> Level | None:
    """The level of an arm as a multiple of its anchor within blocks, perhaps undisturbed ones."""
    if len(arms) < len(("arm", "anchor")):
        return rules.SAME_THING if arms else None
    arm, anchor = (run.values(scenario, name, metric) for name in arms)
    if quiet:
        arm, anchor = (run.undisturbed(scenario, values, *arms) for values in (arm, anchor))
    found = stats.paired_ratio(arm, anchor)
    return None if found is None else rules.level_of(found.estimate)


def _level(values: Values) -> Level | None:
    found = stats.estimate(values[1])
    return None if found is None else rules.level_of(found)


def _difference(new: Level | None, earlier: Sequence[Level | None]) -> float | None:
    """By how much a level lies above the mean of others; None where one of them is not known."""
    levels = [level.middle for level in (new, *earlier) if level is not None]
    if len(levels) <= len(earlier) or not all(map(math.isfinite, levels)):
        return None
    return levels[0] - fmean(levels[1:])
