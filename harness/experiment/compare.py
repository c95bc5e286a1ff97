"""Is B worse than A? One run with both, interleaved block by block, until there is a verdict.

compare             two images, or settings of one arm      ┐
compare_revisions   two revisions of Steelyard, or of the   ├─> Sides ── judge() ──> Judgement
                    image of a folder                       │
check_against       what was before and what is now         ┘   (harness.experiment.check)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from harness.analysis.compare import (
    DEFAULT_METRICS,
    DEFAULT_MOST_BLOCKS,
    Comparer,
    Question,
    questions_on,
)
from harness.analysis.judgement import Judgement
from harness.analysis.limits import Margin
from harness.backends import get_backend
from harness.experiment.run import (
    drawn,
    new_directory,
    recording,
    refuse_numbers,
    run_id_for,
    sequence_of,
    take,
    unheard,
)
from harness.experiment.sides import (
    Notify,
    Sides,
    images_of,
    interruptible,
    unnoticed,
    workers_of,
)
from harness.measure.prepare import LocalArms
from harness.measure.request import Request
from harness.measure.schedule import DEFAULT_WARMUP_BLOCKS
from harness.model import PairedQuestions, Scenario
from harness.model.events import Listener
from harness.model.version import VERSION
from harness.records import read_run
from harness.scenario.pairing import with_sides
from harness.scenario.validate import require_metrics, require_valid

_TIME_LIMIT_NS = 600_000_000_000
"""Where neither a number of blocks nor a time is given."""


class Conduct(TypedDict, total=False):
    """How a comparison is taken, whatever is compared: the last keyword arguments of `compare`."""

    blocks: int | None
    time_limit_ns: int | None
    warmup_blocks: int
    seed: int | None
    directory: Path | str | None
    listener: Listener
    notify: Notify
    command: Sequence[str]


def compare(
    scenarios: Scenario | Sequence[Scenario],
    reference: str,
    candidate: str,
    *,
    arm: str | None = None,
    metrics: Sequence[str] = (),
    within: float = 0.05,
    **conduct: Unpack[Conduct],
) -> Judgement:
    """Say whether the candidate is worse than the reference: one run with both, interleaved.

    Args:
        scenarios: In which both are started.
        reference: A: an image; or settings of the arm (`kernel=PATH`, `cache=cold`); or an arm with
            its settings (`container,cache=cold`).
        candidate: B, the same.
        arm: Which arm of the scenarios; None: `container`, or the first that knows the settings.
        metrics: Keys of `METRICS`; none: `ready`, `cpu`, `disk`, `disk-shared`.
        within: Relative differences up to this count as none: 0.05 is 5 %.
        conduct: How the run is taken, by the keywords that follow; all may be left out.
        blocks: Trials of each at most; the run ends as soon as all is decided.
        time_limit_ns: What the trials may take in all; None: no limit with `blocks`, else 10 min.
        warmup_blocks: Blocks before those, recorded and not counted.
        seed: Of the order of trials; None: drawn.
        directory: Folder of the run, new or empty; None: one in `results/` of the current folder.
        listener: Called with each event of the run, see `harness.model.events`.
        notify: Called with sentences: what is being made, what the verdict does not cover.
        command: argv that the records name as what took the run.

    Returns:
        A finding for each metric of each pair of arms, with its interval and what it rests on.

    Raises:
        ScenarioError: A side, the arm or a scenario means nothing.
        ValueError: An argument is out of its range, or no metric is called so.
        HarnessError: An arm, an image or a folder cannot be had.
        Interrupted: By a signal; what was measured is recorded, and there is no verdict.
    """
    asked = checked(scenarios, metrics, within, conduct)
    paired = tuple(with_sides(scenario, arm, reference, candidate) for scenario in asked)
    with interruptible():
        sides = Sides(paired, LocalArms(get_backend), (reference, candidate))
        return _judged(sides, metrics, within, conduct)


def compare_revisions(
    scenarios: Scenario | Sequence[Scenario],
    reference: str,
    candidate: str,
    *,
    context: Path | str | None = None,
    arm: str | None = None,
    metrics: Sequence[str] = (),
    within: float = 0.05,
    **conduct: Unpack[Conduct],
) -> Judgement:
    """Say whether the second of two revisions is worse than the first.

    Args:
        scenarios: In which both are started.
        reference: A, as git names it; `.` is the working tree.
        candidate: B, the same.
        context: A folder with a Containerfile in a git repository, whose image is compared; None:
            Steelyard itself, each revision in a process of its own.
        arm: As `compare`.
        metrics: As `compare`.
        within: As `compare`.
        conduct: As `compare`.

    Raises:
        PrepareError: There is no repository, no such revision, or an image cannot be built.
        ScenarioError, ValueError, HarnessError, Interrupted: As `compare`.
    """
    asked = checked(scenarios, metrics, within, conduct)
    revisions = reference, candidate
    if context is None:
        making = workers_of(asked, revisions, arm)
    else:
        making = images_of(asked, revisions, arm, Path(context), conduct.get("notify", unnoticed))
    with interruptible(), making as sides:
        return _judged(sides, metrics, within, conduct)


def checked(
    scenarios: Scenario | Sequence[Scenario],
    metrics: Sequence[str],
    within: float,
    conduct: Conduct,
) -> tuple[Scenario, ...]:
    """Refuse what cannot be compared, before anything is made for it.

    Raises:
        ScenarioError: A scenario is wrong.
        ValueError: An argument is out of its range, or no metric is called so.
    """
    require_metrics(sequence_of(metrics))
    refuse_numbers(
        blocks=conduct.get("blocks"),
        time_limit_ns=conduct.get("time_limit_ns"),
        warmup_blocks=conduct.get("warmup_blocks", 0),
        within=within,
    )
    asked = sequence_of(scenarios)
    require_valid(asked)
    return asked


def _judged(sides: Sides, metrics: Sequence[str], within: float, conduct: Conduct) -> Judgement:
    chosen: tuple[str, ...] = sequence_of(metrics)
    pairs = [pair for paired in sides.scenarios for pair in paired.pairs]
    rule = Margin(1 + within)
    questions = questions_on(pairs, chosen or DEFAULT_METRICS, rule, asked=bool(chosen))
    first, second = sides.names
    return judge(sides, questions, f"is B ({second}) worse than A ({first})?", conduct)


def judge(sides: Sides, questions: Sequence[Question], asked: str, conduct: Conduct) -> Judgement:
    """Take the run that answers questions, write its report, and judge it.

    Args:
        sides: What is compared.
        questions: What is asked of their metrics.
        asked: The question in one line.
        conduct: How it is taken; `checked` has seen it.
    """
    from harness.analysis.summary import summarise
    from harness.measure.stopping import Decided
    from harness.report import write_report

    notify, typed = conduct.get("notify", unnoticed), conduct.get("directory")
    for caution in sides.cautions:
        notify(f"steelyard: {caution}")
    blocks, time_limit_ns = conduct.get("blocks"), conduct.get("time_limit_ns")
    if time_limit_ns is None and blocks is None:
        time_limit_ns = _TIME_LIMIT_NS
    most = blocks or DEFAULT_MOST_BLOCKS
    comparer = Comparer(questions, most)
    folder = new_directory() if typed is None else Path(typed)
    scenarios = tuple(paired.scenario for paired in sides.scenarios)
    request = Request(
        scenarios=scenarios,
        blocks=most,
        warmup_blocks=conduct.get("warmup_blocks", DEFAULT_WARMUP_BLOCKS),
        seed=drawn(conduct.get("seed")),
        time_limit_ns=time_limit_ns,
        required_arms=frozenset(arm.name for scenario in scenarios for arm in scenario.arms),
        command=tuple(conduct.get("command", ())),
        run_id=run_id_for(folder),
        steelyard=VERSION,
        pairs=tuple(pair for paired in sides.scenarios for pair in paired.pairs),
        asked=PairedQuestions(
            asked, *sides.names, tuple(each.to_record() for each in questions), sides.cautions
        ),
    )
    with recording(folder) as writer:
        take(
            request,
            writer,
            conduct.get("listener", unheard),
            sides.source,
            Decided(comparer.is_decided),
        )
    summary = summarise(read_run(folder))
    write_report(summary, folder)
    judgement = summary.judgement
    assert judgement is not None  # the run has ended, and its records say what was asked
    return replace(judgement, facts={**judgement.facts, "run": str(folder)})
