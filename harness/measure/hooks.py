"""Runs the user's commands around the trials: setup, prepare, conclude, cleanup, as in hyperfine.

Each is a line for `/bin/sh -c` (sh(1p)), run between the trials and never inside one. What a hook
prints goes to `hooks.log` in the run's folder, and its last lines into the sentence about its
failure. It finds out where it is from its environment:

| variable | value |
|---|---|
| `STEELYARD_HOOK` | `setup`, `prepare`, `conclude` or `cleanup` |
| `STEELYARD_RUN` | the run's folder |
| `STEELYARD_SCENARIO` | the scenario's name |
| `STEELYARD_ARM`, `STEELYARD_BLOCK` | of the trial, for `prepare` and `conclude` |

Where root measures for an ordinary user, a hook is that user's, with their PATH.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness.lab.readiness import signal_name
from harness.measure.interruption import Interruption
from harness.model import Scenario, Slot
from harness.model.errors import HarnessError
from harness.records import HOOKS_FILE
from runtime.linux.caller import PATH_VARIABLE, caller, give

_REPORTED_LINES = 3
_KEPT_BYTES = 4096
_PATIENCE_S = 5.0


class HookFailedError(HarnessError):
    """A hook ended with another code than 0.

    Attributes:
        hook: Which.
        code: Its exit code, or minus the number of the signal that ended it.
        output: The last of what it printed.
    """

    def __init__(self, hook: str, scenario: str, command: str, code: int, output: str) -> None:
        how = f"ended with code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        said = f": {' / '.join(lines[-_REPORTED_LINES:])}" if lines else ", and printed nothing"
        super().__init__(
            f"{scenario}: the {hook} command {how}{said}; "
            f"mend it, or let it end with `|| true` if that does not matter: {command}"
        )
        self.hook = hook
        self.code = code
        self.output = output


class HookRunner:
    """Runs hooks, and logs them in the run's folder. A signal ends any of them but `cleanup`."""

    def __init__(self, directory: Path, interruption: Interruption) -> None:
        self._directory = directory
        self._interruption = interruption

    @contextlib.contextmanager
    def around(self, scenario: Scenario) -> Iterator[None]:
        """Run `setup` on the way in, and `cleanup` on the way out, whatever happened in between.

        Raises:
            HookFailedError: One of them failed. A failing `cleanup` never hides what went wrong
                before it: then it is only in the log.
            Interrupted: By a signal, during `setup`.
        """
        try:
            self.run("setup", scenario)
            yield
        except BaseException:
            with contextlib.suppress(HookFailedError):
                self.run("cleanup", scenario)
            raise
        self.run("cleanup", scenario)

    def run(self, hook: str, scenario: Scenario, slot: Slot | None = None) -> None:
        """Run one of a scenario's hooks, where it has that one.

        Raises:
            HookFailedError: It failed.
            Interrupted: By a signal.
        """
        command: str | None = getattr(scenario.hooks, hook)
        if command is None:
            return
        environment = {
            **os.environ,
            "STEELYARD_HOOK": hook,
            "STEELYARD_RUN": os.fspath(self._directory.absolute()),
            "STEELYARD_SCENARIO": scenario.name,
        }
        where = scenario.name
        if slot is not None:
            environment |= {"STEELYARD_ARM": slot.arm, "STEELYARD_BLOCK": str(slot.block)}
            where = f"{slot.scenario}, {slot.arm}, block {slot.block}"
        with open(self._directory / HOOKS_FILE, "ab+", buffering=0) as log:
            give(log.fileno())
            log.write(f"== {hook}: {where}: {command}\n".encode())
            begin = log.tell()
            code = self._wait(command, environment, log.fileno(), is_last=hook == "cleanup")
            if code == 0:
                return
            log.seek(max(begin, log.seek(0, os.SEEK_END) - _KEPT_BYTES))
            output = (log.read() or b"").decode(errors="replace")
            log.write(f"== {hook}: exit {code}\n".encode())
        raise HookFailedError(hook, scenario.name, command, code, output)

    def _wait(
        self, command: str, environment: dict[str, str], output: int, *, is_last: bool
    ) -> int:
        """Run it to its end, in a session of its own so that all of it can be ended together.

        It is the caller's command, also where root measures for them.
        """
        behind = caller()
        groups: list[int] | None = None
        if behind is not None:
            groups, theirs = _account(*behind)
            environment |= theirs
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=None if behind is None else behind[0],
            group=None if behind is None else behind[1],
            extra_groups=groups,
        )
        if is_last:
            # The signal that ends a run must not end what puts the host in order after it.
            return process.wait()
        pidfd = os.pidfd_open(process.pid)
        try:
            with self._interruption.safe():
                select.select([pidfd], [], [])
        except BaseException:
            _end_group(process, pidfd)
            raise
        finally:
            process.wait()
            os.close(pidfd)
        return process.returncode


def _account(uid: int, gid: int) -> tuple[list[int], dict[str, str]]:
    """The groups of a user, and the variables that are theirs; of one without an entry, none."""
    theirs = {}
    if path := os.environ.get(PATH_VARIABLE):
        theirs["PATH"] = path
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return [], theirs
    theirs |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    return os.getgrouplist(entry.pw_name, gid), theirs


def _end_group(process: subprocess.Popen[bytes], pidfd: int) -> None:
    """End the hook with all that it started: SIGTERM, and SIGKILL for what does not obey."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    select.select([pidfd], [], [], _PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
