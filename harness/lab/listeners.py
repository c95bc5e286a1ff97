"""Where a box listens, as the kernel lists it: to say why a port was not reached from outside."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
"""TCP_LISTEN of include/net/tcp_states.h."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that accepts connections."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]" if self.address.version == 6 else str(self.address)


def listeners(pid: int) -> list[Listener]:
    """List the TCP listeners in the network namespace of a process (proc_pid_net(5))."""
    found: list[Listener] = []
    for name in ("tcp", "tcp6"):
        try:
            table = Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii")
        except OSError:
            continue  # the process is gone, or there is no IPv6
        found += parse_listeners(table)
    return found


def parse_listeners(table: str) -> Iterator[Listener]:
    """Read the listeners out of the text of /proc/net/tcp or /proc/net/tcp6."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) < 4 or words[3] != _LISTEN:
            continue
        address, _, port = words[1].partition(":")
        # Words of 32 bits, each in the host's order.
        values = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
        packed = b"".join(struct.pack("=I", value) for value in values)
        yield Listener(ipaddress.ip_address(packed), int(port, 16))


def why_not_reached(found: list[Listener], port: int) -> str:
    """Say what keeps a port from being reached at the box's address; empty if nothing is seen."""
    here = [one for one in found if one.port == port]
    loopback = [one for one in here if one.address.is_loopback]
    if here and len(loopback) == len(here):
        return (
            f"it listens on {loopback[0]} only, which is reachable from inside alone; let it bind "
            f'0.0.0.0, or set readiness.address = "{loopback[0].address}"'
        )
    if here and all(one.address.version == 6 for one in here):
        return (
            f"it listens on {here[0]}, and the box's address is an IPv4 one; if the server takes "
            'no IPv4, let it bind 0.0.0.0, or set readiness.address = "::1"'
        )
    others = sorted({one.port for one in found})
    if not here and others:
        ports = ", ".join(map(str, others))
        return f"nothing in the box listens on it; there are listeners on {ports}"
    return ""
