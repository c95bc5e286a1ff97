"""Facts about the host that its guests need."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

# linux/kvm.h
_KVM_CREATE_VM = 0xAE01
_KVM_CREATE_VCPU = 0xAE41
_KVM_GET_TSC_KHZ = 0xAEA3


def tsc_khz() -> int | None:
    """Rate of the host's time stamp counter, which an emulated guest sees unchanged (QEMU's TCG).

    KVM knows it exactly. Else the processor's base frequency, which the counter runs at on most
    machines, and at last the frequency that /proc/cpuinfo shows: exact inside virtual machines, the
    current one elsewhere. A wrong value makes the guest's clock wrong, which nothing here reads.
    """
    for source in (_from_kvm, _from_cpufreq, _from_cpuinfo):
        with contextlib.suppress(OSError, ValueError):
            if khz := source():
                return khz
    return None


def cpu_model() -> str:
    """The processor's name, as /proc/cpuinfo has it."""
    found = re.search(r"^model name\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    return found[1] if found else "unknown"


def _from_kvm() -> int:
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        kvm = opened(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        machine = opened(fcntl.ioctl(kvm, _KVM_CREATE_VM, 0))
        vcpu = opened(fcntl.ioctl(machine, _KVM_CREATE_VCPU, 0))
        return fcntl.ioctl(vcpu, _KVM_GET_TSC_KHZ, 0)


def _from_cpufreq() -> int:
    return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency").read_text())


def _from_cpuinfo() -> int | None:
    found = re.search(r"^cpu MHz\s*: ([0-9.]+)$", _cpuinfo(), re.MULTILINE)
    return round(float(found[1]) * 1000) if found else None


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()
