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
    """Register a function that reads the fact `name`, with psutil's /proc below `ROOT`."""

    def register(read: Callable[[], Value]) -> Callable[[], Value]:
        assert name not in REGISTRY
        REGISTRY[name] = Fact(name, kind, unit, procfs()(read))
        return read

    return register


def place(path: str) -> Path:
    """Map an absolute path of a real host to its place below `ROOT`."""
    return ROOT / path.lstrip("/")


def text(path: str) -> str:
    """Read a file, without the white space around its content."""
    return place(path).read_text(encoding="utf-8", errors="replace").strip()


def cpuinfo(field: str) -> str:
    """Read a field of the first CPU in /proc/cpuinfo."""
    return _field("/proc/cpuinfo", field, r"\s*: (.*)$").strip()


def meminfo(field: str) -> int:
    """Read a field of /proc/meminfo, in bytes.

    Where it is missing, psutil's `swap_memory` asks sysinfo(2), and warns on stderr without
    /proc/vmstat; here the fact has a reason instead.
    """
    return int(_field("/proc/meminfo", field, r":\s+(\d+) kB$")) * 1024


def _field(path: str, field: str, rest: str) -> str:
    match = re.search(f"^{re.escape(field)}{rest}", text(path), re.MULTILINE)
    if match is None:
        raise MissingError(f"{path} has no {field!r}")
    return match.group(1)


def unescape(field: str) -> str:
    r"""Undo the escapes in a path of mountinfo, such as `\040` for a space (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def output(*command: str) -> str:
    """Run a program and return what it prints."""
    if shutil.which(command[0]) is None:
        raise MissingError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.SubprocessError as error:
        raise MissingError(f"{command[0]} failed: {error}") from error
    return done.stdout.strip()
