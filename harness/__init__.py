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

# ruff: noqa: I001 - the names of a module in one list

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from harness.analysis.judgement import (
        Finding as Finding,
        Judgement as Judgement,
        Verdict as Verdict,
    )
    from harness.experiment.check import check as check, check_against as check_against
    from harness.experiment.compare import (
        compare as compare,
        compare_revisions as compare_revisions,
    )
    from harness.experiment.doctor import examine_host as examine_host
    from harness.experiment.run import resume as resume, run as run
    from harness.measure.interruption import Interrupted as Interrupted
    from harness.model import (
        Arm as Arm,
        Budget as Budget,
        CacheState as CacheState,
        Hooks as Hooks,
        Limits as Limits,
        Meter as Meter,
        Milestone as Milestone,
        Outcome as Outcome,
        Readiness as Readiness,
        ReadinessKind as ReadinessKind,
        RunInfo as RunInfo,
        Scale as Scale,
        Scenario as Scenario,
        Trial as Trial,
        Workload as Workload,
    )
    from harness.model.errors import (
        BackendUnavailableError as BackendUnavailableError,
        HarnessError as HarnessError,
        PrepareError as PrepareError,
        RecordError as RecordError,
        ScenarioError as ScenarioError,
    )
    from harness.model.metrics import METRICS as METRICS
    from harness.records import Run as Run, find_runs as find_runs, read_run as read_run
    from harness.report import write_report as write_report
    from harness.report.judgement import render_judgement as render_judgement
    from harness.scenario import (
        load_scenario as load_scenario,
        shipped_scenarios as shipped_scenarios,
    )
else:
    # Hidden from type checkers, for which a module with `__getattr__` has every name there is.
    _EXPORTS = {
        "harness.analysis.judgement": ("Finding", "Judgement", "Verdict"),
        "harness.experiment.check": ("check", "check_against"),
        "harness.experiment.compare": ("compare", "compare_revisions"),
        "harness.experiment.doctor": ("examine_host",),
        "harness.experiment.run": ("resume", "run"),
        "harness.measure.interruption": ("Interrupted",),
        "harness.model": (
            "Arm",
            "Budget",
            "CacheState",
            "Hooks",
            "Limits",
            "Meter",
            "Milestone",
            "Outcome",
            "Readiness",
            "ReadinessKind",
            "RunInfo",
            "Scale",
            "Scenario",
            "Trial",
            "Workload",
        ),
        "harness.model.errors": (
            "BackendUnavailableError",
            "HarnessError",
            "PrepareError",
            "RecordError",
            "ScenarioError",
        ),
        "harness.model.metrics": ("METRICS",),
        "harness.records": ("Run", "find_runs", "read_run"),
        "harness.report": ("write_report",),
        "harness.report.judgement": ("render_judgement",),
        "harness.scenario": ("load_scenario", "shipped_scenarios"),
    }
    _HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

    __all__ = sorted((*_HOMES, "__version__"))  # noqa: PLE0605 - a list, which linters do not see

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from harness.model.version import VERSION

            return VERSION
        if name not in _HOMES:
            raise AttributeError(f"module 'harness' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*__all__, *globals()})
