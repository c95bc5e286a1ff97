"""Virtual machines: the same image as a disk, booted by QEMU.

```
arms        machines as specs of options          argv        a spec as QEMU's command line
kernel      the distribution's kernel, unpacked   bzimage     the ELF out of it
modules     what a guest loads, in which order    cpio        the archive format
initramfs   busybox, modules, init, workload      disk        an image's root as ext4
host        what guests must be told about it     accelerator KVM or TCG, decided by booting
machine     one QEMU process                      qmp         its control protocol
network     a guest's way into the lab            instance    one guest, as the runner sees it
backend     all together                          guest/      what runs inside
```
"""

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
