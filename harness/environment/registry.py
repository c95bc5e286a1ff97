"""The registry of facts, and how a fact comes by the text it is read from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

Value = str | int | float | bool
_COMMAND_TIMEOUT_S = 10

ROOT = Path("/")
"""Where /proc and /sys are; a test puts a made-up host here."""


class MissingError(Exception):
    """A fact cannot be had; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One entry of the registry.

    Attributes:
        name: As in the records.
        kind: Type of its value.
        unit: Of a quantity; empty otherwise.
        read: Reads it; raises MissingError, OSError, ValueError or RuntimeError when it cannot.
    """

    name: str
    kind: type[Value]
    unit: str
    read: Callable[[], Value]


REGISTRY: dict[str, Fact] = {}


@contextmanager
def procfs(path: str = "") -> Iterator[None]:
    """Let psutil read this /proc meanwhile; by default the one below `ROOT`.

    psutil keeps the path in a global variable: with another one than the host's own, one thread at
    a time. A `psutil.Process` remembers the one that it was made with.
    """
    before = psutil.PROCFS_PATH
    psutil.PROCFS_PATH = path or os.fspath(place("/proc"))
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


def fact(
    name: str, kind: type[Value], unit: str = ""
) -> Callable[[Callable[[], Value]], Callable[[], Value]]:
    """Register a function as the way to read the fact `name`, psutil's /proc being below `ROOT`."""

    def register(read: Callable[[], Value]) -> Callable[[], Value]:
        assert name not in REGISTRY
        REGISTRY[name] = Fact(name, kind, unit, procfs()(read))
        return read

    return register


def place(path: str) -> Path:
    """Where the file is that a real host has at the absolute `path`."""
    return ROOT / path.lstrip("/")


def text(path: str) -> str:
    """What is in a file, without the white space around it."""
    return place(path).read_text(encoding="utf-8", errors="replace").strip()


def cpuinfo(field: str) -> str:
    """A field of the first CPU in /proc/cpuinfo."""
    match = re.search(rf"^{re.escape(field)}\s*: (.*)$", text("/proc/cpuinfo"), re.MULTILINE)
    if match is None:
        message = f"/proc/cpuinfo has no {field!r}"
        raise MissingError(message)
    return match.group(1).strip()


def meminfo(field: str) -> int:
    """A field of /proc/meminfo, in bytes; for what psutil takes from elsewhere if it is not there.

    Its `swap_memory` asks sysinfo(2) then, and warns on stderr without /proc/vmstat; here a fact
    that the host does not tell has a reason instead.
    """
    match = re.search(rf"^{field}:\s+(\d+) kB$", text("/proc/meminfo"), re.MULTILINE)
    if match is None:
        message = f"/proc/meminfo has no {field!r}"
        raise MissingError(message)
    return int(match.group(1)) * 1024


def unescape(field: str) -> str:
    r"""A path as mountinfo has it, with its `\040` for a space undone, and so on (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def output(*command: str) -> str:
    """What a program prints."""
    if shutil.which(command[0]) is None:
        message = f"{command[0]} is not installed"
        raise MissingError(message)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.SubprocessError as error:
        message = f"{command[0]} failed: {error}"
        raise MissingError(message) from error
    return done.stdout.strip()
