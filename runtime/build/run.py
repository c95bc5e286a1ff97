"""RUN: a container above the layers so far, whose writable layer becomes the next one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from runtime.containers.container import launch_container, writable_root
from runtime.containers.session import Session
from runtime.errors import ImageError
from runtime.images.layer.changes import read_changes
from runtime.images.layer.layer_builder import LayerDraft
from runtime.images.layer.merged import split_path
from runtime.images.layer.view import MergedView
from runtime.launch.spec import ContainerSpec, OverlayRoot, Volume
from runtime.linux.files import remove_tree

# On the host's network, names are looked up as the host does.
_RESOLVER_FILES = ("/etc/resolv.conf", "/etc/hosts")


@contextlib.contextmanager
def run_step(spec: ContainerSpec) -> Iterator[LayerDraft]:
    """Run a container to its end and give what it changed; everything is removed afterwards.

    Args:
        spec: Its root has the layers so far, perhaps none, and no writable one yet. It gets an
            empty stdin, and on the host's network the host's resolver files.

    Raises:
        ImageError: It failed: how it ended is the reason.
        ContainerError: It could not be started.
    """
    assert isinstance(spec.root, OverlayRoot)
    session = Session.current()
    name = session.next_name("build")
    directory = session.new_instance_directory(name)
    try:
        lowerdirs = tuple(map(Path, spec.root.lowerdirs)) or (_empty_folder(directory),)
        volumes = _resolver(lowerdirs) if spec.network.kind == "host" else ()
        root = replace(spec.root, lowerdirs=tuple(map(os.fspath, lowerdirs)))
        root = writable_root(session, os.fspath(directory), root)
        _copy_root_attributes(lowerdirs[0], root.upperdir)
        with open(os.devnull, "rb") as null:
            stdio = (null.fileno(), *spec.stdio[1:])
            complete = replace(spec, root=root, volumes=volumes, stdio=stdio)
            container = launch_container(complete, name=name, session=session)
        with container:
            status = container.wait()
        if status.signal is not None:
            raise ImageError(f"{_shown(spec.command)} was ended by signal {status.signal}")
        if status.code:
            raise ImageError(f"{_shown(spec.command)} ended with exit code {status.code}")
        # The mount namespace has gone with its last process, and what was written through the
        # overlay is in the files of the upper folder.
        made_by_us = frozenset(
            split_path(os.fsencode(path)) for each in volumes for path in ("etc", each.target)
        )
        yield read_changes(Path(root.upperdir), lowerdirs, made_by_us)[0]
    finally:
        remove_tree(directory)


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
        there = view.find(split_path(os.fsencode(path)))
        # A symlink of the image could lead the mount elsewhere, or to nothing.
        if os.path.isfile(path) and (there is None or not os.path.islink(there)):
            volumes.append(Volume(path, path, read_only=True, is_directory=False))
    return tuple(volumes)


def _shown(command: tuple[str, ...]) -> str:
    text = " ".join(command)
    return text if len(text) <= 200 else text[:200] + "…"
