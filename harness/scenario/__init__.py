"""Scenario files: read, checked, changed by options, and put in pairs."""

# ruff: noqa: I001 - the names of a module in one list

from harness.scenario.parse import (
    ARM_NAME as ARM_NAME,
    ARM_NAME_RULE as ARM_NAME_RULE,
    find_scenario as find_scenario,
    load_scenario as load_scenario,
    option_problems as option_problems,
    parse_scenario as parse_scenario,
    shipped_scenarios as shipped_scenarios,
)
