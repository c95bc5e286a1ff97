"""The six rtnetlink requests that the lab needs, on a plain netlink socket.

A box's network is made inside its measured start, so what making it costs matters: one veth with
its peer in another namespace, attached to a bridge and up, is a single message here and takes about
0.5 ms, nearly all of it the kernel's (pyroute2 0.9, with its event loop per socket: 1.6 ms, and
170 ms of import). Messages and attributes are spelled as in linux/rtnetlink.h and linux/if_link.h;
the format is described in rtnetlink(7) and netlink(7).

A netlink socket belongs for ever to the network namespace of the thread that made it (netlink(7)),
whichever thread uses it later.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR = 2
RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_NET_NS_FD = (
    1, 3, 10, 13, 18, 28,
)  # fmt: skip
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 1, 5, 23
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
RTA_GATEWAY, RTA_OIF = 5, 4
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1

_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_RECEIVE_BYTES = 65536


class Netlink:
    """A socket to the kernel's routing tables, in the network namespace of the making thread.

    Every method waits for the kernel's answer; a refusal is an OSError that names the request.
    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def add_bridge(self, name: str, index: int, mac: bytes) -> None:
        """A bridge that is up and forwards at once: no spanning tree, no listening period.

        Without multicast snooping too: in a network of short-lived boxes it only adds queries. And
        with a hardware address of its own: otherwise it takes over the lowest of its ports', and
        each change throws away the neighbour entries, permanent ones as well (neigh_changeaddr in
        net/core/neighbour.c).
        """
        data = (
            _number(IFLA_BR_FORWARD_DELAY, 0)
            + _number(IFLA_BR_STP_STATE, 0)
            + _attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
        )
        info = _attribute(IFLA_INFO_KIND, b"bridge\0") + _attribute(IFLA_INFO_DATA, data)
        body = (
            _link(index, up=True)
            + _attribute(IFLA_IFNAME, name.encode() + b"\0")
            + _attribute(IFLA_ADDRESS, mac)
            + _attribute(IFLA_LINKINFO, info)
        )
        self._request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add bridge {name}")

    def add_veth(
        self,
        name: str,
        index: int,
        *,
        master: int,
        peer_name: str,
        peer_index: int,
        peer_mac: bytes,
        peer_namespace_fd: int,
    ) -> None:
        """A veth pair: one end here, up and on the bridge `master`, the other elsewhere, down.

        The other end cannot be made up in the same message: veth refuses to open an end before it
        knows its peer (ENOTCONN, drivers/net/veth.c).

        `name` and `index` are those of the end that stays here: we choose the index, so that nobody
        has to look it up. `master` is the index of the bridge; `peer_mac` has 6 bytes.
        """
        peer = (
            _link(peer_index)
            + _attribute(IFLA_IFNAME, peer_name.encode() + b"\0")
            + _attribute(IFLA_ADDRESS, peer_mac)
            + _number(IFLA_NET_NS_FD, peer_namespace_fd)
        )
        info = _attribute(IFLA_INFO_KIND, b"veth\0") + _attribute(
            IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, peer)
        )
        body = (
            _link(index, up=True)
            + _attribute(IFLA_IFNAME, name.encode() + b"\0")
            + _number(IFLA_MASTER, master)
            + _attribute(IFLA_LINKINFO, info)
        )
        self._request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add veth {name}")

    def set_link(
        self,
        index: int,
        *,
        up: bool,
        master: int | None = None,
        transmit_queue_length: int | None = None,
    ) -> None:
        """Bring an interface up (or down), put it on a bridge, bound its queue (in packets)."""
        body = _link(index, up=up)
        if transmit_queue_length is not None:
            body += _number(IFLA_TXQLEN, transmit_queue_length)
        if master is not None:
            body += _number(IFLA_MASTER, master)
        self._request(RTM_NEWLINK, 0, body, f"change interface {index}")

    def delete_link(self, index: int) -> bool:
        """Delete an interface, and with a veth its peer; False if it is gone already."""
        return self._delete(RTM_DELLINK, _link(index), f"delete interface {index}", errno.ENODEV)

    def add_address(self, index: int, address: str, prefix_length: int) -> None:
        """Give an interface an IPv4 address."""
        packed = socket.inet_aton(address)
        body = (
            _ADDRESS.pack(socket.AF_INET, prefix_length, 0, RT_SCOPE_UNIVERSE, index)
            + _attribute(IFA_LOCAL, packed)
            + _attribute(IFA_ADDRESS, packed)
        )
        self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, f"add address {address}")

    def add_default_route(self, index: int, gateway: str) -> None:
        """Send what is not for this network through `gateway`."""
        body = (
            _ROUTE.pack(
                socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE,
                RTN_UNICAST, 0,
            )
            + _attribute(RTA_GATEWAY, socket.inet_aton(gateway))
            + _number(RTA_OIF, index)
        )  # fmt: skip
        self._request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, f"add route via {gateway}")

    def add_neighbour(self, index: int, address: str, mac: bytes) -> None:
        """Know for good which hardware address an IPv4 address has: no ARP request is sent."""
        body = (
            _NEIGHBOUR.pack(socket.AF_INET, index, NUD_PERMANENT, 0, 0)
            + _attribute(NDA_DST, socket.inet_aton(address))
            + _attribute(NDA_LLADDR, mac)
        )
        flags = NLM_F_CREATE | NLM_F_REPLACE
        self._request(RTM_NEWNEIGH, flags, body, f"add neighbour {address}")

    def delete_neighbour(self, index: int, address: str) -> bool:
        """Forget a neighbour; False if it is gone already."""
        body = _NEIGHBOUR.pack(socket.AF_INET, index, 0, 0, 0) + _attribute(
            NDA_DST, socket.inet_aton(address)
        )
        return self._delete(RTM_DELNEIGH, body, f"delete neighbour {address}", errno.ENOENT)

    def _delete(self, kind: int, body: bytes, label: str, gone: int) -> bool:
        try:
            self._request(kind, 0, body, label)
        except OSError as error:
            if error.errno == gone:
                return False
            raise
        return True

    def _request(self, kind: int, flags: int, body: bytes, label: str) -> None:
        self._sequence += 1
        header = _MESSAGE.pack(
            _MESSAGE.size + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0
        )
        self._socket.send(header + body)
        while True:
            reply = self._socket.recv(_RECEIVE_BYTES)
            _, reply_kind, _, sequence, _ = _MESSAGE.unpack_from(reply)
            if reply_kind == NLMSG_ERROR and sequence == self._sequence:
                break
        (negative_errno,) = struct.unpack_from("=i", reply, _MESSAGE.size)
        if negative_errno:
            raise OSError(-negative_errno, f"netlink: {label}: {os.strerror(-negative_errno)}")


def _attribute(kind: int, value: bytes) -> bytes:
    """One `struct rtattr`, padded to RTA_ALIGNTO = 4."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _link(index: int, *, up: bool | None = None) -> bytes:
    """A `struct ifinfomsg`; `up` None changes no flag."""
    flags = IFF_UP if up else 0
    change = 0 if up is None else IFF_UP
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)
