"""The standard streams of a command: all three open, and each remembers why a write failed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class RecordedOutput(io.FileIO):
    """A standard stream. Who writes may turn an error into another one; this keeps the first.

    Attributes:
        failure: Why it could not be written; None as long as it could.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as io.FileIO does."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def open_standard_streams() -> tuple[RecordedOutput, RecordedOutput]:
    """Put /dev/null where 0, 1 or 2 is closed, and wrap the standard output and error.

    To be called before anything opens a file that stays open: that file would get a closed one's
    number, and what is printed would go into it.

    Returns:
        What is below sys.stdout and below sys.stderr.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(fd, True)  # as a standard stream is
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    output, sys.stdout = _recorded(1, sys.stdout)
    errors, sys.stderr = _recorded(2, sys.stderr)
    return output, errors


def _recorded(fd: int, old: object) -> tuple[RecordedOutput, io.TextIOWrapper]:
    """Make a text stream like the old one; Python has none where it found a closed descriptor."""
    raw = RecordedOutput(fd, "wb", closefd=False)
    like = old if isinstance(old, io.TextIOWrapper) else None
    is_unbuffered = like is not None and isinstance(like.buffer, io.RawIOBase)  # python -u
    new = io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding="utf-8" if like is None else like.encoding,
        # A locale without the multiplication sign gets a question mark, not a failure.
        errors="replace",
        line_buffering=like is not None and like.line_buffering,
        write_through=is_unbuffered,
    )
    return raw, new


def flush_standard_streams() -> None:
    """Write what is buffered; what cannot be written is dropped.

    Python would try again when it ends, and exit with a code of its own, 120.
    """
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, fd)
            os.close(null)
            with contextlib.suppress(OSError):
                stream.flush()
