"""Is a run within its budgets, and as good as what was before?

check           records in hand: budgets of the scenarios, and earlier runs
check_against   a new paired run: what was before against what is now, needs no earlier run
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from harness.analysis.check import check as judge_records
from harness.analysis.compare import AGAINST_METRICS, Question, questions_on
from harness.analysis.judgement import Judgement
from harness.analysis.limits import Allowance, Rule
from harness.backends import get_backend
from harness.experiment.compare import Conduct, checked, judge
from harness.experiment.revisions import WORKING_TREE
from harness.experiment.run import RESULTS, refuse_numbers, sequence_of
from harness.experiment.sides import (
    Notify,
    Sides,
    Two,
    interruptible,
    not_the_images_own,
    revision_images,
    unnoticed,
)
from harness.measure.prepare import LocalArms
from harness.model import BASELINE, RunInfo, Scenario
from harness.model.errors import RecordError
from harness.records import Run, find_runs, read_info
from harness.records.dataset import RunData, run_data
from harness.records.scan import read_data
from harness.scenario import load_scenario
from harness.scenario.overrides import reference_arm, select_arms
from harness.scenario.pairing import BEFORE_AND_NOW, PairedScenario, with_images

_ONLY_A_REVISION = re.compile(r"HEAD\b.*|.*[~^].*|.*@\{.*", re.DOTALL)
"""No image is called so (OCI distribution: reference names are in lower case, without these)."""


def check(
    run: Run | RunData,
    baseline: Run | RunData | Sequence[Run | RunData] | None = None,
    *,
    within: float | None = None,
) -> Judgement:
    """Hold a run against the budgets of its scenarios, and against earlier runs.

    A budget is a wish and not a circumstance of the measurement: where a scenario's file is still
    there, its budgets of today count, so that a new one can be held against a run that is there.

    Args:
        run: What is judged.
        baseline: An earlier run of the same kind of host, or several of the same thing: what `of =
            "baseline"` means, and without budgets of that kind what every metric is held against.
            Times and memory are judged by an anchor that both runs hold, else by the spread of two
            or more earlier runs, else not at all.
        within: How much more than the baseline is allowed where no budget says so: 0.1 is 10 %.
            None: 10 %, and 5 % of what is on disk.

    Raises:
        ScenarioError: A scenario's file is there and wrong.
        ValueError: `within` is negative, or no number.
    """
    refuse_numbers(within=within or 0.0)
    scenarios = tuple(_with_budgets_of_today(scenario) for scenario in run.info.scenarios)
    run = run_data(run)
    run = replace(run, info=replace(run.info, scenarios=scenarios))
    return judge_records(run, baseline, within=within)


def _with_budgets_of_today(scenario: Scenario) -> Scenario:
    path = Path(scenario.path)
    if not scenario.path or not path.is_file():
        return scenario
    return replace(scenario, budgets=load_scenario(path).budgets)


def newest_run(results: Path = RESULTS) -> Path:
    """Find the folder of the newest run that is no comparison.

    Raises:
        RecordError: There is none.
    """
    # A run's identifier begins with its time; others, such as `reference`, were named by somebody.
    for path in reversed(find_runs(results)):
        # The sides of a comparison have no budgets: it was judged when it was taken.
        if path.name[:1].isdecimal() and not read_info(path).paired:
            return path
    raise RecordError(f"{results} holds no run; name one, or take one by --run SCENARIO")


def earlier_runs(
    places: Sequence[Path], judged: Path | None = None, notify: Notify = unnoticed
) -> tuple[RunData, ...]:
    """Read the runs that a run is held against, each once.

    Args:
        places: Folders of runs, and folders that hold some: of those all count that can be read and
            were taken to their end, in no comparison.
        judged: Folder of the run itself, which is none of those.
        notify: Called with a sentence for each run that cannot be read.

    Raises:
        RecordError: A run that was named cannot be read, or a folder holds none that counts.
    """
    found: dict[Path, RunData] = {}
    for place in places:
        inside = find_runs(place)
        if inside in ([], [place]):
            found[place.resolve()] = read_data(place)
            continue
        before = len(found)
        for path in inside:
            try:
                if _is_finished(read_info(path)) and not (judged and path.samefile(judged)):
                    found[path.resolve()] = read_data(path)
            except RecordError as error:
                notify(f"{error}; this run is passed over, the others count")
        if len(found) == before:
            raise RecordError(
                f"{place} holds no other run that was taken to its end; name one, or take one by "
                "`steelyard run`"
            )
    return tuple(found.values())


def _is_finished(info: RunInfo) -> bool:
    return not (info.paired or info.interrupted or info.ended_at is None)


def is_surely_a_revision(name: str) -> bool:
    """Whether a name can only be one of git's and not an image's: `HEAD~3`, `main^`, `@{1}`."""
    return _ONLY_A_REVISION.fullmatch(name) is not None


def check_against(
    scenarios: Scenario | Sequence[Scenario],
    before: str,
    *,
    context: Path | str | None = None,
    arms: Sequence[str] = (),
    within: float = 0.05,
    **conduct: Unpack[Conduct],
) -> Judgement:
    """Say whether what there is now is within what is allowed of what was before.

    Both are taken in one paired run, so that the noise of the host is in both alike. `of =
    "baseline"` in a budget means the other side of each block.

    Args:
        scenarios: In which both are started.
        before: An image, or with `context` a revision.
        context: A folder with a Containerfile in a git repository; what is now is its working tree.
        arms: Which arms; none: those with budgets of a baseline, else the one of an A/A comparison.
        within: How much more is allowed of a metric without such a budget.
        conduct: How the run is taken, as `compare`.

    Raises:
        ScenarioError: A scenario is wrong, or an arm means nothing.
        ValueError: An argument is out of its range.
        HarnessError: An arm, an image or a revision cannot be had.
        Interrupted: By a signal; what was measured is recorded, and there is no verdict.
    """
    asked = checked(scenarios, (), within, conduct)
    chosen = [_chosen(scenario, sequence_of(arms)) for scenario in asked]
    for scenario in chosen:
        _in_pairs(scenario, (before, None))  # what is wrong with it is said before the work
    folder = None if context is None else Path(context)
    notify = conduct.get("notify", unnoticed)
    with interruptible(), _sides(chosen, before, folder, notify) as sides:
        questions = [
            question for paired in sides.scenarios for question in questions_of(paired, within)
        ]
        was, now = sides.names
        return judge(sides, questions, f"{now} against {was}, both in one run", conduct)


def _chosen(scenario: Scenario, choices: Sequence[str]) -> Scenario:
    """The scenario with only the arms that are judged."""
    if choices:
        return select_arms(scenario, choices)
    wanted = {budget.arm for budget in scenario.budgets if budget.of == BASELINE}
    arms = [arm for arm in scenario.arms if arm.name in wanted] or [reference_arm(scenario)]
    return replace(scenario, arms=tuple(arms))


@contextlib.contextmanager
def _sides(
    scenarios: Sequence[Scenario], before: str, context: Path | None, notify: Notify
) -> Iterator[Sides]:
    """Both sides, for as long as what was made for them is there."""
    with contextlib.ExitStack() as stack:
        images: tuple[str | None, str | None] = before, None
        own = (each.for_arm(arm).image for each in scenarios for arm in each.arms)
        names: Two = before, ", ".join(dict.fromkeys(own))
        if context is not None:
            making = revision_images(context, (before, WORKING_TREE), notify)
            images, names = stack.enter_context(making)
        paired = tuple(_in_pairs(each, images) for each in scenarios)
        cautions = [_not_judged(scenarios)]
        if context is not None:
            cautions.append(not_the_images_own([each.scenario for each in paired]))
        yield Sides(paired, LocalArms(get_backend), names, tuple(filter(None, cautions)))


def _in_pairs(scenario: Scenario, images: tuple[str | None, str | None]) -> PairedScenario:
    return with_images(scenario, scenario.arms, images, BEFORE_AND_NOW)


def _not_judged(scenarios: Sequence[Scenario]) -> str:
    """A caution for the budgets that a paired run is not asked for."""
    names = {(scenario.name, arm.name) for scenario in scenarios for arm in scenario.arms}
    number = sum(
        budget.of != BASELINE and (scenario.name, budget.arm) in names
        for scenario in scenarios
        for budget in scenario.budgets
    )
    if not number:
        return ""
    many = f"{number} budget{'s' * (number != 1)} not of the baseline"
    return f"{many}: not judged here, but by a `check --run` without --against"


def questions_of(paired: PairedScenario, within: float) -> tuple[Question, ...]:
    """Ask of each pair its budgets of the baseline, or the usual metrics.

    Args:
        paired: With its budgets; each arm is judged by its own of the baseline.
        within: How much more each of `AGAINST_METRICS` may be of an arm that has no such budget, as
            far as both sides have that metric.
    """
    found: list[Question] = []
    scenario = paired.scenario
    for pair in paired.pairs:
        budgets = [b for b in scenario.budgets if (b.arm, b.of) == (pair.candidate, BASELINE)]
        found += [
            Question(pair, b.metric, Allowance(b.most, b.place_in(scenario.path))) for b in budgets
        ]
        if not budgets:
            rule: Rule = Allowance(1 + within)
            found += questions_on((pair,), AGAINST_METRICS, rule, asked=False)
    return tuple(found)
