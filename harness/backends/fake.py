"""The backend `fake`: boxes that exist only as a list of things to come.

An instance of it behaves as its arm's options say, after delays that they give, so the schedule,
the runner, the records and the reports can be exercised in milliseconds and without privilege, and
failures can be had at will. It measures nothing: its times are the delays, its disk parts values
from the options. It is never among the default arms of anything. `_OPTIONS` lists the options.
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
from typing import Any

from harness.backends.null import listen, serve
from harness.backends.preparation import refuse_command, refuse_inside, unknown_options
from harness.backends.stream_instance import StreamInstance
from harness.model import Arm, DiskPart, Meter, Milestone, Reading, Scenario, Sharing
from harness.model.backend import Accounting, Availability, Exit, Instance, Progress
from harness.model.diagnostics import Diagnostic
from harness.model.errors import BackendUnavailableError, LaunchFailedError, PrepareError
from harness.model.network import Network

_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "isolated_ms": (1.0, "from request until isolated"),
    "started_ms": (2.0, "from request until started"),
    "work_ms": (3.0, "from started until the workload has printed, and ends or serves"),
    "stop_ms": (0.2, "how long stopping takes"),
    "remove_ms": (0.2, "how long removing takes"),
    "jitter": (0.0, "each delay is multiplied by 1 to 1 + jitter"),
    "seed": (0, "of the jitter"),
    "output": (None, "what the workload prints when its work is done"),
    "exit_code": (0, "how it ends; -1: not by itself"),
    "signal": (None, "the signal that ends it"),
    "body": ("<h1>fake</h1>\n", "what it serves, when the scenario needs the network"),
    "fail": (None, "prepare, launch, boot or unavailable"),
    "fail_every": (1, "fail in every n-th instance only"),
    "disk_bytes": (4096, "of its one exclusive disk part, before it has run"),
    # A known truth: never stretched.
    "delay_ms": (0.0, "added to the work, without jitter"),
    "written_bytes": (0, "added to its disk until ready"),
    "touched_bytes": (0, "added to the 1 MiB of memory that it claims to have"),
    "cpu_user_ms": (1.0, "CPU time in user mode that it claims until ready"),
    "cpu_system_ms": (1.0, "CPU time in the kernel that it claims until ready"),
    "image_read_bytes": (-1, "of its image of 1 MiB, until ready; -1: nothing counts it"),
    "waits": (True, "whether delays are waited for, or only said to have gone by"),
}
"""Option -> its default, and what it means; without `output` it prints its command's words."""
_MEMORY_BYTES = _IMAGE_BYTES = 1 << 20
_FAILURES = ("prepare", "launch", "boot", "unavailable")


class FakeInstance(StreamInstance):
    """A box that follows its script."""

    def __init__(self, arm: FakeArm, random_: random.Random, *, dies: bool) -> None:
        super().__init__(-1, {}, None if arm.lab is None else arm.lab.gateway)
        self._options = arm.options
        self._random = random_
        self._listener: socket.socket | None = None
        # How far its clock is beyond the host's, if it does not wait for its delays.
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
        if self._work_done_ns is not None:
            deadline_ns = min(deadline_ns, self._work_done_ns)
        if not self._options["waits"]:
            self._wait_until(deadline_ns)
        super().pump(deadline_ns - self._ahead_ns, wake_fd)

    def _register(self, poll: select.poll) -> None:
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)

    def _take(self, ready: set[int], now: int) -> None:
        if self._listener is not None and self._listener.fileno() in ready:
            serve(self._listener, self._options["body"].encode())
        if self._work_done_ns is not None and now + self._ahead_ns >= self._work_done_ns:
            self._work_done_ns = None
            self._finish_work()

    def _finish_work(self) -> None:
        now_ns = self._now_ns()
        if self._dies:
            raise LaunchFailedError("the fake box died while booting, as asked", "fake: dying\n")
        self.output.append(self._options["output"].encode(), now_ns)
        if self._lab is not None:
            self._listener = listen(self._lab, self._port)
        elif self._options["signal"] is not None:
            self.exit = Exit(None, self._options["signal"], now_ns)
        elif self._options["exit_code"] >= 0:
            self.exit = Exit(self._options["exit_code"], None, now_ns)

    def disk_parts(self) -> tuple[DiskPart, ...]:
        """One part, as large as the options say."""
        return _layer(self._options["disk_bytes"] + self._options["written_bytes"])

    def accounting(self) -> Accounting:
        """No process is its own: what it claims is all there is."""
        options = self._options
        memory_bytes = _MEMORY_BYTES + options["touched_bytes"]
        user_ns, system_ns = (
            float(options[name]) * 1e6 for name in ("cpu_user_ms", "cpu_system_ms")
        )
        values = {
            Meter.CPU_NS: round(user_ns + system_ns),
            Meter.CPU_USER_NS: round(user_ns),
            Meter.CPU_SYSTEM_NS: round(system_ns),
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
    options: Mapping[str, str] = MappingProxyType(
        {name: meaning for name, (_, meaning) in _OPTIONS.items()}
    )

    def check_options(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names, and the values that are of a fixed set."""
        from harness.model.suggestions import did_you_mean

        problems = list(unknown_options(self, options))
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
        refuse_inside(self.name, scenario, "there is no box")
        refuse_command(self.name, scenario, "there is no box")
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
    options = {name: default for name, (default, _) in _OPTIONS.items()} | dict(arm.options)
    if options["output"] is None:
        options["output"] = " ".join(scenario.workload.command[1:]) + "\n"
    if not options["waits"] and scenario.readiness.needs_network:
        raise PrepareError(f"arm {arm.name}: the prober's clock goes on: waits cannot be false")
    return options
