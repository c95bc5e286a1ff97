"""Plan in, process out: natively where `_launch.c` is built, else the same steps in Python.

A plan becomes a memory image that both launchers read: an array of `struct step` and the strings
and structs that it points to. The native launcher is a loop of C over that array in a
child that shares our memory. The forked one is the same loop in Python, over the same array, in a
child with a copy of our memory: slower, and in need of no compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path

from runtime.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    ContainerError,
    LaunchError,
)
from runtime.launch.plan import SLOTS, Packed, Plan, Slot, Step, Strings
from runtime.linux import abi

_STEP = struct.Struct("@iiI5i6Q")
_WORD = (1 << 64) - 1
_MAX_INTERPRETERS = 4


class Launcher(StrEnum):
    """Which of the two loops runs the plan."""

    NATIVE = "native"
    FORKED = "forked"


class _CloneArgs(ctypes.Structure):
    """struct clone_args, linux/sched.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


class _Launch(ctypes.Structure):
    """struct launch, runtime/launch/_launch.c."""

    _fields_ = [
        ("clone", _CloneArgs),
        ("steps", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("stamps", ctypes.c_void_p),
        ("slots", ctypes.c_int64 * SLOTS),
        ("started", ctypes.c_uint64),
        ("reached", ctypes.c_int32),
        ("error", ctypes.c_int32),
    ]


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
    image = _MemoryImage(plan)
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
    if launcher is Launcher.NATIVE:
        library = native_library()
        assert library is not None, "the native launcher was asked for and is not built"
        frame.clone.flags |= abi.CLONE_VM
        pid = library.steelyard_launch(ctypes.byref(frame))
    else:
        pid = _launch_forked(image)
        if pid > 0:
            pidfd.value = os.pidfd_open(pid)
    if pid < 0:
        raise LaunchError("make a process in new namespaces", "clone3", -pid, _clone_remedy(-pid))
    # A launch without ids to change leaves this alone; with them the kernel made the memory that
    # parent and child share undumpable (prctl(2), PR_SET_DUMPABLE), also if a later step failed.
    if any(step.syscall in ("setuid", "setgid") for step in plan.steps):
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


class _MemoryImage:
    """A plan as memory: everything at its final address, ready to be run.

    Attributes:
        frame: `struct launch`.
        stamps: One a step.
        pid: For the forked launcher: the process that was made, or -errno.
    """

    def __init__(self, plan: Plan) -> None:
        # Kept as long as the image: the records hold addresses inside the other half.
        self._encoded = [_encode_step(step) for step in plan.steps]
        records = bytearray().join([record for record, _ in self._encoded])
        # Shared, so that the forked child's writes reach us too.
        size = ctypes.sizeof(_Launch) + 8 * len(plan.steps)
        shared = mmap.mmap(-1, size + ctypes.sizeof(ctypes.c_int))
        self.frame = _Launch.from_buffer(shared)
        self.stamps = (ctypes.c_uint64 * len(plan.steps)).from_buffer(
            shared, ctypes.sizeof(_Launch)
        )
        self.pid = ctypes.c_int.from_buffer(shared, size)
        self._records = (ctypes.c_char * len(records)).from_buffer(records)
        self.frame.steps = ctypes.addressof(self._records)
        self.frame.count = len(plan.steps)
        self.frame.stamps = ctypes.addressof(self.stamps)


@lru_cache(maxsize=1024)
def _encode_step(step: Step) -> tuple[bytes, tuple[bytes, ...]]:
    """One `struct step`, and the memory that it points to.

    Cached, because all but a few steps are the same in every launch, and encoding them anew would
    cost more than the kernel takes to carry them out.
    """
    from_slot = 0
    words: list[int] = []
    memory: list[bytes] = []
    for position, argument in enumerate(step.arguments):
        match argument:
            case None:
                words.append(0)
            case int():
                words.append(int(argument) & _WORD)
            case str():
                words.append(_place(_c_string(argument), memory))
            case Packed(data, _):
                words.append(_place(data, memory))
            case Slot(number):
                from_slot |= 1 << position
                words.append(number)
            case Strings(values):
                addresses = [_place(_c_string(value), memory) for value in values]
                pointers = struct.pack(f"@{len(addresses) + 1}Q", *addresses, 0)
                words.append(_place(pointers, memory))
    words += [0] * (6 - len(words))
    accept = step.accept + (0,) * (5 - len(step.accept))
    if step.syscall == "check_executable":
        call = abi.CHECK_EXECUTABLE
    else:
        call = abi.SYSCALL_NUMBERS[step.syscall]
    slot = -1 if step.result is None else step.result
    return _STEP.pack(call, slot, from_slot, *accept, *words), tuple(memory)


def _place(data: bytes, memory: list[bytes]) -> int:
    """Keep `data` in `memory` and return the address of its first byte.

    A bytes object never moves; its buffer is 16-byte aligned but for the object's header, which
    leaves it aligned for words on every platform that CPython runs on.
    """
    memory.append(data)
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    assert address is not None
    return address


def _c_string(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise ContainerError(f"a NUL byte in {text!r}: neither a path nor an argument can have one")
    return data + b"\0"


# --- the forked launcher ---


def _launch_forked(image: _MemoryImage) -> int:
    """The loop of `_launch.c`, in Python, in a process with its own copy of the memory.

        parent thread            helper                     workload's process
        os.fork() ──────────────► clone3(CLONE_PARENT|…) ──► the steps of the plan
        waits for the helper       suspended                 execve, or exit
        goes on ◄────────────────  stamps `started`, exits ◄──┘

    Only os.fork makes a child in which Python is sound: other threads of ours may hold the locks of
    the interpreter and of the allocator, and in a bare clone nobody would ever let go of them. It
    makes no namespaces, though. So it makes a helper, which has one thread and clones in its turn;
    CLONE_PARENT makes the result a child of ours, and this thread the one it dies with.

    Returns:
        The pid, or -errno if there is no process.
    """
    import warnings

    frame, libc = image.frame, ctypes.PyDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    frame.clone.flags |= abi.CLONE_PARENT | abi.CLONE_PARENT_SETTID
    frame.clone.flags &= ~abi.CLONE_PIDFD  # it would be the helper's
    frame.clone.parent_tid = ctypes.addressof(image.pid)
    frame.clone.exit_signal = 0  # with CLONE_PARENT the helper's own, SIGCHLD, counts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # Nothing of ours may be finalised by a child as well: temporary folders, for one.
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of threads; the helper calls nothing that they could have locked.
            warnings.simplefilter("ignore", DeprecationWarning)
            helper = os.fork()
        if helper == 0:
            try:
                _clone_and_run(image, libc)
            finally:
                os._exit(127)
        with contextlib.suppress(ChildProcessError):  # somebody ignores SIGCHLD
            os.waitpid(helper, 0)
    except OSError as error:
        return -(error.errno or errno.EAGAIN)
    finally:
        if collects:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return image.pid.value or -errno.EINTR  # 0: the helper was killed before it could clone


def _clone_and_run(image: _MemoryImage, libc: ctypes.PyDLL) -> None:
    """What the helper does, and then the workload's process."""
    frame = image.frame
    pid = libc.syscall(
        ctypes.c_long(abi.SYSCALL_NUMBERS["clone3"]),
        ctypes.byref(frame.clone),
        ctypes.c_size_t(ctypes.sizeof(frame.clone)),
    )
    if pid == 0:
        _run_steps(frame, libc)
    elif pid > 0:
        frame.started = time.monotonic_ns()
    else:
        image.pid.value = -ctypes.get_errno()


def _run_steps(frame: _Launch, libc: ctypes.PyDLL) -> None:
    stamps = (ctypes.c_uint64 * frame.count).from_address(frame.stamps)
    for index in range(frame.count):
        number, slot, from_slot, *rest = _STEP.unpack_from(
            ctypes.string_at(frame.steps + index * _STEP.size, _STEP.size)
        )
        accept, words = rest[:5], rest[5:]
        arguments = [
            frame.slots[word] if from_slot >> position & 1 else word
            for position, word in enumerate(words)
        ]
        frame.reached = index
        if number == abi.CHECK_EXECUTABLE:
            result = _check_executable(arguments[0], libc)
        else:
            result = _system_call(libc, number, arguments)
        stamps[index] = time.monotonic_ns()
        if result < 0 and -result not in accept:
            frame.error = -result
            return
        if slot >= 0:
            frame.slots[slot] = result


def _system_call(libc: ctypes.PyDLL, number: int, arguments: list[int]) -> int:
    result: int = libc.syscall(
        ctypes.c_long(number), *(ctypes.c_uint64(a & _WORD) for a in arguments)
    )
    return result if result >= 0 else -ctypes.get_errno()


def _check_executable(address: int, libc: ctypes.PyDLL) -> int:
    """`check_executable` of `_launch.c`: no magic link on the way, through all "#!" lines."""
    path = ctypes.string_at(address)
    for _ in range(_MAX_INTERPRETERS + 1):
        # O_NONBLOCK: a FIFO of that name must not hold us up.
        flags = abi.O_RDONLY | abi.O_NONBLOCK | abi.O_CLOEXEC
        how = abi.open_how.pack(flags, 0, abi.RESOLVE_NO_MAGICLINKS)
        buffers = ctypes.create_string_buffer(path), ctypes.create_string_buffer(how, len(how))
        words = [abi.AT_FDCWD, *(ctypes.addressof(buffer) for buffer in buffers), len(how)]
        fd = _system_call(libc, abi.SYSCALL_NUMBERS["openat2"], words)
        if fd < 0:
            return fd
        try:
            line = os.read(fd, 255)
        except OSError as error:
            return -(error.errno or errno.EIO)
        finally:
            os.close(fd)
        if not line.startswith(b"#!"):
            return 0
        path = line[2:].split(b"\n")[0].strip(b" \t").split(b" ")[0].split(b"\t")[0]
    return -errno.ELOOP


# --- errors ---


def _step_error(step: Step, number: int) -> LaunchError:
    """The error for a failed step; exec's own errors are of two kinds that callers tell apart."""
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
