"""The diagnostics that the host's facts give rise to, whatever is run on it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.environment.registry import Value
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.units import count

BUSY_LOAD_SHARE = 0.5
"""A load average above this share of the CPUs, before anything of ours runs, is a doubt."""
SHORT_MEMORY_SHARE = 0.1
"""Below this share of its memory available a host reclaims page cache, which cools warm starts."""
SLOW_CLOCK_NS = 1_000
"""A vDSO clock takes 20 to 100 ns with Python around it; hpet and acpi_pm take 1 to 5 us."""


def host_diagnostics(facts: Mapping[str, Value | None]) -> tuple[Diagnostic, ...]:
    """The doubts that the host's facts give rise to, whatever is run on it.

    Args:
        facts: By name, as in the registry of `harness.environment`; those that could not be had,
            or that an older record does not have, raise nothing.
    """
    return tuple(found for check in _HOST_CHECKS for found in check(facts))


def _busy(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    load, cpus = _number(facts, "load_1min"), _number(facts, "cpus_online")
    if load is not None and cpus is not None and load > cpus * BUSY_LOAD_SHARE:
        detail = f"load average {load:.2f} on {count(int(cpus), 'CPU')} when the run began"
        yield Diagnostic(DiagnosticCode.LOADED_HOST, detail)


def _short_of_memory(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    total = _number(facts, "memory_bytes")
    available = _number(facts, "memory_available_bytes")
    if total and available is not None and available < total * SHORT_MEMORY_SHARE:
        detail = (
            f"{available / 2**20:.0f} MiB of {total / 2**20:.0f} MiB were available when the run "
            "began"
        )
        yield Diagnostic(DiagnosticCode.MEMORY_PRESSURE, detail)


def _governor(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    governor = facts.get("cpu_governor")
    if isinstance(governor, str) and governor != "performance":
        driver = facts.get("cpu_frequency_driver")
        by = f" (driver {driver})" if driver else ""
        yield Diagnostic(DiagnosticCode.GOVERNOR, f"governor {governor}{by}")


def _switches(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    for name, code in (
        ("cpu_turbo", DiagnosticCode.TURBO),
        ("smt", DiagnosticCode.SMT),
        ("same_page_merging", DiagnosticCode.KSM),
    ):
        if facts.get(name) is True:
            yield Diagnostic(code)


def _clock(facts: Mapping[str, Value | None]) -> Iterator[Diagnostic]:
    cost_ns = _number(facts, "clock_read_ns")
    if cost_ns is not None and cost_ns > SLOW_CLOCK_NS:
        source = facts.get("clock_source") or "unknown"
        detail = f"clock source {source}: {cost_ns / 1e3:.1f} us a reading"
        yield Diagnostic(DiagnosticCode.CLOCK_SOURCE, detail)


def _number(facts: Mapping[str, Value | None], name: str) -> float | None:
    value = facts.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_HOST_CHECKS = (_busy, _short_of_memory, _governor, _switches, _clock)
