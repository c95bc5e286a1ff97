"""The prober against what servers do to `http`: on loopback, with real sockets."""

from __future__ import annotations

import select
import selectors
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from harness.lab import attempts
from harness.lab.endpoints import NetworkEndpoint
from harness.lab.prober import Probe, Prober
from harness.model import Readiness, ReadinessKind

ADDRESS = "127.0.0.1"
OK = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"
PATIENCE_S = 30


@pytest.fixture
def prober() -> Iterator[Prober]:
    with closing(Prober(lambda: None)) as one:
        yield one


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listener that a thread serves in its own way; yields its port."""
    listener = socket.create_server((ADDRESS, 0))
    listener.settimeout(PATIENCE_S)

    def work() -> None:
        with suppress(OSError):  # the test is over
            serve(listener)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def replying(*pieces: bytes, hold: bool = False) -> Iterator[int]:
    """A server that sends the pieces to each who asks; with `hold` it leaves the ending to him."""

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.recv(4096)
                for piece in pieces:
                    connection.sendall(piece)
                if hold:
                    connection.recv(1)

    with listening(serve) as port:
        yield port


def page(port: int, status: int = 200, *, tls: bool = False) -> Readiness:
    return Readiness(ReadinessKind.HTTP, port=port, status=status, tls=tls)


def asked(prober: Prober, readiness: Readiness, patience_s: float = PATIENCE_S) -> Probe:
    """Ask, and wait for the end."""
    probe = prober.probe(readiness, ADDRESS, time.monotonic_ns() + round(patience_s * 1e9))
    assert select.select([probe.wake_fd], [], [], 2 * PATIENCE_S)[0]
    assert probe.finished
    return probe


@pytest.mark.parametrize(
    ("pieces", "status", "body"),
    [
        ((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,), 200, b"hi"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\n\r\nHT", OK[2:]), 200, b"hi"),
        ((b"HTTP/1.0 200 OK\nContent-Length: 2\n\nhi",), 200, b"hi"),
        ((b"HTTP/1.0 200 OK\nContent-Length: 2\r\n\nhi",), 200, b"hi"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), 204, b""),
        ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",), 304, b""),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",), 200, b""),
    ],
)
def test_answers_whose_end_is_known_need_no_end_of_the_connection(
    prober: Prober, pieces: tuple[bytes, ...], status: int, body: bytes
) -> None:
    with replying(*pieces, hold=True) as port, closing(asked(prober, page(port, status))) as probe:
        assert probe.ready_at_ns is not None
        assert probe.body == body


def test_a_body_in_chunks_ends_with_the_connection(prober: Prober) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"
    body = b"2\r\nhi\r\n0\r\n\r\n"
    with replying(chunked, body) as port, closing(asked(prober, page(port))) as probe:
        assert probe.body == body


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "not HTTP: it sent 'SSH-2.0-OpenSSH_9.2p…'"),
        (b"+OK\r\n", r"not HTTP: it sent '+OK\r\n'"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "that is TLS: set readiness.tls = true"),
        (b"HTTP/1.0 fine\r\n\r\n", "not HTTP: it sent 'HTTP/1.0 fine"),
    ],
)
def test_what_is_not_http_is_shown(prober: Prober, sent: bytes, said: str) -> None:
    # The connection stays open: the first bytes are enough.
    with replying(sent, hold=True) as port:
        probe = prober.probe(page(port), ADDRESS, time.monotonic_ns() + PATIENCE_S * 10**9)
        with closing(probe):
            while said not in probe.last_result:
                assert not probe.finished, probe.last_result
                time.sleep(0.001)


def test_a_server_may_take_long_for_its_first_answer(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first connection is answered after ten others were begun beside it and hardly held."""
    monkeypatch.setattr(attempts, "ATTEMPT_PATIENCE_NS", 5_000_000)
    monkeypatch.setattr(attempts, "FIRST_REPEAT_NS", 2_000_000)
    monkeypatch.setattr(attempts, "LAST_REPEAT_NS", 5_000_000)
    most_open = 0

    def serve(listener: socket.socket) -> None:
        nonlocal most_open
        with ExitStack() as stack:
            first, *others = connections = [
                stack.enter_context(listener.accept()[0]) for _ in range(11)
            ]
            for connection in connections:
                connection.recv(4096)
            closed = [one for one in others if select.select([one], [], [], 0)[0]]
            most_open = len(connections) - len(closed)
            first.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
            first.recv(1)

    with listening(serve) as port, closing(asked(prober, page(port))) as probe:
        assert probe.body == b"first"
    assert most_open <= attempts.MOST_CONNECTED


def test_a_connection_that_nobody_answers_does_not_keep_others_from_it(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FIRST_REPEAT_NS", 2_000_000)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0], listener.accept()[0] as second:
            second.recv(4096)
            second.sendall(OK)
            second.recv(1)

    with listening(serve) as port, closing(asked(prober, page(port))) as probe:
        assert probe.body == b"hi"


def test_a_connection_that_waits_is_joined_by_few(prober: Prober) -> None:
    """In a third of a second none is begun beside it: a server is not hammered."""
    hits = 0

    def serve(listener: socket.socket) -> None:
        nonlocal hits
        with ExitStack() as stack:
            while True:
                stack.enter_context(listener.accept()[0])
                hits += 1

    with listening(serve) as port, closing(asked(prober, page(port), 0.3)) as probe:
        assert probe.ready_at_ns is None
        assert probe.last_result == "connected, no answer yet"
    assert hits == 1


@pytest.mark.parametrize("early", [b"HTTP/1.0 503 Wait\r\n\r\n", b"", b"+OK\r\n"])
def test_a_connection_that_ends_is_followed_without_waiting_for_a_repeat(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, early: bytes
) -> None:
    """An answer that is not the wanted one comes twice; a repeat would come after the deadline."""
    monkeypatch.setattr(attempts, "FIRST_REPEAT_NS", 10 * PATIENCE_S * 10**9)

    def serve(listener: socket.socket) -> None:
        for answer in (early, early, OK):
            with listener.accept()[0] as connection:
                connection.recv(4096)
                # By now the attempts wait for the answer, and nothing else is due.
                time.sleep(0.03)
                connection.sendall(answer)

    with listening(serve) as port, closing(asked(prober, page(port))) as probe:
        assert probe.ready_at_ns is not None, probe.last_result
        assert probe.body == b"hi"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        f"-keyout {path} -out {path}.crt -days 2 -subj /CN=elsewhere.example"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.mark.parametrize("size", [0, 2, 300_000])
def test_https_is_read_to_its_end_and_no_certificate_is_verified(
    prober: Prober, certificate: Path, size: int
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = bytes(range(250)) * (size // 250) + b"x" * (size % 250)

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as one:
                assert one.recv(4096).startswith(b"GET / HTTP/1.0\r\n")
                one.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
                one.recv(1)

    with listening(serve) as port, closing(asked(prober, page(port, tls=True))) as probe:
        assert probe.ready_at_ns is not None
        assert probe.body == body


def test_a_server_without_tls_is_called_that(prober: Prober) -> None:
    not_tls = replying(b"HTTP/1.0 400 Bad\r\n\r\n")
    with not_tls as port, closing(asked(prober, page(port, tls=True), 0.2)) as probe:
        assert probe.ready_at_ns is None
        assert probe.last_result.startswith("no TLS: ")


# Python's own wrapper is not closed then, before 3.12.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_is_reset_before_tls_begins_is_an_attempt_that_failed() -> None:
    with socket.create_server((ADDRESS, 0)) as listener:
        readiness = page(listener.getsockname()[1], tls=True)
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
    poll = select.poll()
    poll.register(client, 0)
    assert poll.poll(PATIENCE_S * 1000)  # the reset has come
    endpoint = NetworkEndpoint(ADDRESS, readiness.port or 0)
    now_ns = time.monotonic_ns()
    probe = Probe(readiness, endpoint, now_ns + 10**9, lambda _: None)
    with closing(probe), selectors.DefaultSelector() as selector:
        attempts.Attempts(probe, selector, attempts.Attempt(client, now_ns, now_ns))
        assert probe.last_result == "no TLS: connection reset by peer"
        assert not selector.get_map()


@pytest.mark.parametrize("kind", [ReadinessKind.TCP, ReadinessKind.HTTP])
def test_a_unix_socket_is_found_below_the_processes_root(
    prober: Prober, tmp_path: Path, kind: ReadinessKind
) -> None:
    path = tmp_path / "folder" / "app.sock"
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    asks = Readiness(kind, socket=str(tmp_path / "link" / "app.sock"))
    child = subprocess.Popen(["sleep", "60"])
    try:
        probe = prober.probe_inside(asks, child.pid, time.monotonic_ns() + PATIENCE_S * 10**9)
        with closing(probe), socket.socket(socket.AF_UNIX) as listener:
            # Until here there was no such file.
            assert not probe.finished
            listener.bind(str(path))
            listener.listen()
            connection, _ = listener.accept()
            with connection:
                if kind is ReadinessKind.HTTP:
                    connection.recv(4096)
                    connection.sendall(OK)
                assert select.select([probe.wake_fd], [], [], PATIENCE_S)[0]
            assert probe.body == (b"hi" if kind is ReadinessKind.HTTP else None)
            assert probe.ready_at_ns is not None
    finally:
        child.kill()
        child.wait()
