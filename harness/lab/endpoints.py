"""Where a box is asked: over the private network, or from inside it.

A box's loopback address and the Unix sockets in its files are reached by way of one of its
processes: a socket is made in that process's network namespace, a path is looked up below its root.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Protocol

from harness.model import Readiness
from runtime.linux.syscalls import enter_network_namespace, open_in_root


class Endpoint(Protocol):
    """Something to connect to, as often as one likes. Printed, it names itself."""

    def new_socket(self) -> socket.socket:
        """Make a socket that does not block, for one attempt."""

    def connect(self, connection: socket.socket) -> int:
        """Begin to connect, or see how that goes; returns an errno, 0 when it is connected."""

    def close(self) -> None:
        """Give back what it holds. Idempotent."""


@dataclass(frozen=True, slots=True)
class NetworkEndpoint:
    """An address of the private network, from the prober's side."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"port {self.port} of {self.address}"

    def new_socket(self) -> socket.socket:
        """See `Endpoint.new_socket`."""
        return new_internet_socket()

    def connect(self, connection: socket.socket) -> int:
        """See `Endpoint.connect`."""
        return connection.connect_ex((self.address, self.port))

    def close(self) -> None:
        """There is nothing to give back."""


class LoopbackEndpoint:
    """An address within a box's own network namespace."""

    def __init__(self, pid: int, address: str, port: int) -> None:
        """Take hold of the namespace of a process.

        Raises:
            OSError: The process is gone, or may not be looked at.
        """
        self._address, self._port = address, port
        self._namespace_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __str__(self) -> str:
        return f"port {self._port} of {self._address} inside the box"

    def new_socket(self) -> socket.socket:
        """See `Endpoint.new_socket`; raises OSError where the namespace may not be entered."""
        # A socket stays in the namespace it was made in; the thread goes back.
        home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_network_namespace(self._namespace_fd)
            try:
                family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
                return new_internet_socket(family)
            finally:
                enter_network_namespace(home_fd)
        finally:
            os.close(home_fd)

    def connect(self, connection: socket.socket) -> int:
        """See `Endpoint.connect`."""
        return connection.connect_ex((self._address, self._port))

    def close(self) -> None:
        """Let go of the box. Idempotent."""
        fd, self._namespace_fd = self._namespace_fd, -1
        if fd >= 0:
            os.close(fd)


class SocketEndpoint:
    """A Unix socket in a box's files."""

    def __init__(self, pid: int, path: str) -> None:
        """Take hold of the root of a process.

        Raises:
            OSError: The process is gone, or may not be looked at.
        """
        self._path = path
        self._root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __str__(self) -> str:
        return f"socket {self._path} of the box"

    def new_socket(self) -> socket.socket:
        """See `Endpoint.new_socket`."""
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def connect(self, connection: socket.socket) -> int:
        """See `Endpoint.connect`."""
        # Links of the box lead to places in the box, not to those of the host.
        try:
            fd = open_in_root(self._root_fd, self._path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            return error.errno or 0
        try:
            return connection.connect_ex(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the box. Idempotent."""
        fd, self._root_fd = self._root_fd, -1
        if fd >= 0:
            os.close(fd)


def new_internet_socket(family: int = socket.AF_INET) -> socket.socket:
    """Make a TCP socket that does not block, in the calling thread's network namespace."""
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def inside(readiness: Readiness, pid: int) -> Endpoint:
    """Make the endpoint of a readiness that is asked for from inside a box.

    Args:
        readiness: One that `is_inside`.
        pid: Of a process in the box, as the host sees it.

    Raises:
        OSError: The process is gone, or may not be looked at.
    """
    if readiness.socket is not None:
        return SocketEndpoint(pid, readiness.socket)
    assert readiness.address is not None
    assert readiness.port is not None
    return LoopbackEndpoint(pid, readiness.address, readiness.port)
