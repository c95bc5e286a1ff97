"""A container's life: request, launch, wait, kill, remove.

A container owns three things on the host: a folder in its session (the writable layer), a cgroup,
and its processes; the mounts live and die with the mount namespace. `remove` takes all of it away
and can be called at any time, any number of times.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar, overload

from runtime.containers.mounts import make_writable
from runtime.containers.session import Session
from runtime.containers.stdio import movable_stdio
from runtime.errors import CommandNotFoundError, ContainerError
from runtime.launch.cgroups import ContainerCgroup, cgroup_manager
from runtime.launch.launcher import Launched, Launcher, launch
from runtime.launch.lower import lower
from runtime.launch.plan import Plan
from runtime.launch.spec import ContainerSpec, Namespace, OverlayRoot
from runtime.linux.features import probe_features
from runtime.linux.files import remove_tree

if TYPE_CHECKING:
    from runtime.images.layer.changes import PathChange

T = TypeVar("T")

_NO_SUCH_COMMAND = "/.steelyard/rehearsal"
_MOUNTPOINT = ".rootfs"
"""In the session's folder; hidden, so that a container may be called rootfs."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the workload ended.

    Attributes:
        code: Exit code, or None if a signal ended it.
        signal: Signal number, or None if it exited.
        at_ns: When its end was seen (`time.monotonic_ns()`).
        user_ns: CPU time in user mode, of the workload and the children it waited for (wait4(2)).
        system_ns: The same in the kernel.
        stdout: What it wrote there, if `run_container` was asked to capture it; else None.
        stderr: The same for standard error.
    """

    code: int | None
    signal: int | None
    at_ns: int
    user_ns: int
    system_ns: int
    stdout: bytes | None = None
    stderr: bytes | None = None

    @property
    def shell_code(self) -> int:
        """As a shell reports it: the code, or 128 + signal."""
        return 128 + (self.signal or 0) if self.code is None else self.code


class Container:
    """A launched container; as a context manager it is removed at the end of the block.

    The workload dies with the thread that launched it (PR_SET_PDEATHSIG in prctl(2)): launch from
    one that lives as long as the container should.

    Attributes:
        name: Unique in its session.
        spec: What was asked.
        plan: How it was launched.
        requested_ns: Just before the first system call that made something for it.
        launched: Stamps, pid and pidfd of the launch.
        exit_status: How it ended, once that has been seen.
        directory: Its folder in the session, or None if it needed none.
        layer_ns: What making its writable layer took, in nanoseconds; 0 without one.
        cgroup: Its cgroups, or None.
        on_remove: Closed when all of it is gone; holds what has to live as long, such as the lease
            of its image.
    """

    def __init__(self, name: str, spec: ContainerSpec, session: Session) -> None:
        self.name = name
        self.spec = spec
        self.requested_ns = time.monotonic_ns()
        self.directory: str | None = None
        self.layer_ns = 0
        self.cgroup: ContainerCgroup | None = None
        self._session = session
        session.on_close.add(self.remove)
        self.on_remove = contextlib.ExitStack()
        self.exit_status: ExitStatus | None = None
        self.plan: Plan
        self.launched: Launched

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        """Of the workload's first process, as the host sees it."""
        return self.launched.pid

    @property
    def pidfd(self) -> int:
        """Readable when the workload has ended (pidfd_open(2))."""
        return self.launched.pidfd

    @property
    def upperdir(self) -> str | None:
        """The writable layer, for a container that has one."""
        return self.spec.root.upperdir if isinstance(self.spec.root, OverlayRoot) else None

    @property
    def overlay_mount_ns(self) -> int:
        """What mounting the overlay took, in nanoseconds; 0 for a container without one."""
        ends_ns, steps = self.launched.step_ns, self.plan.steps
        return sum(
            ends_ns[index] - ends_ns[index - 1]
            for index, step in enumerate(steps)
            if step.syscall == "mount" and step.arguments[2] == "overlay"
        )

    @overload
    def wait(self, deadline_ns: None = None, *, timeout_s: None = None) -> ExitStatus: ...

    @overload
    def wait(
        self, deadline_ns: int | None = None, *, timeout_s: float | None = None
    ) -> ExitStatus | None: ...

    def wait(
        self, deadline_ns: int | None = None, *, timeout_s: float | None = None
    ) -> ExitStatus | None:
        """Wait until the workload ends.

        Args:
            deadline_ns: When to give up, on the clock `time.monotonic_ns()`.
            timeout_s: The same as seconds from now.

        Returns:
            How it ended, or None if it still runs at the deadline. Without one it is never None.
        """
        if timeout_s is not None:
            deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        if self.exit_status is None:
            if deadline_ns is not None:
                poll = select.poll()
                poll.register(self.pidfd, select.POLLIN)
                left_ms = max(0, deadline_ns - time.monotonic_ns()) / 1e6
                if not poll.poll(left_ms):
                    return None
            _, status, usage = os.wait4(self.launched.pid, 0)
            signalled = os.WIFSIGNALED(status)
            self.exit_status = ExitStatus(
                code=None if signalled else os.WEXITSTATUS(status),
                signal=os.WTERMSIG(status) if signalled else None,
                at_ns=time.monotonic_ns(),
                user_ns=round(usage.ru_utime * 1e9),
                system_ns=round(usage.ru_stime * 1e9),
            )
        return self.exit_status

    def processes(self) -> tuple[int, ...]:
        """Pids of all that run in it now, the workload's first; without a cgroup only that one."""
        pids = () if self.exit_status is not None else (self.launched.pid,)
        if self.cgroup is None:
            return pids
        return tuple(dict.fromkeys((*pids, *self.cgroup.processes())))

    def send_signal(self, number: int) -> None:
        """Signal the workload; nothing happens if it has ended."""
        if self.exit_status is None:
            with contextlib.suppress(ProcessLookupError):
                # Not by pidfd_send_signal: until we wait for it, nobody can take its pid.
                os.kill(self.launched.pid, number)

    def kill(self) -> ExitStatus:
        """End every process of the container at once and wait for the workload."""
        if self.exit_status is None:
            # The death of a pid namespace's first process is that of all others
            # (pid_namespaces(7)); without such a namespace the cgroup knows them.
            self.send_signal(signal.SIGKILL)
        if self.cgroup is not None and Namespace.PID not in self.spec.namespaces:
            self.cgroup.kill()
        return self.wait()

    def changes(self) -> tuple[PathChange, ...]:
        """What it changed in its image, sorted by path: the content of its writable layer.

        Raises:
            ContainerError: It is running or removed, or it has no writable layer of its own.
            ImageError: The layer cannot be read.
        """
        if self.exit_status is None:
            raise ContainerError(f"container {self.name} is running; wait for its end")
        root = self.spec.root
        if not isinstance(root, OverlayRoot) or not os.path.isdir(root.upperdir):
            raise ContainerError(
                f"container {self.name} has no writable layer, or is removed already"
            )
        from pathlib import Path

        from runtime.images.layer.changes import read_changes

        return read_changes(Path(root.upperdir), [*map(Path, root.lowerdirs)])[1]

    def remove(self) -> None:
        """Kill what still runs and take away everything on the host. Idempotent."""
        if hasattr(self, "launched"):
            self.kill()
            if self.launched.pidfd >= 0:
                os.close(self.launched.pidfd)
                self.launched = replace(self.launched, pidfd=-1)
        if self.cgroup is not None:
            self.cgroup.remove()
            self.cgroup = None
        if self.directory is not None:
            _remove_instance(self.directory)
            self.directory = None
        self._session.on_close.discard(self.remove)
        self.on_remove.close()


def launch_container(
    spec: ContainerSpec,
    *,
    name: str | None = None,
    session: Session | None = None,
    launcher: Launcher | None = None,
) -> Container:
    """Make a container and start its workload; returns when its exec is done.

    For an `OverlayRoot` without an upperdir, a fresh writable layer is made in the session.

    Args:
        spec: What to run.
        name: Unique in the session; made up if None.
        session: Owner; by default this process's.
        launcher: See `runtime.launch.launcher`.

    Raises:
        LaunchError: A step failed; nothing is left.
        UnsupportedError: This host cannot do what the spec asks.
    """
    session = session or Session.current()
    name = name or session.next_name("container")
    container = Container(name, spec, session)
    try:
        _set_up(container, session, launcher)
    except BaseException as error:
        container.remove()
        if isinstance(error, OSError):
            raise _not_made(error) from error
        raise
    return container


def rehearse_container(
    spec: ContainerSpec, look: Callable[[str | None], T], *, session: Session | None = None
) -> T:
    """Make a container up to its workload's exec, call `look`, and take it away.

    The arguments and errors are those of `launch_container`. `look` gets the container's folder in
    the session (None if it needs none), in the state in which a workload would find it; what it
    returns is returned.
    """
    session = session or Session.current()
    # The search for the executable comes after all that makes a container, and finds nothing.
    spec = replace(spec, command=(_NO_SUCH_COMMAND,))
    name = session.next_name("rehearsal")
    container = Container(name, spec, session)
    try:
        with contextlib.suppress(CommandNotFoundError):
            _set_up(container, session, None)
        return look(container.directory)
    except OSError as error:
        raise _not_made(error) from error
    finally:
        container.remove()


def _set_up(container: Container, session: Session, launcher: Launcher | None) -> None:
    """Everything from the writable layer to the exec; whatever fails, the caller removes it."""
    spec = container.spec
    if isinstance(spec.root, OverlayRoot) and not spec.root.upperdir:
        begun_ns = time.monotonic_ns()
        container.directory = os.fspath(session.new_instance_directory(container.name))
        root = writable_root(session, container.directory, spec.root)
        container.layer_ns = time.monotonic_ns() - begun_ns
        container.spec = spec = replace(spec, root=root)
    group_name = f"{session.identifier}-{container.name}"
    container.cgroup = cgroup = cgroup_manager().create(group_name, spec.limits)
    tasks_fds, cgroup_fd = (cgroup.tasks_fds, cgroup.clone_fd) if cgroup else ((), None)
    with movable_stdio(spec) as spec:
        container.plan = lower(spec, probe_features(), tuple(tasks_fds))
        container.launched = launch(container.plan, cgroup_fd=cgroup_fd, launcher=launcher)
    if cgroup is not None:
        cgroup.close_fds()


def _not_made(error: OSError) -> ContainerError:
    return ContainerError(f"cannot make a container: {error.strerror}: {error.filename}")


def plan_container(spec: ContainerSpec) -> Plan:
    """The plan of a launch that is not made: paths of the session are shown by their role.

    Equal specs on equal kernels give equal plans, so its digest identifies what was run.
    """
    if isinstance(spec.root, OverlayRoot) and not spec.root.upperdir:
        root = replace(spec.root, upperdir="INSTANCE/upper", workdir="INSTANCE/work")
        spec = replace(spec, root=replace(root, mountpoint="SESSION/.rootfs"))
    if spec.network.namespace_fd is not None:
        spec = replace(spec, network=replace(spec.network, namespace_fd=-1))
    return lower(spec, probe_features())


def writable_root(session: Session, directory: str, root: OverlayRoot) -> OverlayRoot:
    """Give `root` a writable layer in a folder, and the mount point of the session.

    A container that gets it does not remove it: who has made the folder does.
    """
    mountpoint = f"{session.directory}/{_MOUNTPOINT}"
    # One for all: every container mounts over it in a mount namespace of its own.
    with contextlib.suppress(FileExistsError):
        os.mkdir(mountpoint, 0o700)
    return make_writable(replace(root, mountpoint=mountpoint), directory)


def _remove_instance(directory: str) -> None:
    """Remove a container's folder: by name where nothing was written, else the whole tree."""
    try:
        with contextlib.suppress(FileNotFoundError):
            # Overlay's mark that a volatile mount was in use.
            os.unlink(f"{directory}/work/work/incompat/volatile/dirty")
        inner = ("upper", "work/work/incompat/volatile", "work/work/incompat", "work/work", "work")
        for folder in (*inner, ""):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(f"{directory}/{folder}")
    except OSError:
        from pathlib import Path

        remove_tree(Path(directory))
