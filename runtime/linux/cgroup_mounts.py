"""Which cgroup filesystems are mounted where, read from /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime.paths import unescape_mountinfo

CONTROLLERS = ("memory", "cpu", "pids")
"""The controllers that Steelyard sets limits with."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hierarchies are.

    Attributes:
        unified: Mount point of the version 2 tree, if there is one.
        legacy: Controller -> mount point of its version 1 hierarchy.
    """

    unified: str | None
    legacy: Mapping[str, str]

    @property
    def name(self) -> str:
        """`unified`, `legacy`, `hybrid` or `none`."""
        if self.unified:
            return "hybrid" if self.legacy else "unified"
        return "legacy" if self.legacy else "none"


def parse_mountinfo(text: str) -> Layout:
    """The layout that a mountinfo file describes; the first mount of each hierarchy counts."""
    unified: str | None = None
    legacy: dict[str, str] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind_fields = before.split(), after.split()
        if len(fields) < 5 or len(kind_fields) < 3:
            continue
        mountpoint = unescape_mountinfo(fields[4])
        if kind_fields[0] == "cgroup2":
            unified = unified or mountpoint
        elif kind_fields[0] == "cgroup":
            for option in kind_fields[2].split(","):
                if option in CONTROLLERS:
                    legacy.setdefault(option, mountpoint)
    return Layout(unified, MappingProxyType(legacy))


def find_layout() -> Layout:
    """The layout of this host, as this process sees it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())
