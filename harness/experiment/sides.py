"""What a comparison compares, made for as long as it lasts.

A folder of a repository at two revisions becomes two folders, two images built from them, or two
workers that take trials. All of it is gone when its context ends, by a signal too, see
`interruptible`.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import harness.model.version
from harness.backends import get_backend
from harness.experiment.remote import RemoteArms, Worker
from harness.experiment.revisions import (
    compile_extensions,
    export,
    find_revision,
    repository_of,
)
from harness.measure.interruption import Interruption
from harness.measure.prepare import LocalArms
from harness.model.errors import PrepareError
from harness.scenario.pairing import PairedScenario, compared_arm, with_images, with_twins

if TYPE_CHECKING:
    from harness.measure.prepare import ArmSource
    from harness.model import Scenario

Two = tuple[str, str]
"""Something of A and of B."""
Notify = Callable[[str], None]
"""Given a sentence for the user: what is being made, or what a verdict does not cover."""


def unnoticed(sentence: str) -> None:
    """Nobody reads it."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared.

    Attributes:
        scenarios: Each with its arms in pairs.
        source: Where arms come from.
        names: What A and B are, for the judgement.
        cautions: What the verdict does not cover, a sentence each.
    """

    scenarios: tuple[PairedScenario, ...]
    source: ArmSource
    names: Two
    cautions: tuple[str, ...] = ()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Every signal to end is an exception, so that what was made for a comparison is removed."""
    with Interruption() as interruption, interruption.safe():
        yield


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder below this process's session: gone afterwards.

    If the process is killed, `steelyard doctor --clean` finds it like an instance that was left.
    """
    from runtime import Session
    from runtime.linux.files import remove_tree

    session = Session.current()
    folder = session.new_instance_directory(session.next_name(name))
    try:
        yield folder
    finally:
        remove_tree(folder)


@contextlib.contextmanager
def revision_folders(folder: Path, revisions: Two) -> Iterator[tuple[tuple[Path, Path], Two]]:
    """A folder of a repository at both revisions, and the words for them.

    Raises:
        PrepareError: It is in no repository, or a revision is not there.
    """
    repository = repository_of(folder)
    first, second = (find_revision(repository, name) for name in revisions)
    with temporary_folder("revision") as one, temporary_folder("revision") as other:
        export(first, folder, one)
        export(second, folder, other)
        yield (one, other), (first.title, second.title)


@contextlib.contextmanager
def revision_images(folder: Path, revisions: Two, notify: Notify) -> Iterator[tuple[Two, Two]]:
    """The images of a folder at both revisions, and the words for them.

    Raises:
        PrepareError: As `revision_folders`, or an image cannot be built.
    """
    with (
        revision_folders(folder, revisions) as (trees, names),
        _image(trees[0], folder, names[0], notify) as first,
        _image(trees[1], folder, names[1], notify) as second,
    ):
        yield (first, second), names


@contextlib.contextmanager
def _image(tree: Path, folder: Path, name: str, notify: Notify) -> Iterator[str]:
    """Build the image of a copy of a folder, without a name, gone afterwards; yields its digest.

    An image that was there before, because equal inputs give the same, stays.

    Raises:
        PrepareError: It cannot be built; says so of the folder itself.
    """
    import runtime

    store = runtime.ImageStore.default()
    known = {image.digest for image in store.images()}
    # What RUN prints belongs to the progress, not to the result.
    request = runtime.BuildRequest(tree, output=(2, 2), epoch_s=0)
    try:
        image = runtime.build_image(request, store=store, progress=notify)
    except runtime.ContainerError as error:
        where = str(error).replace(str(tree), str(folder))
        raise PrepareError(f"{name}: {where}") from error
    try:
        yield image.digest
    finally:
        if image.digest not in known:
            # Somebody may have it in use, or removed it: then it is theirs.
            with contextlib.suppress(runtime.ContainerError):
                store.remove(image.digest, keep=runtime.kept_images)


def not_the_images_own(scenarios: Sequence[Scenario]) -> str:
    """A caution for images that are held against each other: what starts in them is not theirs."""
    own = [
        f"{scenario.name} starts {shlex.join(command)!r}"
        for scenario in scenarios
        for command in dict.fromkeys(
            scenario.for_arm(arm).workload.command for arm in scenario.arms
        )
        if command
    ]
    if not own:
        return ""
    return (
        f"{' and '.join(own)} in both images: how their own programs start is not measured; for "
        "that, leave workload.command out of the scenario"
    )


@contextlib.contextmanager
def images_of(
    scenarios: Sequence[Scenario],
    revisions: Two,
    arm: str | None,
    context: Path,
    notify: Notify,
) -> Iterator[Sides]:
    """The images of a folder at two revisions."""
    # Before the images: what is wrong with an arm is said at once.
    arms = [compared_arm(scenario, arm) for scenario in scenarios]
    with revision_images(context, revisions, notify) as (both, names):
        paired = tuple(
            with_images(scenario, [arm], both)
            for scenario, arm in zip(scenarios, arms, strict=True)
        )
        caution = not_the_images_own([each.scenario for each in paired])
        yield Sides(paired, LocalArms(get_backend), names, (caution,) if caution else ())


@contextlib.contextmanager
def workers_of(
    scenarios: Sequence[Scenario],
    revisions: Two,
    arm: str | None,
) -> Iterator[Sides]:
    """Steelyard itself at two revisions, each in a process of its own."""
    here = Path(harness.model.version.__file__).resolve().parents[2]
    if not (here / "pyproject.toml").is_file():
        message = "Steelyard is installed here without its git repository, which has its revisions"
        raise PrepareError(f"{message}; compare them with ./steelyard in a clone")
    with contextlib.ExitStack() as stack:
        trees, names = stack.enter_context(revision_folders(here, revisions))
        processes = []
        for tree, name in zip(trees, names, strict=True):
            compile_extensions(tree)
            processes.append(stack.enter_context(contextlib.closing(Worker(tree, name))))
        paired = tuple(with_twins(scenario, arm) for scenario in scenarios)
        workers = {
            name: process
            for each in paired
            for pair in each.pairs
            for name, process in zip((pair.reference, pair.candidate), processes, strict=True)
        }
        yield Sides(paired, RemoteArms(workers), names)
