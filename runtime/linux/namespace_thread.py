"""A thread that lives in a namespace and runs functions there for others.

setns(2) moves the calling thread alone: what has to run in a namespace now and then needs a thread
that stays there. It waits for work and takes no part in measuring.

The kernel counts a program that asks to die with its parent (PR_SET_PDEATHSIG) as the child of the
thread that started it: keep the thread as long as such a program shall live.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class ThreadClosedError(OSError):
    """A function was to run in a thread that has been closed."""


class NamespaceThread:
    """Runs functions in a namespace, one after the other.

    Args:
        enter: Moves the thread into the namespace.
        name: Of the thread.

    Raises:
        OSError: The namespace cannot be entered; or whatever else `enter` raises.
    """

    def __init__(self, enter: Callable[[], object], name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a thread that was never closed must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        try:
            self.call(enter)
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Run a function there; returns what it returns, raises what it raises.

        Raises:
            ThreadClosedError: The thread has been closed.
        """
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller
                future.set_exception(error)

        if not self._thread.is_alive():
            raise ThreadClosedError(f"the thread {self._thread.name!r} has been closed")
        self._work.put(work)
        return future.result()

    def close(self) -> None:
        """End it, after what it was given before. Idempotent."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
