"""Listeners as /proc shows them, and what they say about a port that was not reached."""

from __future__ import annotations

import os
import socket

import pytest

from harness.lab.listeners import listeners, parse_listeners, why_not_reached

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n"
LOOPBACK = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 0\n"
ANY = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 0\n"
ESTABLISHED = "   1: 0100007F:1F40 0100007F:E000 01 00000000:00000000 00:00000000 0\n"
LOOPBACK_6 = f"   0: {'0' * 24}01000000:1F40 {'0' * 32}:0000 0A 00000000:00000000 0\n"
ANY_6 = f"   0: {'0' * 32}:1F40 {'0' * 32}:0000 0A 00000000:00000000 0\n"
OTHER = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 0\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((LOOPBACK, ESTABLISHED), 'on 127.0.0.1 only, .* readiness.address = "127.0.0.1"'),
        ((LOOPBACK_6,), r'on \[::1\] only, .* readiness.address = "::1"'),
        ((ANY_6,), r"on \[::\], .* takes no IPv4"),
        ((OTHER,), "nothing in the box listens on it; there are listeners on 80$"),
        ((ANY,), "^$"),
        ((ANY, LOOPBACK), "^$"),
        ((ESTABLISHED,), "^$"),
        ((), "^$"),
    ],
)
def test_what_keeps_a_port_from_being_reached(lines: tuple[str, ...], said: str) -> None:
    import re

    assert re.search(said, why_not_reached(list(parse_listeners(HEAD + "".join(lines))), 8000))


def test_a_listener_of_this_process_is_listed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = [one for one in listeners(os.getpid()) if one.port == listener.getsockname()[1]]
    assert [str(one) for one in here] == ["127.0.0.1"]


def test_a_process_that_is_gone_has_none() -> None:
    assert listeners(2**22 + 1) == []
