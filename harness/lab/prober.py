"""Probes from outside whether a box answers, the same way for every arm.

It runs in a thread of its own inside the lab's network namespace, so that boxes are reached over
the same bridge whether they are containers or machines. It never waits for one attempt to fail:

    attempt 1  SYN ............................ (given up after 1 s)
    attempt 2     SYN .........................
    attempt 3        SYN  SYN-ACK -> connected: wins; the others are closed

A new attempt is made every 1 % of the time waited so far, but at least every 20 ms and at most
every 1 ms: a stamp is late by at most 1 % of itself or 1 ms. A box that does not exist yet drops
the SYN, and TCP would repeat it only after a second (RFC 6298). An attempt costs 20 us when hot and
200 us after a sleep, nearly all for waking up: 10 % of one core in the first tenth of a second, 1
to 2 % from the second on.

The caller makes the first attempt, on a socket that the thread keeps ready: a socket stays in the
namespace it was made in, whichever thread uses it (network_namespaces(7)). So a box that answers at
once is not charged with the waking of a thread (for `http`: before it is connected).

For `http` the stamp is taken when the full header with the wanted status has arrived. The body is
read to its end afterwards and kept, so that arms can be compared by what they served. Any other
status counts as not ready, and the next attempt follows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from harness.model import Readiness, ReadinessKind

SHORTEST_INTERVAL_NS = 1_000_000
LONGEST_INTERVAL_NS = 20_000_000
INTERVAL_SHARE = 100
"""A new attempt every `elapsed / INTERVAL_SHARE`, within the two bounds above."""
ATTEMPT_PATIENCE_NS = 1_000_000_000
"""How long an attempt may stay without an answer: as long as TCP's first retransmission timer."""
BODY_PATIENCE_NS = 5_000_000_000
"""How long the body may take to arrive once the header has."""
BODY_LIMIT_BYTES = 64 << 20
HEADER_LIMIT_BYTES = 64 << 10
_RECEIVE_BYTES = 256 << 10
_HEADER_END = b"\r\n\r\n"


@dataclass(eq=False, slots=True)
class Probe:
    """Asks the prober about one box, and holds its answer when there is one.

    Attributes:
        endpoint: Address and port to connect to.
        deadline_ns: Of the whole probe, on the monotonic clock.
        cancel: Called with the probe when it is closed.
        wake_fd: An eventfd(2) that becomes readable when the probe has finished.
        ready_at_ns: `time.monotonic_ns()` at which the condition first held; None until it does.
        body: The body of the answer, for `http`; None if it did not arrive whole.
        finished: Whether nothing more will happen.
        last_result: In a few words what the last attempt met, for the error of a timeout.
    """

    readiness: Readiness
    endpoint: tuple[str, int]
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


@dataclass(eq=False, slots=True)
class _Attempt:
    """One connection on its way; refused at once, it is closed and `refusal` has the reason."""

    connection: socket.socket
    begun_ns: int
    connected_at_ns: int | None = None
    refusal: str | None = None
    received: bytearray = field(default_factory=bytearray)


class _Attempts:
    """The attempts of one probe, on the prober's thread; the caller may have made the first."""

    def __init__(
        self, probe: Probe, selector: selectors.BaseSelector, first: _Attempt | None
    ) -> None:
        self.probe = probe
        self._selector = selector
        self._begun_ns = time.monotonic_ns() if first is None else first.begun_ns
        self._attempts: list[_Attempt] = []
        self._answer: _Answer | None = None
        self.next_due_ns = self._begun_ns
        if first is not None:
            self._follow(first)
            self.next_due_ns += SHORTEST_INTERVAL_NS

    def advance(self, now_ns: int) -> None:
        """Give up what is too old, begin what is due, and set `next_due_ns`."""
        if self._answer is not None:
            if now_ns >= self._answer.deadline_ns:
                self.end("the body did not arrive in time")
            self.next_due_ns = self._answer.deadline_ns
            return
        if now_ns >= self.probe.deadline_ns:
            self.end(self.probe.last_result)
            return
        for attempt in [a for a in self._attempts if now_ns - a.begun_ns >= ATTEMPT_PATIENCE_NS]:
            self._drop(attempt, "no answer")
        if any(attempt.connected_at_ns for attempt in self._attempts):
            # The server accepted and has a second to reply: more connections would only queue up
            # behind it in a server that takes them one by one.
            self.next_due_ns = now_ns + LONGEST_INTERVAL_NS
            return
        if now_ns >= self.next_due_ns:
            self._follow(_begin_attempt(_new_socket(), self.probe.endpoint, now_ns))
            interval = (now_ns - self._begun_ns) // INTERVAL_SHARE
            self.next_due_ns = now_ns + min(
                max(interval, SHORTEST_INTERVAL_NS), LONGEST_INTERVAL_NS
            )

    def end(self, result: str) -> None:
        """Close every attempt and finish the probe. Idempotent."""
        self.probe.last_result = result
        for attempt in list(self._attempts):
            self._drop(attempt, result)
        if not self.probe.finished:
            self.probe.finish()

    def _follow(self, attempt: _Attempt) -> None:
        if attempt.refusal is not None:
            self.probe.last_result = attempt.refusal
            return
        self._attempts.append(attempt)
        self._selector.register(
            attempt.connection, selectors.EVENT_WRITE, lambda: self._writable(attempt)
        )
        if attempt.connected_at_ns is not None:
            self._connected(attempt, attempt.connected_at_ns)

    def _drop(self, attempt: _Attempt, result: str) -> None:
        if attempt in self._attempts:
            self._attempts.remove(attempt)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(attempt.connection)
            attempt.connection.close()
            self.probe.last_result = result

    def _writable(self, attempt: _Attempt) -> None:
        now_ns = time.monotonic_ns()
        if number := attempt.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._drop(attempt, os.strerror(number).lower())
        elif _is_connected_to_itself(attempt.connection):
            self._drop(attempt, "connection refused")
        else:
            self._connected(attempt, now_ns)

    def _connected(self, attempt: _Attempt, now_ns: int) -> None:
        attempt.connected_at_ns = now_ns
        for other in [a for a in self._attempts if a.connected_at_ns is None]:
            self._drop(other, "connected")
        if self.probe.readiness.kind is ReadinessKind.TCP:
            self.probe.ready_at_ns = now_ns
            self.end("connected")
            return
        # HTTP/1.0, so that the body needs no decoding; the same bytes for every arm, so the
        # address, which differs between instances, does not appear.
        request = f"GET {self.probe.readiness.path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        try:
            attempt.connection.send(request.encode())
        except OSError as error:
            self._drop(attempt, (error.strerror or "send failed").lower())
            return
        self.probe.last_result = "connected, no answer yet"
        self._selector.modify(
            attempt.connection, selectors.EVENT_READ, lambda: self._readable(attempt)
        )

    def _readable(self, attempt: _Attempt) -> None:
        try:
            data = attempt.connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            result = (error.strerror or "receive failed").lower()
            if self._answer is None:
                self._drop(attempt, result)
            else:
                self.end(result)
            return
        now_ns = time.monotonic_ns()
        attempt.received += data
        answer = self._answer or self._take_header(attempt, now_ns)
        if answer is None:
            if not data:
                self._drop(attempt, "closed without an answer")
            elif len(attempt.received) > HEADER_LIMIT_BYTES:
                self._drop(attempt, "an endless header")
            return
        body = attempt.received[answer.body_at :]
        if answer.length is not None and len(body) >= answer.length:
            self.probe.body = bytes(body[: answer.length])
            self.end("answered")
        elif not data:
            if answer.length is None:
                self.probe.body = bytes(body)
            self.end("answered")
        elif len(body) > BODY_LIMIT_BYTES:
            self.end(f"the body is larger than {BODY_LIMIT_BYTES >> 20} MiB")

    def _take_header(self, attempt: _Attempt, now_ns: int) -> _Answer | None:
        """Judge the header once it is whole; None unless it has the wanted status."""
        end = attempt.received.find(_HEADER_END)
        if end < 0:
            return None
        status, length = parse_header(bytes(attempt.received[:end]))
        if status != self.probe.readiness.status:
            self._drop(attempt, f"HTTP status {status}" if status else "not an HTTP answer")
            return None
        self.probe.ready_at_ns = now_ns
        self._answer = _Answer(end + len(_HEADER_END), length, now_ns + BODY_PATIENCE_NS)
        self.next_due_ns = self._answer.deadline_ns
        for other in [a for a in self._attempts if a is not attempt]:
            self._drop(other, "answered")
        return self._answer


@dataclass(frozen=True, slots=True)
class _Answer:
    """The body of the winning answer: its offset, its length if known, and its deadline."""

    body_at: int
    length: int | None
    deadline_ns: int


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _begin_attempt(connection: socket.socket, endpoint: tuple[str, int], now_ns: int) -> _Attempt:
    """Connect, and see at once whether there is an answer."""
    number = connection.connect_ex(endpoint)
    if number == errno.EINPROGRESS:
        # On one machine the answer is there before connect(2) returns, and asking again is a
        # quarter of the price of a turn through the selector.
        number = connection.connect_ex(endpoint)
    answered_at_ns = time.monotonic_ns()
    attempt = _Attempt(connection, now_ns)
    if number == errno.EALREADY:
        return attempt
    if number in (0, errno.EISCONN):
        if not _is_connected_to_itself(connection):
            attempt.connected_at_ns = answered_at_ns
            return attempt
        number = errno.ECONNREFUSED
    connection.close()
    attempt.refusal = os.strerror(number).lower()
    return attempt


def _is_connected_to_itself(connection: socket.socket) -> bool:
    """Whether a socket met itself, on a port of the local range (RFC 9293 3.5): nobody listens."""
    try:
        return bool(connection.getsockname() == connection.getpeername())
    except OSError:
        return False  # it was reset already: what reads from it finds out


def parse_header(header: bytes) -> tuple[int | None, int | None]:
    """Parse status and Content-Length of an HTTP/1 response header (RFC 9112); None if absent."""
    lines = header.split(b"\r\n")
    words = lines[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None, None
    length = None
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
    return int(words[1]), length


class Prober:
    """Runs the prober's thread.

    Args:
        enter: Called first in the thread: moves it into the lab's network namespace.
    """

    def __init__(self, enter: Callable[[], None]) -> None:
        self._enter = enter
        self._commands: deque[Callable[[], None]] = deque()
        self._spares: deque[socket.socket] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._started: Future[None] = Future()
        self._running: list[_Attempts] = []
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
        # Before all else: what comes after it is not in the time of a box that answers at once.
        endpoint = address, readiness.port
        try:
            spare = self._spares.popleft()
        except IndexError:
            first = None  # no socket is ready: the thread makes the attempt
        else:
            first = _begin_attempt(spare, endpoint, time.monotonic_ns())
        probe = Probe(readiness, endpoint, deadline_ns, self._cancel)
        if first and first.connected_at_ns and readiness.kind is ReadinessKind.TCP:
            probe.ready_at_ns = first.connected_at_ns
            probe.last_result = "connected"
            first.connection.close()
            probe.finish()
        else:
            self._submit(lambda: self._running.append(_Attempts(probe, self._selector, first)))
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

    def _submit(self, command: Callable[[], None]) -> None:
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
                    self._spares.append(_new_socket())
                self._turn(selector)
            for attempts in self._running:
                attempts.end("the lab was closed")
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
        self._running = [one for one in self._running if not one.probe.finished]

    def _take_commands(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._commands:
            self._commands.popleft()()

    def _give_up(self, probe: Probe) -> None:
        for attempts in self._running:
            if attempts.probe is probe:
                attempts.end("cancelled")
