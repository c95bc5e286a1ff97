"""Signals to this process that go to a container's workload, as docker's --sig-proxy.

The first process of a pid namespace ignores signals that it has no handler for
(pid_namespaces(7)): that is said, and a second interrupt ends the container by force.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from runtime.containers.container import Container

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
              signal.SIGUSR2, signal.SIGWINCH)  # fmt: skip


class SignalProxy:
    """Forwards signals while it is entered; enter it before the launch, in the main thread.

    The workload may ask for a signal as soon as it runs: those that come earlier are kept for it.
    """

    def __init__(self) -> None:
        self._container: Container | None = None
        self._interrupts = 0
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._before = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        except ValueError as error:  # signal.signal: in the main thread alone
            raise InvalidArgumentError(
                "forward_signals", "signals can be forwarded from the main thread alone"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def forward_to(self, container: Container) -> None:
        """From now on, and what has come already, to that container."""
        self._container = container
        for number in self._early:
            self._forward(number)

    def _forward(self, number: int, _frame: FrameType | None = None) -> None:
        container = self._container
        if container is None:
            self._early.append(number)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self._interrupts += 1
            if self._interrupts == 1 and not _handles(container.pid, number):
                _say_ignored(number)
        container.send_signal(signal.SIGKILL if self._interrupts > 1 else number)


def _handles(pid: int, number: int) -> bool:
    """Whether a process catches a signal (SigCgt in proc(5)); True if that cannot be known."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return True


def _say_ignored(number: int) -> None:
    name = signal.Signals(number).name
    text = f"steelyard: the container's first process does not handle {name}; once more ends it\n"
    with contextlib.suppress(OSError):
        # Unbuffered: this runs in a signal handler, perhaps in the middle of a print.
        os.write(2, text.encode())
