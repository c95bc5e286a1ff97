"""What works on this host, exactly why not where it does not, and what dead runs left behind.

Looking changes nothing. Cleaning removes exactly what carries the name of a session whose owner is
proven dead by a free lock in this data home, and temporary files in the cache that nobody can be
writing any more; living sessions, those of other homes, images and finished runs are never touched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.backends import BACKENDS, NOT_FOR_COMPARISON, get_backend
from harness.experiment.needs import Need, install_line, missing_needs
from harness.model.backend import Availability

STALE_AFTER_S = 3600
"""A temporary file in the cache that was not written to for so long belongs to nobody."""


@dataclass(frozen=True, slots=True)
class ArmFinding:
    """Whether a backend can be an arm here."""

    name: str
    availability: Availability


@dataclass(frozen=True, slots=True)
class FeatureFinding:
    """One thing that the arms build upon, and how it is here."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class LeftoverFinding:
    """One thing that a dead run left behind.

    Attributes:
        kind: `process`, `mount`, `cgroup`, `folder` or `temporary file`.
        name: A pid with its command, or a path.
        problem: Why it could not be removed; None when it was not tried, or succeeded.
        removed: Whether it is gone now.
    """

    kind: str
    name: str
    problem: str | None = None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor finds.

    Attributes:
        arms: In the order of the backends.
        features: What the arms build upon.
        leftovers: What dead runs of this data home left behind.
        left_alone: How many cgroups belong to another data home or namespace, dead or alive.
        missing: Programs that this machine does not have.
        install: What to type to install these; empty if none is missing.
    """

    arms: tuple[ArmFinding, ...]
    features: tuple[FeatureFinding, ...]
    leftovers: tuple[LeftoverFinding, ...]
    left_alone: int = 0
    missing: tuple[Need, ...] = ()
    install: str = ""

    @property
    def is_well(self) -> bool:
        """At least one arm is usable, and nothing is left behind."""
        usable = any(arm.availability.usable for arm in self.arms)
        return usable and all(leftover.removed for leftover in self.leftovers)


def _unheard(message: str) -> None:
    """Nobody listens."""


def examine_host(*, clean: bool = False, progress: Callable[[str], None] = _unheard) -> Examination:
    """Look at everything; may take seconds, since an accelerator is tried by booting a guest.

    Args:
        clean: Also remove the leftovers.
        progress: Called with what is being tried.
    """
    import runtime

    progress("leftovers of dead runs")
    leftovers = tuple(_leftovers(clean=clean))
    arms = []
    for name in BACKENDS:
        if name not in NOT_FOR_COMPARISON:
            progress(f"arm {name}")
            arms.append(ArmFinding(name, get_backend(name).availability()))
    # A compiler is needed only where the native launcher is yet to be built.
    is_built = runtime.default_launcher() is runtime.Launcher.NATIVE
    missing = missing_needs(("run",) if is_built else ("run", "build"))
    return Examination(
        arms=tuple(arms),
        features=tuple(_features()),
        leftovers=leftovers,
        left_alone=len(runtime.groups_of_others()),
        missing=missing,
        install=install_line(missing),
    )


def _leftovers(*, clean: bool) -> Iterator[LeftoverFinding]:
    """In the order in which it can be removed: docker's, the runtime's, then the cache's."""
    import runtime
    from harness.backends.peers.leftovers import docker_leftovers

    found: list[tuple[str, str, str, Callable[[], None]]] = [
        (container.kind, container.name, container.session, container.remove)
        for container in docker_leftovers()
    ]
    found += [
        (leftover.kind, leftover.name, leftover.session, leftover.remove)
        for leftover in runtime.find_leftovers()
    ]
    found += [
        ("temporary file", str(path), "", partial(_remove, path))
        for path in stale_files(runtime.cache_home(), time.time())
    ]
    unfinished: set[str] = set()
    for kind, name, session, remove in found:
        if not clean:
            yield LeftoverFinding(kind, name)
            continue
        if kind == "folder" and session in unfinished:
            # It proves the session dead: without it, nobody could remove the rest any more.
            yield LeftoverFinding(kind, name, problem="it stays until the rest is removed")
            continue
        try:
            remove()
        except OSError as error:
            unfinished.add(session)
            yield LeftoverFinding(kind, name, problem=(error.strerror or str(error)).lower())
        else:
            yield LeftoverFinding(kind, name, removed=True)


def stale_files(cache: Path, now_s: float) -> list[Path]:
    """Files and folders in the cache that were begun aside and never renamed into place.

    What writes into the cache writes to a name that begins with `.` or ends in `.tmp` or `.part`,
    in the same folder, and renames. One that is still there after an hour was abandoned.
    """
    stale: list[Path] = []
    for folder, directories, files in os.walk(cache):
        for name in [*directories, *files]:
            if not (name.startswith(".") or name.endswith((".tmp", ".part"))):
                continue
            path = Path(folder) / name
            try:
                age_s = now_s - path.lstat().st_mtime
            except FileNotFoundError:
                continue
            if age_s > STALE_AFTER_S:
                stale.append(path)
        directories[:] = [name for name in directories if not name.startswith(".")]
    return sorted(stale)


def _remove(path: Path) -> None:
    from runtime.linux.files import remove_tree

    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _features() -> Iterator[FeatureFinding]:
    import runtime
    from harness.environment import MissingError, filesystem_of
    from runtime.linux.cgroup_mounts import find_layout
    from runtime.linux.features import probe_features

    found = probe_features()
    yield FeatureFinding("user", "root" if os.geteuid() == 0 else f"uid {os.geteuid()}, not root")
    yield FeatureFinding("namespaces", "yes" if found.mount_namespaces else "not for this user")
    yield FeatureFinding("overlay filesystem", "yes" if found.overlay else "not in this kernel")
    yield FeatureFinding("cgroups", str(find_layout().name))
    yield FeatureFinding("container launcher", str(runtime.default_launcher()))
    yield FeatureFinding("private network", _network())
    for name, path in (("data", runtime.data_home()), ("cache", runtime.cache_home())):
        try:
            kind = filesystem_of(path)
        except MissingError as error:  # in a chroot, mountinfo may not have the root
            kind = f"filesystem unknown: {error}"
        yield FeatureFinding(name, f"{path} ({kind})")


def _network() -> str:
    """Make a lab, lease a place in it, and open a tap."""
    from harness.lab import Lab, LabError

    try:
        with Lab() as lab:
            lease = lab.lease()
            try:
                os.close(lab.open_tap(lease))
            except LabError as error:
                return f"for containers only: {error}"
            finally:
                lab.release(lease)
    except LabError as error:
        return str(error)
    return "yes, for containers and machines"
