"""The private network as an arm sees it: places in it, and what connects a box to one.

`harness.lab` provides it. Backends know it by this protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")

FIRST_INTERFACE_INDEX = 1000
"""Index of the first box's interface in the namespace; below are the network's own."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One box's place in the lab.

    Attributes:
        index: 2 … 65533; unique among the living leases of a lab.
        address: IPv4 address.
        mac: Hardware address, `02:…` (locally administered).
        name: Of the box's interface on the bridge: its veth's outer end, or its tap.
    """

    index: int
    address: str
    mac: str
    name: str

    @property
    def mac_bytes(self) -> bytes:
        """The hardware address as its 6 bytes."""
        return bytes.fromhex(self.mac.replace(":", ""))

    @property
    def interface_index(self) -> int:
        """Of the box's interface on the bridge."""
        return FIRST_INTERFACE_INDEX + self.index


class Network(Protocol):
    """A private network namespace with a bridge, which boxes join; see `harness.lab.Lab`.

    Attributes:
        namespace_fd: The namespace.
        gateway: The bridge's own IPv4 address.
        prefix_length: Of the network.
    """

    namespace_fd: int
    gateway: str
    prefix_length: int

    def lease(self) -> Lease:
        """Take a free place."""

    def attach_container(self, lease: Lease) -> int:
        """Make a network namespace whose `eth0` has that place; the caller closes the fd."""

    def open_tap(self, lease: Lease) -> int:
        """Open a tap with that place on the bridge; the caller closes the fd."""

    def release(self, lease: Lease) -> None:
        """Give the place back once its interface is gone. Idempotent."""

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the namespace, on its thread, and return what it returns."""
