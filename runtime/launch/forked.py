"""The forked launcher: the loop of `_launch.c` in Python, for hosts without a C compiler."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import signal
import time

from runtime.launch.memory_image import STEP, WORD, Launch, MemoryImage
from runtime.linux import abi

_MAX_INTERPRETERS = 4


def launch_forked(image: MemoryImage) -> int:
    """Run the steps in a process with its own copy of the memory.

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


def _clone_and_run(image: MemoryImage, libc: ctypes.PyDLL) -> None:
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


def _run_steps(frame: Launch, libc: ctypes.PyDLL) -> None:
    stamps = (ctypes.c_uint64 * frame.count).from_address(frame.stamps)
    for index in range(frame.count):
        number, slot, from_slot, *rest = STEP.unpack_from(
            ctypes.string_at(frame.steps + index * STEP.size, STEP.size)
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
        ctypes.c_long(number), *(ctypes.c_uint64(a & WORD) for a in arguments)
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
