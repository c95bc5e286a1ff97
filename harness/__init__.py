"""Measuring and judging: launches one workload in every arm, records it, reports it.

The names below are the library; each is loaded on first use, so that `import harness` costs
nothing that is not asked for.

    hello = harness.load_scenario("hello")
    run = harness.run(hello, arms=["process", "container"], blocks=10)
    run.frame()                                   # pandas, a row a trial, a column a metric
    harness.check(run).exit_code                  # held against the budgets of hello.toml
    harness.compare(hello, "busybox", "cache=cold")   # paired, until it is decided
    harness.write_report(run, run.directory)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    # Asking.
    "Scenario": "harness.model",
    "Workload": "harness.model",
    "Readiness": "harness.model",
    "ReadinessKind": "harness.model",
    "Limits": "harness.model",
    "Arm": "harness.model",
    "CacheState": "harness.model",
    "Hooks": "harness.model",
    "Scale": "harness.model",
    "Budget": "harness.model",
    "load_scenario": "harness.scenario",
    "shipped_scenarios": "harness.scenario",
    # Measuring.
    "run": "harness.experiment.run",
    "resume": "harness.experiment.run",
    # What was measured.
    "Run": "harness.records",
    "RunInfo": "harness.model",
    "Trial": "harness.model",
    "Outcome": "harness.model",
    "Milestone": "harness.model",
    "Meter": "harness.model",
    "METRICS": "harness.model.metrics",
    "read_run": "harness.records",
    "find_runs": "harness.records",
    # Judging.
    "check": "harness.experiment.check",
    "check_against": "harness.experiment.check",
    "compare": "harness.experiment.compare",
    "compare_revisions": "harness.experiment.compare",
    "Judgement": "harness.analysis.judgement",
    "Finding": "harness.analysis.judgement",
    "Verdict": "harness.analysis.judgement",
    # Showing.
    "write_report": "harness.report",
    "render_judgement": "harness.report.judgement",
    # The host.
    "examine_host": "harness.experiment.doctor",
    # What can go wrong.
    "HarnessError": "harness.model.errors",
    "ScenarioError": "harness.model.errors",
    "RecordError": "harness.model.errors",
    "PrepareError": "harness.model.errors",
    "BackendUnavailableError": "harness.model.errors",
    "Interrupted": "harness.measure.interruption",
}

__all__ = [
    "METRICS",
    "Arm",
    "BackendUnavailableError",
    "Budget",
    "CacheState",
    "Finding",
    "HarnessError",
    "Hooks",
    "Interrupted",
    "Judgement",
    "Limits",
    "Meter",
    "Milestone",
    "Outcome",
    "PrepareError",
    "Readiness",
    "ReadinessKind",
    "RecordError",
    "Run",
    "RunInfo",
    "Scale",
    "Scenario",
    "ScenarioError",
    "Trial",
    "Verdict",
    "Workload",
    "__version__",
    "check",
    "check_against",
    "compare",
    "compare_revisions",
    "examine_host",
    "find_runs",
    "load_scenario",
    "read_run",
    "render_judgement",
    "resume",
    "run",
    "shipped_scenarios",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from harness.model.version import VERSION

        return VERSION
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'harness' has no attribute {name!r}") from None
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from harness.analysis.judgement import Finding, Judgement, Verdict
    from harness.experiment.check import check, check_against
    from harness.experiment.compare import compare, compare_revisions
    from harness.experiment.doctor import examine_host
    from harness.experiment.run import resume, run
    from harness.measure.interruption import Interrupted
    from harness.model import (
        Arm,
        Budget,
        CacheState,
        Hooks,
        Limits,
        Meter,
        Milestone,
        Outcome,
        Readiness,
        ReadinessKind,
        RunInfo,
        Scale,
        Scenario,
        Trial,
        Workload,
    )
    from harness.model.errors import (
        BackendUnavailableError,
        HarnessError,
        PrepareError,
        RecordError,
        ScenarioError,
    )
    from harness.model.metrics import METRICS
    from harness.model.version import VERSION as __version__  # noqa: N811
    from harness.records import Run, find_runs, read_run
    from harness.report import write_report
    from harness.report.judgement import render_judgement
    from harness.scenario import load_scenario, shipped_scenarios
