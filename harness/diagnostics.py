"""The doubts that travel with the samples: an enumeration, with what to do about each.

Whoever sees something that makes a figure less than it seems attaches a `Diagnostic` to the trial,
the arm or the run; the report prints it with its remedy. A code's value is stable in records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class DiagnosticCode(StrEnum):
    """An enumerated doubt; the value is stable in records. The remedy is in `REMEDIES`."""

    TCG = "emulated-cpu"
    NO_NATIVE_LAUNCH = "forked-launch"
    KERNEL_FORMAT = "kernel-format-mix"
    FORCED_STOP = "forced-stop"
    LEFTOVER = "leftover"
    LOADED_HOST = "loaded-host"
    FEW_BLOCKS = "few-blocks"
    FAILED_TRIALS = "failed-trials"
    RESPONSE_DIFFERS = "response-differs"
    USER_NETWORK = "user-network"
    NO_CGROUP = "no-cgroup"
    NOT_LIMITED = "not-limited"
    MISSING = "missing-value"
    ARM_SKIPPED = "arm-skipped"


REMEDIES: Mapping[DiagnosticCode, str] = MappingProxyType(
    {
        DiagnosticCode.TCG: "VMs ran under emulation (TCG): compare them with each other, and read "
        "their distance to the containers as an upper bound; run on a host with working KVM",
        DiagnosticCode.NO_NATIVE_LAUNCH: "containers were started by the slower forked launcher; "
        "install a C compiler and reinstall, so that the native one is built",
        DiagnosticCode.KERNEL_FORMAT: "arms entered their kernels in different formats (bzImage "
        "and uncompressed ELF): part of their difference is decompression",
        DiagnosticCode.FORCED_STOP: "an instance did not stop when asked and was killed: its stop "
        "time is that of the patience, not of the box",
        DiagnosticCode.LEFTOVER: "something was left behind; see `steelyard doctor --clean`",
        DiagnosticCode.LOADED_HOST: "other work was running: repeat on a quiet host",
        DiagnosticCode.FEW_BLOCKS: "few blocks: intervals are wide; raise --blocks",
        DiagnosticCode.FAILED_TRIALS: "some trials failed and are counted, not dropped; their "
        "errors are in trials.jsonl",
        DiagnosticCode.RESPONSE_DIFFERS: "arms did not answer with the same bytes: they did not "
        "run the same thing",
        DiagnosticCode.USER_NETWORK: "the VM used QEMU's user network: readiness is judged by the "
        "reply, and the network path is not the container's; allow /dev/net/tun",
        DiagnosticCode.NO_CGROUP: "no cgroup could be made: limits and accounting are missing",
        DiagnosticCode.NOT_LIMITED: "a limit of the scenario does not apply in this arm",
        DiagnosticCode.MISSING: "a value could not be had; the reason is in its detail",
        DiagnosticCode.ARM_SKIPPED: "an arm of the scenario cannot run here; see steelyard doctor",
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """A doubt about a trial or a run: data, so that it travels with the samples."""

    code: DiagnosticCode
    detail: str = ""

    @property
    def remedy(self) -> str:
        """What the doubt means for the reader and what to do about it."""
        return REMEDIES[self.code]
