"""Ends a run by a signal (SIGINT, SIGTERM, SIGHUP), but only at a safe moment.

Python's KeyboardInterrupt can come between any two instructions, also between making a mount and
noting that it must be removed. Here a signal is only noted, and raised as `Interrupted` inside the
stretches that are marked as safe: the long ones, where a run waits.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The user, or the system, wants the run to end.

    Attributes:
        signal_number: Which signal said so; a command then exits with 128 + its number.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Interruption:
    """While entered, holds the signals back. Outside the main thread it leaves them alone.

    Attributes:
        pending: The signal that has been received, or None.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._is_safe = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A signal that the parent made ignored (nohup) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextlib.contextmanager
    def safe(self) -> Iterator[None]:
        """Mark a stretch in which `Interrupted` may be raised, also for what came before.

        Raises:
            Interrupted: Now or at any time within.
        """
        self.check()
        self._is_safe = True
        try:
            yield
        finally:
            self._is_safe = False

    def check(self) -> None:
        """Raise what is pending.

        Raises:
            Interrupted: A signal has been received.
        """
        if self.pending is not None:
            raise Interrupted(self.pending)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.pending = self.pending or number
        if self._is_safe:
            # Once: what follows is clean-up, which a second Ctrl-C must not cut.
            self._is_safe = False
            raise Interrupted(number)
