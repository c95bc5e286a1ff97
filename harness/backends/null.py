"""The backend `null`: the path of measuring with nothing in it, to show what measuring costs.

Its workload has ended, or its server is listening, before t0. What is left between `requested` and
`ready` is the harness alone: the poll, the reading of output, the wait for a process that is
already dead, or the prober's connection and a server that answers at once. It measures the harness
and no box: an arm to be asked for by name, never one of a comparison.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.backends.preparation import (
    image_spec,
    prepare_image,
    refuse_command,
    refuse_inside,
    unknown_options,
)
from harness.backends.stream_instance import StreamInstance, wait_readable
from harness.model import Arm, DiskPart, Milestone, ReadinessKind, Scenario
from harness.model.backend import Accounting, Availability, Exit, Progress
from harness.model.diagnostics import Diagnostic
from harness.model.errors import LaunchFailedError, PrepareError
from harness.model.network import Network

_PATIENCE_NS = 5_000_000_000


class _Instance(StreamInstance):
    """A workload that is over, or a server that is there."""

    def __init__(self, arm: _Arm) -> None:
        output_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        super().__init__(output_fd, {}, None)
        self._body = arm.body
        self._listener: socket.socket | None = None
        self._pid: int | None = None
        self._pidfd = -1
        try:
            os.write(write_fd, arm.output)
        finally:
            os.close(write_fd)
        try:
            if arm.lab is not None:
                self.address = arm.lab.gateway
                self._listener = listen(arm.lab, arm.port)
            elif arm.ends:
                self._pid, self._pidfd = _dead_process()
        except BaseException:
            self._close_output()
            raise
        now = time.monotonic_ns()
        # There is nothing to be done between these three.
        self.milestones_ns = {
            Milestone.REQUESTED: now,
            Milestone.ISOLATED: now,
            Milestone.STARTED: time.monotonic_ns(),
        }

    def _register(self, poll: select.poll) -> None:
        if self._pid is not None:
            poll.register(self._pidfd, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        if self._listener is not None and self._listener.fileno() in ready:
            serve(self._listener, self._body)
        if self._pid is not None and self._pidfd in ready:
            self._reap(now)

    def _reap(self, now: int) -> None:
        assert self._pid is not None
        os.wait4(self._pid, 0)
        self._pid = None
        self._end(Exit(0, None, now), now)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def accounting(self) -> Accounting:
        return Accounting((), "nothing", {})

    def stop(self, timeout_ns: int) -> None:
        del timeout_ns
        if Milestone.STOPPED in self.milestones_ns:
            return
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        now = time.monotonic_ns()
        if self._pid is not None:
            self._reap(now)
        if self.exit is None:
            self.exit = Exit(0, None, now)
        self.milestones_ns[Milestone.STOPPED] = time.monotonic_ns()

    def remove(self) -> None:
        if Milestone.REMOVED in self.milestones_ns:
            return
        self._close_output()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self.milestones_ns[Milestone.REMOVED] = time.monotonic_ns()


def _dead_process() -> tuple[int, int]:
    """A child that has ended and was not waited for: its pid and its pidfd."""
    pid = os.posix_spawnp("true", ["true"], os.environ, setsigmask=())
    pidfd = os.pidfd_open(pid)
    wait_readable(pidfd, _PATIENCE_NS)
    return pid, pidfd


def listen(lab: Network, port: int | None) -> socket.socket:
    """Open a server on the lab's thread, so that the port is one of the lab's namespace."""
    return lab.call(lambda: socket.create_server((lab.gateway, port or 0), backlog=64))


def serve(listener: socket.socket, body: bytes) -> None:
    """Answer one HTTP request that has come in."""
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(1)
        connection.recv(4096)
        header = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(header.encode() + body)


def _command(scenario: Scenario) -> tuple[str, ...]:
    """Give the workload's words: the scenario's, or else those of its image."""
    if scenario.workload.command:
        return scenario.workload.command
    image, store = prepare_image(scenario, lambda _: None)
    return image_spec(scenario, image, store).command


class _Arm:
    diagnostics: tuple[Diagnostic, ...] = ()

    def __init__(self, scenario: Scenario, arm: Arm, lab: Network | None) -> None:
        words = " ".join(_command(scenario)[1:]) + "\n"
        self.lab = lab
        self.port = scenario.readiness.port
        self.ends = scenario.readiness.kind is ReadinessKind.EXIT
        self.output = str(arm.options.get("output", words)).encode()
        self.body = str(arm.options.get("body", "null\n")).encode()
        self.facts: Mapping[str, str] = MappingProxyType({"null": "what measuring itself costs"})

    def disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        return ()

    def image_paths(self) -> tuple[Path, ...]:
        return ()

    def launch(self, name: str) -> _Instance:
        try:
            return _Instance(self)
        except OSError as error:
            raise LaunchFailedError(f"null: cannot make {name}: {error}") from error

    def close(self) -> None:
        pass


class NullBackend:
    """The path of measuring, empty."""

    name = "null"
    options: Mapping[str, str] = MappingProxyType(
        {
            "output": "what the workload is taken to have printed; its command's words by default",
            "body": "what is served, when the scenario needs the network",
        }
    )

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """See `harness.model.backend.Backend.check_options`."""
        return unknown_options(self, options)

    def availability(self) -> Availability:
        """There is nothing that could be missing."""
        return Availability(True, "measures what measuring costs")

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> _Arm:
        """See `harness.model.backend.Backend.prepare`."""
        del progress
        if problems := self.check_options(arm.options):
            raise PrepareError(f"arm {arm.name}: {'; '.join(problems)}")
        refuse_inside(self.name, scenario, "there is no box")
        refuse_command(self.name, scenario, "there is no box")
        return _Arm(scenario, arm, lab)
