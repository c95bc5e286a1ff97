"""Starts further commands in a container that is running.

They have what the workload has: its namespaces, control groups, root, variables, user and rights.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from runtime.containers.container import Container
from runtime.containers.stdio import movable_stdio
from runtime.errors import ContainerError, UnsupportedError
from runtime.launch.launcher import Launched, Launcher, default_launcher, launch
from runtime.launch.lower import lower_entry
from runtime.launch.spec import Namespace
from runtime.linux import abi
from runtime.linux.features import probe_features
from runtime.linux.namespace_thread import NamespaceThread
from runtime.linux.syscalls import setns


class Entrance:
    """The way into one container, for as many commands as one likes.

    The commands end with it at the latest. Use as long as the container runs, and close.
    """

    def __init__(self, container: Container) -> None:
        """Prepare to enter.

        Raises:
            UnsupportedError: The native launcher is not built.
            ContainerError: The container has ended.
        """
        if default_launcher() is not Launcher.NATIVE:
            # The other one makes the child by way of a helper, which would be in the pid namespace
            # and learn a pid that means nothing outside.
            raise UnsupportedError(
                "a command inside a running container needs the native launcher, which was not "
                "built; install a C compiler and install Steelyard again"
            )
        self._container = container
        self._last: Launched | None = None
        self._lock = threading.Lock()

        def enter() -> None:
            # For the children of this thread: pid_namespaces(7), "setns(2) and unshare(2)".
            if Namespace.PID in container.spec.namespaces:
                setns(container.pidfd, abi.CLONE_NEWPID)

        try:
            self._thread = NamespaceThread(enter, name="entrance")
        except OSError as error:
            raise ContainerError(
                f"container {container.name} cannot be entered: {error.strerror}"
            ) from error

    def start(self, command: Sequence[str], stdio: tuple[int, int, int]) -> Launched:
        """Start a command; returns when its exec is done.

        Args:
            command: argv; the first word is looked up as the workload's is.
            stdio: The host's descriptors that become 0, 1 and 2.

        Returns:
            A child of this process: wait for it, and close its pidfd.

        Raises:
            LaunchError: A step failed: there is no such command, or the container has ended.
            ContainerError: The control groups of the container are gone.
        """
        with self._lock:
            launched = self._thread.call(lambda: self._start(tuple(command), stdio))
            return replace(launched, pidfd=os.dup(launched.pidfd))

    def _start(self, command: tuple[str, ...], stdio: tuple[int, int, int]) -> Launched:
        # Kept here: where a signal takes the caller out of its wait, nobody else knows of it.
        last, self._last = self._last, self._launch(command, stdio)
        if last is not None:
            os.close(last.pidfd)
        return self._last

    def _launch(self, command: tuple[str, ...], stdio: tuple[int, int, int]) -> Launched:
        container = self._container
        spec = replace(container.spec, command=command, stdio=stdio)
        features = probe_features()
        with movable_stdio(spec) as spec:
            if container.cgroup is None:
                return launch(lower_entry(spec, features, container.pidfd))
            try:
                with container.cgroup.opened() as (cgroup_fd, tasks_fds):
                    plan = lower_entry(spec, features, container.pidfd, tasks_fds)
                    return launch(plan, cgroup_fd=cgroup_fd)
            except OSError as error:
                raise ContainerError(
                    f"container {container.name} cannot be entered: {error.strerror}"
                ) from error

    def close(self) -> None:
        """End the thread, and with it the commands that still run. Idempotent.

        The last command has been waited for then. As a zombie that nobody waits for it would keep
        the container's pid namespace, and with it the container's end (pid_namespaces(7)).
        """
        self._thread.close()
        if self._last is None:
            return
        pidfd = self._last.pidfd
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._last = None
        os.close(pidfd)
