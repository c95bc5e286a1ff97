"""A thread for each instance, in the arm's mount namespace, from which a peer is started.

It waits for its instance to have something to do and takes no part in measuring. It lives as long
as the instance: the kernel counts a program that asks to die with its parent (PR_SET_PDEATHSIG, as
`bwrap --die-with-parent` does) as the child of the thread that started it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import runtime

T = TypeVar("T")


class PeerThread:
    """Runs functions in a mount namespace, one after the other.

    Raises:
        OSError: The namespace cannot be entered.
    """

    def __init__(self, namespace: runtime.MountNamespace, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: an instance that was never removed must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        try:
            self.call(namespace.enter)
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Run a function there; returns what it returns, raises what it raises."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller
                future.set_exception(error)

        self._work.put(work)
        return future.result()

    def close(self) -> None:
        """End it. Idempotent."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
