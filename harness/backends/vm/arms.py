"""The virtual machines that Steelyard knows, as specs of options.

`vm-classic` is the machine of the textbook: a PC with firmware, a PCI bus, a compressed kernel that
unpacks itself, and a private full copy of the disk. `vm-micro` leaves out what a guest of today
does not need. Both boot the same kernel package with the same init, so that their milestones mean
the same, and differ in nothing but their spec. An arm's options change any field of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import EnumType, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from harness.model.errors import PrepareError

_MIB = 1 << 20


class KernelFormat(StrEnum):
    """How the kernel is entered."""

    BZIMAGE = "bzimage"
    """By the firmware, in real mode; it decompresses itself."""
    ELF = "elf"
    """Uncompressed, by its PVH entry point."""


class DiskKind(StrEnum):
    """What an instance gets as its root disk."""

    COPY = "copy"
    """A full copy of the image's disk."""
    OVERLAY = "overlay"
    """A qcow2 overlay; the image's disk is the backing file of all of them."""


class Bus(StrEnum):
    """How virtio devices are attached; the value is the suffix of QEMU's device names."""

    PCI = "pci"
    MMIO = "device"


class AcceleratorChoice(StrEnum):
    """What executes the guest's code."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class NetworkChoice(StrEnum):
    """How a guest that needs a network gets it."""

    AUTO = "auto"
    """A tap in the lab; QEMU's user network where the host refuses taps."""
    TAP = "tap"
    USER = "user"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A virtual machine as a value; `OPTIONS` says what each field means."""

    machine: str
    bus: Bus
    kernel_format: KernelFormat
    disk: DiskKind
    firmware: str
    devices: tuple[str, ...] = ()
    kernel_arguments: tuple[str, ...] = ()
    # The oldest model with all of x86-64-v2, and RDRAND so that the guest need not wait for
    # entropy: the wide vector state of younger ones costs 0.15 s of emulated boot.
    cpu: str = "Nehalem-v1,+rdrand"
    memory_bytes: int = 256 * _MIB
    vcpus: int = 1
    accelerator: AcceleratorChoice = AcceleratorChoice.AUTO
    network: NetworkChoice = NetworkChoice.AUTO
    kernel: Path | None = None
    modules: Path | None = None
    qemu: Path | None = None

    def with_options(self, options: Mapping[str, Any], arm: str) -> MachineSpec:
        """This spec with fields replaced by an arm's options.

        Raises:
            PrepareError: An option does not exist or has a value that cannot be.
        """
        changes = {name: _converted(arm, name, value) for name, value in options.items()}
        return dataclasses.replace(self, **changes)


def _converted(arm: str, name: str, value: object) -> Any:
    """An option as its field's type."""
    types = get_type_hints(MachineSpec)
    if name not in types:
        raise PrepareError(f"arm {arm}: no option {name!r}; there are {', '.join(sorted(types))}")
    wanted = types[name]
    if isinstance(wanted, EnumType):
        try:
            return wanted(str(value))
        except ValueError:
            choices = ", ".join(map(str, wanted))
            raise PrepareError(f"arm {arm}: {name} = {value!r} is none of {choices}") from None
    if wanted is int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise PrepareError(f"arm {arm}: {name} = {value!r} is no positive integer")
    if wanted == tuple[str, ...]:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise PrepareError(f"arm {arm}: {name} = {value!r} is no list of strings")
    if not isinstance(value, (str, Path)) or not str(value):
        raise PrepareError(f"arm {arm}: {name} = {value!r} is no string")
    if name == "qemu" and "/" in str(value):
        # A path must stay one: without its "./" it would be looked for in PATH.
        return Path(value).absolute()
    return str(value) if wanted is str else Path(value)


CLASSIC = MachineSpec(
    machine="q35",
    bus=Bus.PCI,
    kernel_format=KernelFormat.BZIMAGE,
    disk=DiskKind.COPY,
    firmware="bios-256k.bin",
)
"""A whole PC, as one gets it from QEMU by saying q35."""

MICRO = MachineSpec(
    # ACPI stays on, because that is how a distribution's kernel finds the devices; no option ROMs,
    # because a kernel that is loaded needs none.
    machine="microvm,x-option-roms=off",
    bus=Bus.MMIO,
    kernel_format=KernelFormat.ELF,
    disk=DiskKind.OVERLAY,
    # Said by name, because QEMU's own choice is SeaBIOS in some packages, and that cannot enter a
    # kernel without option ROMs.
    firmware="qboot.rom",
    kernel_arguments=(
        # There is no PCI to look for, and one serial line.
        "pci=off",
        "8250.nr_uarts=1",
        # The crypto library's self-tests: 0.35 s under emulation.
        "cryptomgr.notests",
        # A kernel that finds a single CPU rewrites all its lock prefixes: 0.25 s under emulation.
        "noreplace-smp",
    ),
)
"""What a guest that was made for virtual machines needs, and nothing else."""

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "machine": "QEMU's -machine, without the accelerator",
        "bus": "how virtio devices are attached: pci or device (MMIO)",
        "kernel_format": "how the kernel is entered: bzimage or elf",
        "disk": "the root disk of an instance: copy or overlay",
        "devices": "more -device values, a list",
        "kernel_arguments": "more words for the kernel's command line, a list",
        "firmware": "QEMU's -bios: a file in its data folders, or a path",
        "cpu": "QEMU's -cpu under emulation; KVM always gets host",
        "memory_bytes": "guest memory where the scenario sets no limit",
        "vcpus": "vCPUs where the scenario sets no limit",
        "accelerator": "what executes the guest's code: auto, kvm or tcg",
        "network": "how a guest gets its network: auto, tap or user",
        "kernel": "a bzImage to use instead of the distribution's",
        "modules": "the lib/modules/<release> that belongs to it",
        "qemu": "a QEMU to use instead of the qemu-system-x86_64 of PATH",
    }
)
"""The fields of a `MachineSpec`, as an arm can set them."""
