"""Requests several instances of an arm at the same time, each by a thread of its own.

```
  main thread                          each thread
  makes N threads                      reads what must be known before t0
  all have arrived: opens the gate     launches (t0), waits until ready
  all have begun: no more waiting      keeps reading what the workload prints
                                       meters
  all have metered: the end            stops, removes
```

Metering waits until all are ready, since it would slow down those that are still starting. Each
instance has its own t0. On two busy cores the first and the last request of eight containers were
10 ms apart, of 90 ms until all were ready; switching threads 100 times as often changed nothing.

A signal or an error in the main thread lets all threads pass at once to the end, and it waits for
them. An error that belongs to no instance is raised again when all are gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from harness.measure.capacity import with_remedy
from harness.measure.interruption import Interruption
from harness.measure.trial import Launch, OpenTrial
from harness.model import Meter, Reading, Trial
from harness.model.backend import Instance
from harness.model.errors import HarnessError, LaunchFailedError

if TYPE_CHECKING:
    from harness.lab import Lab

_PATIENCE_NS = 60_000_000_000
"""How long one wait lasts, before the next: poll(2) needs a limit."""
_TOO_LATE = "instances that start together are read when all are ready, and that is too late for it"
_NOT_ALONE = "instances that start together take the host's memory together"
_MISSING = {
    Meter.CPU_NS: _TOO_LATE,
    Meter.CPU_USER_NS: _TOO_LATE,
    Meter.CPU_SYSTEM_NS: _TOO_LATE,
    Meter.IMAGE_READ_BYTES: _TOO_LATE,
    Meter.AVAILABLE_DELTA_BYTES: _NOT_ALONE,
}


def start_burst(
    names: Sequence[str],
    open_trial: Callable[[Launch], OpenTrial],
    launch: Launch,
    lab: Lab | None,
    interruption: Interruption,
    begun: Callable[[], None],
) -> tuple[Trial, ...]:
    """Launch one instance for each name at the same time, and remove them all.

    Args:
        names: Of the instances.
        open_trial: Makes the trial of one thread, which launches by its argument.
        launch: Of the arm.
        lab: The private network, where the readiness needs it.
        interruption: Of the run.
        begun: Called when all are ready, or have failed.

    Raises:
        Interrupted: By a signal; every instance is gone.
    """
    with contextlib.ExitStack() as stack:
        gate = _Gate()
        stack.callback(os.close, gate.leave_fd)
        starters = []
        for name in names:
            starter = _Starter(gate, name, lab, launch)
            starter.trial = open_trial(starter.launch)
            starters.append(starter)
            stack.callback(starter.wait_for_end)
        stack.callback(gate.let_all_go)
        for starter in starters:
            starter.begin()
        with interruption.safe():
            for starter in starters:
                starter.arrived.wait()
        gate.opened.set()
        with interruption.safe():
            for starter in starters:
                starter.begun.wait()
        begun()
        gate.stop_waiting()
        with interruption.safe():
            for starter in starters:
                starter.metered.wait()
    for starter in starters:
        if starter.error is not None:
            raise starter.error
    return tuple(_without_what_came_late(starter.trial.record()) for starter in starters)


class _LeavingError(Exception):
    """Nothing more is waited for, ready or not."""


class _Gate:
    """Holds all threads back.

    Attributes:
        opened: Launch now.
        leaving: Nothing more is waited for.
        leave_fd: Readable (eventfd(2)) from then on, for waits on descriptors.
        is_abandoned: Whether that came early, so that metering would be a waste.
        ended: Stop and remove now.
    """

    def __init__(self) -> None:
        self.opened, self.leaving, self.ended = (threading.Event() for _ in range(3))
        self.leave_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_abandoned = False

    def stop_waiting(self) -> None:
        self.leaving.set()
        os.eventfd_write(self.leave_fd, 1)

    def let_all_go(self) -> None:
        self.is_abandoned = not self.leaving.is_set()
        self.stop_waiting()
        self.opened.set()
        self.ended.set()


@dataclass(eq=False, slots=True)
class _Starter:
    """Runs one thread with its instance.

    Attributes:
        trial: Of its instance; set before the thread begins.
        arrived: It waits at the gate, or will not come.
        begun: Its instance is ready, or has failed.
        metered: Its instance has been metered, as far as possible.
        error: An unexpected error that ended the thread.
    """

    gate: _Gate
    name: str
    lab: Lab | None
    inner_launch: Launch
    trial: OpenTrial = field(init=False)
    arrived: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    metered: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread, or let the trial fail for want of one."""
        thread = threading.Thread(target=self._run, name=self.name)
        try:
            thread.start()
        except RuntimeError as error:  # "can't start new thread" is all that Python says
            self.trial.fail(LaunchFailedError(f"no thread to launch from: {error}; too many run"))
            self._pass_all()
            return
        self.thread = thread

    def launch(self, name: str) -> Instance:
        """Launch when the gate is opened; raises as `PreparedArm.launch`."""
        self.arrived.set()
        self.gate.opened.wait()
        if self.gate.leaving.is_set():
            raise _LeavingError
        return cast("Instance", _LeavableInstance(self.inner_launch(name), self.gate))

    def wait_for_end(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            # An error in one step is raised at the end, by the thread that waits for this one.
            stack.callback(self._guarded, self.trial.end)
            stack.callback(self.gate.ended.wait)
            stack.callback(self._pass_all)
            self._guarded(self._start)
            self.arrived.set()
            self.begun.set()
            self._guarded(self._stay)
            if not self.gate.is_abandoned:
                self._guarded(self._meter)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (HarnessError, OSError) as error:
            self.trial.fail(with_remedy(error) if self.trial.instance is None else error)
        except _LeavingError:
            pass
        except BaseException as error:  # handed to the main thread
            self.error = self.error or error

    def _pass_all(self) -> None:
        for event in (self.arrived, self.begun, self.metered):
            event.set()

    def _start(self) -> None:
        self.trial.begin(self.name)
        self.trial.wait(self.lab)

    def _stay(self) -> None:
        while self.trial.pump(time.monotonic_ns() + _PATIENCE_NS):
            pass
        self.gate.leaving.wait()

    def _meter(self) -> None:
        if self.trial.instance is not None and not self.trial.failed:
            self.trial.meter()


class _LeavableInstance:
    """Wraps an instance, and stops waiting for it when the gate says so."""

    def __init__(self, instance: Instance, gate: _Gate) -> None:
        self._inner: Any = instance
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def pump(self, deadline_ns: int, wake_fd: int | None = None) -> None:
        """See `harness.model.backend.Instance.pump`.

        Raises:
            _LeavingError: It is time to leave.
        """
        if wake_fd is None:
            self._inner.pump(deadline_ns, self._gate.leave_fd)
        else:
            # One descriptor that is readable when either is (epoll(7)).
            with select.epoll(2) as either:
                either.register(wake_fd, select.EPOLLIN)
                either.register(self._gate.leave_fd, select.EPOLLIN)
                self._inner.pump(deadline_ns, either.fileno())
        if self._gate.leaving.is_set():
            raise _LeavingError


def _without_what_came_late(trial: Trial) -> Trial:
    """Drop readings that are right only just after ready, or for one instance alone."""
    readings = [
        Reading(reading.meter, None, reading.scope, _MISSING[reading.meter])
        if reading.meter in _MISSING
        else reading
        for reading in trial.readings
    ]
    return replace(trial, readings=tuple(readings))
