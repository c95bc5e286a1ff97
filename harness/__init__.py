"""Measuring and judging: launches one workload in every arm, records it, reports it."""

__version__ = "0.1.0"
