"""Virtual machines as a backend: an arm is a machine spec, an instance a QEMU process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.backends.preparation import (
    image_spec,
    prepare_image,
    refuse_inside,
    unknown_options,
)
from harness.backends.vm import host
from harness.backends.vm.accelerator import choose, find_firmware, kvm_verdict, qemu_version
from harness.backends.vm.argv import PROGRAM, Wiring, qemu_argv
from harness.backends.vm.arms import CLASSIC, MICRO, OPTIONS, DiskKind, KernelFormat, MachineSpec
from harness.backends.vm.guest.disk import copy_disk, image_disk
from harness.backends.vm.guest.initramfs import base_initramfs, find_busybox, workload_segment
from harness.backends.vm.guest.kernel import Kernel, find_kernel
from harness.backends.vm.instance import VmInstance
from harness.backends.vm.machine import Descriptors, Machine, death_signal_prefix
from harness.backends.vm.network import Connection, connect
from harness.meters.disk import measure
from harness.model import Arm, DiskPart, Milestone, Scenario, Sharing
from harness.model.backend import Availability, Instance, Progress
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError, LaunchFailedError, PrepareError
from harness.model.network import Network
from runtime import ContainerSpec, Session
from runtime.linux.files import remove_tree

_TOOLS = {
    PROGRAM: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
}
_FIRMWARE_PACKAGES = {"qboot.rom": "qemu-system-data", "bios-256k.bin": "seabios"}
_DISK_NAMES = {DiskKind.COPY: "disk copy", DiskKind.OVERLAY: "overlay"}


class VmBackend:
    """QEMU with the spec that an arm without options gets."""

    options = OPTIONS

    def __init__(self, name: str, spec: MachineSpec) -> None:
        self.name = name
        self.spec = spec

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Each option by itself, so that every mistake is reported."""
        problems = list(unknown_options(self, options))
        for name in options.keys() & OPTIONS.keys():
            try:
                self.spec.with_options({name: options[name]}, self.name)
            except PrepareError as error:
                problems.append(str(error).partition(": ")[2])
        return tuple(problems)

    def availability(self) -> Availability:
        """Look for the tools, then boot a tiny guest to choose the accelerator."""
        for tool, package in _TOOLS.items():
            if shutil.which(tool) is None:
                return Availability(False, f"there is no {tool}", f"install the package {package}")
        try:
            firmware = self.spec.firmware
            if find_firmware(firmware) is None:
                package = _FIRMWARE_PACKAGES.get(firmware, "that has it")
                reason = f"there is no {firmware} in QEMU's data folders"
                return Availability(False, reason, f"install the package {package}")
            find_busybox()
            kernel = functools.cache(lambda: _kernel_of(self.spec, _silent))
            verdict = kvm_verdict(kernel, _silent)
            version = kernel().version
        except (HarnessError, OSError) as error:
            return Availability(False, str(error))
        return Availability(
            True, f"{verdict.accelerator}: {verdict.reason}; guest kernel {version}"
        )

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> VmArm:
        """See `harness.model.backend.Backend.prepare`."""
        spec = self.spec.with_options(arm.options, arm.name)
        refuse_inside(self.name, scenario, "the guest's network and files are its own kernel's")
        if spec.qemu is not None:
            qemu_version(str(spec.qemu))  # what cannot be run is reported before anything is made
        if find_firmware(spec.firmware, str(spec.qemu or PROGRAM)) is None:
            where = f"in the data folders of {spec.qemu or PROGRAM} (-L help)"
            raise PrepareError(f"arm {arm.name}: there is no {spec.firmware} {where}; install it")
        # Imported now, so that no launch pays for it.
        import harness.backends.vm.qmp  # noqa: F401

        image, store = prepare_image(scenario, progress)
        kernel = _kernel_of(spec, progress)
        verdict = kvm_verdict(lambda: kernel, progress)
        accelerator = choose(spec.accelerator, verdict, self.name)
        container = image_spec(scenario, image, store)
        backing = image_disk(image, store, progress)
        session = Session.current()
        directory = session.new_instance_directory(session.next_name(f"arm-{self.name}"))
        try:
            initramfs = directory / "initramfs"
            segments = (
                base_initramfs(kernel, spec.bus),
                workload_segment(container, scenario.readiness.command),
            )
            initramfs.write_bytes(b"".join(segments))
            template = directory / "overlay"
            if spec.disk is DiskKind.OVERLAY:
                _make_overlay(backing, template)
            template_wiring = Wiring(
                name="",
                hostname=container.hostname,
                kernel=kernel.elf if spec.kernel_format is KernelFormat.ELF else kernel.bzimage,
                initramfs=initramfs,
                accelerator=accelerator,
                memory_bytes=scenario.limits.memory_bytes or spec.memory_bytes,
                vcpus=math.ceil(scenario.limits.cpus or spec.vcpus),
                console_fd=-1,
                disk_format="qcow2" if spec.disk is DiskKind.OVERLAY else "raw",
                tsc_khz=host.tsc_khz() if accelerator == "tcg" else None,
            )
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        prepared = VmArm(spec, scenario, lab, template_wiring, backing, template, directory)
        prepared.facts = _facts(spec, template_wiring, kernel, verdict.reason, image.digest)
        prepared.diagnostics = _diagnostics(scenario, container, accelerator, verdict.reason)
        if arm.options:
            try:
                prepared.try_machine()
            except BaseException as error:
                prepared.close()
                if isinstance(error, HarnessError | OSError):
                    raise PrepareError(f"arm {arm.name}: {error}; look at its options") from error
                raise
        return prepared


@dataclasses.dataclass(eq=False)
class VmArm:
    """A machine spec with kernel, initramfs and disk ready.

    Implements `harness.model.backend.PreparedArm`.

    Attributes:
        wiring: What all instances have in common.
        backing: The image's disk.
        template: A fresh overlay on it, if the machine has one.
        directory: The arm's own folder.
    """

    spec: MachineSpec
    scenario: Scenario
    lab: Network | None
    wiring: Wiring
    backing: Path
    template: Path
    directory: Path
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()

    def __post_init__(self) -> None:
        """Measure once what the image holds. The file is sparse: not how long it is."""
        self._image_bytes = measure(self.backing, "", Sharing.SHARED).allocated_bytes

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """Firmware, kernel, initramfs and the image's disk, which all instances share."""
        is_overlay = self.spec.disk is DiskKind.OVERLAY
        parts = {
            "kernel": self.wiring.kernel,
            "initramfs": self.wiring.initramfs,
            "backing file" if is_overlay else "disk to copy": self.backing,
        }
        if firmware := find_firmware(self.spec.firmware, str(self.spec.qemu or PROGRAM)):
            parts = {"firmware": firmware, **parts}
        return tuple(measure(path, name, Sharing.SHARED) for name, path in parts.items())

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """A copy, or an overlay, that no guest has written to."""
        try:
            with self._trial_disk("initial-disk") as disk:
                return (measure(disk, _DISK_NAMES[self.spec.disk], Sharing.EXCLUSIVE),)
        except OSError as error:
            raise PrepareError(f"an instance's disk cannot be made: {error}") from error

    def try_machine(self) -> None:
        """Start QEMU and end it before the guest runs: what it refuses, it refuses now.

        Raises:
            LaunchFailedError: With QEMU's complaint.
        """
        name = f"steelyard-{Session.current().identifier}-try"
        with (
            self._trial_disk("try-machine") as disk,
            contextlib.closing(self._start(name, disk, None)) as machine,
        ):
            machine.connect("try")

    @contextlib.contextmanager
    def _trial_disk(self, name: str) -> Iterator[Path]:
        """An instance's disk in a folder of its own, for as long as it is tried."""
        session = Session.current()
        directory = session.new_instance_directory(session.next_name(name))
        try:
            yield self._make_disk(directory)
        finally:
            remove_tree(directory)

    def image_paths(self) -> tuple[Path, ...]:
        """What QEMU reads to boot the guest, and the disk that the guest's is on, or a copy of."""
        return (self.wiring.kernel, self.wiring.initramfs, self.backing)

    def launch(self, name: str) -> Instance:
        """See `harness.model.backend.PreparedArm.launch`."""
        session = Session.current()
        requested_ns = time.monotonic_ns()
        with contextlib.ExitStack() as stack:
            try:
                directory = session.new_instance_directory(name)
                stack.callback(remove_tree, directory)
                disk = self._make_disk(directory)
                connection = None
                if self.lab is not None:
                    port = self.scenario.readiness.port
                    connection = connect(self.lab, self.spec.network, port)
                    stack.callback(connection.close)
                machine = self._start(f"steelyard-{session.identifier}-{name}", disk, connection)
                stack.callback(machine.close)
                accelerator = machine.connect(name)
                if accelerator != self.wiring.accelerator:
                    wanted = self.wiring.accelerator
                    raise LaunchFailedError(f"QEMU runs the guest on {accelerator}, not {wanted}")
                isolated_ns = time.monotonic_ns()
                machine.run()
            except OSError as error:
                raise LaunchFailedError(f"{name}: {error}") from error
            kept = stack.pop_all()
        return VmInstance(
            machine,
            {Milestone.REQUESTED: requested_ns, Milestone.ISOLATED: isolated_ns},
            (disk, _DISK_NAMES[self.spec.disk]),
            self._image_bytes,
            connection.reachable_at if connection else None,
            list(connection.diagnostics) if connection else [],
            kept.close,
        )

    def close(self) -> None:
        """Remove the arm's initramfs and template."""
        remove_tree(self.directory)

    def _make_disk(self, directory: Path) -> Path:
        """The instance's own disk: a copy, or an overlay that is made once and is 200 kB."""
        if self.spec.disk is DiskKind.COPY:
            disk = directory / "disk.raw"
            copy_disk(self.backing, disk)
        else:
            disk = directory / "overlay.qcow2"
            copy_disk(self.template, disk)
        return disk

    def _start(self, name: str, disk: Path, connection: Connection | None) -> Machine:
        def argv(descriptors: Descriptors) -> tuple[str, ...]:
            wiring = dataclasses.replace(
                self.wiring,
                **vars(descriptors),
                name=name,
                disk=disk,
                netdev=connection.netdev if connection else None,
                address=connection.address if connection else None,
            )
            return qemu_argv(self.spec, wiring)

        inherited = connection.inherited if connection else ()
        prefix = connection.prefix if connection else ()
        machine = Machine(argv, disk.with_name("qemu.log"), inherited, prefix)
        if connection:
            connection.handed_over()
        return machine


def _make_overlay(backing: Path, overlay: Path) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", "raw"]
    # The size of a guest's blocks. In clusters of 64 kB, qcow2's default, a file of 1 MiB takes
    # 19 % more than it holds, and a boot that changes a few blocks 324 kB.
    command += ["-o", "cluster_size=4k"]
    result = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise PrepareError(f"qemu-img cannot make an overlay: {result.stderr.strip()}")


def _facts(
    spec: MachineSpec, wiring: Wiring, kernel: Kernel, verdict: str, image: str
) -> Mapping[str, str]:
    """What runs, for the records. The command line has 0 for descriptors and no instance's name."""
    shown = dataclasses.replace(
        wiring,
        **vars(Descriptors(0, 0, 0, 0)),
        name="steelyard",
        disk=Path("disk"),
        initramfs=Path("initramfs"),
    )
    return MappingProxyType(
        {
            "image": image,
            "accelerator": wiring.accelerator,
            "kvm": verdict,
            "kernel": f"{kernel.release} (package {kernel.version})",
            "kernel_format": str(spec.kernel_format),
            "qemu": qemu_version(str(spec.qemu or PROGRAM)),
            "machine": spec.machine.partition(",")[0],
            "memory_bytes": str(wiring.memory_bytes),
            "vcpus": str(wiring.vcpus),
            "dies_with_harness": "yes" if death_signal_prefix() else "no: setpriv cannot do it",
            "argv": shlex.join(qemu_argv(spec, shown)),
        }
    )


def _diagnostics(
    scenario: Scenario, container: ContainerSpec, accelerator: str, verdict: str
) -> tuple[Diagnostic, ...]:
    """In what this arm is not what was asked for, or cannot be compared."""
    found = []
    limits = scenario.limits
    if accelerator == "tcg":
        found.append(Diagnostic(DiagnosticCode.TCG, verdict))
    if limits.pids is not None:
        detail = "pids: a guest has a kernel of its own, without that limit"
        found.append(Diagnostic(DiagnosticCode.NOT_LIMITED, detail))
    if limits.cpus is not None and limits.cpus != math.ceil(limits.cpus):
        detail = f"cpus: {limits.cpus:g} became {math.ceil(limits.cpus)} vCPUs"
        found.append(Diagnostic(DiagnosticCode.NOT_LIMITED, detail))
    if container.user.additional_gids:
        detail = "the user's supplementary groups are not set in the guest"
        found.append(Diagnostic(DiagnosticCode.MISSING, detail))
    return tuple(found)


def _kernel_of(spec: MachineSpec, progress: Progress) -> Kernel:
    return find_kernel(spec.kernel, spec.modules, progress)


def _silent(_: str) -> None:
    """Progress that is not shown."""


MicroBackend = functools.partial(VmBackend, "vm-micro", MICRO)
ClassicBackend = functools.partial(VmBackend, "vm-classic", CLASSIC)
