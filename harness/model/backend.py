"""The protocols between the runner and a way to run a workload in isolation.

A backend says once whether it can work here, prepares an arm (image, disk, kernel: timed apart),
and launches instances one after another. The runner drives each through

    launch -> pump until ready -> disk_parts -> stop -> remove

An instance does no work in threads: `pump` waits on its file descriptors, so that the thread that
saw something stamps it, by absolute `time.monotonic_ns()`; the runner subtracts t0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.model.diagnostics import Diagnostic
from harness.model.network import Network
from harness.model.scenario import Arm, Scenario
from harness.model.trial import DiskPart, Milestone, Reading

Progress = Callable[[str], None]
"""Called with a few words on what a slow preparation does now."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can work on this host, and if not exactly why.

    Attributes:
        usable: The verdict.
        reason: One sentence; for a usable backend, what it will use (accelerator, launcher, …).
        remedy: What would make it usable.
    """

    usable: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """How the workload ended, as seen from the host.

    Attributes:
        code: Exit code, or None if a signal ended it.
        signal: Signal number, or None if it exited by itself.
        at_ns: When it began to end, by the kernel's stamp on the monotonic clock; where that cannot
            be had, and for a guest's workload, when this process saw it.
    """

    code: int | None
    signal: int | None
    at_ns: int


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where an instance's use of the host can be read, now.

    Attributes:
        pids: Processes of the host that the instance consists of (for a machine: QEMU); those that
            have ended are not among them.
        scope: Whose these are, in a few words: `workload`, `QEMU`.
        cgroups: Controller (`memory`, `cpuacct`, `cpu`, `blkio`, `io`) -> its folder for this
            instance alone; a controller that is not there has no entry.
        ended_cpu_ns: CPU time (user, system) of processes that have been waited for already.
        image_read_bytes: What a guest has read of its root disk (QMP `query-blockstats`); None
            where nothing counts that.
        readings: What the instance counts by itself: each replaces what a meter would have said, or
            adds what no meter reads.
        owned: Folders and files that are this instance's alone and must be gone after `remove`.
    """

    pids: tuple[int, ...]
    scope: str
    cgroups: Mapping[str, str]
    ended_cpu_ns: tuple[int, int] = (0, 0)
    image_read_bytes: int | None = None
    readings: tuple[Reading, ...] = ()
    owned: tuple[str, ...] = ()


KEPT_OUTPUT_BYTES = 128 << 10
"""How much of what a workload printed is kept at least: the end of it."""


class Output:
    """What the workload prints: stdout and stderr in one stream. Only the end of it is kept.

    Attributes:
        size_bytes: How much came so far.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._kept = bytearray()
        self._digest = hashlib.sha256()
        """Of what is no longer kept."""
        self._last_at_ns = 0
        self._listener: Callable[[bytes, int], None] | None = None

    def append(self, data: bytes, at_ns: int) -> None:
        """Add what arrived at `at_ns`."""
        if self._listener is not None:
            self._listener(data, at_ns)
        self.size_bytes += len(data)
        self._last_at_ns = at_ns
        self._kept += data
        if len(self._kept) > 2 * KEPT_OUTPUT_BYTES:
            self._digest.update(self._kept[:-KEPT_OUTPUT_BYTES])
            del self._kept[:-KEPT_OUTPUT_BYTES]

    def listen(self, listener: Callable[[bytes, int], None]) -> None:
        """Have each further piece and its stamp passed on, and what has come before as one."""
        if self._kept:
            listener(bytes(self._kept), self._last_at_ns)
        self._listener = listener

    @property
    def data(self) -> bytes:
        """The end of it: all, where that is not more than `KEPT_OUTPUT_BYTES`."""
        return bytes(self._kept)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of all that came, also of what is no longer kept."""
        digest = self._digest.copy()
        digest.update(self._kept)
        return digest.hexdigest()


class InsideCommand(Protocol):
    """A command that runs inside a box, beside its workload.

    Attributes:
        wake_fd: Readable when it has ended; None: the instance's `pump` takes its end in.
    """

    wake_fd: int | None

    def look(self) -> Exit | None:
        """Return how it ended, stamped when that was seen first; None while it runs."""

    def last_line(self) -> str:
        """Return the last line that it printed, once it has ended; empty where none is known."""

    def close(self) -> None:
        """End it if it still runs. Idempotent."""


@runtime_checkable
class Instance(Protocol):
    """One running box.

    Attributes:
        milestones_ns: Absolute stamps; `requested` … `started` are there when `launch` returns
            (a VM's `kernel`, `userspace`, `started` may arrive later, while pumping).
        output: What the workload prints.
        exit: How it ended, once it has.
        address: IPv4 address in the lab, when it has one.
        box_pid: On the host, a process that is in the box: its root and its network are the box's.
            None: not known yet, no longer there, or the box has a kernel of its own.
        diagnostics: Warnings about this instance.
    """

    milestones_ns: dict[Milestone, int]
    output: Output
    exit: Exit | None
    address: str | None
    diagnostics: list[Diagnostic]

    @property
    def box_pid(self) -> int | None:
        """Return the process through which the host can look into the box."""

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """Wait until something happens or the deadline is reached, and take it in.

        One call handles at least one event if one is there: output, exit, a guest's mark.
        Returns early when `wake_fd` becomes readable (it is not read).

        Raises:
            LaunchFailedError: The box died before its workload started.
            UnexpectedExitError: The box died with its workload in it.
        """

    def run_inside(self, command: tuple[str, ...]) -> InsideCommand | None:
        """Begin to run a command in the box, as the workload's user, with its variables.

        Returns:
            The command; None while the box cannot be entered yet.

        Raises:
            LaunchFailedError: It cannot be started.
        """

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """List what this instance alone has on disk now."""

    def accounting(self) -> Accounting:
        """Say where its use of the host can be read; valid until `stop`."""

    def stop(self, timeout_ns: int) -> None:
        """End the workload and the box, at the latest by force; stamps `stopped`. Idempotent."""

    def remove(self) -> None:
        """Take away everything that the instance had on the host; stamps `removed`. Idempotent."""

    def console_tail(self) -> str:
        """Return the last lines of the console or of the output, for a post-mortem."""


@runtime_checkable
class PreparedArm(Protocol):
    """An arm whose image, disk and kernel are ready, so that instances can be launched.

    Attributes:
        facts: What will run; kept in the records.
        diagnostics: Warnings about the arm.
    """

    facts: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...]

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """List the static parts, shared by all instances of the arm."""

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """List what an instance owns before it has run, measured on one that is made for it."""

    def image_paths(self) -> tuple[Path, ...]:
        """List the files and folders of the image that starting an instance may read.

        A container's layers; a machine's kernel, initramfs and backing file; not QEMU itself.
        """

    def launch(self, name: str) -> Instance:
        """Create and start one instance; t0 is stamped before the first system call of it.

        May be called by several threads at once: an arm keeps nothing that belongs to one launch.

        Raises:
            LaunchFailedError: Setting up failed; everything half-made is gone again.
        """

    def close(self) -> None:
        """Give back what `prepare` took for this run only. Idempotent."""


@runtime_checkable
class Backend(Protocol):
    """A way to run a workload in isolation.

    Attributes:
        name: As scenario files and `--arm` spell it.
        options: What an arm of it can set: option -> one line that says what it means.
    """

    name: str
    options: Mapping[str, str]

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """List what is wrong with an arm's options, a sentence each; asks nothing of the host."""

    def availability(self) -> Availability:
        """Find out, by doing, whether this backend works here. May take seconds; never raises."""

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> PreparedArm:
        """Make what all instances of the arm need, or find it in the cache.

        Args:
            scenario: The question.
            arm: Which arm of it this is, with its options.
            lab: The private network, when the scenario's readiness needs one; else None.
            progress: Called with what is being done.

        Raises:
            BackendUnavailableError: This host cannot run the arm.
            PrepareError: Something of it could not be made.
        """
