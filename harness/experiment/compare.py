"""Is B worse than A? One run with both, interleaved block by block, until there is a verdict.

compare             two images, or settings of one arm      ┐
compare_revisions   two revisions of Steelyard, or of the   ├─> Sides ── judge() ──> Judgement
                    image of a folder                       │
check_against       what was before and what is now         ┘   (harness.experiment.check)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from harness.experiment.assessment import assess
from harness.experiment.images import ensure_image
from harness.experiment.run import drawn, new_directory, recording, run_id_for, unheard
from harness.experiment.sides import Notify, Sides, Two, images_of, interruptible, workers_of
from harness.measure.prepare import LocalArms
from harness.measure.request import Request
from harness.measure.schedule import DEFAULT_WARMUP_BLOCKS
from harness.model import Scenario
from harness.model.version import VERSION
from harness.records import read_run
from harness.scenario.pairing import with_sides
from harness.scenario.validate import require_valid

if TYPE_CHECKING:
    from harness.model.events import Listener
    from harness.records import Run

_TIME_LIMIT_NS = 600_000_000_000
"""Where neither a number of blocks nor a time is given."""


def _silent(sentence: str) -> None:
    """Nobody reads it."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a comparison is taken, whatever is compared.

    Attributes:
        blocks: Trials of each arm at most; None: as many as a comparison may take. The run ends as
            soon as all is decided.
        time_limit_ns: What they may take in all; None: no limit if `blocks` is given, else 10 min.
        warmup_blocks: Blocks before those.
        seed: Of the order of trials; None: drawn.
        directory: Folder of the run; None: one in `results/`.
        listener: Told each event of the run.
        notify: Given sentences for the user: what is being made, what the verdict does not cover.
        command: argv that the records name.
    """

    blocks: int | None = None
    time_limit_ns: int | None = None
    warmup_blocks: int = DEFAULT_WARMUP_BLOCKS
    seed: int | None = None
    directory: Path | None = None
    listener: Listener = unheard
    notify: Notify = _silent
    command: Sequence[str] = ()


ALONE = Conduct()
"""Nobody listens, and nothing is limited but by the defaults."""


def compare(
    scenarios: Scenario | Sequence[Scenario],
    reference: str,
    candidate: str,
    *,
    arm: str | None = None,
    metrics: Sequence[str] = (),
    within: float = 0.05,
    blocks: int | None = None,
    time_limit_ns: int | None = None,
    seed: int | None = None,
    directory: Path | str | None = None,
    listener: Listener = unheard,
) -> Judgement:
    """Say whether the candidate is worse than the reference: one run with both, interleaved.

    Args:
        scenarios: In which both are started.
        reference: A: an image; or settings of the arm (`kernel=PATH`, `cache=cold`); or an arm with
            its settings (`container,cache=cold`).
        candidate: B, the same.
        arm: Which arm of the scenarios; None: `container`, or the first that knows the settings.
        metrics: Keys of `METRICS`; none: `ready`, `disk`, `disk-shared`.
        within: Relative differences up to this count as none: 0.05 is 5 %.
        blocks: Trials of each at most; the run ends as soon as all is decided.
        time_limit_ns: What the trials may take in all; None: no limit with `blocks`, else 10 min.
        seed: Of the order of trials; None: drawn.
        directory: Folder of the run, new or empty; None: one in `results/` of the current folder.
        listener: Told each event of the run, see `harness.model.events`.

    Returns:
        A finding for each metric of each pair of arms, with its interval and what it rests on.

    Raises:
        ScenarioError: A side, the arm or a scenario means nothing.
        HarnessError: An arm, an image or a folder cannot be had.
        Interrupted: By a signal; what was measured is recorded, and there is no verdict.
    """
    asked = (scenarios,) if isinstance(scenarios, Scenario) else tuple(scenarios)
    conduct = Conduct(
        blocks=blocks,
        time_limit_ns=time_limit_ns,
        seed=seed,
        directory=None if directory is None else Path(directory),
        listener=listener,
    )
    return compare_sides(
        asked, (reference, candidate), arm=arm, metrics=metrics, within=within, conduct=conduct
    )


def compare_sides(
    scenarios: Sequence[Scenario],
    sides: Two,
    *,
    arm: str | None = None,
    metrics: Sequence[str] = (),
    within: float = 0.05,
    conduct: Conduct = ALONE,
) -> Judgement:
    """`compare`, with all that can be said about how it is taken.

    Args:
        scenarios: In which both are started.
        sides: A and B, as `compare` takes them.
        arm: As `compare`.
        metrics: As `compare`.
        within: As `compare`.
        conduct: How it is taken.
    """
    require_valid(scenarios)
    paired = tuple(with_sides(scenario, arm, *sides) for scenario in scenarios)
    with interruptible():
        return _judged(Sides(paired, LocalArms(get_backend), sides), metrics, within, conduct)


def compare_revisions(
    scenarios: Sequence[Scenario],
    revisions: Two,
    *,
    context: Path | None = None,
    arm: str | None = None,
    metrics: Sequence[str] = (),
    within: float = 0.05,
    conduct: Conduct = ALONE,
) -> Judgement:
    """Say whether the second revision is worse than the first.

    Args:
        scenarios: In which both are started.
        revisions: As git names them; `.` is the working tree.
        context: A folder with a Containerfile in a git repository, whose image is compared; None:
            Steelyard itself, each revision in a process of its own.
        arm: As `compare`.
        metrics: As `compare`.
        within: As `compare`.
        conduct: How it is taken.

    Raises:
        PrepareError: There is no repository, no such revision, or an image cannot be built.
        ScenarioError, HarnessError, Interrupted: As `compare`.
    """
    if context is None:
        making = workers_of(scenarios, revisions, arm)
    else:
        making = images_of(scenarios, revisions, arm, context, conduct.notify)
    with interruptible(), making as sides:
        return _judged(sides, metrics, within, conduct)


def _judged(sides: Sides, metrics: Sequence[str], within: float, conduct: Conduct) -> Judgement:
    pairs = [pair for paired in sides.scenarios for pair in paired.pairs]
    questions = questions_on(pairs, metrics or DEFAULT_METRICS, Margin(within), asked=bool(metrics))
    first, second = sides.names
    return judge(sides, questions, f"is B ({second}) worse than A ({first})?", conduct)


def judge(sides: Sides, questions: Sequence[Question], asked: str, conduct: Conduct) -> Judgement:
    """Take the run that answers questions, write its report, and judge it.

    Args:
        sides: What is compared.
        questions: What is asked of their metrics.
        asked: The question in one line.
        conduct: How it is taken.

    Raises:
        Interrupted: By a signal; what was measured is recorded.
        HarnessError: An arm cannot be had.
    """
    from harness import environment
    from harness.measure.runner import Runner
    from harness.measure.stopping import Decided, rule_of
    from harness.report import write_report

    for caution in sides.cautions:
        conduct.notify(f"steelyard: {caution}")
    most, limit_ns = conduct.blocks or DEFAULT_MOST_BLOCKS, conduct.time_limit_ns
    if limit_ns is None and conduct.blocks is None:
        limit_ns = _TIME_LIMIT_NS
    comparer = Comparer(questions, most)
    directory = conduct.directory or new_directory()
    scenarios = tuple(paired.scenario for paired in sides.scenarios)
    request = Request(
        scenarios=scenarios,
        blocks=most,
        warmup_blocks=conduct.warmup_blocks,
        seed=drawn(conduct.seed),
        time_limit_ns=limit_ns,
        required_arms=frozenset(arm.name for scenario in scenarios for arm in scenario.arms),
        command=tuple(conduct.command),
        run_id=run_id_for(directory),
        steelyard=VERSION,
        pairs=tuple(pair for paired in sides.scenarios for pair in paired.pairs),
    )
    with recording(directory) as writer:
        captured = environment.capture()
        Runner(
            request,
            sides.source,
            captured,
            writer,
            conduct.listener,
            ensure_image,
            rule=rule_of(request, Decided(comparer.is_decided)),
            assess=assess,
        ).run()
    run = read_run(directory)
    write_report(run, directory)
    return comparer.judgement(asked, run.trials, run.info.arms, _facts(run, sides, directory))


def _facts(run: Run, sides: Sides, directory: Path) -> dict[str, str]:
    info = run.info
    ran = {record.arm.name for record in info.arms}
    pairs = [pair for pair in info.pairs if {pair.reference, pair.candidate} <= ran]
    first = ", ".join(dict.fromkeys(pair.reference for pair in pairs))
    second = ", ".join(dict.fromkeys(pair.candidate for pair in pairs))
    facts = {
        "A": f"{sides.names[0]} ({first})",
        "B": f"{sides.names[1]} ({second})",
        "blocks": f"{info.blocks} of at most {info.wanted_blocks}",
        "seed": str(info.seed),
        "run": str(directory),
    }
    if sides.cautions:
        facts["caution"] = "; ".join(sides.cautions)
    return facts
