"""The words of a measurement, as frozen values.

Nothing here does anything: a `Scenario` is a question, a `Trial` is one answer, a `RunInfo` is the
circumstances. Times are integers in nanoseconds, sizes integers in bytes, and their names say so.
Milestones count from t0 on the host's `CLOCK_MONOTONIC` (clock_gettime(2)), never on a guest's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from harness.model.diagnostics import Diagnostic

SCHEMA_VERSION = 2
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
    STOPPING = "stopping"
    """The stop is asked for; between `ready` and this the meters are read, or it just lives."""
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

    def __post_init__(self) -> None:
        """Take the kind's name for the kind; a name that is none is refused where it is used."""
        if self.kind in tuple(ReadinessKind):
            object.__setattr__(self, "kind", ReadinessKind(self.kind))

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

    def __post_init__(self) -> None:
        """Take a list for a tuple."""
        object.__setattr__(self, "command", tuple(self.command))


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources of one instance, the same on both sides: guest memory = memory limit, vCPUs = cpus.

    A limit of None is no limit in a container; a VM then takes its arm's default.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


class CacheState(StrEnum):
    """What the page cache holds of the image when a trial begins."""

    WARM = "warm"
    """Whatever earlier trials left there: after the warm-up, all that a start reads."""
    COLD = "cold"
    """Nothing: the files are evicted before t0 (posix_fadvise(2)), and that is checked."""


ARM_SETTINGS = ("cache", "command", "image")
"""What an arm has of its own beside the options of its backend."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A backend with its options in a run.

    Attributes:
        name: What tables and charts call it; unique in a run.
        backend: A key of `harness.backends.BACKENDS`; by default the arm's name.
        options: Backend-specific settings.
        cache: State of the page cache before each trial; an arm has one state, so that cold and
            warm starts are two arms and are never mixed in one figure.
        image: Instead of the scenario's; None is the scenario's own.
        command: Instead of the scenario's; None is the scenario's own.
        repeats: Name of the arm of which this is the same once more (an A/A comparison), or None.
    """

    name: str
    backend: str = ""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    cache: CacheState = CacheState.WARM
    image: str | None = None
    command: tuple[str, ...] | None = None
    repeats: str | None = None

    def __post_init__(self) -> None:
        """Name the backend after the arm where none is given."""
        object.__setattr__(self, "backend", self.backend or self.name)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Shell commands of the user around the trials, as hyperfine has them; never inside one.

    Attributes:
        setup: Once before the first trial of the scenario.
        prepare: Before each trial, before t0.
        conclude: After each trial, once its instance is removed.
        cleanup: Once after the last trial, however the run ends.
    """

    setup: str | None = None
    prepare: str | None = None
    conclude: str | None = None
    cleanup: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How far a scenario lets the number of instances grow, instead of one after the other.

    Attributes:
        instances: Numbers of living instances at which the footprint is read, rising.
        together: Numbers of instances that are requested at the same time, rising; empty: none.
        most: Arm name -> the most instances of that arm, below the last of the two lists.
    """

    instances: tuple[int, ...]
    together: tuple[int, ...] = ()
    most: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


BASELINE = "baseline"
"""In a budget's `of`: the same arm in the run that the check is held against."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a metric of an arm may at most be.

    Attributes:
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        most: In the metric's unit; for a relative budget: how many times `of` it may be.
        of: None: absolute. Another arm of the scenario: compared within blocks. `BASELINE`: the
            same arm in another run.
        line: Of the scenario file, from 1, for annotations.
    """

    arm: str
    metric: str
    most: float
    of: str | None = None
    line: int = 1


DEFAULT_TIMEOUT_NS = 60_000_000_000
"""How long a trial may take from request to ready where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question: what is started, when it is ready, and in which arms. Often read from a file.

    Attributes:
        name: Short name; the file's stem.
        question: One sentence, printed above the answer.
        image: Image reference in the store, or the name of an image that comes with Steelyard.
        workload: What runs.
        readiness: When it counts as usable.
        limits: Resources of each instance.
        arms: In the order in which they are reported.
        timeout_ns: How long one trial may take from request to ready.
        source: The file's text, kept with the records; empty for one made in Python.
        path: Where it was read from; empty for one made in Python.
        hooks: Commands around the trials.
        scale: Let many instances live at once; None: one after the other.
        budgets: What `steelyard check` holds a run against.
    """

    name: str
    question: str = ""
    image: str
    workload: Workload = Workload(())
    readiness: Readiness
    limits: Limits = Limits()
    arms: tuple[Arm, ...]
    timeout_ns: int = DEFAULT_TIMEOUT_NS
    source: str = ""
    path: str = ""
    hooks: Hooks = Hooks()
    scale: Scale | None = None
    budgets: tuple[Budget, ...] = ()

    def for_arm(self, arm: Arm) -> Scenario:
        """The scenario as one arm asks it: with its own image and command where it has them."""
        workload = self.workload
        if arm.command is not None:
            workload = replace(workload, command=arm.command)
        return replace(self, image=arm.image or self.image, workload=workload)


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


class Meter(StrEnum):
    """What is read off an instance besides its milestones and its disk; the unit is in the name."""

    CPU_NS = "cpu_ns"
    """CPU time from t0 until ready, exact."""
    CPU_USER_NS = "cpu_user_ns"
    """CPU time in user mode, from t0 until ready."""
    CPU_SYSTEM_NS = "cpu_system_ns"
    """CPU time in the kernel, from t0 until ready."""
    PSS_BYTES = "pss_bytes"
    """Proportional set size just after ready: shared pages divided among their users (proc(5))."""
    USS_BYTES = "uss_bytes"
    """Unique set size just after ready: pages that nobody else maps."""
    CGROUP_CURRENT_BYTES = "cgroup_current_bytes"
    """What the memory controller charges just after ready, page cache included."""
    CGROUP_PEAK_BYTES = "cgroup_peak_bytes"
    """The most that it charged so far."""
    AVAILABLE_DELTA_BYTES = "available_delta_bytes"
    """By how much the host's MemAvailable fell from before t0 until just after ready."""
    IMAGE_READ_BYTES = "image_read_bytes"
    """Bytes of the image that were read until ready."""
    IMAGE_TOTAL_BYTES = "image_total_bytes"
    """Bytes of the image that could have been read: what makes a share of the former."""
    LEFT_BEHIND = "left_behind"
    """Things of the instance that were still on the host after `removed`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one meter said of one trial.

    Attributes:
        meter: Which.
        value: In the unit that the meter's name ends with; None if it could not be had.
        scope: Whose use it is, in a few words: `workload`, `QEMU`, `cgroup`, `host`.
        missing: Why there is no value; None where there is one.
    """

    meter: Meter
    value: int | None
    scope: str
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One trial's place in a run.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        block: From 0; warm-up blocks count from -1 downwards, the last of them is -1.
        position: Place in the order of the block, from 0.
    """

    scenario: str
    arm: str
    block: int
    position: int


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
        readings: What the meters said.
        alive: Instances of the same arm that lived already when this one was requested.
        together: How many instances were requested at the same time, this one included.
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
    readings: tuple[Reading, ...] = ()
    alive: int = 0
    together: int = 1


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """The footprint of all living instances of an arm at one moment of a scale scenario.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        block: As of the trials whose instances live.
        instances: How many live.
        disk: What they own together, and the static parts that they share, each part named.
        readings: Of all of them together; `available_delta_bytes` since before the first.
    """

    scenario: str
    arm: str
    block: int
    instances: int
    disk: tuple[DiskPart, ...]
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms of a run that are held against each other.

    Attributes:
        scenario: Scenario name.
        reference: Name of the arm that was there before, or is compared with: A.
        candidate: Name of the arm in question: B.
    """

    scenario: str
    reference: str
    candidate: str


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What an A/A comparison of an arm with itself showed on this host.

    Attributes:
        scenario: Scenario name.
        arm: Arm name.
        metric: A key of `harness.model.metrics.METRICS`.
        blocks: Pairs that it rests on.
        floor: Relative difference that 95 % of single pairs stay below: 0.16 is 16 %.
        detectable: Smallest relative difference of medians that a run of as many blocks finds in
            80 % of cases at a false alarm rate of 5 %.
        run_id: Of the run that it was measured in.
    """

    scenario: str
    arm: str
    metric: str
    blocks: int
    floor: float
    detectable: float
    run_id: str

    def detectable_with(self, blocks: int) -> float:
        """The same of a run of another number of blocks, from 1.

        An interval of a median shrinks with the root of the blocks; ratios do so in logarithms.
        """
        return math.expm1(math.log1p(self.detectable) * math.sqrt(self.blocks / blocks))


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
        initial_disk: What an instance owns on disk before it has run: what `disk` of a trial has
            beyond it grew until ready; None where an older writer did not say.
    """

    scenario: str
    arm: Arm
    prepare_ns: int
    disk: tuple[DiskPart, ...]
    facts: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
    initial_disk: tuple[DiskPart, ...] | None = None


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
        blocks: Complete blocks that count, of each scenario; while the run goes on, or if it was
            killed, those that it wants.
        warmup_blocks: Blocks that were run and recorded but count in no figure.
        scenarios: In order.
        arms: What was prepared.
        environment: Facts about the host; each either a JSON scalar or None with a reason in
            `environment_missing`.
        environment_missing: Fact name -> why it could not be had.
        diagnostics: Doubts about the run as a whole.
        interrupted: Whether it was ended by the user, or by an error, before all was done.
        until: Metric name -> relative width of its interval at which the run could stop.
        noise: The noise floors of this host that are known: measured in this run, or before.
        resumed_at: When it was taken up again after an interruption, each time.
        wanted_blocks: How many blocks were asked for, at most where there is a time limit or a
            width to be reached; None where an older writer did not say.
        time_limit_ns: What the trials might take in all; None is no limit.
        paired: Whether it was taken to hold arms against each other until that was decided: then
            they are sides of a comparison, and no point of a history.
        pairs: Which arms those are; empty in older records, where arms stand behind each other.
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
    until: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    noise: tuple[NoiseFloor, ...] = ()
    resumed_at: tuple[str, ...] = ()
    wanted_blocks: int | None = None
    time_limit_ns: int | None = None
    paired: bool = False
    pairs: tuple[Pair, ...] = ()

    @property
    def asked_blocks(self) -> int:
        """Blocks that it was to have: those that it has, unless it was cut short."""
        if self.interrupted and self.wanted_blocks is not None:
            return self.wanted_blocks
        return self.blocks
