"""Scenario files: read, checked, changed by options, and put in pairs."""

from __future__ import annotations

from harness.scenario.parse import (
    ARM_NAME,
    ARM_NAME_RULE,
    find_scenario,
    load_scenario,
    option_problems,
    parse_scenario,
    shipped_scenarios,
)

__all__ = [
    "ARM_NAME",
    "ARM_NAME_RULE",
    "find_scenario",
    "load_scenario",
    "option_problems",
    "parse_scenario",
    "shipped_scenarios",
]
