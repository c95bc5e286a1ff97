"""The words of a measurement: frozen values, and the tables and protocols that all rooms share."""

# ruff: noqa: I001 - the names of a module in one list

from __future__ import annotations

from harness.model.run import (
    FEWEST_BLOCKS as FEWEST_BLOCKS,
    SCHEMA_VERSION as SCHEMA_VERSION,
    ArmRecord as ArmRecord,
    NoiseFloor as NoiseFloor,
    Pair as Pair,
    PairedLimit as PairedLimit,
    PairedQuestions as PairedQuestions,
    Repetitions as Repetitions,
    RunInfo as RunInfo,
)
from harness.model.scenario import (
    ARM_SETTINGS as ARM_SETTINGS,
    BASELINE as BASELINE,
    DEFAULT_TIMEOUT_NS as DEFAULT_TIMEOUT_NS,
    Arm as Arm,
    Budget as Budget,
    CacheState as CacheState,
    Hooks as Hooks,
    Limits as Limits,
    Readiness as Readiness,
    ReadinessKind as ReadinessKind,
    Scale as Scale,
    Scenario as Scenario,
    Workload as Workload,
)
from harness.model.trial import (
    DiskPart as DiskPart,
    GrowthPoint as GrowthPoint,
    Meter as Meter,
    Milestone as Milestone,
    Outcome as Outcome,
    Reading as Reading,
    Sharing as Sharing,
    Slot as Slot,
    Trial as Trial,
    latest as latest,
)
