"""Control groups (cgroups(7)): one protocol, two implementations, three layouts.

`unified` is version 2 alone, `legacy` version 1 alone, `hybrid` version 1 controllers beside a
version 2 tree without them. In a hybrid layout the container is born in a version 2 group, which
counts CPU time and can be killed as a whole, and joins version 1 hierarchies only for the limits
that were asked for.
"""

from __future__ import annotations

from runtime.cgroups.manager import (
    PARENT,
    CgroupManager,
    ContainerCgroup,
    cgroup_manager,
    describe_limits,
)
from runtime.linux.cgroup_mounts import Layout, find_layout

__all__ = [
    "PARENT",
    "CgroupManager",
    "ContainerCgroup",
    "Layout",
    "cgroup_manager",
    "describe_limits",
    "find_layout",
]
