"""Makes a container's cgroups, limits and kills through them, and takes them away again.

`unified` is version 2 alone, `legacy` version 1 alone, `hybrid` version 1 controllers beside a
version 2 tree without them. In a hybrid layout the container is born in a version 2 group, which
counts CPU time and can be killed as a whole, and joins version 1 hierarchies only for the limits
that were asked for. Written by hand: it is a few small files (cgroups(7)) on the measured path of a
launch, where a library would add its import and choose the layout itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import TypeAlias

from runtime.errors import UnsupportedError
from runtime.launch.spec import ResourceLimits
from runtime.linux.cgroup_mounts import CgroupLayout, find_layout

PARENT = "steelyard"
"""All cgroups of Steelyard are below one of this name in each hierarchy."""

_PERIOD_US = 100_000
_REMOVE_TIMEOUT_NS = 10_000_000_000


Files: TypeAlias = dict[str, list[tuple[str, str]]]
"""Controller -> files, and what to write into each."""


def limit_files(limits: ResourceLimits, legacy: Collection[str]) -> Files:
    """Say which files of which controllers set limits, and what to write.

    As in Documentation/admin-guide/cgroup-v2.rst; for the controllers that are `legacy`, as in
    Documentation/admin-guide/cgroup-v1/.
    """
    files: Files = {}
    if limits.memory_bytes is not None:
        name = "memory.limit_in_bytes" if "memory" in legacy else "memory.max"
        files["memory"] = [(name, str(limits.memory_bytes))]
    if limits.cpus is not None:
        period, quota = str(_PERIOD_US), str(round(limits.cpus * _PERIOD_US))
        files["cpu"] = [("cpu.max", f"{quota} {period}")]
        if "cpu" in legacy:
            files["cpu"] = [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)]
    if limits.pids is not None:
        files["pids"] = [("pids.max", str(limits.pids))]
    return files


def describe_limits(limits: ResourceLimits) -> list[str]:
    """Show what setting limits writes on this host, a line a file, relative to the cgroup."""
    legacy = find_layout().legacy
    # Version 2 first, as `create` does it.
    ordered = sorted(limit_files(limits, legacy).items(), key=lambda item: item[0] in legacy)
    return [
        f'write("{controller}:/{PARENT}/CONTAINER/{file}", "{value}")'
        for controller, files in ordered
        for file, value in files
    ]


class ContainerCgroup:
    """The cgroups of one container: at most one of version 2 and one a version 1 hierarchy.

    Attributes:
        unified: Path of the version 2 group, or None.
        legacy: Paths of the version 1 groups.
        clone_fd: The open version 2 folder, for CLONE_INTO_CGROUP, or None.
        tasks_fds: Open `tasks` files of version 1, which the child writes itself into.
    """

    def __init__(self) -> None:
        self.unified: str | None = None
        self.legacy: list[str] = []
        self.clone_fd: int | None = None
        self.tasks_fds: list[int] = []
        self._by_controller: dict[str, str] = {}

    def add_legacy(
        self, controller: str, parent: str, name: str, files: list[tuple[str, str]]
    ) -> None:
        """Be in a version 1 hierarchy as well, with these settings.

        Raises:
            OSError: The group cannot be made, or a setting is refused.
        """
        # Two controllers may share one hierarchy ("cpu,memory"): then the group is there already.
        path = f"{parent}/{name}"
        if path not in self.legacy:
            path = _make_group(parent, name)
            self.legacy.append(path)
            flags = os.O_WRONLY | os.O_CLOEXEC
            # Not cgroup.procs: a thread that moves itself, alone, takes no lock on the forks of the
            # whole host (kernel/cgroup/cgroup.c, cgroup_procs_write_start). On an idle host that
            # lock costs an RCU grace period: 10 ms, against 0.04 ms this way. The child has one
            # thread, so both mean the same.
            self.tasks_fds.append(os.open(f"{path}/tasks", flags))
        self._by_controller[controller] = path
        for file, value in files:
            _write(f"{path}/{file}", value)

    def close_fds(self) -> None:
        """Close what only the launch needed. Idempotent."""
        if self.clone_fd is not None:
            os.close(self.clone_fd)
            self.clone_fd = None
        while self.tasks_fds:
            os.close(self.tasks_fds.pop())

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[int | None, tuple[int, ...]]]:
        """Open the groups again for one more process: `clone_fd` and `tasks_fds`, closed after."""
        with contextlib.ExitStack() as stack:

            def take(path: str, flags: int) -> int:
                fd = os.open(path, flags | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                return fd

            clone_fd = None
            if self.unified is not None:
                clone_fd = take(self.unified, os.O_RDONLY | os.O_DIRECTORY)
            yield clone_fd, tuple(take(f"{path}/tasks", os.O_WRONLY) for path in self.legacy)

    def kill(self) -> None:
        """SIGKILL to every process in the groups, new ones included."""
        if self.unified is not None:
            with contextlib.suppress(OSError):
                _write(f"{self.unified}/cgroup.kill", "1")  # Linux 5.14
                return
        for path in self._paths():
            for pid in _processes(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Pids of the processes in the groups; every process is in all of them."""
        return next(map(_processes, self._paths()), [])

    def _paths(self) -> list[str]:
        return [path for path in (self.unified, *self.legacy) if path]

    def accounting_folders(self) -> Mapping[str, str]:
        """Controller -> the folder of this container that counts for it.

        `cpuacct` is what counts CPU time: a version 2 group does that without any controller
        (Documentation/admin-guide/cgroup-v2.rst, "cpu.stat").
        """
        folders = dict(self._by_controller)
        if self.unified is not None:
            folders.setdefault("cpuacct", self.unified)
            with open(f"{self.unified}/cgroup.controllers", encoding="ascii") as file:
                for controller in file.read().split():
                    folders.setdefault(controller, self.unified)
        return folders

    def cpu_usage_ns(self) -> int | None:
        """CPU time of all processes that ever were in the group; None where none counts it."""
        if self.unified is None:
            return None
        with open(f"{self.unified}/cpu.stat", encoding="ascii") as file:
            for line in file:
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) * 1000
        return None

    def remove(self) -> None:
        """Remove the groups; the processes must be ending. Idempotent.

        Raises:
            OSError: EBUSY, if processes are still in it after ten seconds.
        """
        self.close_fds()
        for path in self._paths():
            remove_group(path)
        self.unified, self.legacy, self._by_controller = None, [], {}


class CgroupManager:
    """Makes cgroups in the layout of this host."""

    def __init__(self, layout: CgroupLayout) -> None:
        self.layout = layout

    def create(self, name: str, limits: ResourceLimits) -> ContainerCgroup | None:
        """Make the groups of one container below `PARENT`, by a name that is unique on the host.

        Returns:
            The groups; None where the host allows none and no limit was asked for.

        Raises:
            UnsupportedError: A limit was asked for and cannot be set.
        """
        group = ContainerCgroup()
        try:
            files = limit_files(limits, self.layout.legacy)
            legacy = {each: files.pop(each) for each in [*files] if each in self.layout.legacy}
            self._create_unified(group, name, files)
            for controller, lines in legacy.items():
                parent = f"{self.layout.legacy[controller]}/{PARENT}"
                group.add_legacy(controller, parent, name, lines)
        except BaseException as error:
            group.remove()
            if not isinstance(error, OSError):
                raise
            if limits:
                raise UnsupportedError(
                    f"cannot set resource limits: {error.strerror}: {error.filename}; "
                    "limits need write access to the cgroup filesystem"
                ) from error
            return None
        return group if group.unified or group.legacy else None

    def _create_unified(self, group: ContainerCgroup, name: str, settings: Files) -> None:
        if self.layout.unified is None:
            if settings:
                controller = next(iter(settings))
                raise UnsupportedError(
                    f"cannot set a limit of {controller}: this host has no such cgroup controller"
                )
            return
        parent = f"{self.layout.unified}/{PARENT}"
        path = _make_group(parent, name)
        group.unified = path
        if settings:
            _enable_controllers(self.layout.unified, parent, tuple(settings))
        for files in settings.values():
            for file, value in files:
                _write(f"{path}/{file}", value)
        group.clone_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def parents(self) -> tuple[str, ...]:
        """Folders that hold the groups of all sessions, in every hierarchy."""
        roots = [self.layout.unified, *self.layout.legacy.values()]
        return tuple(f"{root}/{PARENT}" for root in dict.fromkeys(filter(None, roots)))

    def remove_parents(self) -> None:
        """Remove the folders that `create` made above the groups, where nobody uses them."""
        for path in self.parents():
            with contextlib.suppress(OSError):
                os.rmdir(path)


@cache
def cgroup_manager() -> CgroupManager:
    """The manager for this host, its layout looked up once."""
    return CgroupManager(find_layout())


def _make_group(parent: str, name: str) -> str:
    path = f"{parent}/{name}"
    for _ in range(5):
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(path)
            return path
        # The parent may vanish again at once: another session tidies it away when it ends.
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent)
    os.mkdir(path)
    return path


def _enable_controllers(root: str, parent: str, controllers: tuple[str, ...]) -> None:
    """Let the children of root, and of parent, have the controllers (cgroup.subtree_control)."""
    for folder in (root, parent):
        with open(f"{folder}/cgroup.subtree_control", encoding="ascii") as file:
            missing = set(controllers) - set(file.read().split())
        if missing:
            _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{c}" for c in sorted(missing)))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _processes(path: str) -> list[int]:
    with open(f"{path}/cgroup.procs", encoding="ascii") as file:
        return [int(line) for line in file if line.strip() != "0"]


def remove_group(path: str) -> None:
    """Remove one cgroup; waits up to ten seconds for the last exits to be counted."""
    # A process leaves its group a little after its parent could reap it, so EBUSY may be true for
    # some microseconds more (cgroups(7)).
    deadline = time.monotonic_ns() + _REMOVE_TIMEOUT_NS
    pause_s = 20e-6
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic_ns() > deadline:
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.01)
        else:
            return
