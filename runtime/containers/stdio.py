"""The three standard descriptors on their way into a container."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace

from runtime.launch.spec import ContainerSpec


@contextlib.contextmanager
def movable_stdio(spec: ContainerSpec) -> Iterator[ContainerSpec]:
    """The spec with every descriptor that has to move duplicated to above 2.

    One of 0, 1 and 2 that is closed becomes /dev/null, since a program that starts without one
    takes the next file it opens for it. So does one that would not survive exec: some file of our
    own has got the number of a closed one.
    """
    copies: list[int] = []
    try:
        moved = []
        for target, fd in enumerate(spec.stdio):
            if fd == target and not _survives_exec(fd):
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                copies += [null, fd := _duplicate_above_2(null)]
            elif fd <= 2 and fd != target:
                copies.append(fd := _duplicate_above_2(fd))
            moved.append(fd)
        yield replace(spec, stdio=(moved[0], moved[1], moved[2])) if copies else spec
    finally:
        for fd in copies:
            os.close(fd)


def _survives_exec(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _duplicate_above_2(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
