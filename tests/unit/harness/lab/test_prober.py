"""The prober on loopback: who makes the first attempt, and what a server can do to it."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from harness.lab.attempts import is_connected_to_itself
from harness.lab.prober import Probe, Prober
from harness.model import Readiness, ReadinessKind

ADDRESS = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close(2) resets


@pytest.fixture
def prober() -> Iterator[Prober]:
    with closing(Prober(lambda: None)) as one:
        yield one


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on loopback that does something to each connection; yields its port."""
    listener = socket.create_server((ADDRESS, 0))
    listener.settimeout(0.1)
    end = threading.Event()

    def serve() -> None:
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        end.set()
        thread.join()
        listener.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def reply(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")


def asked(prober: Prober, readiness: Readiness) -> Probe:
    """Ask, and wait for the end."""
    probe = prober.probe(readiness, ADDRESS, time.monotonic_ns() + 20 * 10**9)
    if not probe.finished:
        assert select.select([probe.wake_fd], [], [], 30)[0]
    assert probe.finished
    return probe


def tcp(port: int) -> Readiness:
    return Readiness(ReadinessKind.TCP, port=port)


def page(port: int) -> Readiness:
    return Readiness(ReadinessKind.HTTP, port=port, path="/", status=200)


def test_an_open_port_is_answered_where_it_is_asked(prober: Prober) -> None:
    with server(lambda _: None) as port:
        begun_ns = time.monotonic_ns()
        probe = prober.probe(tcp(port), ADDRESS, begun_ns + 10**9)
        assert probe.finished
        assert probe.ready_at_ns is not None
        assert begun_ns <= probe.ready_at_ns <= time.monotonic_ns()
        probe.close()


def test_without_a_spare_socket_the_thread_makes_the_first_attempt(prober: Prober) -> None:
    with server(lambda _: None) as port:
        while not prober._spares:
            time.sleep(0.001)
        prober._spares.pop().close()
        with closing(asked(prober, tcp(port))) as probe:
            assert probe.ready_at_ns is not None


def test_what_is_connected_at_once_is_asked_for_its_page(prober: Prober) -> None:
    with server(reply) as port, closing(asked(prober, page(port))) as probe:
        assert probe.ready_at_ns is not None
        assert probe.body == b"hi"


def test_a_server_that_resets_what_it_accepts_does_not_end_the_prober(prober: Prober) -> None:
    with server(reset) as port:
        probe = prober.probe(page(port), ADDRESS, time.monotonic_ns() + 200_000_000)
        assert select.select([probe.wake_fd], [], [], 30)[0]
        assert probe.ready_at_ns is None
        probe.close()
    with server(reply) as port, closing(asked(prober, page(port))) as probe:
        assert probe.body == b"hi"


def test_a_connection_that_was_reset_is_none_to_itself() -> None:
    with socket.create_server((ADDRESS, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        reset(accepted)
        accepted.close()
        with client:
            select.select([client], [], [], 10)
            with pytest.raises(OSError, match="not connected"):
                client.getpeername()
            assert not is_connected_to_itself(client)


def test_a_closed_port_is_refused_until_the_deadline(prober: Prober) -> None:
    with socket.create_server((ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]
    deadline_ns = time.monotonic_ns() + 50_000_000
    probe = prober.probe(tcp(port), ADDRESS, deadline_ns)
    assert select.select([probe.wake_fd], [], [], 30)[0]
    assert probe.ready_at_ns is None
    assert "refused" in probe.last_result
    probe.close()
