"""The lab on the real kernel: its network, and the prober in it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.lab import GATEWAY, Lab, LabError, lease_at
from harness.lab.prober import Probe
from harness.model import Readiness, ReadinessKind
from harness.model.network import Lease
from runtime.linux.syscalls import enter_network_namespace

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("nothing_left")]

TCP = Readiness(ReadinessKind.TCP, port=8000)
HTTP = Readiness(ReadinessKind.HTTP, port=8000, path="/page")


@pytest.fixture
def lab(nothing_left: None) -> Iterator[Lab]:
    try:
        made = Lab()
    except LabError as error:
        pytest.skip(str(error))
    with made:
        yield made


@contextlib.contextmanager
def box(lab: Lab) -> Iterator[tuple[Lease, int]]:
    """A container's network without a container."""
    lease = lab.lease()
    fd = lab.attach_container(lease)
    try:
        yield lease, fd
    finally:
        lab.release(lease)
        os.close(fd)


def inside(fd: int, function: Callable[[], None]) -> threading.Thread:
    """Run something in a network namespace, on a thread that ends with it."""

    def work() -> None:
        enter_network_namespace(fd)
        function()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def answer(probe: Probe, timeout_s: float = 5) -> Probe:
    assert select.select([probe.wake_fd], [], [], timeout_s)[0], probe.last_result
    assert probe.finished
    return probe


def deadline(seconds: float) -> int:
    return time.monotonic_ns() + round(seconds * 1e9)


class Server:
    """Listens in a namespace from a moment on and gives each connection the next answer."""

    def __init__(self, fd: int, *answers: bytes, delay_s: float = 0, hold: bool = False) -> None:
        self.requests: list[bytes] = []
        self.listening_ns = 0
        self._answers, self._delay_s, self._hold = answers, delay_s, hold
        self._thread = inside(fd, self._serve)

    def _serve(self) -> None:
        time.sleep(self._delay_s)
        with socket.create_server(("", 8000)) as listener:
            self.listening_ns = time.monotonic_ns()
            listener.settimeout(5)
            for reply in self._answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    self.requests.append(connection.recv(4096))
                    for piece in reply.split(b"|"):
                        connection.sendall(piece)
                        time.sleep(0.01)
                    if self._hold:
                        connection.recv(1)

    def join(self) -> None:
        self._thread.join()


OK = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_leases_follow_their_index() -> None:
    assert lease_at(2) == Lease(2, "10.77.0.2", "02:53:0a:4d:00:02", "sy2")
    assert lease_at(258).address == "10.77.1.2"
    assert lease_at(258).mac_bytes == b"\x02\x53\x0a\x4d\x01\x02"


def test_addresses_are_not_used_again_at_once(lab: Lab) -> None:
    first = lab.lease()
    lab.release(first)
    second = lab.lease()
    assert (first.address, second.address) == ("10.77.0.2", "10.77.0.3")
    lab.release(first)
    lab.release(second)
    lab.release(second)


def test_a_lab_is_not_the_hosts_network(lab: Lab) -> None:
    assert "steelyard0" not in os.listdir("/sys/class/net")
    names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
    assert names == ["lo", "steelyard0"]
    with box(lab) as (lease, _):
        names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
        assert names == ["lo", "steelyard0", lease.name]
    names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
    assert names == ["lo", "steelyard0"]


def test_a_container_has_an_address_a_loopback_and_a_way_out(lab: Lab) -> None:
    seen: dict[str, object] = {}

    def look() -> None:
        seen["interfaces"] = [name for _, name in socket.if_nameindex()]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
            outward.connect(("192.0.2.1", 9))
            seen["address"] = outward.getsockname()[0]
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=1).close()
            seen["loopback"] = True

    with box(lab) as (lease, fd):
        inside(fd, look).join()
        assert seen == {
            "interfaces": ["lo", "eth0"], "address": lease.address, "loopback": True,
        }  # fmt: skip


def test_what_is_known_of_a_neighbour_outlives_what_happens_to_the_bridge(lab: Lab) -> None:
    """Otherwise ARP has to find it out, and a lost ARP request is repeated after a second."""

    def known() -> dict[str, tuple[str, str]]:
        table = Path("/proc/thread-self/net/arp").read_text().splitlines()[1:]
        return {words[0]: (words[2], words[3]) for words in (line.split() for line in table)}

    first = lab.lease()
    permanent = "0x6"  # ATF_COM | ATF_PERM, linux/if_arp.h
    with box(lab) as (lease, fd):
        inside(fd, lambda: None).join()
        answer(lab.probe(TCP, lease.address, deadline(0.05))).close()
        assert lab.call(known) == {
            first.address: (permanent, first.mac), lease.address: (permanent, lease.mac),
        }  # fmt: skip
    assert lab.call(known) == {first.address: (permanent, first.mac)}
    lab.release(first)
    assert lab.call(known) == {}


def test_a_tap_belongs_to_the_lab_and_goes_with_its_descriptor(lab: Lab) -> None:
    lease = lab.lease()
    fd = lab.open_tap(lease)
    names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
    assert lease.name in names
    os.close(fd)
    lab.release(lease)
    names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
    assert lease.name not in names


def test_a_tap_goes_also_while_somebody_holds_it(lab: Lab) -> None:
    lease = lab.lease()
    fd = lab.open_tap(lease)
    lab.release(lease)
    names = lab.call(lambda: [name for _, name in socket.if_nameindex()])
    assert lease.name not in names
    os.close(fd)


@pytest.mark.parametrize("readiness", [TCP, HTTP])
@pytest.mark.parametrize("delay_s", [0, 0.15])
def test_the_stamp_is_close_to_when_it_began_to_listen(
    lab: Lab, readiness: Readiness, delay_s: float
) -> None:
    late_ms = []
    for _ in range(5):
        with box(lab) as (lease, fd):
            server = Server(fd, OK, delay_s=delay_s)
            probe = lab.probe(readiness, lease.address, deadline(5))
            answer(probe)
            assert probe.ready_at_ns is not None
            server.join()
            probe.close()
            late_ms.append((probe.ready_at_ns - server.listening_ns) / 1e6)
    # 1 ms of resolution and the exchange itself; the best of five, since the host is not ours.
    assert -1 <= min(late_ms) < 5, late_ms


def test_http_reads_the_whole_body_and_asks_for_the_path(lab: Lab) -> None:
    body = bytes(range(256)) * 4000
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n" + body.replace(b"|", b"!")
    with box(lab) as (lease, fd):
        server = Server(fd, whole)
        probe = answer(lab.probe(HTTP, lease.address, deadline(5)))
        server.join()
        assert probe.body == body.replace(b"|", b"!")
        assert server.requests == [b"GET /page HTTP/1.0\r\nHost: localhost\r\n\r\n"]
        probe.close()


def test_http_stamps_the_header_and_not_the_body(lab: Lab) -> None:
    slowly = b"HTTP/1.0 200 OK\r\nContent-Len|gth: 5\r\n\r\n|h|e|l|l|o"
    with box(lab) as (lease, fd):
        server = Server(fd, slowly, hold=True)
        probe = answer(lab.probe(HTTP, lease.address, deadline(5)))
        finished_ns = time.monotonic_ns()
        probe.close()
        server.join()
        assert probe.body == b"hello"
        assert probe.ready_at_ns is not None
        assert finished_ns - probe.ready_at_ns > 35e6  # five pieces, 10 ms apart


def test_other_answers_than_the_wanted_one_are_not_ready(lab: Lab) -> None:
    not_yet = (b"HTTP/1.0 503 Wait\r\n\r\n", b"", b"gibberish\r\n\r\n", b"HTTP/1.0 200 OK\r\n")
    with box(lab) as (lease, fd):
        server = Server(fd, *not_yet, OK)
        probe = answer(lab.probe(HTTP, lease.address, deadline(5)))
        server.join()
        assert probe.body == b"hello"
        assert len(server.requests) == 5
        probe.close()


def test_a_connection_that_never_replies_does_not_end_the_probing(lab: Lab) -> None:
    with box(lab) as (lease, fd):
        done = threading.Event()

        def serve() -> None:
            with socket.create_server(("", 8000)) as listener:
                silent, _ = listener.accept()
                # An attempt that lost the race to the silent one is closed without a request.
                with silent:
                    while not done.is_set():
                        connection, _ = listener.accept()
                        with connection, contextlib.suppress(ConnectionError):
                            if connection.recv(4096):
                                connection.sendall(OK)
                                done.wait(5)

        thread = inside(fd, serve)
        probe = answer(lab.probe(HTTP, lease.address, deadline(5)))
        body, result = probe.body, probe.last_result
        probe.close()
        done.set()
        thread.join()
        assert (body, result) == (b"hello", "answered")


@pytest.mark.parametrize(
    ("readiness", "listens", "result"),
    [(TCP, False, "connection refused"), (HTTP, False, "connection refused"),
     (HTTP, True, "connected, no answer yet")],
)  # fmt: skip
def test_a_deadline_ends_a_probe_and_says_what_it_met(
    lab: Lab, readiness: Readiness, *, listens: bool, result: str
) -> None:
    with box(lab) as (lease, fd):
        done = threading.Event()

        listening = threading.Event()

        def listen() -> None:
            with socket.create_server(("", 8000)):
                listening.set()
                done.wait(5)

        thread = inside(fd, listen) if listens else None
        assert thread is None or listening.wait(5)
        begun = time.monotonic()
        probe = answer(lab.probe(readiness, lease.address, deadline(0.1)))
        assert 0.08 < time.monotonic() - begun < 1
        assert (probe.ready_at_ns, probe.body, probe.last_result) == (None, None, result)
        probe.close()
        done.set()
        if thread is not None:
            thread.join()


def test_a_machine_that_is_not_there_yet_is_no_answer(lab: Lab) -> None:
    lease = lab.lease()
    fd = lab.open_tap(lease)
    begun = time.process_time()
    probe = answer(lab.probe(TCP, lease.address, deadline(1)))
    assert probe.ready_at_ns is None
    # Waiting is cheap: a busy loop would have taken the whole second.
    assert time.process_time() - begun < 0.25
    probe.close()
    os.close(fd)
    lab.release(lease)


def test_a_socket_that_met_itself_is_not_the_workload(lab: Lab) -> None:
    """On the gateway's own address a connect to a port of the local range may succeed by itself."""
    readiness = Readiness(ReadinessKind.TCP, port=61_003)
    probe = answer(lab.probe(readiness, GATEWAY, deadline(0.5)))
    assert probe.ready_at_ns is None
    probe.close()


def test_probes_can_be_cancelled_and_run_side_by_side(lab: Lab) -> None:
    with box(lab) as (one, fd_one), box(lab) as (other, _):
        waiting = lab.probe(TCP, other.address, deadline(30))
        server = Server(fd_one, OK)
        probe = answer(lab.probe(HTTP, one.address, deadline(5)))
        assert probe.body == b"hello"
        assert not waiting.finished
        waiting.close()
        probe.close()
        server.join()


def test_closing_the_lab_ends_probes_and_refuses_more() -> None:
    with Lab() as lab:
        lease = lab.lease()
        fd = lab.open_tap(lease)
        probe = lab.probe(TCP, lease.address, deadline(30))
    answer(probe)
    assert probe.last_result == "the lab was closed"
    probe.close()
    os.close(fd)
    lab.close()
    with pytest.raises(LabError, match="closed"):
        lab.open_tap(lease)
