"""The lab: the private network of a run, the prober in it, and when a workload counts as ready."""

from harness.lab.network import GATEWAY, Lab, LabError, lease_at

__all__ = ["GATEWAY", "Lab", "LabError", "lease_at"]
