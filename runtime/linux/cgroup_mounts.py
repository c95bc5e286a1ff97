"""Which cgroup filesystems are mounted where, read from /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

CONTROLLERS = ("memory", "cpu", "pids")
"""The controllers that Steelyard sets limits with."""


@dataclass(frozen=True, slots=True)
class CgroupLayout:
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


def read_mounts(text: str | None = None) -> list[tuple[str, str, str]]:
    """List the mounts of a mountinfo file, by default this process's, in its order.

    Returns:
        Mount point, kind of filesystem and the filesystem's own options of each.
    """
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    mounts = []
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        fields, kind_fields = before.split(), after.split()
        if len(fields) >= 5 and len(kind_fields) >= 2:
            # A space in a path is written as \040 (proc(5)).
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            mounts.append((path, kind_fields[0], kind_fields[-1]))
    return mounts


def find_layout(text: str | None = None) -> CgroupLayout:
    """Find the layout of this host as this process sees it, or as a mountinfo file describes it.

    The first mount of each hierarchy counts.
    """
    unified: str | None = None
    legacy: dict[str, str] = {}
    for mountpoint, kind, options in read_mounts(text):
        if kind == "cgroup2":
            unified = unified or mountpoint
        elif kind == "cgroup":
            for option in set(options.split(",")) & set(CONTROLLERS):
                legacy.setdefault(option, mountpoint)
    return CgroupLayout(unified, MappingProxyType(legacy))
