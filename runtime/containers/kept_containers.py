"""Containers that are kept after their end: the writable layer and how it ended.

    <data home>/containers/<name>/upper        the writable layer
    <data home>/containers/<name>/state.json   what it was and how it ended

`container run --keep` makes the folder before it starts the container, which then writes straight
into it: if Steelyard is killed, what the container changed can still be looked at. Whether
it is running is not written down but asked: its session is alive or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.containers.from_image import check_name
from runtime.containers.session import is_alive
from runtime.errors import ContainerError
from runtime.linux.files import remove_tree
from runtime.linux.output_file import output_file
from runtime.paths import data_home

if TYPE_CHECKING:
    from runtime.containers.container import ExitStatus
    from runtime.images import Image

_STATE = "state.json"
_MAKING_S = 60
"""Folders are under a hidden name for milliseconds; one older than this was never finished."""


@dataclass(frozen=True, slots=True)
class KeptContainer:
    """A container that is kept.

    Attributes:
        name: Unique in its data home.
        image: Reference of its image, as it was then.
        image_digest: Of the image's manifest.
        command: argv.
        session: Identifier of the session that ran it.
        created: When it was made, RFC 3339.
        exit_code: As a shell reports it; None while it runs, and if nobody saw how it ended.
        directory: Its folder.
    """

    name: str
    image: str
    image_digest: str
    command: tuple[str, ...]
    session: str
    created: str
    exit_code: int | None
    directory: Path

    @property
    def upperdir(self) -> Path:
        """The writable layer."""
        return self.directory / "upper"

    @property
    def status(self) -> str:
        """`running`; `exited (CODE)`; or `lost` if what ran it was killed before its end."""
        if self.exit_code is not None:
            return f"exited ({self.exit_code})"
        return "running" if is_alive(self.session, self.directory.parent.parent) else "lost"


def containers_directory(home: Path | None = None) -> Path:
    """The folder that holds one folder a kept container."""
    return (home or data_home()) / "containers"


def keep(
    name: str, image: Image, command: Sequence[str], session: str, home: Path | None = None
) -> KeptContainer:
    """Make the folder of a container that is about to run; the image is leased.

    Raises:
        ContainerError: There is one of that name, or it is no name.
    """
    directory = _directory(name, home)
    containers = directory.parent
    containers.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = KeptContainer(
        name=name,
        image=image.reference,
        image_digest=image.digest,
        command=tuple(command),
        session=session,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        exit_code=None,
        directory=directory,
    )
    _sweep(containers)
    # Under a hidden name until its state is written: what is found can be read.
    aside = Path(tempfile.mkdtemp(prefix=".", dir=containers))
    try:
        _write_state(aside, kept)
        # A folder takes the place of an empty one only, and none of ours is empty.
        aside.rename(directory)
    except OSError as error:
        remove_tree(aside)
        if directory.exists():
            raise ContainerError(
                f"there is a container {name} already; `steelyard container rm {name}` removes it"
            ) from None
        raise ContainerError(f"cannot make {directory}: {error.strerror}") from error
    return kept


def _sweep(containers: Path) -> None:
    """Take away what a process that was killed was making or removing."""
    for entry in list(os.scandir(containers)):
        with contextlib.suppress(FileNotFoundError):
            if entry.name.startswith(".") and time.time() - entry.stat().st_mtime > _MAKING_S:
                remove_tree(Path(entry.path))


def note_end(kept: KeptContainer, status: ExitStatus) -> KeptContainer:
    """Write down how a container ended, and tidy up what only its running needed."""
    remove_tree(kept.directory / "work")
    ended = replace(kept, exit_code=status.shell_code)
    _write_state(kept.directory, ended)
    return ended


def kept_containers(home: Path | None = None) -> tuple[KeptContainer, ...]:
    """All of them, sorted by name; folders that cannot be read are passed over."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(containers_directory(home))):
            # A hidden name is no container's.
            with contextlib.suppress(ContainerError):
                found.append(get_kept(name, home))
    return tuple(found)


def get_kept(name: str, home: Path | None = None) -> KeptContainer:
    """The container of that name.

    Raises:
        ContainerError: There is none, or its state cannot be read.
    """
    directory = _directory(name, home)
    path = directory / _STATE
    try:
        state = json.loads(path.read_bytes())
        fields = {field: state[field] for field in KeptContainer.__dataclass_fields__
                  if field not in ("directory", "command")}  # fmt: skip
        return KeptContainer(**fields, command=tuple(state["command"]), directory=directory)
    except (FileNotFoundError, NotADirectoryError):
        raise ContainerError(
            f"no container {name!r} is kept; `steelyard container ls` shows which are, and "
            "`container run --keep` keeps one"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ContainerError(f"{path} is damaged: {error}; remove {directory}") from None


def remove_container(name: str, home: Path | None = None) -> None:
    """Remove a container that no longer runs.

    Raises:
        ContainerError: There is none of that name, or it is running.
    """
    directory = _directory(name, home)
    try:
        running = get_kept(name, home).status == "running"
    except ContainerError:
        # One whose state is damaged is removed all the same.
        if not directory.is_dir():
            raise
        running = False
    if running:
        raise ContainerError(f"container {name} is running; stop it first")
    aside = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
    directory.rename(aside / "container")
    remove_tree(aside)


def kept_images(home: Path | None = None) -> set[str]:
    """Digests of the manifests that kept containers stand on: their layers must stay."""
    return {kept.image_digest for kept in kept_containers(home)}


def _directory(name: str, home: Path | None) -> Path:
    check_name(name)
    return containers_directory(home) / name


def _write_state(directory: Path, kept: KeptContainer) -> None:
    state: dict[str, Any] = {"schema": 1, **asdict(kept)}
    del state["directory"]
    with output_file(directory / _STATE) as file:
        file.write(json.dumps(state, indent=2).encode())
