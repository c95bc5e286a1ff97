"""The only place that calls libc directly: thin functions, each one system call.

Every function raises OSError that names the call and the path it was about; only the edge of the
program turns an errno into advice. argtypes and restype are declared once, at import.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

from runtime.linux import abi

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


def _check(result: int, call: str, path: str | os.PathLike[str] | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        text = f"{call}: {os.strerror(number)}"
        if path is None:
            raise OSError(number, text)
        raise OSError(number, text, os.fspath(path))
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


def set_dumpable(dumpable: bool) -> None:
    """PR_SET_DUMPABLE (prctl(2)): whether an ordinary ptrace may look into this process."""
    _check(_libc.prctl(abi.PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl")


def pidfd_send_signal(pidfd: int, signal_number: int) -> None:
    """Signal the process behind `pidfd`, never one that took its pid (pidfd_send_signal(2))."""
    result = _libc.syscall(
        abi.SYSCALL_NUMBERS["pidfd_send_signal"],
        ctypes.c_int(pidfd), ctypes.c_int(signal_number), None, ctypes.c_uint(0),
    )  # fmt: skip
    _check(result, "pidfd_send_signal")


def resident_bytes(fd: int) -> int:
    """How much of a regular file is in the page cache (mincore(2)), in bytes of whole pages.

    The kernel tells the truth only to those who own the file or may write it (mm/mincore.c,
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


def new_network_namespace() -> int:
    """Make an empty network namespace; returns the fd that keeps it alive.

    Made by a short-lived thread of its own, since unshare(2) moves the thread that calls it.
    """
    result: list[int | OSError] = []

    def make() -> None:
        try:
            unshare(abi.CLONE_NEWNET)
            result.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=make, name="new-network-namespace")
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def enter_network_namespace(fd: int) -> None:
    """Move the calling thread, and only it, into the network namespace behind `fd`."""
    setns(fd, abi.CLONE_NEWNET)
