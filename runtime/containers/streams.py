"""The standard streams of a container that is run to its end: given ones, or pipes read here.

The words are those of Python's subprocess module: `input`, `capture_output`, `DEVNULL`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import time
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Self, TypeAlias

from runtime.errors import ContainerTimeoutError, InvalidArgumentError

if TYPE_CHECKING:
    from _typeshed import HasFileno

    from runtime.containers.container import Container, ExitStatus

DEVNULL = -3
"""`subprocess.DEVNULL`, without importing that module on the way to a launch."""
_BLOCK_BYTES = 1 << 16
"""A pipe's usual capacity (pipe(7))."""


Stream: TypeAlias = "int | HasFileno | None"
"""A descriptor, an open file, `subprocess.DEVNULL`, or None for this process's own."""


def _above_standard(fd: int) -> int:
    """Move a descriptor of ours off 0 to 2, which it gets where one of these is closed.

    The launch takes what stands there, close-on-exec, for a stray file.
    """
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


class Streams:
    """The streams that a container gets; a context manager, after which all pipes are closed.

    The arguments are those of `run_container`.

    Raises:
        InvalidArgumentError: A stream is given twice, or is none.

    Attributes:
        stdio: The descriptors that become 0, 1 and 2.
    """

    def __init__(
        self,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        *,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess gives it
        capture_output: bool = False,
    ) -> None:
        if input is not None and stdin is not None:
            raise InvalidArgumentError("input", "give either stdin or input, not both")
        if capture_output and not (stdout is None and stderr is None):
            raise InvalidArgumentError(
                "capture_output", "give either stdout and stderr or capture_output, not both"
            )
        self._theirs = contextlib.ExitStack()
        self._ours = contextlib.ExitStack()
        self._input = memoryview(input or b"")
        self._writer: IO[bytes] | None = None
        self._captured: dict[IO[bytes], bytearray] = {}
        with self._theirs, self._ours:
            streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            fds = [
                self._descriptor(name, number, stream)
                for number, (name, stream) in enumerate(streams.items())
            ]
            if input is not None:
                fds[0], self._writer = self._pipe(ours_is_writer=True)
                os.set_blocking(self._writer.fileno(), False)
            if capture_output:
                for number in (1, 2):
                    fds[number], reader = self._pipe(ours_is_writer=False)
                    self._captured[reader] = bytearray()
            # Everything went well: what was opened stays open.
            self._theirs, self._ours = self._theirs.pop_all(), self._ours.pop_all()
        self.stdio = (fds[0], fds[1], fds[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._theirs.close()
        self._ours.close()

    def _descriptor(self, name: str, number: int, stream: Stream) -> int:
        if stream is None:
            return number
        if stream == DEVNULL:
            fd = _above_standard(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            self._theirs.callback(os.close, fd)
            return fd
        try:
            fd = stream if isinstance(stream, int) else stream.fileno()
            os.fstat(fd)
        except (OSError, AttributeError, ValueError) as error:
            text = f"{name} is no open file: {stream!r}; to keep output, use capture_output=True"
            raise InvalidArgumentError(name, text) from error
        return fd

    def _pipe(self, *, ours_is_writer: bool) -> tuple[int, IO[bytes]]:
        """Both ends, the container's first; our own end does not reach it."""
        reader, writer = (_above_standard(fd) for fd in os.pipe2(os.O_CLOEXEC))
        theirs, ours = (reader, writer) if ours_is_writer else (writer, reader)
        self._theirs.callback(os.close, theirs)
        file = open(ours, "wb" if ours_is_writer else "rb", buffering=0)  # noqa: SIM115
        return theirs, self._ours.enter_context(file)

    def wait(self, container: Container, timeout_s: float | None = None) -> ExitStatus:
        """Feed and read the pipes until the workload has ended.

        Raises:
            ContainerTimeoutError: It has not in that time, and was killed.
        """
        # Ours alone now: a pipe ends when the container lets go of it.
        self._theirs.close()
        deadline_ns = None if timeout_s is None else time.monotonic_ns() + round(timeout_s * 1e9)
        self._transfer(deadline_ns)
        status = container.wait(deadline_ns)
        stdout, stderr = (*map(bytes, self._captured.values()), None, None)[:2]
        if status is None:
            container.kill()
            command = " ".join(container.spec.command)
            shown = command if len(command) <= 100 else command[:99] + "…"
            raise ContainerTimeoutError(
                f"{shown!r} in container {container.name} still ran after {timeout_s} s and was "
                "ended; give it a longer timeout_s",
                timeout_s or 0.0, stdout, stderr,
            )  # fmt: skip
        return replace(status, stdout=stdout, stderr=stderr) if self._captured else status

    def _transfer(self, deadline_ns: int | None) -> None:
        """Move bytes until every pipe has ended, or the deadline has come."""
        if self._writer is None and not self._captured:
            return
        with selectors.DefaultSelector() as selector:
            for reader in self._captured:
                selector.register(reader, selectors.EVENT_READ, (self._read, reader))
            if self._writer is not None:
                selector.register(self._writer, selectors.EVENT_WRITE, (self._write, self._writer))
            while selector.get_map():
                left_s = None
                if deadline_ns is not None:
                    left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                    if left_s <= 0:
                        return
                for key, _ in selector.select(left_s):
                    move, file = key.data
                    if not move(file):
                        selector.unregister(file)
                        file.close()

    def _read(self, file: IO[bytes]) -> bool:
        """Keep what is there; False at the end."""
        data = os.read(file.fileno(), _BLOCK_BYTES)
        self._captured[file] += data
        return bool(data)

    def _write(self, file: IO[bytes]) -> bool:
        """Write what the pipe takes; False when all is written, or nobody reads any more."""
        try:
            written = os.write(file.fileno(), self._input[:_BLOCK_BYTES])
        except BrokenPipeError:
            return False
        self._input = self._input[written:]
        return bool(self._input)
