"""Signals to this process that go to a container's workload, as docker's --sig-proxy.

The first process of a pid namespace ignores signals that it has no handler for
(pid_namespaces(7)): that is said, and a second interrupt ends the container by force.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Self

from runtime.errors import InvalidArgumentError
from runtime.linux.files import process_status

if TYPE_CHECKING:
    from runtime.containers.container import Container

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
              signal.SIGUSR2, signal.SIGWINCH)  # fmt: skip


@contextlib.contextmanager
def signal_handler(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Have signals handled in the block; ValueError outside the main thread (signal.signal)."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class SignalProxy:
    """Forwards signals while it is entered; enter it before the launch, in the main thread.

    The workload may ask for a signal as soon as it runs: those that come earlier are kept for it.
    """

    def __init__(self) -> None:
        self._container: Container | None = None
        self._interrupts = 0
        self._early: list[int] = []
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._handlers.enter_context(signal_handler(_FORWARDED, self._forward))
        except ValueError as error:
            raise InvalidArgumentError(
                "forward_signals", "signals can be forwarded from the main thread alone"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()

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
    with contextlib.suppress(OSError, ValueError, IndexError):
        return bool(int(process_status(pid, "SigCgt")[0], 16) >> (number - 1) & 1)
    return True


def _say_ignored(number: int) -> None:
    name = signal.Signals(number).name
    text = f"steelyard: the container's first process does not handle {name}; once more ends it\n"
    with contextlib.suppress(OSError):
        # Unbuffered: this runs in a signal handler, perhaps in the middle of a print.
        os.write(2, text.encode())
