"""Makes the lab: a private network in which boxes and prober meet.

```
      the lab's network namespace                          the host's: never touched
 ┌──────────────────────────────────────────────┐
 │ prober    process arm                        │
 │    └──── steelyard0  10.77.0.1/16 (bridge) ──┼─ tap fd ──── QEMU ── guest   10.77.0.3
 │              │                               │
 └──────────────┼───────────────────────────────┘
              veth ── eth0 in a container's own namespace                      10.77.0.2
```

A file descriptor holds the namespace, so the kernel removes it with everything in it when the last
process that uses it is gone, however that process ended.

Each box has a lease: an address and a hardware address derived from it, known to the bridge as a
permanent neighbour, so that no probe waits for an ARP answer (the kernel repeats a lost ARP request
only after a second). Interfaces are made with an index of our choosing, so none is looked up.

The start of a box includes, on two cores at 2.x GHz: a network namespace 0.9 ms, the veth 0.5 ms,
its configuration 0.3 ms. Removing a veth takes about 30 ms, in which the kernel waits for its
readers (synchronize_net); that is a container's cost, and counts in `removed`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from harness.lab.prober import Probe, Prober
from harness.model import Readiness
from harness.model.errors import HarnessError
from harness.model.network import Lease
from runtime.linux.namespace_thread import NamespaceThread, ThreadClosedError
from runtime.linux.netlink import Netlink
from runtime.linux.syscalls import enter_network_namespace, new_network_namespace

T = TypeVar("T")

BRIDGE_NAME = "steelyard0"
GATEWAY = "10.77.0.1"
PREFIX_LENGTH = 16
_NETWORK = 10 << 24 | 77 << 16
_LOOPBACK_INDEX = 1
"""The kernel makes `lo` first in every network namespace (net/core/dev.c)."""
_BRIDGE_INDEX = 10
_CONTAINER_INTERFACE = "eth0"
_CONTAINER_INTERFACE_INDEX = 2
_GATEWAY_INDEX, _FIRST_LEASE, _LAST_LEASE = 1, 2, 65_533
_TAP_QUEUE_PACKETS = 16
"""A tap keeps what it is sent until its guest has a driver. The oldest survive, and a booting guest
would have to answer every stale SYN: keep only a few."""

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("=16sH22x")


class LabError(HarnessError):
    """The private network, or a part of it, cannot be had here."""


def lease_at(index: int) -> Lease:
    """Make the lease with a number: pure, so equal numbers mean equal boxes in any lab."""
    high, low = index >> 8, index & 0xFF
    address = socket.inet_ntoa(struct.pack("!I", _NETWORK + index))
    return Lease(index, address, f"02:53:0a:4d:{high:02x}:{low:02x}", f"sy{index}")


class Lab:
    """A private network namespace with a bridge and the prober. Use as a context manager.

    Attributes:
        namespace_fd: The namespace. Join it to be where the prober is (the process arm does).
        gateway: The bridge's own address.
        prefix_length: Of the network.

    Raises:
        LabError: No network namespace can be made here.
    """

    gateway = GATEWAY
    prefix_length = PREFIX_LENGTH

    def __init__(self) -> None:
        # Everything opened is closed again if a later step fails, in the opposite order.
        with contextlib.ExitStack() as stack:
            try:
                self.namespace_fd = new_network_namespace()
                stack.callback(os.close, self.namespace_fd)
                enter = partial(enter_network_namespace, self.namespace_fd)
                self._thread = NamespaceThread(enter, name="lab")
                stack.callback(self._thread.close)
                self._netlink = self._thread.call(_configure_lab)
                stack.callback(self._netlink.close)
                self._prober = Prober(enter)
                stack.callback(self._prober.close)
            except OSError as error:
                raise LabError(
                    f"the private network for the measurement cannot be made: {error}; run as root"
                ) from error
            self._stack = stack.pop_all()
        self._lock = threading.Lock()
        self._leased: set[int] = set()
        self._last_index = _FIRST_LEASE - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and let the namespace go. Idempotent."""
        self._stack.close()

    def lease(self) -> Lease:
        """Take a free place and set its neighbour entry.

        Places are taken in turn, so that packets on their way to a box that is gone reach nobody.

        Raises:
            LabError: All places are taken.
        """
        with self._lock:
            after = range(self._last_index + 1, _LAST_LEASE + 1)
            places = itertools.chain(after, range(_FIRST_LEASE, self._last_index + 1))
            index = next((place for place in places if place not in self._leased), None)
            if index is None:
                raise LabError("all addresses of the private network are taken")
            lease = lease_at(index)
            self._netlink.add_neighbour(_BRIDGE_INDEX, lease.address, lease.mac_bytes)
            self._leased.add(index)
            self._last_index = index
        return lease

    def attach_container(self, lease: Lease) -> int:
        """Make a network namespace whose `eth0` has the lease's place on the bridge.

        `lo` and `eth0` are up, the address and the default route are set: a container only joins.

        Returns:
            The namespace's file descriptor, close-on-exec. The caller closes it.

        Raises:
            LabError: The kernel refused.
        """
        try:
            namespace_fd = new_network_namespace()
            try:
                with self._lock:
                    self._netlink.add_veth(
                        lease.name,
                        lease.interface_index,
                        master=_BRIDGE_INDEX,
                        peer_name=_CONTAINER_INTERFACE,
                        peer_index=_CONTAINER_INTERFACE_INDEX,
                        peer_mac=lease.mac_bytes,
                        peer_namespace_fd=namespace_fd,
                    )
                self.call(lambda: self._configure_inside(namespace_fd, lease))
            except BaseException:
                os.close(namespace_fd)
                raise
        except OSError as error:
            raise LabError(
                f"the container's network {lease.name} cannot be made: {error}"
            ) from error
        return namespace_fd

    def _configure_inside(self, namespace_fd: int, lease: Lease) -> None:
        """Set up a container's end. Runs on the lab's thread, which comes back afterwards."""
        enter_network_namespace(namespace_fd)
        try:
            netlink = Netlink()
        finally:
            # The socket belongs to the container's namespace for good; the thread does not.
            enter_network_namespace(self.namespace_fd)
        with contextlib.closing(netlink):
            netlink.set_link(_LOOPBACK_INDEX, up=True)
            netlink.set_link(_CONTAINER_INTERFACE_INDEX, up=True)
            netlink.add_address(_CONTAINER_INTERFACE_INDEX, lease.address, PREFIX_LENGTH)
            netlink.add_default_route(_CONTAINER_INTERFACE_INDEX, GATEWAY)

    def open_tap(self, lease: Lease) -> int:
        """Open a tap on the bridge, for QEMU: `-netdev tap,fd=N`, `-device virtio-net…,mac=…`.

        The tap has virtio-net headers (`IFF_VNET_HDR`) and lives as long as one of its file
        descriptors is open. QEMU may stay in the host's namespace: the tap is in the lab's.

        Returns:
            The file descriptor, close-on-exec: QEMU inherits it explicitly, the caller closes it.

        Raises:
            LabError: `/dev/net/tun` is missing or may not be used.
        """
        try:
            return self.call(lambda: self._open_tap_here(lease))
        except OSError as error:
            raise LabError(
                f"/dev/net/tun cannot be used: {error.strerror}; "
                "a machine's network needs read and write access to it"
            ) from error

    def _open_tap_here(self, lease: Lease) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            request = _IFREQ.pack(lease.name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(fd, _TUNSETIFF, request)
            index = socket.if_nametoindex(lease.name)
            with self._lock:
                queue = _TAP_QUEUE_PACKETS
                self._netlink.set_link(
                    index, up=True, master=_BRIDGE_INDEX, transmit_queue_length=queue
                )
        except BaseException:
            os.close(fd)
            raise
        return fd

    def release(self, lease: Lease) -> None:
        """Take the box's interface and neighbour entry away; its address is free again. Idempotent.

        Returns when the interface is gone from the kernel.
        """
        if lease.index not in self._leased:
            return
        index = self.call(lambda: _interface_index(lease.name))
        with self._lock:
            if index is not None:
                self._netlink.delete_link(index)
            self._netlink.delete_neighbour(_BRIDGE_INDEX, lease.address)
            self._leased.discard(lease.index)

    def probe(self, readiness: Readiness, address: str, deadline_ns: int) -> Probe:
        """Begin probing; see `harness.lab.prober`."""
        return self._prober.probe(readiness, address, deadline_ns)

    def probe_inside(self, readiness: Readiness, pid: int, deadline_ns: int) -> Probe:
        """Begin probing from inside a box; see `harness.lab.prober`."""
        return self._prober.probe_inside(readiness, pid, deadline_ns)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the lab's namespace, on its thread, and return its result.

        Raises:
            LabError: The lab was closed.
        """
        try:
            return self._thread.call(function)
        except ThreadClosedError:
            raise LabError("the private network was closed") from None


def _configure_lab() -> Netlink:
    """Set up the lab's own interfaces. Runs in its namespace."""
    # No IPv6 on what is made from here on: duplicate address detection and router solicitations
    # are traffic that no measurement asked for. `lo` keeps it.
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    # The prober's own ports lie above those that a workload of the process arm may want.
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("61000 65535")
    netlink = Netlink()
    try:
        netlink.set_link(_LOOPBACK_INDEX, up=True)
        netlink.add_bridge(BRIDGE_NAME, _BRIDGE_INDEX, lease_at(_GATEWAY_INDEX).mac_bytes)
        netlink.add_address(_BRIDGE_INDEX, GATEWAY, PREFIX_LENGTH)
    except BaseException:
        netlink.close()
        raise
    return netlink


def _interface_index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
