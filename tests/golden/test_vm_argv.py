"""QEMU's command lines, word for word.

`STEELYARD_UPDATE_GOLDEN=1` writes them anew: read the difference.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from harness.backends.vm.argv import Address, Wiring, qemu_argv
from harness.backends.vm.arms import CLASSIC, MICRO, MachineSpec

WIRING = Wiring(
    name="steelyard-0123456789ab-hello-0",
    hostname="steelyard",
    kernel=Path("/cache/kernels/k/vmlinux"),
    initramfs=Path("/data/instances/0123456789ab/arm/initramfs"),
    accelerator="tcg",
    memory_bytes=256 << 20,
    vcpus=1,
    console_fd=10,
    qmp_fd=11,
    control_fd=12,
    output_fd=13,
    disk=Path("/data/instances/0123456789ab/hello,0/overlay.qcow2"),
    disk_format="qcow2",
    tsc_khz=2_596_130,
)
TAP = {
    "netdev": "tap,id=net0,fd=14",
    "address": Address("10.77.0.5", "255.255.0.0", "10.77.0.1", "02:53:0a:4d:00:05"),
}
BZIMAGE = {
    "kernel": Path("/cache/kernels/k/vmlinuz"),
    "disk": Path("/data/instances/0123456789ab/hello-0/disk.raw"),
    "disk_format": "raw",
}

CASES: dict[str, tuple[MachineSpec, Wiring]] = {
    "vm-micro": (MICRO, WIRING),
    "vm-micro-network": (MICRO, dataclasses.replace(WIRING, **TAP)),
    "vm-classic": (CLASSIC, dataclasses.replace(WIRING, **BZIMAGE)),
    "vm-classic-network-kvm": (
        CLASSIC,
        dataclasses.replace(WIRING, **BZIMAGE, **TAP, accelerator="kvm", vcpus=4),
    ),
    "vm-options": (
        MICRO.with_options(
            {
                "devices": ["virtio-rng-device"],
                "cpu": "max",
                "firmware": "/opt/qemu/bios.bin",
                "qemu": "/opt/qemu/bin/qemu",
            },
            "arm",
        ),
        dataclasses.replace(WIRING, tsc_khz=None),
    ),
    "vm-accelerator-trial": (
        MICRO,
        dataclasses.replace(
            WIRING, accelerator="kvm", control_fd=None, output_fd=None, disk=None, probe=True
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_command_line(name: str) -> None:
    golden = Path(__file__).with_name(f"{name}.argv")
    argv = qemu_argv(*CASES[name])
    text = "\n".join(argv) + "\n"
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_descriptors_are_the_only_thing_that_differs_between_launches() -> None:
    other = dataclasses.replace(WIRING, console_fd=20, qmp_fd=21, control_fd=22, output_fd=23)
    differing = [
        (one, two)
        for one, two in zip(qemu_argv(MICRO, WIRING), qemu_argv(MICRO, other), strict=True)
        if one != two
    ]
    assert len(differing) == 4
    assert all("fd=1" in one and "fd=2" in two for one, two in differing)
