"""Probes from outside whether a box answers, the same way for every arm.

It runs in a thread of its own inside the lab's network namespace, so that boxes are reached over
the same bridge whether they are containers or machines. It never waits for one attempt to fail:
`harness.lab.attempts` has the schedule. An attempt costs 20 us when hot and 200 us after a sleep,
nearly all for waking up: 10 % of one core in the first tenth of a second, 1 to 2 % from the second
on.

The caller makes the first attempt, on a socket that the thread keeps ready: a socket stays in the
namespace it was made in, whichever thread uses it (network_namespaces(7)). So a box that answers at
once is not charged with the waking of a thread (for `http`: before it is connected).

For `http` the stamp is taken when the full header with the wanted status has arrived. The body is
read to its end afterwards and kept, so that arms can be compared by what they served. Any other
status counts as not ready, and the next attempt follows.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from harness.lab.attempts import Attempts, begin_attempt
from harness.lab.endpoints import Endpoint, NetworkEndpoint, inside, new_internet_socket
from harness.model import Readiness, ReadinessKind


@dataclass(eq=False, slots=True)
class Probe:
    """Asks the prober about one box, and holds its answer when there is one.

    Attributes:
        endpoint: What to connect to; closed with the probe.
        deadline_ns: Of the whole probe, on the monotonic clock.
        cancel: Called with the probe when it is closed.
        wake_fd: An eventfd(2) that becomes readable when the probe has finished.
        ready_at_ns: `time.monotonic_ns()` at which the condition first held; None until it does.
        body: The body of the answer, for `http`; None if it did not arrive whole.
        finished: Whether nothing more will happen.
        last_result: In a few words what the last attempt met, for the error of a timeout.
    """

    readiness: Readiness
    endpoint: Endpoint
    deadline_ns: int
    cancel: Callable[[Probe], None]
    wake_fd: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    ready_at_ns: int | None = None
    body: bytes | None = None
    finished: bool = False
    last_result: str = "no attempt yet"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self) -> None:
        """Report that nothing more will happen."""
        with self._lock:
            self.finished = True
            if self.wake_fd >= 0:
                os.eventfd_write(self.wake_fd, 1)

    def close(self) -> None:
        """Stop probing and give the file descriptor back. Idempotent."""
        with self._lock:
            fd, self.wake_fd = self.wake_fd, -1
        if fd >= 0:
            self.cancel(self)
            os.close(fd)


class Prober:
    """Runs the prober's thread.

    Args:
        enter: Called first in the thread: moves it into the lab's network namespace.
    """

    def __init__(self, enter: Callable[[], None]) -> None:
        self._enter = enter
        self._commands: deque[Callable[[], object]] = deque()
        self._spares: deque[socket.socket] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._started: Future[None] = Future()
        self._running: list[Attempts] = []
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            os.close(self._wake_fd)
            raise

    def probe(self, readiness: Readiness, address: str, deadline_ns: int) -> Probe:
        """Begin to ask `address` until the readiness condition holds or the deadline is reached."""
        if not readiness.needs_network or readiness.port is None:
            raise ValueError(f"readiness {readiness.kind} is not seen over the network")
        return self._ask(readiness, NetworkEndpoint(address, readiness.port), deadline_ns)

    def probe_inside(self, readiness: Readiness, pid: int, deadline_ns: int) -> Probe:
        """Begin to ask from inside the box of a process, as the host sees that one.

        Raises:
            OSError: The process is gone, or may not be looked at.
        """
        return self._ask(readiness, inside(readiness, pid), deadline_ns)

    def _ask(self, readiness: Readiness, endpoint: Endpoint, deadline_ns: int) -> Probe:
        first = None
        if isinstance(endpoint, NetworkEndpoint) and self._spares:
            # Before all else: what comes after it is not in the time of a box that answers at once.
            try:
                spare = self._spares.popleft()
            except IndexError:
                pass  # another thread took it: the prober's makes the attempt
            else:
                first = begin_attempt(spare, endpoint, time.monotonic_ns())
        probe = Probe(readiness, endpoint, deadline_ns, self._cancel)
        if first and first.connected_at_ns and readiness.kind is ReadinessKind.TCP:
            probe.ready_at_ns = first.connected_at_ns
            probe.last_result = "connected"
            first.connection.close()
            probe.finish()
        else:
            self._submit(lambda: self._running.append(Attempts(probe, self._selector, first)))
        return probe

    def close(self) -> None:
        """End the thread; probes under way end without an answer. Idempotent."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)

    def _cancel(self, probe: Probe) -> None:
        if not self._closing:
            self._submit(lambda: self._give_up(probe))

    def _submit(self, command: Callable[[], object]) -> None:
        """Have the thread run a command; it makes a new spare socket in the same turn."""
        self._commands.append(command)
        os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        try:
            self._enter()
        except BaseException as error:  # handed to the caller
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_fd, selectors.EVENT_READ, self._take_commands)
            self._selector = selector
            while not self._closing:
                if not self._spares:
                    self._spares.append(new_internet_socket())
                self._turn(selector)
            for attempts in self._running:
                attempts.end("the lab was closed")
                attempts.probe.endpoint.close()
            while self._spares:
                self._spares.pop().close()

    def _turn(self, selector: selectors.BaseSelector) -> None:
        timeout = None
        if self._running:
            due_ns = min(min(one.next_due_ns, one.probe.deadline_ns) for one in self._running)
            timeout = max(due_ns - time.monotonic_ns(), 0) / 1e9
        for key, _ in selector.select(timeout):
            # An earlier callback of the same turn may have closed this one's socket.
            if key.fd in selector.get_map() and selector.get_key(key.fileobj) is key:
                key.data()
        now_ns = time.monotonic_ns()
        for attempts in self._running:
            if not attempts.probe.finished:
                attempts.advance(now_ns)
        for attempts in self._running:
            if attempts.probe.finished:
                attempts.probe.endpoint.close()
        self._running = [one for one in self._running if not one.probe.finished]

    def _take_commands(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._commands:
            self._commands.popleft()()

    def _give_up(self, probe: Probe) -> None:
        for attempts in self._running:
            if attempts.probe is probe:
                attempts.end("cancelled")
