"""RUN: a container above the layers so far, whose writable layer becomes the next one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.containers.container import launch_container, writable_root
from runtime.containers.session import Session
from runtime.errors import ImageError
from runtime.images.layer.changes import read_changes
from runtime.images.layer.layer_builder import LayerDraft
from runtime.images.layer.view import MergedView, Parts
from runtime.launch.spec import (
    ALL_NAMESPACES,
    ContainerSpec,
    Namespace,
    NetworkSpec,
    OverlayRoot,
    User,
    Volume,
)
from runtime.linux.files import remove_tree

# On the host's network, names are looked up as the host does.
_RESOLVER_FILES = ("/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run, above what.

    Attributes:
        lowerdirs: The layers so far, topmost first.
        command: What to execute.
        environment: All variables.
        working_directory: Absolute.
        user: Whom to run as.
        network: `none` or `host`.
        output: Descriptors for stdout and stderr.
    """

    lowerdirs: tuple[Path, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str
    user: User
    network: str
    output: tuple[int, int]


@contextlib.contextmanager
def run_step(request: RunRequest) -> Iterator[LayerDraft]:
    """Run a command to its end and give what it changed; everything is removed afterwards.

    Raises:
        ImageError: It failed: how it ended is the reason.
        ContainerError: It could not be started.
    """
    session = Session.current()
    name = session.next_name("build")
    directory = session.new_instance_directory(name)
    try:
        lowerdirs = request.lowerdirs or (_empty_folder(directory),)
        volumes = _resolver(lowerdirs) if request.network == "host" else ()
        root = OverlayRoot(tuple(map(os.fspath, lowerdirs)), "", "", "")
        root = writable_root(session, os.fspath(directory), root)
        _copy_root_attributes(lowerdirs[0], root.upperdir)
        _run(session, name, request, root, volumes)
        # The mount namespace has gone with its last process, and what was written through the
        # overlay is in the files of the upper folder.
        made_by_us = frozenset(
            _parts(path) for volume in volumes for path in ("etc", volume.target)
        )
        draft, _ = read_changes(Path(root.upperdir), lowerdirs, made_by_us)
        yield draft
    finally:
        remove_tree(directory)


def _run(
    session: Session,
    name: str,
    request: RunRequest,
    root: OverlayRoot,
    volumes: tuple[Volume, ...],
) -> None:
    namespaces = ALL_NAMESPACES - ({Namespace.NET} if request.network == "host" else set())
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        container = launch_container(
            ContainerSpec(
                root=root,
                command=request.command,
                environment=request.environment,
                working_directory=request.working_directory,
                user=request.user,
                namespaces=namespaces,
                network=NetworkSpec(request.network),
                volumes=volumes,
                # As docker: packages' scripts and sudo count on setuid programs.
                no_new_privileges=False,
                stdio=(null, *request.output),
            ),
            name=name,
            session=session,
        )
    finally:
        os.close(null)
    try:
        status = container.wait()
    finally:
        container.remove()
    assert status is not None
    if status.signal is not None:
        raise ImageError(f"{_shown(request.command)} was ended by signal {status.signal}")
    if status.code:
        raise ImageError(f"{_shown(request.command)} ended with exit code {status.code}")


def _empty_folder(directory: Path) -> Path:
    """Overlayfs needs something below, also above `scratch`."""
    (directory / "empty").mkdir(mode=0o755)
    return directory / "empty"


def _copy_root_attributes(lower: Path, upper: str) -> None:
    """Give the root folder what it has below, so that a RUN does not reset it."""
    status = os.lstat(lower)
    if os.geteuid() == 0:
        os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _resolver(lowerdirs: tuple[Path, ...]) -> tuple[Volume, ...]:
    view = MergedView(lowerdirs)
    volumes = []
    for path in _RESOLVER_FILES:
        there = view.find(_parts(path))
        # A symlink of the image could lead the mount elsewhere, or to nothing.
        if os.path.isfile(path) and (there is None or not os.path.islink(there)):
            volumes.append(Volume(path, path, read_only=True, is_directory=False))
    return tuple(volumes)


def _parts(path: str) -> Parts:
    return tuple(os.fsencode(part) for part in path.split("/") if part)


def _shown(command: tuple[str, ...]) -> str:
    text = " ".join(command)
    return text if len(text) <= 200 else text[:200] + "…"
