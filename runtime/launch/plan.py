"""A launch as a value: the system calls that make a container, in order, before any is made.

A `Plan` can be printed like a trace, compared, tested without privilege and hashed into a record.
It holds no behaviour: `runtime.launch.lower` writes it, `runtime.launch.launcher` runs it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from runtime.linux import abi

SLOTS = 64
"""How many results a plan can keep; `SLOTS` of `_launch.c`."""


class ResultSlot(NamedTuple):
    """An argument that is the result of an earlier step, e.g. the fd that open_tree returned."""

    number: int


class PackedBytes(NamedTuple):
    """A pointer to a struct.

    Attributes:
        data: The struct's bytes, packed by a `struct.Struct` of `runtime.linux.abi`.
        text: How `describe` shows it.
    """

    data: bytes
    text: str


class Strings(NamedTuple):
    """A NULL-terminated array of strings: argv or envp."""

    values: tuple[str, ...]


Argument: TypeAlias = int | str | ResultSlot | PackedBytes | Strings | None
"""A number, a path or string, a NULL pointer, or one of the three kinds above."""


class Step(NamedTuple):
    """One system call.

    Attributes:
        syscall: Its name, as in its manual page; or `check_executable` (see `_launch.c`).
        arguments: At most six.
        label: What it is for, in the words of an error message: "mount proc on /proc".
        accept: Errnos that do not stop the launch, e.g. EEXIST of a mkdir.
        result: ResultSlot in which the returned value is kept for later steps.
    """

    syscall: str
    arguments: tuple[Argument, ...]
    label: str
    accept: tuple[int, ...] = ()
    result: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a launch between clone and exec.

    Attributes:
        clone_flags: Of clone3(2): the namespaces that are new from the first instruction on.
        steps: In order.
        isolated_step: Index of the last step before the search for the executable begins; when it
            is done, the box is complete (`isolated`).
    """

    clone_flags: int
    steps: tuple[Step, ...]
    isolated_step: int

    def describe(self) -> str:
        """The plan like strace(1) would print it, one call a line, with what each is for."""
        lines = [f"clone3({{flags={_flags(self.clone_flags, 'CLONE_')}}})"]
        for step in self.steps:
            call = f"{step.syscall}({', '.join(_arguments(step))})"
            result = f" = ${step.result}" if step.result is not None else ""
            accepted = "".join(f" or {errno.errorcode.get(e, e)}" for e in step.accept)
            note = f"{step.label}{accepted}"
            lines.append(f"{call}{result}  # {note}")
        return "\n".join(lines) + "\n"

    def sha256(self) -> str:
        """Digest of `describe()`: equal plans, equal digests."""
        return hashlib.sha256(self.describe().encode(errors="surrogateescape")).hexdigest()


# Which arguments are flags, and of which family: only for printing.
_FLAG_ARGUMENTS = {
    ("mount", 3): "MS_",
    ("umount2", 1): "MNT_",
    ("unshare", 0): "CLONE_",
    ("setns", 1): "CLONE_",
    ("open_tree", 2): "OPEN_TREE_",
    ("move_mount", 4): "MOVE_MOUNT_",
    ("prctl", 0): "=PR_",
    ("ioctl", 1): "=SIOC",
}


def _flags(value: int, family: str) -> str:
    if family.startswith("="):
        names = [n for n, v in vars(abi).items() if n.startswith(family[1:]) and v == value]
        return names[0] if names else str(value)
    names, rest = [], value
    for name, bit in vars(abi).items():
        if name.startswith(family) and isinstance(bit, int) and bit and value & bit == bit:
            names.append(name)
            rest &= ~bit
    if rest or not names:
        names.append(hex(rest) if rest else "0")
    return "|".join(names)


_FILE_TYPES = {stat.S_IFCHR: "S_IFCHR", stat.S_IFREG: "S_IFREG"}
# Numbers that nobody reads in decimal: modes, device numbers, "all descriptors from here on".
_NUMBER_ARGUMENTS: dict[tuple[str, int], Callable[[int], str]] = {
    ("umask", 0): lambda mode: f"0{mode:03o}",
    ("mkdirat", 2): lambda mode: f"0{mode:o}",
    ("mknodat", 2): lambda mode: f"{_FILE_TYPES[stat.S_IFMT(mode)]}|0{stat.S_IMODE(mode):o}",
    ("mknodat", 3): lambda device: f"makedev({os.major(device)}, {os.minor(device)})",
    ("close_range", 1): lambda last: "~0U" if last == 0xFFFFFFFF else str(last),
}


def _arguments(step: Step) -> list[str]:
    shown = []
    for position, argument in enumerate(step.arguments):
        place = (step.syscall, position)
        if isinstance(argument, int) and place in _FLAG_ARGUMENTS:
            shown.append(_flags(argument, _FLAG_ARGUMENTS[place]))
        elif isinstance(argument, int) and place in _NUMBER_ARGUMENTS:
            shown.append(_NUMBER_ARGUMENTS[place](argument))
        else:
            shown.append(_argument(argument))
    return shown


def _argument(argument: Argument) -> str:
    match argument:
        case None:
            return "NULL"
        case ResultSlot(number):
            return f"${number}"
        case PackedBytes(_, text):
            return text
        case Strings(values):
            return "[" + ", ".join(_quote(value) for value in values) + "]"
        case str():
            return _quote(argument)
        case abi.AT_FDCWD:
            return "AT_FDCWD"
        case _:
            return str(argument)


def _quote(text: str) -> str:
    escaped = text.encode("unicode_escape", "surrogateescape").decode().replace('"', '\\"')
    return f'"{escaped}"'
