"""Provides what instances need of the host: open files, processes, memory, CPUs of their own."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
from collections.abc import Collection, Iterator

from harness.meters import memory
from harness.model.errors import HarnessError, LaunchFailedError
from harness.model.units import cpu_list

SPARE_SHARE = 0.05
"""Part of the host's memory that instances are not given: beyond it the kernel kills at random."""
OVERHEAD_BYTES = 256 << 20
_DESCRIPTORS_EACH = 16
"""A machine takes the most: its streams, QMP with an event loop, a pidfd, and more in launching."""
_SPARE_DESCRIPTORS = 64
_MIB = 1 << 20
_REMEDIES = {
    errno.EMFILE: "this process may have no more open files: raise the hard limit (ulimit -Hn)",
    errno.ENFILE: "the host has no more open files to give: raise the sysctl fs.file-max",
    # The words of runtime.launch.launcher, so that they do not appear twice.
    errno.EAGAIN: "a limit of processes is reached: see ulimit -u, the sysctl kernel.pid_max, and "
    "pids.max of the control group that Steelyard runs in",
}


@contextlib.contextmanager
def enough_descriptors(instances: int) -> Iterator[None]:
    """Let this process open the files that so many instances take, as far as it may.

    The soft limit is raised towards the hard one (getrlimit(2)), and set back at the end. What is
    launched meanwhile inherits it, in every arm alike.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + _SPARE_DESCRIPTORS + instances * _DESCRIPTORS_EACH
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refuse_cpus(cpus: Collection[int]) -> None:
    """Refuse to be pinned where this process may not run.

    Raises:
        ValueError: Names the CPUs that it may not use, and those that it may.
    """
    allowed = os.sched_getaffinity(0)
    if missing := set(cpus) - allowed:
        raise ValueError(
            f"there is no CPU {cpu_list(missing)} here that Steelyard may use; "
            f"it may use {cpu_list(allowed)}"
        )


@contextlib.contextmanager
def pinned_to(cpus: Collection[int]) -> Iterator[None]:
    """Keep this thread, and every process that it starts, to some CPUs; to none: where it may be.

    Processes inherit where they may run (sched_setaffinity(2)): instances of every kind that this
    process starts itself, and not those that the daemon of a container engine starts.
    """
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def with_remedy(error: HarnessError | OSError) -> HarnessError | OSError:
    """Add to the error of a launch which limit of the host was met, if it was one."""
    cause: BaseException | None = error
    while cause is not None:
        remedy = _REMEDIES.get(getattr(cause, "errno", None) or 0)
        if remedy is not None and remedy.partition(":")[0] not in str(error):
            return LaunchFailedError(f"{error}; {remedy}", getattr(error, "console", ""))
        cause = cause.__cause__ or cause.__context__
    return error


class MemoryCapacity:
    """Estimates whether more instances fit into the host's memory, from what earlier ones took.

    Attributes:
        available_before: MemAvailable when nothing lived yet; None if this kernel does not say.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        """Read the host's memory, before anything is launched.

        Args:
            limit_bytes: Of one instance's memory. What others take meanwhile looks like taken by
                an instance, so the estimate is at most twice the limit and `OVERHEAD_BYTES`: an
                emulated machine of 96 MiB takes 180.
        """
        self.available_before = memory.available_if_known()
        self._each_bytes = 0.0
        self._most_bytes = math.inf if limit_bytes is None else 2 * limit_bytes + OVERHEAD_BYTES

    def learn(self, alive: int) -> None:
        """Update the estimate from so many living instances."""
        if self.available_before is not None and (now := memory.available_if_known()) is not None:
            each = max(0.0, (self.available_before - now) / alive)
            self._each_bytes = min(each, self._most_bytes)

    def lack(self, more: int) -> str | None:
        """Explain why so many more must not be launched; None if they fit or nothing is known."""
        now = memory.available_if_known()
        spare = SPARE_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if now is None or now - more * self._each_bytes >= spare:
            return None
        return (
            f"not launched: {now / _MIB:.0f} MiB of the host's memory are left, instances take "
            f"about {self._each_bytes / _MIB:.1f} MiB each, and {spare / _MIB:.0f} MiB must stay "
            "for others; free memory, or ask for fewer instances (scale.most)"
        )
