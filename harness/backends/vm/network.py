"""A guest's way into the lab: a tap on its bridge; where taps are refused, QEMU's user network."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass

from harness.backends.vm.argv import Address
from harness.backends.vm.arms import NetworkChoice
from harness.model.diagnostics import Diagnostic, DiagnosticCode
from harness.model.errors import HarnessError, LaunchFailedError
from harness.model.network import Lease, Network

_NETDEV = "net0"
# QEMU's defaults for `-netdev user` (qemu-system(1)).
_USER_ADDRESS, _USER_NETMASK, _USER_GATEWAY = "10.0.2.15", "255.255.255.0", "10.0.2.2"


@dataclass(slots=True)
class Connection:
    """One guest's network.

    Attributes:
        netdev: QEMU's `-netdev` value.
        address: What the guest configures.
        reachable_at: The address at which the prober finds it.
        inherited: Descriptors that QEMU needs.
        prefix: Command in front of QEMU.
        diagnostics: What is to be said about this network.
    """

    netdev: str
    address: Address
    reachable_at: str
    inherited: tuple[int, ...]
    lab: Network
    lease: Lease
    tap_fd: int = -1
    prefix: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    def handed_over(self) -> None:
        """Close our copy of the tap, which QEMU has now. Idempotent."""
        if self.tap_fd >= 0:
            os.close(self.tap_fd)
            self.tap_fd = -1

    def close(self) -> None:
        """Give the place in the lab back."""
        self.handed_over()
        self.lab.release(self.lease)


def connect(lab: Network, choice: NetworkChoice, port: int | None) -> Connection:
    """Give the next guest, which serves `port`, its network; a user network forwards no other.

    Raises:
        LaunchFailedError: It is not to be had.
    """
    lease = lab.lease()
    try:
        if choice is NetworkChoice.USER:
            return _user_network(lab, lease, port, "as the arm's option network says")
        try:
            return _tap(lab, lease)
        except HarnessError as error:
            if choice is NetworkChoice.TAP:
                raise LaunchFailedError(str(error)) from error
            return _user_network(lab, lease, port, str(error))
    except BaseException:
        lab.release(lease)
        raise


def _tap(lab: Network, lease: Lease) -> Connection:
    fd = lab.open_tap(lease)
    return Connection(
        netdev=f"tap,id={_NETDEV},fd={fd}",
        address=Address(lease.address, netmask(lab.prefix_length), lab.gateway, lease.mac),
        reachable_at=lease.address,
        inherited=(fd,),
        lab=lab,
        lease=lease,
        tap_fd=fd,
    )


def _user_network(lab: Network, lease: Lease, port: int | None, why: str) -> Connection:
    """QEMU itself plays the network, in the lab's namespace, where the prober can reach it.

    It forwards a loopback address of the instance's own, so that several guests can serve the same
    port. `restrict` keeps the guest from the rest of the world, as in the lab.
    """
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        raise LaunchFailedError("there is no nsenter; install the package util-linux")
    reachable_at = f"127.77.{lease.index >> 8}.{lease.index & 0xFF}"
    forward = f",hostfwd=tcp:{reachable_at}:{port}-:{port}" if port is not None else ""
    return Connection(
        netdev=f"user,id={_NETDEV},ipv6=off,restrict=on{forward}",
        address=Address(_USER_ADDRESS, _USER_NETMASK, _USER_GATEWAY, lease.mac),
        reachable_at=reachable_at,
        inherited=(lab.namespace_fd,),
        lab=lab,
        lease=lease,
        prefix=(nsenter, f"--net=/proc/self/fd/{lab.namespace_fd}"),
        diagnostics=(Diagnostic(DiagnosticCode.USER_NETWORK, why),),
    )


def netmask(prefix_length: int) -> str:
    """A network's mask, dotted: `255.255.0.0` for 16."""
    return socket.inet_ntoa((0xFFFFFFFF << (32 - prefix_length) & 0xFFFFFFFF).to_bytes(4, "big"))
