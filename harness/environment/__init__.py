"""What this host is, captured by an explicit call: a typed registry of facts.

Each fact has a name, a type, a unit where it is a quantity, and one small function that reads it.
A fact that cannot be had is recorded as None with the reason, never left out and never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import psutil

from harness.environment import (  # noqa: F401 - they register facts
    hardware,
    settings,
    software,
    storage,
)
from harness.environment.diagnose import host_diagnostics
from harness.environment.registry import REGISTRY, Fact, MissingError, Value
from harness.environment.storage import filesystem_of, median_mkdir_ns
from harness.model.diagnostics import Diagnostic

__all__ = [
    "REGISTRY",
    "Environment",
    "Fact",
    "MissingError",
    "Value",
    "capture",
    "filesystem_of",
    "median_mkdir_ns",
]


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts about the host at one moment.

    Attributes:
        facts: Name -> value; None where it could not be had.
        missing: Name -> why not.
        diagnostics: Warnings that follow from the facts.
    """

    facts: Mapping[str, Value | None]
    missing: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()


def capture() -> Environment:
    """Read every fact of the registry now. Takes a few tens of milliseconds; raises nothing."""
    facts: dict[str, Value | None] = {}
    missing: dict[str, str] = {}
    for fact in REGISTRY.values():
        facts[fact.name] = None
        try:
            facts[fact.name] = fact.kind(fact.read())
        except MissingError as error:
            missing[fact.name] = str(error)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            missing[fact.name] = f"{place}{(error.strerror or str(error)).lower()}"
        except (ValueError, IndexError, KeyError, RuntimeError, psutil.Error) as error:
            missing[fact.name] = f"unexpected content: {error}"
    return Environment(MappingProxyType(facts), MappingProxyType(missing), host_diagnostics(facts))
