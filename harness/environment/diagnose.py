"""Diagnostics that follow from the host's facts, whatever is run on it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.environment.registry import Value
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.units import count

BUSY_LOAD_SHARE = 0.5
"""A load average above this share of the CPUs, before anything of ours runs, gets a warning."""
SHORT_MEMORY_SHARE = 0.1
"""Below this share of its memory available a host reclaims page cache, which cools warm starts."""
SLOW_CLOCK_NS = 1_000
"""A vDSO clock takes 20 to 100 ns with Python around it; hpet and acpi_pm take 1 to 5 us."""


def host_diagnostics(facts: Mapping[str, Value | None]) -> tuple[Diagnostic, ...]:
    """Check the host's facts, by name as in the registry; a missing one gives no diagnostic."""
    return (*_load_and_memory(facts), *_settings(facts))


def _load_and_memory(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    load, cpus = _number(facts, "load_1min"), _number(facts, "cpus_online")
    if load is not None and cpus is not None and load > cpus * BUSY_LOAD_SHARE:
        detail = f"load average {load:.2f} on {count(int(cpus), 'CPU')} when the run began"
        yield Diagnostic(DiagnosticCode.LOADED_HOST, detail)
    total, available = _number(facts, "memory_bytes"), _number(facts, "memory_available_bytes")
    if total and available is not None and available < total * SHORT_MEMORY_SHARE:
        detail = (
            f"{available / 2**20:.0f} MiB of {total / 2**20:.0f} MiB were available when the run "
            "began"
        )
        yield Diagnostic(DiagnosticCode.MEMORY_PRESSURE, detail)


def _settings(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    governor, driver = facts.get("cpu_governor"), facts.get("cpu_frequency_driver")
    if isinstance(governor, str) and governor != "performance":
        by = f" (driver {driver})" if driver else ""
        yield Diagnostic(DiagnosticCode.GOVERNOR, f"governor {governor}{by}")
    for name, code in (
        ("cpu_turbo", DiagnosticCode.TURBO),
        ("smt", DiagnosticCode.SMT),
        ("same_page_merging", DiagnosticCode.KSM),
    ):
        if facts.get(name) is True:
            yield Diagnostic(code)
    cost_ns = _number(facts, "clock_read_ns")
    if cost_ns is not None and cost_ns > SLOW_CLOCK_NS:
        source = facts.get("clock_source") or "unknown"
        detail = f"clock source {source}: {cost_ns / 1e3:.1f} us a reading"
        yield Diagnostic(DiagnosticCode.CLOCK_SOURCE, detail)


def _number(facts: Mapping[str, Value | None], name: str) -> float | None:
    value = facts.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
