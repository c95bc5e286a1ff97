"""What can go wrong in the runtime, as one small tree below `ContainerError`.

Exit codes follow docker-run(1): 125 the runtime failed, 126 cannot be executed, 127 not found, and
otherwise the workload's own. The library raises, the command line prints.
"""

from __future__ import annotations

import errno as errno_module
import os


class ContainerError(Exception):
    """A problem in one sentence: what was wrong, where, and what to do."""

    exit_code = 125


class LaunchError(ContainerError):
    """A step of the launch plan failed. The workload never ran, and nothing of it is left.

    Attributes:
        step: The step's label, e.g. `mount overlay on /rootfs`.
        syscall: The system call's name.
        errno: Its errno.
    """

    def __init__(self, step: str, syscall: str, errno: int, remedy: str = "") -> None:
        name = errno_module.errorcode.get(errno, errno)
        text = f"{step}: {syscall}: {os.strerror(errno)} ({name})"
        super().__init__(self._sentence(text, remedy))
        self.step = step
        self.syscall = syscall
        self.errno = errno

    def _sentence(self, text: str, remedy: str) -> str:
        return f"{text}; {remedy}" if remedy else text


class CommandError(LaunchError):
    """The box was made, and its workload's command could not be executed."""

    def _sentence(self, text: str, remedy: str) -> str:
        # The user knows the command and not the system calls: the reason alone says more.
        return f"cannot {text.partition(':')[0]}: {remedy}" if remedy else f"cannot {text}"


class CommandNotFoundError(CommandError):
    """The workload's command does not exist in the image."""

    exit_code = 127


class CommandNotExecutableError(CommandError):
    """The workload's command exists in the image but cannot be executed."""

    exit_code = 126


class UnsupportedError(ContainerError):
    """This kernel or this user cannot do what was asked."""


class InvalidArgumentError(ContainerError, ValueError):
    """What was asked for makes no sense, before anything is done.

    Attributes:
        argument: The parameter that is wrong, by its name in the library.
    """

    def __init__(self, argument: str, text: str) -> None:
        super().__init__(text)
        self.argument = argument


class ContainerTimeoutError(ContainerError):
    """The workload ran longer than it was given; it has been ended and removed.

    Attributes:
        timeout_s: What it was given.
        stdout: What it wrote until then, if that was captured; else None.
        stderr: The same for standard error.
    """

    def __init__(
        self, text: str, timeout_s: float, stdout: bytes | None, stderr: bytes | None
    ) -> None:
        super().__init__(text)
        self.timeout_s = timeout_s
        self.stdout = stdout
        self.stderr = stderr


class ImageError(ContainerError):
    """Something about images."""


class ImageNotFoundError(ImageError):
    """No such image in the store."""


class InvalidReferenceError(ImageError):
    """A name that is no image reference."""


class LayerError(ImageError):
    """A layer is malformed, hostile, or not what its digest says."""


class StoreError(ImageError):
    """The store on disk is not as it should be."""
