"""Writes a file whose path a user gives: replaces a regular file whole, writes through the rest.

A device, a FIFO or a descriptor such as /dev/stderr stays what it is. A symbolic link stays too:
its target is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from runtime.linux.caller import give
from runtime.linux.files import fsync_directory

_MOST_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_DESCRIPTORS = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd")


@contextlib.contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a path for writing.

    A regular file and a new path are written aside, in the same folder, and renamed when the block
    ends; an exception in the block leaves what was there. A new file gets 0666 less the umask, an
    existing one keeps its permissions. Anything else is opened and written through; opening a FIFO
    waits for its reader, as the shell's `>` does.

    Raises:
        OSError: It cannot be written.
    """
    name = os.fspath(path)
    descriptor = _own_descriptor(name)
    if descriptor is not None:
        with _duplicate(descriptor) as file:
            yield file
        return
    # Before the links are resolved here: stat(2) applies the kernel's rules on following them.
    try:
        found = os.stat(name)
    except FileNotFoundError:
        found = None
    if found is None or stat.S_ISREG(found.st_mode):
        with _replacement(os.path.realpath(name), found) as file:
            yield file
    else:
        with open(os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
            yield file


@contextlib.contextmanager
def _replacement(target: str, old: os.stat_result | None) -> Iterator[BinaryIO]:
    folder, name = os.path.split(target)
    aside = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    # A private file stays private also while it is written.
    fd = os.open(aside, flags, 0o666 if old is None else 0o600)
    try:
        with open(fd, "wb") as file:
            if old is None:
                give(fd)
            else:
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.fchown(fd, old.st_uid, old.st_gid)
                os.fchmod(fd, old.st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(fd)
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    fsync_directory(folder)


def _own_descriptor(path: str) -> int | None:
    """Return the number if the path leads to a descriptor of this process, as /dev/stdout does.

    The file behind it is shared with the parent of this process: to replace it, or to open it
    anew and truncate it, would lose what others write there.
    """
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        match = _DESCRIPTORS.fullmatch(folder)
        if match is not None and int(match[1]) == os.getpid() and name.isdecimal():
            return int(name)
        path = os.path.join(folder, name)
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:  # no link
            return None
    return None


def _duplicate(descriptor: int) -> BinaryIO:
    # A file that this process opened itself happens to have the number: nobody means that.
    if not os.get_inheritable(descriptor):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # what was printed before stands before
    return open(os.dup(descriptor), "wb")
