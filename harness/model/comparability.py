"""What must be equal before two measurements are held against each other: one table for all.

`noise` asks which hosts share a noise floor; `check` and `history`, whether times and memory of two
runs may be compared; `resume`, whether trials may be added to a run, which is the strictest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Asker(StrEnum):
    """Who wants to compare."""

    NOISE = "noise"
    CHECK = "check"
    HISTORY = "history"
    RESUME = "resume"


_RUNS = (Asker.NOISE, Asker.CHECK, Asker.HISTORY, Asker.RESUME)
"""Whoever holds one run against another: these facts make the class of a host."""
_ARMS = (Asker.CHECK, Asker.HISTORY, Asker.RESUME)
_ONLY_RESUME = (Asker.RESUME,)


@dataclass(frozen=True, slots=True)
class Condition:
    """A fact that has to be the same on both sides.

    Attributes:
        fact: Its name: of the environment for a host, of `ArmRecord.facts` for an arm.
        askers: Who needs it.
    """

    fact: str
    askers: tuple[Asker, ...]


HOST_CONDITIONS = (
    Condition("cpu_model", _RUNS),
    Condition("cpus", _RUNS),
    Condition("kernel", _RUNS),
    Condition("hypervisor", _RUNS),
    Condition("kernel_version", _ONLY_RESUME),
    Condition("architecture", _ONLY_RESUME),
    Condition("cpus_online", _ONLY_RESUME),
    Condition("smt", _ONLY_RESUME),
    Condition("cpu_governor", _ONLY_RESUME),
    Condition("cpu_turbo", _ONLY_RESUME),
    Condition("clock_source", _ONLY_RESUME),
    Condition("user", _ONLY_RESUME),
    Condition("cgroup_layout", _ONLY_RESUME),
    Condition("data_home_filesystem", _ONLY_RESUME),
    Condition("python", _ONLY_RESUME),
    Condition("qemu", _ONLY_RESUME),
    Condition("container_launcher", _ONLY_RESUME),
)
"""About the host. Its memory is compared too, but not to the byte: `host_class`, `same_memory`."""

ARM_CONDITIONS = (
    Condition("accelerator", _ARMS),
    Condition("launcher", _ARMS),
    Condition("image", _ONLY_RESUME),
    Condition("kernel", _ONLY_RESUME),
    Condition("kernel_format", _ONLY_RESUME),
    Condition("qemu", _ONLY_RESUME),
    Condition("machine", _ONLY_RESUME),
    Condition("memory_bytes", _ONLY_RESUME),
    Condition("vcpus", _ONLY_RESUME),
    Condition("cgroups", _ONLY_RESUME),
    Condition("plan_steps", _ONLY_RESUME),
    Condition("program", _ONLY_RESUME),
    Condition("version", _ONLY_RESUME),
    Condition("oci_runtime", _ONLY_RESUME),
    Condition("config_sha256", _ONLY_RESUME),
    Condition("revision", _ONLY_RESUME),
)
"""About an arm; its other facts may name a folder of one run alone."""

_GIB = 2**30
_MEMORY_GRAIN_BYTES = 1 << 28
"""The kernel's own share of the memory differs from one boot to the next."""


def facts_for(asker: Asker, conditions: tuple[Condition, ...]) -> tuple[str, ...]:
    """The facts of a table that one asker needs, in the table's order."""
    return tuple(condition.fact for condition in conditions if asker in condition.askers)


def host_class(facts: Mapping[str, object]) -> str:
    """Name the class of hosts whose runs may be compared: 12 hexadecimal digits.

    Args:
        facts: Of `harness.environment`: those that `HOST_CONDITIONS` names for `noise`, and the
            memory, which is rounded to GiB as kernels reserve a little more or less of it.
    """
    memory = facts.get("memory_bytes")
    known = [str(facts.get(name)) for name in facts_for(Asker.NOISE, HOST_CONDITIONS)]
    known.append(str(round(memory / _GIB)) if isinstance(memory, int) else "None")
    return hashlib.sha256("\n".join(known).encode(errors="surrogateescape")).hexdigest()[:12]


def same_memory(first_bytes: object, second_bytes: object) -> bool:
    """Whether two sizes of a host's memory are those of one machine; unknown ones are."""
    if not isinstance(first_bytes, int) or not isinstance(second_bytes, int):
        return True
    return abs(first_bytes - second_bytes) <= _MEMORY_GRAIN_BYTES
