"""The attempts of one probe to be answered, on the prober's thread.

```
 before it is connected                            once it is (http)
 attempt 1  SYN ......... (given up after 1 s)     attempt 4  request ................ answer: wins
 attempt 2     SYN ......                          attempt 5     after 1 s: request ..
 attempt 3        SYN                              attempt 6        1.5 s later, and so on
 attempt 4           SYN  SYN-ACK -> connected; the others are closed
```

A new attempt is made every 1 % of the time waited so far, but at least every 20 ms and at most
every 1 ms: a stamp is late by at most 1 % of itself or 1 ms. A box that does not exist yet drops
the SYN, and TCP would repeat it only after a second (RFC 6298).

A connection is never given up before the deadline: a server may take long for its first answer.
Another one is begun beside it now and then, since the connection may have been accepted by
something that never passes it on: a listener whose worker came later, a forwarder in front of a
guest that was not there. Each costs the server a request, so they come 1 s after the first, 1.5 s
after that, and so on up to 5 s, and of at most five the second oldest makes room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from harness.lab import http
from harness.lab.endpoints import Endpoint
from harness.model import Readiness, ReadinessKind

SHORTEST_INTERVAL_NS = 1_000_000
LONGEST_INTERVAL_NS = 20_000_000
INTERVAL_SHARE = 100
"""A new attempt every `elapsed / INTERVAL_SHARE`, within the two bounds above."""
ATTEMPT_PATIENCE_NS = 1_000_000_000
"""How long an attempt may take to connect: as long as TCP's first retransmission timer."""
FIRST_REPEAT_NS = 1_000_000_000
LAST_REPEAT_NS = 5_000_000_000
MOST_CONNECTED = 5
BODY_PATIENCE_NS = 5_000_000_000
"""How long the body may take to arrive once the header has."""
_RECEIVE_BYTES = 256 << 10


class Asked(Protocol):
    """The part of `harness.lab.prober.Probe` that its attempts use."""

    readiness: Readiness
    endpoint: Endpoint
    deadline_ns: int
    ready_at_ns: int | None
    body: bytes | None
    finished: bool
    last_result: str

    def finish(self) -> None:
        """Report that nothing more will happen."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One connection on its way; refused at once, it is closed and `refusal` has the reason."""

    connection: socket.socket
    begun_ns: int
    connected_at_ns: int | None = None
    refusal: str | None = None
    received: bytearray = field(default_factory=bytearray)


class Attempts:
    """The attempts of one probe; the caller of the prober may have made the first."""

    def __init__(
        self, probe: Asked, selector: selectors.BaseSelector, first: Attempt | None
    ) -> None:
        self.probe = probe
        self._selector = selector
        self._begun_ns = time.monotonic_ns() if first is None else first.begun_ns
        self._attempts: list[Attempt] = []
        self._header: http.Header | None = None
        self._body_deadline_ns = 0
        self._repeat_after_ns = FIRST_REPEAT_NS
        self._repeat_due_ns = 0
        self.next_due_ns = self._begun_ns
        if first is not None:
            self._follow(first)
            self.next_due_ns += SHORTEST_INTERVAL_NS

    def advance(self, now_ns: int) -> None:
        """Give up what is too old, begin what is due, and set `next_due_ns`."""
        if self._header is not None:
            if now_ns >= self._body_deadline_ns:
                self.end("the body did not arrive in time")
            self.next_due_ns = self._body_deadline_ns
            return
        if now_ns >= self.probe.deadline_ns:
            self.end(self.probe.last_result)
            return
        for attempt in self._connecting():
            if now_ns - attempt.begun_ns >= ATTEMPT_PATIENCE_NS:
                self._drop(attempt, "no answer")
        if self._connected_ones():
            self._repeat(now_ns)
        elif now_ns >= self.next_due_ns:
            self._begin(now_ns)
            self.next_due_ns = now_ns + interval_ns(now_ns - self._begun_ns)

    def end(self, result: str) -> None:
        """Close every attempt and finish the probe. Idempotent."""
        self.probe.last_result = result
        for attempt in list(self._attempts):
            self._drop(attempt, result)
        if not self.probe.finished:
            self.probe.finish()

    def _connecting(self) -> list[Attempt]:
        return [attempt for attempt in self._attempts if attempt.connected_at_ns is None]

    def _connected_ones(self) -> list[Attempt]:
        return [attempt for attempt in self._attempts if attempt.connected_at_ns is not None]

    def _repeat(self, now_ns: int) -> None:
        """Beside connections that wait for their answer, begin another one when it is time."""
        if now_ns >= self._repeat_due_ns:
            connected = self._connected_ones()
            if len(connected) >= MOST_CONNECTED:
                self._drop(connected[1], self.probe.last_result)
            self._repeat_after_ns = min(self._repeat_after_ns * 3 // 2, LAST_REPEAT_NS)
            self._repeat_due_ns = now_ns + self._repeat_after_ns
            result = self.probe.last_result
            self._begin(now_ns)
            self.probe.last_result = result
        expiries = [one.begun_ns + ATTEMPT_PATIENCE_NS for one in self._connecting()]
        self.next_due_ns = min([self._repeat_due_ns, *expiries])

    def _begin(self, now_ns: int) -> None:
        try:
            connection = self.probe.endpoint.new_socket()
        except OSError as error:
            self.probe.last_result = (error.strerror or "no socket").lower()
            return
        self._follow(begin_attempt(connection, self.probe.endpoint, now_ns))

    def _follow(self, attempt: Attempt) -> None:
        if attempt.refusal is not None:
            self.probe.last_result = attempt.refusal
            return
        self._attempts.append(attempt)
        self._watch(attempt, selectors.EVENT_WRITE, self._writable)
        if attempt.connected_at_ns is not None:
            self._connected(attempt, attempt.connected_at_ns)

    def _watch(self, attempt: Attempt, events: int, call: Callable[[Attempt], None]) -> None:
        """Have `call` called with the attempt when its socket is ready for `events`."""

        def ready() -> None:
            call(attempt)

        with contextlib.suppress(KeyError):
            self._selector.unregister(attempt.connection)
        self._selector.register(attempt.connection, events, ready)

    def _drop(self, attempt: Attempt, result: str) -> None:
        if attempt in self._attempts:
            self._attempts.remove(attempt)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(attempt.connection)
            attempt.connection.close()
            self.probe.last_result = result
            if attempt.connected_at_ns is not None and not self._connected_ones():
                # What was due beside it is a repeat of seconds: now there is none to wait for.
                waited_ns = time.monotonic_ns() - self._begun_ns
                next_due_ns = attempt.begun_ns + interval_ns(waited_ns)
                self.next_due_ns = min(self.next_due_ns, next_due_ns)

    def _writable(self, attempt: Attempt) -> None:
        now_ns = time.monotonic_ns()
        if number := attempt.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._drop(attempt, os.strerror(number).lower())
        elif is_connected_to_itself(attempt.connection):
            self._drop(attempt, "connection refused")
        else:
            self._connected(attempt, now_ns)

    def _connected(self, attempt: Attempt, now_ns: int) -> None:
        attempt.connected_at_ns = now_ns
        for other in self._connecting():
            self._drop(other, "connected")
        if self.probe.readiness.kind is ReadinessKind.TCP:
            self.probe.ready_at_ns = now_ns
            self.end("connected")
            return
        if not any(one.connected_at_ns for one in self._attempts if one is not attempt):
            self._repeat_after_ns = FIRST_REPEAT_NS
            self._repeat_due_ns = now_ns + FIRST_REPEAT_NS
        self.probe.last_result = "connected, no answer yet"
        if self.probe.readiness.tls:
            self._selector.unregister(attempt.connection)
            try:
                # The plain socket gives its descriptor to the new one.
                attempt.connection = http.tls_context().wrap_socket(
                    attempt.connection, do_handshake_on_connect=False, server_hostname="localhost"
                )
            except OSError as error:  # it reads from what is no longer connected
                self._drop(attempt, _tls_failure(error))
                return
            self._shake_hands(attempt)
        else:
            self._send_request(attempt)

    def _shake_hands(self, attempt: Attempt) -> None:
        import ssl

        assert isinstance(attempt.connection, ssl.SSLSocket)
        try:
            attempt.connection.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(attempt, selectors.EVENT_READ, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._watch(attempt, selectors.EVENT_WRITE, self._shake_hands)
        except OSError as error:
            self._drop(attempt, _tls_failure(error))
        else:
            self._send_request(attempt)

    def _send_request(self, attempt: Attempt) -> None:
        try:
            attempt.connection.send(http.request(self.probe.readiness.path))
        except OSError as error:
            self._drop(attempt, (error.strerror or "send failed").lower())
            return
        self._watch(attempt, selectors.EVENT_READ, self._readable)

    def _readable(self, attempt: Attempt) -> None:
        # TLS may hold more than it gave: nothing would say so but asking again.
        while self._receive(attempt) and self.probe.readiness.tls and attempt in self._attempts:
            pass

    def _receive(self, attempt: Attempt) -> bool:
        """Take in what has come; False when there is nothing more for now."""
        try:
            data = attempt.connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if self.probe.readiness.tls and _wants_more(error):
                return False
            result = (error.strerror or "receive failed").lower()
            if self._header is None:
                self._drop(attempt, result)
            else:
                self.end(result)
            return False
        now_ns = time.monotonic_ns()
        attempt.received += data
        header = self._header or self._take_header(attempt, now_ns)
        if header is not None:
            self._take_body(attempt, header, has_ended=not data)
        elif attempt in self._attempts:
            if not data:
                self._drop(attempt, "closed without an answer")
            elif len(attempt.received) > http.HEADER_LIMIT_BYTES:
                self._drop(attempt, "an endless header")
        return bool(data)

    def _take_header(self, attempt: Attempt, now_ns: int) -> http.Header | None:
        """Judge the header once it is whole; None unless it has the wanted status."""
        try:
            header = http.read_header(attempt.received)
        except http.NotHttpError as error:
            self._drop(attempt, str(error))
            return None
        if header is None:
            return None
        if header.status != self.probe.readiness.status:
            self._drop(attempt, f"HTTP status {header.status}")
            return None
        self.probe.ready_at_ns = now_ns
        self._header = header
        self.next_due_ns = self._body_deadline_ns = now_ns + BODY_PATIENCE_NS
        for other in [one for one in self._attempts if one is not attempt]:
            self._drop(other, "answered")
        return header

    def _take_body(self, attempt: Attempt, header: http.Header, *, has_ended: bool) -> None:
        length, come = header.body_bytes, len(attempt.received) - header.body_at
        if length is not None and come >= length:
            self.probe.body = bytes(attempt.received[header.body_at : header.body_at + length])
            self.end("answered")
        elif has_ended:
            if length is None:
                self.probe.body = bytes(attempt.received[header.body_at :])
            self.end("answered")
        elif come > http.BODY_LIMIT_BYTES:
            self.end(f"the body is larger than {http.BODY_LIMIT_BYTES >> 20} MiB")


def interval_ns(waited_ns: int) -> int:
    """How long after an attempt the next one follows, by how long has been waited so far."""
    return min(max(waited_ns // INTERVAL_SHARE, SHORTEST_INTERVAL_NS), LONGEST_INTERVAL_NS)


def begin_attempt(connection: socket.socket, endpoint: Endpoint, now_ns: int) -> Attempt:
    """Connect, and see at once whether there is an answer."""
    number = endpoint.connect(connection)
    if number == errno.EINPROGRESS:
        # On one machine the answer is there before connect(2) returns, and asking again is a
        # quarter of the price of a turn through the selector.
        number = endpoint.connect(connection)
    answered_at_ns = time.monotonic_ns()
    attempt = Attempt(connection, now_ns)
    if number == errno.EALREADY:
        return attempt
    if number in (0, errno.EISCONN):
        if not is_connected_to_itself(connection):
            attempt.connected_at_ns = answered_at_ns
            return attempt
        number = errno.ECONNREFUSED
    connection.close()
    attempt.refusal = os.strerror(number).lower()
    return attempt


def is_connected_to_itself(connection: socket.socket) -> bool:
    """Whether a socket met itself, on a port of the local range (RFC 9293 3.5): nobody listens."""
    if connection.family == socket.AF_UNIX:
        return False
    try:
        return bool(connection.getsockname() == connection.getpeername())
    except OSError:
        return False  # it was reset already: what reads from it finds out


def _wants_more(error: OSError) -> bool:
    """Whether TLS needs another packet before it can give data."""
    import ssl

    return isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError)


def _tls_failure(error: OSError) -> str:
    import ssl

    if isinstance(error, ssl.SSLError) and error.reason is not None:
        return f"no TLS: {error.reason.replace('_', ' ').lower()}"
    return f"no TLS: {(error.strerror or 'closed').lower()}"
