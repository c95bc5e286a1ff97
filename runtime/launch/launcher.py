"""Plan in, process out: natively where `_launch.c` is built, else the same steps in Python.

A plan becomes a memory image that both launchers read. The native launcher is a loop of C over its
steps in a child that shares our memory; the forked one the same loop in Python in a child with a
copy of our memory: slower, and in need of no compiler.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from runtime.errors import CommandNotExecutableError, CommandNotFoundError, LaunchError
from runtime.launch.forked import launch_forked
from runtime.launch.memory_image import MemoryImage
from runtime.launch.plan import Plan, Step
from runtime.linux import abi


class Launcher(StrEnum):
    """Which of the two loops runs the plan."""

    NATIVE = "native"
    FORKED = "forked"


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that has executed the workload.

    Attributes:
        pid: As the host sees it.
        pidfd: Refers to it for good, also after the pid is used again; the caller closes it.
        isolated_ns: When the last step before the search for the executable was done.
        started_ns: When execve was done, seen by the launching thread.
        step_ns: One stamp a step, `time.monotonic_ns()`; 0 for steps after the exec.
        launcher: Which loop ran the plan.
    """

    pid: int
    pidfd: int
    isolated_ns: int
    started_ns: int
    step_ns: tuple[int, ...]
    launcher: Launcher


@cache
def native_library() -> ctypes.CDLL | None:
    """The native launcher, or None where it was not built."""
    for path in sorted(Path(__file__).parent.glob("_launch.*.so")):
        try:
            library = ctypes.CDLL(os.fspath(path))
            library.steelyard_launch.restype = ctypes.c_long
        except (OSError, AttributeError):
            continue  # built for another machine, or by an older version of this file
        return library
    return None


def default_launcher() -> Launcher:
    """Native where it is built; `STEELYARD_LAUNCHER=forked` asks for the other."""
    if native_library() is None or os.environ.get("STEELYARD_LAUNCHER") == Launcher.FORKED:
        return Launcher.FORKED
    return Launcher.NATIVE


def launch(
    plan: Plan, *, cgroup_fd: int | None = None, launcher: Launcher | None = None
) -> Launched:
    """Run a plan and return when its workload's exec is done.

    The calling thread is suspended meanwhile, and the workload asks to die with that thread
    (PR_SET_PDEATHSIG): call from one that lives as long as the container should.

    Args:
        plan: What to do between clone and exec.
        cgroup_fd: A cgroup v2 folder in which the process is born (CLONE_INTO_CGROUP).
        launcher: Which loop to use; by default the better one.

    Raises:
        LaunchError: A step failed; the error names it. No process is left.
    """
    launcher = launcher or default_launcher()
    image = MemoryImage(plan)
    pidfd = ctypes.c_int(-1)
    frame = image.frame
    frame.clone.pidfd = ctypes.addressof(pidfd)
    frame.clone.exit_signal = signal.SIGCHLD
    frame.clone.flags = (
        plan.clone_flags | abi.CLONE_PIDFD | abi.CLONE_VFORK | abi.CLONE_CLEAR_SIGHAND
    )
    if cgroup_fd is not None:
        frame.clone.flags |= abi.CLONE_INTO_CGROUP
        frame.clone.cgroup = cgroup_fd
    try:
        if launcher is Launcher.NATIVE:
            library = native_library()
            assert library is not None, "the native launcher was asked for and is not built"
            frame.clone.flags |= abi.CLONE_VM
            pid = library.steelyard_launch(ctypes.byref(frame))
        else:
            pid = launch_forked(image)
            if pid > 0:
                pidfd.value = os.pidfd_open(pid)
    except BaseException:
        # A signal that came during the launch: Python runs its handler now, and nobody knows the
        # process yet.
        if pidfd.value < 0 < image.pid.value:
            pidfd.value = os.pidfd_open(image.pid.value)
        if pidfd.value >= 0:
            signal.pidfd_send_signal(pidfd.value, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd.value, os.WEXITED)
            os.close(pidfd.value)
        raise
    if pid < 0:
        raise LaunchError("make a process in new namespaces", "clone3", -pid, _clone_remedy(-pid))
    # A launch without ids to change leaves this alone; with them the kernel made the memory that
    # parent and child share undumpable (prctl(2), PR_SET_DUMPABLE), also if a later step failed.
    # A plan that enters a container does so itself.
    if any(_changes_dumpable(step) for step in plan.steps):
        from runtime.linux.syscalls import set_dumpable

        set_dumpable(dumpable=True)
    executing = plan.steps[frame.reached].syscall == "execve"
    if frame.error or not executing:
        os.close(pidfd.value)
        os.waitpid(pid, 0)
        # Neither an error nor at exec: something killed it, as the OOM killer might.
        raise _step_error(plan.steps[frame.reached], frame.error or errno.EINTR)
    stamps = tuple(image.stamps)
    return Launched(pid, pidfd.value, stamps[plan.isolated_step], frame.started, stamps, launcher)


def _changes_dumpable(step: Step) -> bool:
    return step.syscall in ("setuid", "setgid") or (
        step.syscall == "prctl" and step.arguments[0] == abi.PR_SET_DUMPABLE
    )


def _step_error(step: Step, number: int) -> LaunchError:
    """The error for a failed step; exec's own errors are of two kinds."""
    if step.syscall not in ("check_executable", "execve"):
        return LaunchError(
            step.label, step.syscall, number, _REMEDIES.get((step.syscall, number), "")
        )
    program = step.label.removeprefix("execute ")
    if number in (errno.ENOENT, errno.ENOTDIR):
        where = "in the image" if "/" in program else "in any folder of PATH in the image"
        return CommandNotFoundError(
            step.label, step.syscall, number, f"there is no {program} {where}"
        )
    remedy = {
        errno.EACCES: "it is not an executable file",
        errno.EISDIR: "it is a folder",
        errno.ENOEXEC: "it is no program for this machine, and has no #! line",
        errno.ELOOP: "it leads through a link of /proc, which could be the launcher itself",
    }.get(number, "")
    return CommandNotExecutableError(step.label, step.syscall, number, remedy)


_REMEDIES = {
    ("mount", errno.ENODEV): "this kernel lacks that filesystem; load its module",
    ("mount", errno.EPERM): "mounting needs root",
    ("mount", errno.EINVAL): "the kernel's log (dmesg) says which option it refused",
    ("openat2", errno.ELOOP): "it leads through a link of /proc, out of the container",
    ("openat2", errno.ENOENT): "it does not exist, or is a link that leads nowhere",
    ("open_tree", errno.ENOENT): "the volume's source does not exist",
}


def _clone_remedy(number: int) -> str:
    return {
        errno.EPERM: "new namespaces need root",
        errno.ENOSPC: "a limit of namespaces is reached: see /proc/sys/user/max_*_namespaces",
        errno.ENOSYS: "this kernel is too old: Linux 5.12 or newer is needed",
        errno.EAGAIN: "a limit of processes is reached",
    }.get(number, "")
