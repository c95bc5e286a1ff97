"""QEMU's command line, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.backends.vm.arms import Bus, MachineSpec

PROGRAM = "qemu-system-x86_64"
ROOT_DRIVE = "disk0"
"""What QEMU calls the root disk, also when it is asked about it."""


@dataclass(frozen=True, slots=True)
class Address:
    """The guest's place in an IPv4 network; the mask is dotted, the gateway its default route."""

    address: str
    netmask: str
    gateway: str
    mac: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """Everything in a command line that is not the machine itself. Descriptors are sockets.

    Attributes:
        name: Of the guest in process lists.
        accelerator: `kvm` or `tcg`.
        qmp_fd: None makes the guest run at once.
        control_fd: For the port `steelyard.control`.
        output_fd: For the port `steelyard.output`.
        disk_format: `raw` or `qcow2`.
        netdev: QEMU's `-netdev` value with the id `net0`; None for no network card.
        tsc_khz: Rate of the guest's time stamp counter, to spare it the calibration.
        probe: Whether the guest is to end as soon as its userspace runs.
    """

    name: str
    hostname: str
    kernel: Path
    initramfs: Path
    accelerator: str
    memory_bytes: int
    vcpus: int
    console_fd: int
    qmp_fd: int | None = None
    control_fd: int | None = None
    output_fd: int | None = None
    disk: Path | None = None
    disk_format: str = "raw"
    netdev: str | None = None
    address: Address | None = None
    tsc_khz: int | None = None
    probe: bool = False


def qemu_argv(spec: MachineSpec, wiring: Wiring) -> tuple[str, ...]:
    """The command that starts a guest, qemu-system(1).

    `-S` keeps the vCPUs stopped until QMP says `cont`; `-no-reboot` makes a guest's reboot, and so
    its panic, the end of the process.
    """
    argv = [str(spec.qemu or PROGRAM), "-name", wiring.name]
    argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    argv += ["-machine", spec.machine, "-accel", wiring.accelerator]
    argv += ["-bios", spec.firmware]
    argv += ["-cpu", "host" if wiring.accelerator == "kvm" else spec.cpu]
    argv += ["-m", f"{wiring.memory_bytes // 1024}k", "-smp", str(wiring.vcpus)]
    argv += ["-kernel", str(wiring.kernel), "-initrd", str(wiring.initramfs)]
    argv += ["-append", " ".join(kernel_arguments(spec, wiring))]
    argv += ["-chardev", f"socket,id=console,fd={wiring.console_fd}", "-serial", "chardev:console"]
    if wiring.qmp_fd is not None:
        argv += ["-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}"]
        argv += ["-mon", "chardev=qmp,mode=control", "-S"]
    argv += _port_arguments(spec.bus, wiring)
    if wiring.disk is not None:
        # Commas in file names are doubled (qemu-system(1), "-drive").
        file = str(wiring.disk).replace(",", ",,")
        argv += ["-drive", f"if=none,id={ROOT_DRIVE},format={wiring.disk_format},file={file}"]
        argv += ["-device", f"virtio-blk-{spec.bus},drive={ROOT_DRIVE}"]
    if wiring.netdev is not None and wiring.address is not None:
        argv += ["-netdev", wiring.netdev]
        argv += ["-device", f"virtio-net-{spec.bus},netdev=net0,mac={wiring.address.mac}"]
    for device in spec.devices:
        argv += ["-device", device]
    return tuple(argv)


def kernel_arguments(spec: MachineSpec, wiring: Wiring) -> tuple[str, ...]:
    """The kernel's command line, word by word (Documentation/admin-guide/kernel-parameters.rst).

    `loglevel=6` with an early console gives the banner at the very start, which is the `kernel`
    mark, and a dozen lines in all. Words with `=` that the kernel does not know become init's
    environment.
    """
    words = ["earlyprintk=ttyS0", "console=ttyS0", "loglevel=6", "panic=-1"]
    if wiring.accelerator == "tcg" and wiring.tsc_khz is not None:
        # An emulated timer that the host delays cannot calibrate or judge the counter; the counter
        # itself is the host's.
        words += [f"tsc_early_khz={wiring.tsc_khz}", "tsc=reliable"]
    words += spec.kernel_arguments
    words.append(f"STEELYARD_HOSTNAME={wiring.hostname}")
    if wiring.address is not None:
        words.append(f"STEELYARD_NETWORK={wiring.address.address}")
        words.append(f"STEELYARD_NETMASK={wiring.address.netmask}")
        words.append(f"STEELYARD_GATEWAY={wiring.address.gateway}")
    if wiring.probe:
        words.append("STEELYARD_PROBE=1")
    return tuple(words)


def _port_arguments(bus: Bus, wiring: Wiring) -> list[str]:
    """The two virtio-serial ports. Port 0 is reserved for a console, so `max_ports` is one more."""
    if wiring.control_fd is None or wiring.output_fd is None:
        return []
    argv = ["-device", f"virtio-serial-{bus},max_ports=3"]
    for name, fd in (("control", wiring.control_fd), ("output", wiring.output_fd)):
        argv += ["-chardev", f"socket,id={name},fd={fd}"]
        argv += ["-device", f"virtserialport,chardev={name},name=steelyard.{name}"]
    return argv
