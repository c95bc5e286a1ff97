"""The only place that calls libc directly: thin functions, each one system call.

Every function raises OSError that names the call and the path it was about; only the edge of the
program turns an errno into advice. argtypes and restype are declared once, at import.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from runtime.linux import abi

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.mount.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
]  # fmt: skip
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

_MAP_FAILED = ctypes.c_void_p(-1).value
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def _check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", *(() if path is None else (path,)))
    return result


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (unshare(2))."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `fd` (setns(2)); `kind` is a CLONE_NEW*."""
    _check(_libc.setns(fd, kind), "setns")


def mount(
    source: str | None, target: str, filesystem: str | None, flags: int, data: str | None = None
) -> None:
    """Mount a filesystem (mount(2))."""

    def encode(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    result = _libc.mount(
        encode(source), os.fsencode(target), encode(filesystem), flags, encode(data)
    )
    _check(result, "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount (umount2(2))."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open a path as if `root_fd` were the root, links in it included (openat2(2)).

    Links of /proc, which lead out of every root, are not followed.
    """
    resolve = abi.RESOLVE_IN_ROOT | abi.RESOLVE_NO_MAGICLINKS
    how = abi.open_how.pack(flags, 0, resolve)
    number = abi.SYSCALL_NUMBERS["openat2"]
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(root_fd), ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how), ctypes.c_size_t(len(how)),
    )  # fmt: skip
    return int(_check(result, "openat2", path))


def set_dumpable(dumpable: bool) -> None:
    """PR_SET_DUMPABLE (prctl(2)): whether an ordinary ptrace may look into this process."""
    _check(_libc.prctl(abi.PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl")


def perf_event_open(attributes: bytes, pid: int, cpu: int, flags: int = 0) -> int:
    """Open a counter or a tracepoint (perf_event_open(2)); returns its descriptor, close-on-exec.

    `attributes` is an `abi.perf_event_attr`; `pid` may be -1 (all), `cpu` -1 (any).
    """
    result: int = _libc.syscall(
        ctypes.c_long(abi.SYSCALL_NUMBERS["perf_event_open"]),
        ctypes.c_char_p(attributes),
        ctypes.c_long(pid),
        ctypes.c_long(cpu),
        ctypes.c_long(-1),
        ctypes.c_ulong(flags | abi.PERF_FLAG_FD_CLOEXEC),
    )
    return _check(result, "perf_event_open")


def resident_bytes(fd: int) -> int:
    """How much of a regular file is in the page cache (mincore(2)), in bytes of whole pages.

    The kernel answers truly only to those who own the file or may write it (mm/mincore.c,
    `can_do_mincore`); to others every page seems to be there.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        return 0
    # Not by the module mmap: it gives away the address of writable mappings only.
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        _check(-1, "mmap")
    try:
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        _check(_libc.mincore(address, size, pages), "mincore")
    finally:
        _libc.munmap(address, size)
    # Of each byte only the lowest bit means something.
    return pages.raw.translate(_LOWEST_BIT).count(1) * mmap.PAGESIZE


def in_new_thread(function: Callable[[], T]) -> T:
    """Run a function in a short-lived thread of its own; returns and raises what it does.

    For what moves the calling thread for good, as unshare(2) does.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace-maker")
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def new_network_namespace() -> int:
    """Make an empty network namespace; returns the fd that keeps it alive."""

    def make() -> int:
        unshare(abi.CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return in_new_thread(make)


def enter_network_namespace(fd: int) -> None:
    """Move the calling thread, and only it, into the network namespace behind `fd`."""
    setns(fd, abi.CLONE_NEWNET)
