"""Which accelerator works here, decided by booting a guest on it.

That /dev/kvm can be opened proves nothing: a host that is a virtual machine itself may offer a KVM
that runs only guests made for it, on which a stock kernel spins for ever. So a tiny guest must have
reached its userspace within a few seconds; the verdict is kept as long as nothing it depends on
changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.backends.stream_instance import wait_readable
from harness.backends.vm import host
from harness.backends.vm.argv import PROGRAM, Wiring, qemu_argv
from harness.backends.vm.arms import MICRO, AcceleratorChoice
from harness.backends.vm.guest.initramfs import base_initramfs
from harness.backends.vm.guest.kernel import Kernel
from harness.backends.vm.machine import Descriptors, Machine
from harness.model.errors import BackendUnavailableError, LaunchFailedError
from runtime import cache_home
from runtime.linux.files import directory_lock
from runtime.linux.output_file import output_file

KVM_DEVICE = Path("/dev/kvm")
BOOT_TIMEOUT_S = 5.0
"""A guest on a working KVM is in its userspace within 1.5 s; this leaves room for a loaded host."""
USERSPACE_MARK = b"steelyard: userspace"


@dataclass(frozen=True, slots=True)
class AcceleratorVerdict:
    """Whether a guest has booted on KVM here, and what was seen, in words."""

    usable: bool
    reason: str

    @property
    def accelerator(self) -> str:
        """What a guest gets if nothing else is asked for."""
        return "kvm" if self.usable else "tcg"


def kvm_verdict(
    kernel: Callable[[], Kernel], progress: Callable[[str], None]
) -> AcceleratorVerdict:
    """Find out whether guests boot on KVM, from the cache if nothing has changed.

    The kernel to try is asked for only when there is a /dev/kvm.
    """
    if not KVM_DEVICE.exists():
        return AcceleratorVerdict(False, "there is no /dev/kvm")
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return AcceleratorVerdict(
            False, f"/dev/kvm is there, but cannot be opened: {error.strerror}"
        )
    found = kernel()
    firmware = find_firmware(MICRO.firmware)
    if firmware is None:
        # That says nothing about KVM, so it is not kept.
        return AcceleratorVerdict(
            False, f"/dev/kvm is there, but QEMU has no {MICRO.firmware} to try it with"
        )
    key = _key(found, firmware)
    path = cache_home() / "accelerators.json"
    # Others wait: two trials at once would slow each other down, and need no second answer.
    with directory_lock(cache_home()):
        verdicts = _read(path)
        if key in verdicts:
            return verdicts[key]
        progress(f"trying whether a guest boots on KVM (at most {BOOT_TIMEOUT_S:g} s)")
        verdict = _try_kvm(found)
        verdicts[key] = verdict
        kept = {name: asdict(value) for name, value in verdicts.items()}
        with output_file(path) as file:
            file.write(json.dumps(kept, indent=1).encode() + b"\n")
    return verdict


def choose(choice: AcceleratorChoice, verdict: AcceleratorVerdict, backend: str) -> str:
    """The accelerator for an arm: what it asks for, or what works.

    Raises:
        BackendUnavailableError: It asks for KVM, and that does not work here.
    """
    if choice is AcceleratorChoice.AUTO:
        return verdict.accelerator
    if choice is AcceleratorChoice.KVM and not verdict.usable:
        remedy = "use accelerator = 'auto', or a host with working KVM"
        raise BackendUnavailableError(backend, f"no KVM: {verdict.reason}", remedy)
    return str(choice)


@functools.cache
def qemu_version(program: str = PROGRAM) -> str:
    """The version of a QEMU, by its path or its name in PATH, with the package's.

    Raises:
        BackendUnavailableError: There is no such QEMU, or it cannot be run.
    """
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        remedy = "install the package qemu-system-x86" if program == PROGRAM else "check the path"
        reason = f"there is no {program}"
        if not isinstance(error, FileNotFoundError):
            reason = f"{program} cannot be run: {(error.strerror or str(error)).lower()}"
        raise BackendUnavailableError("vm", reason, remedy) from None
    found = re.search(r"version (.+)", result.stdout)
    return found[1].strip() if found else "unknown"


@functools.cache
def find_firmware(name: str, program: str = PROGRAM) -> Path | None:
    """The file that `-bios` takes: a path, else in QEMU's data folders (`-L help`), if it is there.

    Raises:
        BackendUnavailableError: There is no such QEMU, or it cannot be run.
    """
    qemu_version(program)
    result = subprocess.run([program, "-L", "help"], capture_output=True, text=True, check=False)
    # A path counts first, as for QEMU itself (its qemu_find_file).
    candidates = (Path(name), *(Path(folder) / name for folder in result.stdout.splitlines()))
    return next((path.resolve() for path in candidates if path.is_file()), None)


def try_accelerator(kernel: Kernel, accelerator: str, timeout_s: float) -> tuple[bool, str]:
    """Boot a guest that needs nothing but a CPU, and watch its console.

    Returns:
        Whether it reached its userspace in time, and what was seen, in words.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as directory:
        initramfs = Path(directory) / "initramfs"
        initramfs.write_bytes(base_initramfs(kernel, MICRO.bus))
        argv = functools.partial(_trial_argv, kernel, initramfs, accelerator)
        machine = Machine(argv, Path(directory) / "qemu.log")
        try:
            machine.connect("trial")
            begun = time.monotonic()
            machine.run()
            if _reaches_userspace(machine, begun + timeout_s):
                return True, f"a guest booted on it in {time.monotonic() - begun:.1f} s"
            if machine.ended(0):
                return False, _last_words(machine)
        except LaunchFailedError:
            return False, _last_words(machine)
        finally:
            machine.close()
    return False, f"a guest did not boot on it within {timeout_s:g} s"


def _try_kvm(kernel: Kernel) -> AcceleratorVerdict:
    """One guest; one more if that took too long: a busy host must not be judged for good."""
    for _ in range(2):
        works, seen = try_accelerator(kernel, "kvm", BOOT_TIMEOUT_S)
        if works:
            return AcceleratorVerdict(True, seen)
        if not seen.startswith("a guest"):
            break
    return AcceleratorVerdict(False, f"/dev/kvm is there, but {seen}")


def _trial_argv(
    kernel: Kernel, initramfs: Path, accelerator: str, descriptors: Descriptors
) -> tuple[str, ...]:
    wiring = Wiring(
        name="steelyard-accelerator-trial",
        hostname="trial",
        kernel=kernel.elf,
        initramfs=initramfs,
        accelerator=accelerator,
        memory_bytes=MICRO.memory_bytes,
        vcpus=1,
        console_fd=descriptors.console_fd,
        qmp_fd=descriptors.qmp_fd,
        tsc_khz=host.tsc_khz() if accelerator == "tcg" else None,
        probe=True,
    )
    return qemu_argv(MICRO, wiring)


def _last_words(machine: Machine) -> str:
    """How QEMU ended, by its last complaint."""
    return f"QEMU gave up on it: {machine.last_complaint() or 'without a word'}"


def _reaches_userspace(machine: Machine, deadline: float) -> bool:
    """Whether the mark appears on the console before the deadline and the guest's end."""
    while USERSPACE_MARK not in machine.console_bytes:
        left_ns = round((deadline - time.monotonic()) * 1e9)
        if left_ns <= 0 or not wait_readable(machine.console.fileno(), left_ns):
            return False
        data = machine.console.recv(65536)
        if not data:
            machine.ended(1.0)
            return False
        machine.keep_console(data)
    return True


def _key(kernel: Kernel, firmware: Path) -> str:
    """Everything that the verdict depends on, as a digest."""
    status = os.stat(KVM_DEVICE)
    parts = [
        os.uname().release,
        qemu_version(),
        kernel.digest,
        hashlib.sha256(firmware.read_bytes()).hexdigest(),
        *_trial_argv(kernel, Path("initramfs"), "kvm", Descriptors(0, 0, 0, 0)),
        f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}",
        host.cpu_model(),
        str(BOOT_TIMEOUT_S),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(file: Path) -> dict[str, AcceleratorVerdict]:
    """The verdicts of before; a file that is not as it should be is no verdict."""
    try:
        return {
            key: AcceleratorVerdict(bool(value["usable"]), str(value["reason"]))
            for key, value in json.loads(file.read_text()).items()
            if isinstance(value, Mapping)
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
