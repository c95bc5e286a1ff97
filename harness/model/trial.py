"""One instance from request to removal, and what the meters read of it.

Milestones count from t0 on the host's `CLOCK_MONOTONIC` (clock_gettime(2)), never on a guest's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.model.diagnostics import Diagnostic


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
    """The workload's exec is done, by the kernel's stamp (`LATE_STAMPS`: by the harness waking up);
    in a VM it is about to be done, by the arrival of the guest's word."""
    READY = "ready"
    """The scenario's readiness condition first held, seen from the host."""
    STOPPING = "stopping"
    """The stop is asked for; between `ready` and this the meters are read, or it just lives."""
    STOPPED = "stopped"
    """The last process of the instance is gone, after the stop was asked for."""
    REMOVED = "removed"
    """Nothing of the instance is left: mounts, cgroup, network, writable layer, sockets."""


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
            (FIEMAP_EXTENT_SHARED, ioctl_fiemap); None where the filesystem does not say.
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
    FILE_SYSTEM_NS = "file_system_ns"
    """Of the time until ready: making the writable layer's folders and mounting the overlay. Shows
    how much a level owes to the filesystem; it is never taken off anything."""
    PROBE_NS = "probe_ns"
    """How long the readiness command took that ended well: `ready` is late by at most that."""
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
        repetition: Which trial of its arm in this block, from 0; below 0: see `Trial`.
    """

    scenario: str
    arm: str
    block: int
    position: int
    repetition: int = 0


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
        diagnostics: Warnings about this trial.
        readings: What the meters said.
        alive: Instances of the same arm that lived already when this one was requested.
        together: How many instances were requested at the same time, this one included.
        repetition: Which trial of its arm in this block, from 0: where a block has several of an
            arm, their median is the block's value. Below 0: taken to let what the trial before
            left behind pass (caches, clocks of the processor), recorded and not counted.
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
    repetition: int = 0

    @property
    def is_counted(self) -> bool:
        """Whether it is part of the result: no warm-up, and not discarded."""
        return self.block >= 0 and self.repetition >= 0


def latest(trials: Iterable[Trial]) -> list[Trial]:
    """Leave out the earlier versions of trials that were taken again, or are there twice.

    Of instances that live side by side several share a place, and all of them stay.
    """
    found: dict[tuple[object, ...], Trial] = {}
    for number, trial in enumerate(trials):
        place: tuple[object, ...] = (trial.scenario, trial.arm, trial.block, trial.repetition)
        if trial.alive or trial.together > 1:
            place = (number,)
        found.pop(place, None)
        found[place] = trial
    return list(found.values())


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
