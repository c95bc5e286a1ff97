"""Virtual machines: the same image as a disk, booted by QEMU. README.md draws the room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.backends.vm.arms import CLASSIC, MICRO

if TYPE_CHECKING:
    from harness.backends.vm.backend import VmBackend


def MicroBackend() -> VmBackend:  # noqa: N802 - stands where a backend's class is expected
    """The backend `vm-micro`."""
    from harness.backends.vm.backend import VmBackend

    return VmBackend("vm-micro", MICRO)


def ClassicBackend() -> VmBackend:  # noqa: N802 - stands where a backend's class is expected
    """The backend `vm-classic`."""
    from harness.backends.vm.backend import VmBackend

    return VmBackend("vm-classic", CLASSIC)
