"""What must be equal before two measurements are held against each other: one table for all.

Hosts of one class share a noise floor, and times and memory of their runs may be compared by
`check` and `history`. `resume` adds trials to a run, and asks for more: every fact below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from harness.model.scenario import Arm

HOST_CLASS_FACTS = ("cpu_model", "cpus", "kernel", "hypervisor")
"""Facts of the environment that, with the memory, make the class of a host."""
HOST_FACTS = (
    *HOST_CLASS_FACTS,
    "kernel_version",
    "architecture",
    "cpus_allowed",
    "cpus_online",
    "smt",
    "cpu_governor",
    "cpu_turbo",
    "clock_source",
    "user",
    "cgroup_layout",
    "cgroup_favordynmods",
    "rcu_expedited",
    "rcu_normal",
    "rcu_boot_parameters",
    "data_home_filesystem",
    "data_home_journal",
    "data_home_discard",
    "python",
    "qemu",
    "container_launcher",
)
"""About the host, to go on with a run. Its memory is compared too, but not to the byte.

The filesystem, its journal and RCU change times, but are not of the host's class: what they cost is
in every trial's readings, and runs from before they were recorded stay comparable."""

ARM_CLASS_FACTS = ("accelerator", "launcher")
"""Of `ArmRecord.facts`: arms that differ in them are different things to measure."""
ARM_FACTS = (
    *ARM_CLASS_FACTS,
    "image",
    "kernel",
    "kernel_format",
    "qemu",
    "machine",
    "memory_bytes",
    "vcpus",
    "cgroups",
    "plan_steps",
    "program",
    "version",
    "oci_runtime",
    "config_sha256",
    "revision",
)
"""About an arm, to go on with a run; its other facts may name a folder of one run alone."""

_GIB = 2**30
_MEMORY_GRAIN_BYTES = 1 << 28
"""The kernel's own share of the memory differs from one boot to the next."""


def host_class(facts: Mapping[str, object]) -> str:
    """Name the class of hosts whose runs may be compared: 12 hexadecimal digits.

    Args:
        facts: Of `harness.environment`: `HOST_CLASS_FACTS`; the memory, which is rounded to GiB
            as kernels reserve a little more or less of it; and where a run was kept to some of the
            CPUs, which.
    """
    memory = facts.get("memory_bytes")
    known = [str(facts.get(name)) for name in HOST_CLASS_FACTS]
    known.append(str(round(memory / _GIB)) if isinstance(memory, int) else "None")
    if facts.get("cpus_allowed") and facts.get("cpus") != facts.get("cpus_online"):
        known.append(str(facts["cpus_allowed"]))
    return hashlib.sha256("\n".join(known).encode(errors="surrogateescape")).hexdigest()[:12]


def company(arms: Iterable[Arm], of: Arm | None = None) -> str:
    """Name what the arms of a scenario leave behind for its light ones: `beside-vm`, or nothing.

    Seconds of a machine cool the caches that a container finds, so that its times beside machines
    are not those without. How many machines there are, of which kind, and which other light arms
    (repeated ones and anchors among them) stand beside it makes no difference that was measured.

    Args:
        arms: Those of the scenario.
        of: The arm in question; a machine's own times are the same in any company. None: a light
            arm.
    """
    if of is not None and _is_machine(of):
        return ""
    return "beside-vm" if any(map(_is_machine, arms)) else ""


def _is_machine(arm: Arm) -> bool:
    return arm.backend.startswith("vm")


def same_memory(first_bytes: object, second_bytes: object) -> bool:
    """Whether two sizes of a host's memory are those of one machine; unknown ones are."""
    if not isinstance(first_bytes, int) or not isinstance(second_bytes, int):
        return True
    return abs(first_bytes - second_bytes) <= _MEMORY_GRAIN_BYTES
