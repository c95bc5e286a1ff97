"""The words of a measurement, as frozen values.

Nothing here does anything: a `Scenario` is a question, a `Trial` is one answer, a `RunInfo` is the
circumstances. Times are integers in nanoseconds, sizes integers in bytes, and their names say so.
Milestones count from t0 on the host's `CLOCK_MONOTONIC` (clock_gettime(2)), never on a guest's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

SCHEMA_VERSION = 1
"""Version of what `records.py` writes; raised whenever an old reader could misread a new record."""


class Milestone(StrEnum):
    """A named instant of a trial, in the order in which they can happen."""

    REQUESTED = "requested"
    """t0: just before the first system call that creates the instance."""
    ISOLATED = "isolated"
    """Container: last step of the launch plan before exec. VM: vCPUs are about to run."""
    KERNEL = "kernel"
    """VM only: the guest kernel was entered."""
    USERSPACE = "userspace"
    """VM only: the guest's init ran its first instruction."""
    STARTED = "started"
    """The workload's exec is done (container), or is about to be done (VM)."""
    READY = "ready"
    """The scenario's readiness condition first held, seen from the host."""
    STOPPED = "stopped"
    """The last process of the instance is gone, after the stop was asked for."""
    REMOVED = "removed"
    """Nothing of the instance is left: mounts, cgroup, network, writable layer, sockets."""


class ReadinessKind(StrEnum):
    """How one sees from the host that a workload is usable."""

    EXIT = "exit"
    OUTPUT = "output"
    TCP = "tcp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Readiness:
    """What makes the workload ready.

    Attributes:
        kind: Which of the conditions.
        output: For `output`: a regular expression (on text, decoded as UTF-8) that must be in
            what the workload printed. For `exit`: if given, must also be found in the output.
        exit_code: For `exit`: the code the workload must end with.
        port: For `tcp` and `http`.
        path: For `http`: the path to GET.
        status: For `http`: the status that counts.
    """

    kind: ReadinessKind
    output: str | None = None
    exit_code: int = 0
    port: int | None = None
    path: str = "/"
    status: int = 200

    @property
    def needs_network(self) -> bool:
        """Whether the prober must reach the instance by IP."""
        return self.kind in (ReadinessKind.TCP, ReadinessKind.HTTP)


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs inside the box.

    Attributes:
        command: argv; empty means the image's own entry point and command.
        environment: Variables on top of the image's.
        user: `uid`, `uid:gid` or a name in the image; None means the image's.
        working_directory: Absolute path in the image; None means the image's.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    user: str | None = None
    working_directory: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources of one instance, the same on both sides: guest memory = memory limit, vCPUs = cpus.

    A limit of None is no limit in a container; a VM then takes its arm's default.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """A backend with its options in a run.

    Attributes:
        name: What tables and charts call it; unique in a run.
        backend: `process`, `container`, `vm-micro`, `vm-classic` or `fake`.
        options: Backend-specific settings.
    """

    name: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question put as a file.

    Attributes:
        name: Short name; the file's stem.
        question: One sentence, printed above the answer.
        image: Image reference in the store, or the name of an image that comes with Steelyard.
        workload: What runs.
        readiness: When it counts as usable.
        limits: Resources of each instance.
        arms: In the order in which they are reported.
        timeout_ns: How long one trial may take from request to ready.
        source: The file's text, kept with the records.
        path: Where it was read from.
    """

    name: str
    question: str
    image: str
    workload: Workload
    readiness: Readiness
    limits: Limits
    arms: tuple[Arm, ...]
    timeout_ns: int
    source: str
    path: str


class Sharing(StrEnum):
    """Whether bytes on disk serve one instance or all that use the same image."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class DiskPart:
    """The footprint of one named thing on disk.

    Attributes:
        name: `layer`, `kernel`, `initramfs`, `backing file`, `upperdir`, `overlay`, `disk copy`, …
        sharing: Whether every instance of the image shares it, or this instance alone has it.
        apparent_bytes: Sum of `st_size`; holes count (stat(2)).
        allocated_bytes: Sum of `st_blocks` × 512; hard links counted once, holes not at all.
        reflinked_bytes: Allocated bytes whose extents are shared with other files by reflink
            (FIEMAP_EXTENT_SHARED, ioctl_fiemap); None where the filesystem cannot tell.
    """

    name: str
    sharing: Sharing
    apparent_bytes: int
    allocated_bytes: int
    reflinked_bytes: int | None = None

    @property
    def exclusive_bytes(self) -> int:
        """Bytes that one more instance costs because of this part."""
        if self.sharing is Sharing.SHARED:
            return 0
        return self.allocated_bytes - (self.reflinked_bytes or 0)

    @property
    def shared_bytes(self) -> int:
        """Bytes that are there once, however many instances there are."""
        return self.allocated_bytes - self.exclusive_bytes


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


class Outcome(StrEnum):
    """How a trial ended. Failures are results: kept as censored data, never dropped."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Trial:
    """One instance from request to removal.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        block: Which block it belongs to, from 0; warm-up blocks are negative.
        position: Its place in the order of the block, from 0.
        outcome: How it ended.
        milestones_ns: Nanoseconds since t0; `requested` is 0; milestones that did not happen or do
            not exist for this backend are absent.
        error: One sentence, when it failed.
        console: The last lines of the guest's console or the workload's output, when it failed.
        exit_code: The workload's, when it exited by itself.
        signal: The signal's number that ended the workload, when one did.
        output_sha256: Digest of everything the workload printed until ready.
        response_sha256: Digest of the body served to the prober, for `http`.
        disk: What this instance owned on disk just after it was ready (exclusive parts only).
        diagnostics: Doubts about this trial.
    """

    scenario: str
    arm: str
    block: int
    position: int
    outcome: Outcome
    milestones_ns: Mapping[Milestone, int]
    error: str | None = None
    console: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    output_sha256: str | None = None
    response_sha256: str | None = None
    disk: tuple[DiskPart, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """What was prepared for one arm of one scenario: once, apart from the trials.

    Attributes:
        scenario: Scenario name.
        arm: The arm.
        prepare_ns: Time that making the image, disk and so on took in this run.
        disk: The static parts that all instances share.
        facts: What ran: `accelerator`, `kernel`, `qemu`, `argv`, `plan_sha256`, `launcher`, …
        diagnostics: Doubts about the arm.
    """

    scenario: str
    arm: Arm
    prepare_ns: int
    disk: tuple[DiskPart, ...]
    facts: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The circumstances of a run: everything in `run.json`.

    Attributes:
        schema: `SCHEMA_VERSION` of the writer.
        steelyard: Version of Steelyard.
        run_id: Sortable and unique: `20261124T120335Z-1a2b3c`.
        started_at: UTC, ISO 8601.
        ended_at: The same; None while the run goes on, or if it was killed.
        command: argv as the user typed it, for repeating.
        seed: Of the order of trials.
        blocks: Asked-for blocks of each scenario.
        warmup_blocks: Blocks that were run and recorded but count in no figure.
        scenarios: In order.
        arms: What was prepared.
        environment: Facts about the host; each either a JSON scalar or None with a reason in
            `environment_missing`.
        environment_missing: Fact name -> why it could not be had.
        diagnostics: Doubts about the run as a whole.
        interrupted: Whether it was ended by the user before all blocks were done.
    """

    schema: int
    steelyard: str
    run_id: str
    started_at: str
    ended_at: str | None
    command: tuple[str, ...]
    seed: int
    blocks: int
    warmup_blocks: int
    scenarios: tuple[Scenario, ...]
    arms: tuple[ArmRecord, ...]
    environment: Mapping[str, str | int | float | bool | None]
    environment_missing: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back: its circumstances and all its trials, in the order they were taken."""

    info: RunInfo
    trials: tuple[Trial, ...]
