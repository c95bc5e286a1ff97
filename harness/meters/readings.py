"""Makes the readings of all meters: a value, or why there is none."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from harness.model import Meter, Reading
from harness.model.errors import MeterError


def take(meter: Meter, scope: str, read: Callable[[], int]) -> Reading:
    """One reading; what goes wrong becomes its reason."""
    try:
        return Reading(meter, read(), scope)
    except (MeterError, OSError, ValueError) as error:
        return Reading(meter, None, scope, why(error))


def missing(meters: Iterable[Meter], scope: str, reason: str) -> tuple[Reading, ...]:
    """Make readings without a value, all for the same reason."""
    return tuple(Reading(meter, None, scope, reason) for meter in meters)


def why(error: Exception) -> str:
    """Word an error as the reason of a missing value."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOENT, errno.ESRCH) and error.filename:
            return f"{error.filename} is not there"
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def read_text(path: str) -> str:
    """Read a small file of the kernel's."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
