"""One box of a peer: its command, its output, and what the kernel reports of its workload."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import runtime
from harness.backends.child_command import ChildCommand
from harness.backends.kernel_stamps import LOST_END
from harness.backends.peers.argv import Start, filled
from harness.backends.peers.command import (
    PeerProcess,
    Tool,
    cgroup_folders,
    family,
    kill_process,
    parent_of,
    run_peer,
)
from harness.backends.peers.engine import Engine
from harness.backends.peers.events import WorkloadWatch, exit_of
from harness.backends.peers.table import Peer
from harness.backends.stream_instance import StreamInstance
from harness.meters import cpu
from harness.meters.disk import measure
from harness.model import DiskPart, Meter, Milestone, Reading, Sharing
from harness.model.backend import Accounting, Exit, InsideCommand
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import LaunchFailedError
from runtime.linux.namespace_thread import NamespaceThread

_SIGNAL_BASE = 128
"""A tool ends with 128 + number when a signal ended the workload, as a shell does."""
_NOT_STARTED = (125, 126, 127)
"""Codes of docker-run(1) for a workload that did not start; a workload may end with them too."""
_STEP_NS = 2_000_000
_FORCE_NS = 2_000_000_000
_CLEARING_UP_NS = 5_000_000_000
"""How long the command may take to end after its workload, before it is left alone."""
_CPU_GROUPS = ("cpu", "cpuacct")
_CPU_METERS = (Meter.CPU_NS, Meter.CPU_USER_NS, Meter.CPU_SYSTEM_NS)
_CHARGED = (Meter.CGROUP_CURRENT_BYTES, Meter.CGROUP_PEAK_BYTES)


class LaunchingArm(Protocol):
    """The part of `PeerArm` that its instances use; a protocol, since the arm imports them.

    Attributes:
        watches: Whether process events are read.
        waits_for_exit: Whether the scenario asks for the workload's end.
    """

    peer: Peer
    tool: Tool
    engine: Engine | None
    watches: bool
    waits_for_exit: bool


def writable_parts(start: Start, engine: Engine | None) -> tuple[DiskPart, ...]:
    """Measure what one instance owns on disk now."""
    if engine is not None:
        return engine.measure(start.identifier)
    return (measure(start.directory, "writable layer", Sharing.EXCLUSIVE),)


class PeerInstance(StreamInstance):
    """See `harness.model.backend.Instance`."""

    def __init__(
        self,
        arm: LaunchingArm,
        start: Start,
        command: PeerProcess,
        watch: WorkloadWatch,
        thread: NamespaceThread,
        output_fd: int,
        requested_ns: int,
        address: str | None,
        take_away: Callable[[], None],
    ) -> None:
        """Take over a box whose command has just been started from `thread`.

        `take_away` removes what we made for it, and is called in that thread.
        """
        super().__init__(output_fd, {Milestone.REQUESTED: requested_ns}, address)
        self.apart_cpu_ns = 0
        self._arm = arm
        self._start = start
        self._command = command
        self._watch = watch
        self._thread = thread
        self._take_away = take_away
        self._needs_delete = arm.peer.is_engine
        self._is_entered = False
        self._inside: ChildCommand | None = None
        self.file_system_ns: int | None = None
        """What its folder and its overlay took, where they are made by us."""

    @property
    def box_pid(self) -> int | None:
        """The workload's first process; before its exec it may still be in the host's files."""
        if self.exit is not None:
            return None
        engine = self._arm.engine
        if engine is not None and not self._arm.peer.is_seen:
            return engine.first_pid(self._start.identifier)
        return self._watch.first_pid if Milestone.STARTED in self.milestones_ns else None

    def run_inside(self, command: tuple[str, ...]) -> InsideCommand | None:
        """See `harness.model.backend.Instance.run_inside`: the peer's own command for that."""
        peer, tool = self._arm.peer, self._arm.tool
        if not peer.is_seen and self.box_pid is None:
            return None
        if self._arm.watches and peer.is_seen and Milestone.STARTED not in self.milestones_ns:
            return None
        argv = [*filled(peer.execute, self._start), *command]

        def start(stdio: tuple[int, int, int]) -> int:
            actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
            pid = os.posix_spawn(argv[0], argv, dict(tool.environment), file_actions=actions)
            return os.pidfd_open(pid)

        def begin() -> ChildCommand:
            # Kept here too: a signal may take the caller out of its wait for it.
            self._inside = ChildCommand(start)
            return self._inside

        self._is_entered = True
        try:
            # In the mount namespace that has the tool's state.
            return self._thread.call(begin)
        except OSError as error:
            raise LaunchFailedError(f"{argv[0]}: {(error.strerror or '').lower()}") from error

    def _end_inside(self) -> None:
        if self._inside is not None:
            self._inside.close()

    def _register(self, poll: select.poll) -> None:
        if self._watch.fd is not None:
            poll.register(self._watch.fd, select.POLLIN)
        if self._command.status is None:
            poll.register(self._command.pidfd, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        self._look()
        if self._command.pidfd in ready:
            self._command.wait(now)
        if self.exit is None:
            self._find_exit(now)

    def _look(self) -> None:
        """Take in what the kernel reported of the workload."""
        watch = self._watch
        had_ended = watch.ended is not None
        watch.look()
        if watch.is_late and not had_ended:
            self.diagnostics.append(Diagnostic(DiagnosticCode.LATE_STAMPS, LOST_END))
        if watch.started_ns is not None:
            self.milestones_ns.setdefault(Milestone.STARTED, watch.started_ns)
            if not self._arm.waits_for_exit:
                watch.close()

    def _find_exit(self, now: int) -> None:
        has_ended = self._command.status is not None
        ended = self._watch.ended
        if ended is not None and (has_ended or not self._arm.peer.relays_output):
            self._end(ended, now)
        elif has_ended:
            self._read_all(now)
            self.exit = self._end_by_command(now)
        if self.exit is not None:
            self._watch.close()

    def _end_by_command(self, now: int) -> Exit:
        """The workload's end as the peer's exit code says.

        Raises:
            LaunchFailedError: There was no workload.
        """
        never_started = self._watch.sees_all and Milestone.STARTED not in self.milestones_ns
        if never_started and Milestone.STOPPED not in self.milestones_ns:
            last = self.console_tail().strip().splitlines()[-1:]
            raise self._launch_failed(last[0] if last else "it said nothing")
        assert self._command.status is not None
        end = exit_of(self._command.status, now)
        if not self._arm.peer.is_seen and end.code in _NOT_STARTED:
            engine = self._arm.engine
            if engine and (failure := engine.failure(self._start.identifier)) is not None:
                raise self._launch_failed(failure)
        if end.code is not None and _SIGNAL_BASE < end.code <= _SIGNAL_BASE + signal.NSIG:
            return Exit(None, end.code - _SIGNAL_BASE, now)
        return end

    def _launch_failed(self, why: str) -> LaunchFailedError:
        self._watch.close()
        message = f"{self._arm.peer.name} did not start the workload: {why}"
        return LaunchFailedError(message, console=self.console_tail())

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """The writable layer, and what the peer keeps beside it."""
        return writable_parts(self._start, self._arm.engine)

    def accounting(self) -> Accounting:
        """The workload, and what the peer keeps running for it.

        CPU time: that of the workload and of the peer together, or arms would differ in what they
        leave out. The command waits for its workload, so its processes cover it all; their groups
        hold the workload alone. An engine is the other way round: the workload is not below its
        command, but the group that we name holds everything but the command, and stays until we
        remove it.
        """
        peer, command = self._arm.peer, self._command
        now = time.monotonic_ns()
        self._look()
        self._watch.close()
        if self.exit is not None:
            # What has ended is counted by the process that waited for it: that is the command,
            # whose own count is known when it has ended itself.
            command.wait(now + _CLEARING_UP_NS)
        running = () if command.status is not None else (command.pid,)
        until = "" if self.exit is None else ", to its own end"
        scope = f"workload and {peer.name}{until}"
        cgroups = cgroup_folders(self._start.cgroup, self._arm.tool.hierarchies)
        readings: list[Reading] = []
        if peer.is_engine and "cpuacct" in cgroups:
            readings += _sum(
                scope,
                Accounting((), scope, {"cpuacct": cgroups["cpuacct"]}),
                Accounting(running, scope, {}, command.cpu_ns),
            )
        if not peer.is_seen and command.status is not None:
            # What ran was the daemon's child; the client's own time is not the box's.
            reason = (
                f"the workload was waited for by {peer.name}'s daemon, which does not report it"
            )
            readings += [Reading(meter, None, scope, reason) for meter in _CPU_METERS]
        if "memory" not in cgroups:
            reason = _why_no_group(peer)
            readings += [Reading(meter, None, scope, reason) for meter in _CHARGED]
        if self.file_system_ns is not None:
            readings.append(Reading(Meter.FILE_SYSTEM_NS, self.file_system_ns, "writable layer"))
        return Accounting(
            pids=family(*running, *self._box_processes()),
            scope=scope,
            cgroups={name: path for name, path in cgroups.items() if name not in _CPU_GROUPS},
            ended_cpu_ns=command.cpu_ns,
            readings=tuple(readings),
            owned=(self._start.directory,),
        )

    def _box_processes(self) -> Sequence[int]:
        """The box's first process, and the one that the peer keeps above it."""
        if self.exit is not None:
            return ()
        first_pid, engine = self._watch.first_pid, self._arm.engine
        if engine is not None and not self._arm.peer.is_seen:
            first_pid = engine.first_pid(self._start.identifier)
        if first_pid is None:
            return ()
        keeper = parent_of(first_pid)
        if keeper is None or keeper in (1, os.getpid()):
            return (first_pid,)
        return (keeper, first_pid)

    def stop(self, timeout_ns: int) -> None:
        """End the box in the peer's own way, at the latest by force."""
        if Milestone.STOPPED in self.milestones_ns:
            return
        if self._is_entered:
            self._thread.call(self._end_inside)  # after what the thread may still be beginning
        now = time.monotonic_ns()
        deadline_ns = now + timeout_ns
        self._look()
        if self._watch.ended is None and not self._command.wait(now):
            self._kill(deadline_ns)
        if not self._command.wait(deadline_ns):
            detail = f"{self._arm.peer.name} did not end within {timeout_ns / 1e9:g} s"
            self.diagnostics.append(Diagnostic(DiagnosticCode.FORCED_STOP, detail))
            self._force()
        now = time.monotonic_ns()
        self._look()
        self._watch.close()
        if not self._watch.sees_all and self._arm.watches:
            detail = "the kernel dropped process events: when the workload started is not known"
            self.diagnostics.append(Diagnostic(DiagnosticCode.MISSING, detail))
        self.milestones_ns[Milestone.STOPPED] = now
        if self.exit is None:
            self._end(self._watch.ended or Exit(None, signal.SIGKILL, now), now)

    def _kill(self, deadline_ns: int) -> None:
        """Ask the peer to end the box; it may still be at making it."""
        peer = self._arm.peer
        while self._watch.first_pid is None and peer.is_seen:
            now = time.monotonic_ns()
            if self._command.wait(min(now + _STEP_NS, deadline_ns)) or now >= deadline_ns:
                return
            self._watch.look()
        self._needs_delete = True
        if peer.kill:
            argv = filled(peer.kill, self._start)
            while True:
                code, _ = self._thread.call(lambda: run_peer(argv, self._arm.tool.environment))
                if code == 0:
                    return
                # Where nobody says when there is a box, there may be none yet: ask again.
                now = time.monotonic_ns()
                next_ns = min(now + _STEP_NS, deadline_ns)
                if peer.is_seen or now >= deadline_ns or self._command.wait(next_ns):
                    break
        if self._watch.first_pid is not None:
            kill_process(self._watch.first_pid)

    def _force(self) -> None:
        self._needs_delete = True
        if self._watch.first_pid is not None:
            kill_process(self._watch.first_pid)
        if not self._command.wait(time.monotonic_ns() + _FORCE_NS):
            self._command.kill()
            self._command.wait(time.monotonic_ns() + _FORCE_NS)

    def remove(self) -> None:
        """The peer's own clearing up, then the overlay, the folder, the groups, the network."""
        if Milestone.REMOVED in self.milestones_ns:
            return
        self.stop(_FORCE_NS)
        self._close_output()
        try:
            self._thread.call(self._remove_here)
        finally:
            self._command.close()
            self._thread.close()
            runtime.Session.current().on_close.discard(self.remove)
        self.milestones_ns[Milestone.REMOVED] = time.monotonic_ns()

    def _remove_here(self) -> None:
        if self._needs_delete and self._arm.peer.delete:
            # Judged by what is left, not by its exit code: it is an error to delete what is gone.
            run_peer(filled(self._arm.peer.delete, self._start), self._arm.tool.environment)
        if self._arm.peer.is_engine:
            # The group goes next; its processes were nobody's children here.
            groups = cgroup_folders(self._start.cgroup, self._arm.tool.hierarchies)
            self.apart_cpu_ns = cpu.group_ns(groups.get("cpuacct", ""))
        self._take_away()


def _why_no_group(peer: Peer) -> str:
    if not peer.has_limits:
        return f"{peer.name} makes no control group"
    if not peer.is_seen:
        return f"where {peer.name} keeps the control group is not known"
    return f"{peer.name} removes the control group as soon as the workload has ended"


def _sum(scope: str, *parts: Accounting) -> list[Reading]:
    """CPU readings of several sources added up; what one lacks, the sum lacks."""
    sums = []
    for readings in zip(*(cpu.read((part,)) for part in parts), strict=True):
        lacking = next((reading.missing for reading in readings if reading.value is None), None)
        value = None if lacking else sum(reading.value or 0 for reading in readings)
        sums.append(Reading(readings[0].meter, value, scope, lacking))
    return sums
