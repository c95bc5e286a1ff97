"""The backend `fake`: boxes that exist only as a list of things to come.

An instance of it behaves as its arm's options say, after delays that they give, so the schedule,
the runner, the records and the reports can be exercised in milliseconds and without privilege, and
failures can be had at will. It measures nothing: its times are the delays, its disk parts figures
from the options. It is never among the default arms of anything.

| option | meaning | default |
|---|---|---|
| `isolated_ms`, `started_ms` | from request until isolated, until started | 1, 2 |
| `work_ms` | from started until the workload has printed, and ends or serves | 3 |
| `stop_ms`, `remove_ms` | how long stopping and removing take | 0.2, 0.2 |
| `jitter` | each delay is multiplied by 1 to 1 + jitter | 0 |
| `seed` | of the jitter | 0 |
| `output` | what the workload prints when its work is done | the command's words |
| `exit_code`, `signal` | how it ends; a code of -1: not by itself | 0, none |
| `body` | what it serves, when the scenario needs the network | a page |
| `fail` | `prepare`, `launch`, `boot` or `unavailable` | none |
| `fail_every` | fail in every n-th instance only | 1 |
| `disk_bytes` | of its one exclusive disk part | 4096 |
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.backend import Availability, Exit, Output, Progress
from harness.diagnostics import Diagnostic
from harness.errors import BackendUnavailableError, LaunchFailedError, PrepareError
from harness.model import Arm, DiskPart, Milestone, Scenario, Sharing

if TYPE_CHECKING:
    from harness.lab import Lab

_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "isolated_ms": 1.0,
        "started_ms": 2.0,
        "work_ms": 3.0,
        "stop_ms": 0.2,
        "remove_ms": 0.2,
        "jitter": 0.0,
        "seed": 0,
        "output": None,
        "exit_code": 0,
        "signal": None,
        "body": "<h1>fake</h1>\n",
        "fail": None,
        "fail_every": 1,
        "disk_bytes": 4096,
    }
)
_FAILURES = ("prepare", "launch", "boot", "unavailable")


class FakeInstance:
    """A box that follows its script. Implements `harness.backend.Instance`."""

    def __init__(self, arm: FakeArm, random_: random.Random, *, dies: bool) -> None:
        self._options = arm.options
        self._random = random_
        self.milestones_ns: dict[Milestone, int] = {}
        self.output = Output()
        self.exit: Exit | None = None
        self.address: str | None = None
        self.diagnostics: list[Diagnostic] = []
        self._listener: socket.socket | None = None
        begun_ns = time.monotonic_ns()
        self.milestones_ns[Milestone.REQUESTED] = begun_ns
        self._pass("isolated_ms", begun_ns)
        self.milestones_ns[Milestone.ISOLATED] = time.monotonic_ns()
        started_ns = self._pass("started_ms", begun_ns)
        self.milestones_ns[Milestone.STARTED] = started_ns
        self._dies = dies
        self._work_done_ns: int | None = started_ns + self._delay_ns("work_ms")
        self._lab = arm.lab
        self._port = arm.scenario.readiness.port
        if arm.lab is not None:
            self.address = arm.lab.gateway

    def _delay_ns(self, option: str) -> int:
        stretch = 1 + self._random.random() * float(self._options["jitter"])
        return round(float(self._options[option]) * 1e6 * stretch)

    def _pass(self, option: str, since_ns: int) -> int:
        """Let an option's delay go by, counted from a stamp; returns the time now."""
        left_ns = since_ns + self._delay_ns(option) - time.monotonic_ns()
        time.sleep(max(left_ns, 0) / 1e9)
        return time.monotonic_ns()

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """See `harness.backend.Instance.pump`."""
        until_ns = deadline_ns
        if self._work_done_ns is not None:
            until_ns = min(until_ns, self._work_done_ns)
        poll = select.poll()
        for fd in (wake_fd, self._listener):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        left_ms = -(-max(0, until_ns - time.monotonic_ns()) // 1_000_000)
        ready = {fd for fd, _ in poll.poll(left_ms)}
        if self._listener is not None and self._listener.fileno() in ready:
            self._serve()
        if self._work_done_ns is not None and time.monotonic_ns() >= self._work_done_ns:
            self._work_done_ns = None
            self._finish_work()

    def _finish_work(self) -> None:
        now_ns = time.monotonic_ns()
        if self._dies:
            raise LaunchFailedError("the fake box died while booting, as asked", "fake: dying\n")
        self.output.append(self._options["output"].encode(), now_ns)
        if self._lab is not None:
            self._listener = self._lab.call(self._listen)
        elif self._options["signal"] is not None:
            self.exit = Exit(None, self._options["signal"], now_ns)
        elif self._options["exit_code"] >= 0:
            self.exit = Exit(self._options["exit_code"], None, now_ns)

    def _listen(self) -> socket.socket:
        """Made on the lab's thread, so the port is one of the lab's namespace."""
        return socket.create_server((self.address or "", self._port or 0), backlog=64)

    def _serve(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        body = self._options["body"].encode()
        header = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        with connection:
            connection.settimeout(1)
            try:
                connection.recv(4096)
                connection.sendall(header.encode() + body)
            except OSError:
                return

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """One part, as large as the options say."""
        size = self._options["disk_bytes"]
        return (DiskPart("fake layer", Sharing.EXCLUSIVE, size, size, 0),)

    def stop(self, timeout_ns: int) -> None:
        """See `harness.backend.Instance.stop`."""
        if Milestone.STOPPED in self.milestones_ns:
            return
        self._work_done_ns = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        stopped_ns = self._pass("stop_ms", time.monotonic_ns())
        if self.exit is None:
            self.exit = Exit(None, 9, stopped_ns)
        self.milestones_ns[Milestone.STOPPED] = stopped_ns
        del timeout_ns  # a fake box always obeys

    def remove(self) -> None:
        """See `harness.backend.Instance.remove`."""
        if Milestone.REMOVED not in self.milestones_ns:
            self.milestones_ns[Milestone.REMOVED] = self._pass("remove_ms", time.monotonic_ns())

    def console_tail(self) -> str:
        """What it printed."""
        return self.output.data.decode()


class FakeArm:
    """A fake arm. Implements `harness.backend.PreparedArm`."""

    diagnostics: tuple[Diagnostic, ...] = ()

    def __init__(self, scenario: Scenario, arm: Arm, lab: Lab | None) -> None:
        self.scenario = scenario
        self.lab = lab
        self.options = _options(arm, scenario)
        self.facts: Mapping[str, str] = MappingProxyType({"fake": "nothing of this is measured"})
        self._count = 0

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """One static part of 1 MiB."""
        return (DiskPart("fake image", Sharing.SHARED, 1 << 20, 1 << 20, 0),)

    def launch(self, name: str) -> FakeInstance:
        """See `harness.backend.PreparedArm.launch`."""
        self._count += 1
        is_due = self._count % self.options["fail_every"] == 0
        if is_due and self.options["fail"] == "launch":
            message = f"the fake box {name} failed to launch, as asked"
            raise LaunchFailedError(message, "fake: refusing\n")
        dies = is_due and self.options["fail"] == "boot"
        random_ = random.Random(f"{self.options['seed']}/{self._count}")
        return FakeInstance(self, random_, dies=dies)

    def close(self) -> None:
        """Nothing was taken."""


class FakeBackend:
    """Boxes for testing everything around boxes."""

    name = "fake"

    def availability(self) -> Availability:
        """It can always pretend."""
        return Availability(True, "pretends, and measures nothing: for tests")

    def prepare(self, scenario: Scenario, arm: Arm, lab: Lab | None, progress: Progress) -> FakeArm:
        """See `harness.backend.Backend.prepare`."""
        prepared = FakeArm(scenario, arm, lab)
        progress("pretending")
        if prepared.options["fail"] == "unavailable":
            raise BackendUnavailableError(self.name, "unavailable, as asked", "do not ask for it")
        if prepared.options["fail"] == "prepare":
            raise PrepareError("fake: preparing failed, as asked")
        return prepared


def _options(arm: Arm, scenario: Scenario) -> dict[str, Any]:
    from harness.words import did_you_mean

    for key in arm.options:
        if key not in _DEFAULTS:
            message = f"arm {arm.name}: unknown option {key!r}; {did_you_mean(key, [*_DEFAULTS])}"
            raise PrepareError(message)
    options = {**_DEFAULTS, **arm.options}
    if options["fail"] not in (None, *_FAILURES):
        known = did_you_mean(str(options["fail"]), _FAILURES)
        message = f"arm {arm.name}: unknown failure {options['fail']!r}; {known}"
        raise PrepareError(message)
    if options["output"] is None:
        options["output"] = " ".join(scenario.workload.command[1:]) + "\n"
    return options
