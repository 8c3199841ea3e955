"""A small rtnetlink client: links, addresses and routes of the network namespace this thread is in.

Starting `ip` costs more than the whole of a task's network; these few messages cost well under a millisecond.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE = 16, 17, 18, 20, 24
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_MTU = 3, 10, 18, 28, 4
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_GATEWAY, _RTA_OIF = 5, 4
_UP = 1


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def _link(index: int = 0, flags: int = 0, mask: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, mask)


def _name(text: str) -> bytes:
    return _attribute(_IFLA_IFNAME, text.encode() + b"\0")


class Netlink:
    """A socket in one network namespace: it stays there even when the process goes elsewhere."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> bytes:
        self._number += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | _ACK, self._number, 0)
        self._socket.send(header + body)
        answer = b""
        while True:
            data = self._socket.recv(65536)
            size, got, _, number, _ = struct.unpack_from("=IHHII", data)
            if number != self._number:
                continue
            if got == 2:
                (code,) = struct.unpack_from("=i", data, 16)
                if code < 0:
                    raise OSError(-code, f"{what}: {os.strerror(-code)}")
                return answer
            answer = data[16:size]

    def index(self, name: str) -> int:
        """The number of a link; OSError when there is none."""
        answer = self._ask(_GETLINK, 0, _link() + _name(name), f"link {name}")
        return int(struct.unpack_from("=i", answer, 4)[0])

    def bridge(self, name: str) -> None:
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"bridge"))
        self._ask(_NEWLINK, _CREATE | _EXCL, _link() + _name(name) + info, f"new bridge {name}")

    def veth(self, name: str, master: int, peer: str, peer_namespace: int) -> None:
        """A pair of links: `name` here, part of the bridge `master` and up; `peer` in the namespace of that fd."""
        other = _link() + _name(peer) + _attribute(_IFLA_NET_NS_FD, struct.pack("=i", peer_namespace))
        data = _attribute(_INFO_DATA, _attribute(_VETH_PEER, other))
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"veth") + data)
        body = _link(0, _UP, _UP) + _name(name) + _attribute(_IFLA_MASTER, struct.pack("=i", master)) + info
        self._ask(_NEWLINK, _CREATE | _EXCL, body, f"new link {name}")

    def up(self, index: int, mtu: int = 0) -> None:
        more = _attribute(_IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        self._ask(_NEWLINK, 0, _link(index, _UP, _UP) + more, f"link {index} up")

    def delete(self, name: str) -> None:
        self._ask(_DELLINK, 0, _link() + _name(name), f"delete link {name}")

    def address(self, index: int, address: str, prefix: int) -> None:
        raw = ipaddress.IPv4Address(address).packed
        body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index)
        body += _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw)
        self._ask(_NEWADDR, _CREATE, body, f"address {address}")

    def default_route(self, index: int, gateway: str) -> None:
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
        body += _attribute(_RTA_GATEWAY, ipaddress.IPv4Address(gateway).packed)
        body += _attribute(_RTA_OIF, struct.pack("=I", index))
        self._ask(_NEWROUTE, _CREATE, body, f"route via {gateway}")


def own_namespace(kind: str) -> int:
    """An open file on this process's own namespace (`net`, `user`, `pid`)."""
    return os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def allow_ping() -> None:
    """Let every group use ping in this namespace, which needs no raw socket then."""
    try:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    except OSError:
        pass  # ids not mapped into this user namespace: ping stays forbidden, nothing else depends on it


def keep_fd(fd: int, at: int) -> int:
    """The same open file under a number of at least `at`."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, at)
