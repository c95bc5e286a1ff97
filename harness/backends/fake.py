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
| `disk_bytes` | of its one exclusive disk part, before it has run | 4096 |
| `delay_ms` | added to the work, and never stretched by the jitter: a known truth | 0 |
| `written_bytes` | added to its disk until ready | 0 |
| `touched_bytes` | added to the 1 MiB of memory that it claims to have | 0 |
| `cpu_user_ms`, `cpu_system_ms` | CPU time it claims until ready | 1, 1 |
| `image_read_bytes` | of its image of 1 MiB, until ready; -1: nothing counts it | -1 |
| `waits` | whether delays are waited for, or only said to have gone by | true |
"""

from __future__ import annotations

import itertools
import random
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.model import Arm, DiskPart, Meter, Milestone, Reading, Scenario, Sharing
from harness.model.backend import Accounting, Availability, Exit, Instance, Output, Progress
from harness.model.diagnostics import Diagnostic
from harness.model.errors import BackendUnavailableError, LaunchFailedError, PrepareError

if TYPE_CHECKING:
    from harness.model.network import Network

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
        "delay_ms": 0.0,
        "written_bytes": 0,
        "touched_bytes": 0,
        "cpu_user_ms": 1.0,
        "cpu_system_ms": 1.0,
        "image_read_bytes": -1,
        "waits": True,
    }
)
_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "isolated_ms": "from request until isolated",
        "started_ms": "from request until started",
        "work_ms": "from started until the workload has printed, and ends or serves",
        "stop_ms": "how long stopping takes",
        "remove_ms": "how long removing takes",
        "jitter": "each delay is multiplied by 1 to 1 + jitter",
        "seed": "of the jitter",
        "output": "what the workload prints when its work is done",
        "exit_code": "how it ends; -1: not by itself",
        "signal": "the signal that ends it",
        "body": "what it serves, when the scenario needs the network",
        "fail": "prepare, launch, boot or unavailable",
        "fail_every": "fail in every n-th instance only",
        "disk_bytes": "of its one exclusive disk part, before it has run",
        "delay_ms": "added to the work, without jitter",
        "written_bytes": "added to its disk until ready",
        "touched_bytes": "added to the 1 MiB of memory that it claims to have",
        "cpu_user_ms": "CPU time in user mode that it claims until ready",
        "cpu_system_ms": "CPU time in the kernel that it claims until ready",
        "image_read_bytes": "of its image of 1 MiB, until ready; -1: nothing counts it",
        "waits": "whether delays are waited for, or only said to have gone by",
    }
)
_MEMORY_BYTES = _IMAGE_BYTES = 1 << 20
_FAILURES = ("prepare", "launch", "boot", "unavailable")


class FakeInstance:
    """A box that follows its script. Implements `harness.model.backend.Instance`."""

    def __init__(self, arm: FakeArm, random_: random.Random, *, dies: bool) -> None:
        self._options = arm.options
        self._random = random_
        self.milestones_ns: dict[Milestone, int] = {}
        self.output = Output()
        self.exit: Exit | None = None
        self.address: str | None = None
        self.diagnostics: list[Diagnostic] = []
        self._listener: socket.socket | None = None
        # By how much its clock is ahead of the host's, if it does not wait for its delays.
        self._ahead_ns = 0
        begun_ns = time.monotonic_ns()
        self.milestones_ns[Milestone.REQUESTED] = begun_ns
        self.milestones_ns[Milestone.ISOLATED] = self._pass("isolated_ms", begun_ns)
        started_ns = self._pass("started_ms", begun_ns)
        self.milestones_ns[Milestone.STARTED] = started_ns
        self._dies = dies
        delay_ns = round(float(self._options["delay_ms"]) * 1e6)
        self._work_done_ns: int | None = started_ns + self._delay_ns("work_ms") + delay_ns
        self._lab = arm.lab
        self._port = arm.scenario.readiness.port
        if arm.lab is not None:
            self.address = arm.lab.gateway

    def _delay_ns(self, option: str) -> int:
        stretch = 1 + self._random.random() * float(self._options["jitter"])
        return round(float(self._options[option]) * 1e6 * stretch)

    def _pass(self, option: str, since_ns: int) -> int:
        """Let an option's delay go by, counted from a stamp; returns the time now."""
        self._wait_until(since_ns + self._delay_ns(option))
        return self._now_ns()

    def _now_ns(self) -> int:
        return time.monotonic_ns() + self._ahead_ns

    def _wait_until(self, at_ns: int) -> None:
        left_ns = max(at_ns - self._now_ns(), 0)
        if self._options["waits"]:
            time.sleep(left_ns / 1e9)
        else:
            self._ahead_ns += left_ns

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """See `harness.model.backend.Instance.pump`."""
        until_ns = deadline_ns
        if self._work_done_ns is not None:
            until_ns = min(until_ns, self._work_done_ns)
        poll = select.poll()
        for fd in (wake_fd, self._listener):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        if not self._options["waits"]:
            self._wait_until(until_ns)
        left_ms = -(-max(0, until_ns - self._now_ns()) // 1_000_000)
        ready = {fd for fd, _ in poll.poll(left_ms)}
        if self._listener is not None and self._listener.fileno() in ready:
            self._serve()
        if self._work_done_ns is not None and self._now_ns() >= self._work_done_ns:
            self._work_done_ns = None
            self._finish_work()

    def _finish_work(self) -> None:
        now_ns = self._now_ns()
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
        return _layer(self._options["disk_bytes"] + self._options["written_bytes"])

    def accounting(self) -> Accounting:
        """No process is its own: what it claims is all there is."""
        options = self._options
        memory_bytes = _MEMORY_BYTES + options["touched_bytes"]
        values = {
            Meter.CPU_NS: round(
                (float(options["cpu_user_ms"]) + float(options["cpu_system_ms"])) * 1e6
            ),
            Meter.CPU_USER_NS: round(float(options["cpu_user_ms"]) * 1e6),
            Meter.CPU_SYSTEM_NS: round(float(options["cpu_system_ms"]) * 1e6),
            Meter.PSS_BYTES: memory_bytes,
            Meter.USS_BYTES: memory_bytes,
            Meter.CGROUP_CURRENT_BYTES: memory_bytes,
            Meter.CGROUP_PEAK_BYTES: memory_bytes,
            Meter.IMAGE_TOTAL_BYTES: _IMAGE_BYTES,
        }
        if options["image_read_bytes"] >= 0:
            values[Meter.IMAGE_READ_BYTES] = options["image_read_bytes"]
        readings = tuple(Reading(meter, value, "fake") for meter, value in values.items())
        return Accounting(pids=(), scope="fake", cgroups={}, readings=readings)

    def stop(self, timeout_ns: int) -> None:
        """See `harness.model.backend.Instance.stop`."""
        if Milestone.STOPPED in self.milestones_ns:
            return
        self._work_done_ns = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if not self._options["waits"]:  # its clock is its own, so only it can say when
            self.milestones_ns[Milestone.STOPPING] = self._now_ns()
        stopped_ns = self._pass("stop_ms", self._now_ns())
        if self.exit is None:
            self.exit = Exit(None, 9, stopped_ns)
        self.milestones_ns[Milestone.STOPPED] = stopped_ns
        del timeout_ns  # a fake box always obeys

    def remove(self) -> None:
        """See `harness.model.backend.Instance.remove`."""
        if Milestone.REMOVED not in self.milestones_ns:
            self.milestones_ns[Milestone.REMOVED] = self._pass("remove_ms", self._now_ns())

    def console_tail(self) -> str:
        """What it printed."""
        return self.output.data.decode()


class FakeArm:
    """A fake arm. Implements `harness.model.backend.PreparedArm`."""

    diagnostics: tuple[Diagnostic, ...] = ()

    def __init__(self, scenario: Scenario, arm: Arm, lab: Network | None) -> None:
        self.scenario = scenario
        self.lab = lab
        self.options = _options(arm, scenario)
        self.facts: Mapping[str, str] = MappingProxyType({"fake": "nothing of this is measured"})
        self._numbers = itertools.count(1)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """One static part of 1 MiB."""
        return (DiskPart("fake image", Sharing.SHARED, _IMAGE_BYTES, _IMAGE_BYTES, 0),)

    def initial_disk_parts(self) -> tuple[DiskPart, ...]:
        """As large as the options say."""
        return _layer(self.options["disk_bytes"])

    def image_paths(self) -> tuple[Path, ...]:
        """Its image is no file."""
        return ()

    def launch(self, name: str) -> Instance:
        """See `harness.model.backend.PreparedArm.launch`."""
        number = next(self._numbers)
        is_due = number % self.options["fail_every"] == 0
        if is_due and self.options["fail"] == "launch":
            message = f"the fake box {name} failed to launch, as asked"
            raise LaunchFailedError(message, "fake: refusing\n")
        dies = is_due and self.options["fail"] == "boot"
        random_ = random.Random(f"{self.options['seed']}/{number}")
        return FakeInstance(self, random_, dies=dies)

    def close(self) -> None:
        """Nothing was taken."""


class FakeBackend:
    """Boxes for testing everything around boxes."""

    name = "fake"
    options = _MEANINGS

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names, and the values that are of a fixed set."""
        from harness.model.suggestions import did_you_mean

        problems = [
            f"unknown option {name!r}; {did_you_mean(name, [*_DEFAULTS])}"
            for name in options
            if name not in _DEFAULTS
        ]
        failure = options.get("fail")
        if failure not in (None, *_FAILURES):
            known = did_you_mean(str(failure), _FAILURES)
            problems.append(f"unknown failure {failure!r}; {known}")
        return tuple(problems)

    def availability(self) -> Availability:
        """It can always pretend."""
        return Availability(True, "pretends, and measures nothing: for tests")

    def prepare(
        self, scenario: Scenario, arm: Arm, lab: Network | None, progress: Progress
    ) -> FakeArm:
        """See `harness.model.backend.Backend.prepare`."""
        prepared = FakeArm(scenario, arm, lab)
        progress("pretending")
        if prepared.options["fail"] == "unavailable":
            raise BackendUnavailableError(self.name, "unavailable, as asked", "do not ask for it")
        if prepared.options["fail"] == "prepare":
            raise PrepareError("fake: preparing failed, as asked")
        return prepared


def _layer(size: int) -> tuple[DiskPart, ...]:
    return (DiskPart("fake layer", Sharing.EXCLUSIVE, size, size, 0),)


def _options(arm: Arm, scenario: Scenario) -> dict[str, Any]:
    for problem in FakeBackend().check_options(arm.options):
        raise PrepareError(f"arm {arm.name}: {problem}")
    options = {**_DEFAULTS, **arm.options}
    if options["output"] is None:
        options["output"] = " ".join(scenario.workload.command[1:]) + "\n"
    if not options["waits"] and scenario.readiness.needs_network:
        raise PrepareError(f"arm {arm.name}: the prober's clock goes on: waits cannot be false")
    return options
