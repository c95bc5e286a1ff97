"""Fixtures of this folder."""

from tests.support.containers import can_run, launcher, leaves_nothing, rootfs, run

__all__ = ["can_run", "launcher", "leaves_nothing", "rootfs", "run"]
