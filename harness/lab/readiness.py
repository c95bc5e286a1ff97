"""Waits until a workload is usable: one definition for every arm.

| kind     | ready when                                         | stamp                            |
|----------|----------------------------------------------------|----------------------------------|
| `exit`   | it ended with the wanted code, having printed what | the end, seen by the host        |
|          | the pattern wants (if there is one)                |                                  |
| `output` | what it printed so far matches the pattern         | arrival of the last piece needed |
| `tcp`    | the prober's connection is accepted                | the prober's                     |
| `http`   | the prober has the header with the wanted status   | the prober's                     |
| `command`| a command inside the box has ended with code 0     | its end, seen by the host        |

Where `tcp` and `http` ask from inside the box, the prober begins once the workload has started.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.lab.attempts import interval_ns
from harness.lab.listeners import listeners, why_not_reached
from harness.lab.output_search import OutputSearch
from harness.model import Milestone, Readiness, ReadinessKind
from harness.model.backend import Exit, InsideCommand, Instance
from harness.model.errors import (
    HarnessError,
    LaunchFailedError,
    ReadinessTimeoutError,
    UnexpectedExitError,
)

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.lab.prober import Probe

_BODY_STEP_NS = 10_000_000
_PID_STEP_NS = 1_000_000
_LONGEST_PAUSE_NS = 1_000_000_000
_NOT_LET_IN = ("connection refused", "no answer", "no attempt yet")


@dataclass(frozen=True, slots=True)
class ReadyEvent:
    """A workload became ready.

    Attributes:
        at_ns: When the condition first held (`time.monotonic_ns()`).
        body: What was served to the prober, for `http`; None for the others, or if it broke off.
        probe_ns: For `command`: how long the command took that ended well; None for the others.
            The workload was usable at some instant of that time.
    """

    at_ns: int
    body: bytes | None = None
    probe_ns: int | None = None


def wait_ready(
    instance: Instance, readiness: Readiness, lab: Lab | None, deadline_ns: int
) -> ReadyEvent:
    """Drive an instance until its workload is ready, and stamp the milestone.

    Args:
        instance: Just launched.
        readiness: The condition.
        lab: Where the prober is; needed for `tcp` and `http`.
        deadline_ns: Absolute, on the monotonic clock.

    Raises:
        ReadinessTimeoutError: The deadline came first.
        UnexpectedExitError: The workload ended before, or otherwise than, it should.
        LaunchFailedError: The box died before its workload started.
        HarnessError: The condition cannot be seen: no address, no lab.
    """
    if readiness.needs_network:
        ready = _wait_for_answer(instance, readiness, lab, deadline_ns)
    elif readiness.kind is ReadinessKind.EXIT:
        ready = _wait_for_exit(instance, readiness, deadline_ns)
    elif readiness.kind is ReadinessKind.COMMAND:
        ready = _wait_for_command(instance, readiness, deadline_ns)
    else:
        ready = _wait_for_output(instance, readiness, deadline_ns)
    instance.milestones_ns[Milestone.READY] = ready.at_ns
    return ready


def _wait_for_exit(instance: Instance, readiness: Readiness, deadline_ns: int) -> ReadyEvent:
    search = None if readiness.output is None else _search(instance, readiness.output)
    while instance.exit is None:
        _require_time(instance, deadline_ns, "it has not ended")
        instance.pump(deadline_ns)
    if instance.exit.code != readiness.exit_code:
        raise unexpected_exit(instance, f"it should end with code {readiness.exit_code}")
    if search is not None and search.finish() is None:
        raise unexpected_exit(instance, f"it should have printed /{readiness.output}/")
    return ReadyEvent(instance.exit.at_ns)


def _wait_for_output(instance: Instance, readiness: Readiness, deadline_ns: int) -> ReadyEvent:
    pattern = readiness.output or ""
    search = _search(instance, pattern)
    while (at_ns := search.matched_at_ns) is None:
        is_late = time.monotonic_ns() >= deadline_ns
        if instance.exit is not None or is_late:
            if (at_ns := search.finish()) is not None:
                break
            if instance.exit is not None:
                raise unexpected_exit(instance, f"it should have printed /{pattern}/")
            raise _timeout(instance, f"it has not printed /{pattern}/")
        instance.pump(deadline_ns)
    return ReadyEvent(at_ns)


def _search(instance: Instance, pattern: str) -> OutputSearch:
    search = OutputSearch(pattern)
    instance.output.listen(search.feed)
    return search


def _wait_for_command(instance: Instance, readiness: Readiness, deadline_ns: int) -> ReadyEvent:
    """Run the command again and again.

    Between two runs passes as much time as the first of them took, but at most a second: a command
    that is dear, as every exec in an emulated machine is, shall not hold the workload up for long.
    """
    words, begun_ns = shlex.join(readiness.command), time.monotonic_ns()
    wanted = f"{words} should end with code 0 in it"
    state = begun = f"{words}: not begun"
    while True:
        run_ns = time.monotonic_ns()
        try:
            command = instance.run_inside(readiness.command)
        except LaunchFailedError as error:
            state = f"{words}: {error}"
        else:
            if command is not None:
                with closing(command):
                    running = f"{words}: has not ended" if state is begun else state
                    end = _wait_for_end(instance, command, wanted, running, deadline_ns)
                    if end.code == 0:
                        return ReadyEvent(end.at_ns, probe_ns=end.at_ns - run_ns)
                    state = _said(words, end, command.last_line())
        now_ns = time.monotonic_ns()
        pause_ns = max(interval_ns(now_ns - begun_ns), min(now_ns - run_ns, _LONGEST_PAUSE_NS))
        until_ns = min(now_ns + pause_ns, deadline_ns)
        while (now_ns := time.monotonic_ns()) < until_ns or now_ns >= deadline_ns:
            if instance.exit is not None:
                raise unexpected_exit(instance, wanted)
            _require_time(instance, deadline_ns, state)
            instance.pump(until_ns)


def _wait_for_end(
    instance: Instance, command: InsideCommand, wanted: str, state: str, deadline_ns: int
) -> Exit:
    while (end := command.look()) is None:
        if instance.exit is not None:
            raise unexpected_exit(instance, wanted)
        _require_time(instance, deadline_ns, state)
        instance.pump(deadline_ns, command.wake_fd)
    return end


def _said(words: str, end: Exit, last_line: str) -> str:
    how = f"code {end.code}" if end.signal is None else signal_name(end.signal)
    return f"{words} ends with {how}{f', saying: {last_line}' if last_line else ''}"


def _wait_for_answer(
    instance: Instance, readiness: Readiness, lab: Lab | None, deadline_ns: int
) -> ReadyEvent:
    if lab is None or instance.address is None:
        raise HarnessError(
            f"readiness {readiness.kind} needs an address in the private network; it has none"
        )
    if readiness.is_inside:
        probe = _probe_inside(instance, readiness, lab, deadline_ns)
    else:
        probe = lab.probe(readiness, instance.address, deadline_ns)
    try:
        while not probe.finished:
            if instance.exit is not None and probe.ready_at_ns is None:
                raise unexpected_exit(instance, _should_serve(readiness))
            # After the deadline only the rest of an answer is waited for: in small steps.
            patience_ns = time.monotonic_ns() + _BODY_STEP_NS
            instance.pump(max(deadline_ns, patience_ns), probe.wake_fd)
            if time.monotonic_ns() >= deadline_ns and probe.ready_at_ns is None:
                break
        if probe.ready_at_ns is None:
            raise _timeout(instance, _seen(probe, instance))
        return ReadyEvent(probe.ready_at_ns, probe.body)
    finally:
        probe.close()


def _probe_inside(instance: Instance, readiness: Readiness, lab: Lab, deadline_ns: int) -> Probe:
    """Begin to ask as soon as there is a process in the box.

    Between two looks for it passes as much time as the first of them took: a look may start a
    program, which shall not hold the box up.
    """
    while True:
        looked_ns = time.monotonic_ns()
        if (pid := instance.box_pid) is not None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                return lab.probe_inside(readiness, pid, deadline_ns)
        now_ns = time.monotonic_ns()
        again_ns = now_ns + min(now_ns - looked_ns, _LONGEST_PAUSE_NS)
        until_ns = min(deadline_ns, max(again_ns, now_ns + _PID_STEP_NS))
        while True:
            if instance.exit is not None:
                raise unexpected_exit(instance, _should_serve(readiness))
            _require_time(instance, deadline_ns, "no process of the box is known")
            instance.pump(until_ns)
            if time.monotonic_ns() >= again_ns:
                break


def _should_serve(readiness: Readiness) -> str:
    place = f"port {readiness.port}" if readiness.socket is None else readiness.socket
    return f"it should serve {place}"


def _seen(probe: Probe, instance: Instance) -> str:
    """Say what the prober met; where it was never let in, also where the box does listen."""
    seen = f"{probe.endpoint}: {probe.last_result}"
    port, pid = probe.readiness.port, instance.box_pid
    if port is None or pid is None or probe.last_result not in _NOT_LET_IN:
        return seen
    why = why_not_reached(listeners(pid), port)
    return f"{seen}; {why}" if why else seen


def _require_time(instance: Instance, deadline_ns: int, state: str) -> None:
    """Raise when the deadline has passed."""
    if time.monotonic_ns() >= deadline_ns:
        raise _timeout(instance, state)


def _timeout(instance: Instance, state: str) -> ReadinessTimeoutError:
    return ReadinessTimeoutError(
        f"the workload was not ready in time; {state}", console=instance.console_tail()
    )


def unexpected_exit(instance: Instance, wanted: str) -> UnexpectedExitError:
    """Make the error for a workload that ended when or how it should not; it names the end."""
    assert instance.exit is not None
    if instance.exit.signal is not None:
        end = f"was ended by {signal_name(instance.exit.signal)}"
    else:
        end = f"ended with code {instance.exit.code}"
    tail = instance.console_tail()
    last_line = tail.strip().splitlines()[-1:]
    said = f"; its last line: {last_line[0]}" if last_line else ""
    return UnexpectedExitError(f"the workload {end}, {wanted}{said}", console=tail)


def signal_name(number: int) -> str:
    """Name a signal: `SIGKILL` for 9, and so on; `signal 60` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
