"""Images and folders that a run needs from the runtime, with the harness's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.model.errors import PrepareError


def ensure_image(reference: str, progress: Callable[[str], None]) -> None:
    """Have an image in the store: one that comes with Steelyard is made if it is not there yet.

    Raises:
        PrepareError: There is no such image, or it cannot be made.
    """
    import runtime

    try:
        runtime.ensure_image(reference, progress=progress)
    except runtime.ContainerError as error:
        raise PrepareError(str(error)) from error


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
def temporary_image(context: Path, progress: Callable[[str], None]) -> Iterator[str]:
    """Build the image of a folder with its Containerfile; without a name, and gone afterwards.

    An image that was there before, because equal inputs give the same, stays.

    Args:
        context: The folder.
        progress: Told each step.

    Yields:
        A reference to it, its digest.

    Raises:
        PrepareError: It cannot be built.
    """
    import runtime

    store = runtime.ImageStore.default()
    known = {image.digest for image in store.images()}
    # What RUN prints belongs to the progress, not to the result.
    request = runtime.BuildRequest(context, output=(2, 2), epoch_s=0)
    try:
        image = runtime.build_image(request, store=store, progress=progress)
    except runtime.ContainerError as error:
        raise PrepareError(str(error)) from error
    try:
        yield image.digest
    finally:
        if image.digest not in known:
            # Somebody may have it in use, or removed it: then it is theirs.
            with contextlib.suppress(runtime.ContainerError):
                store.remove(image.digest, keep=runtime.kept_images)
