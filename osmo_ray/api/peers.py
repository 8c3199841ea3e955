"""Which process is behind a loopback connection: a task of ours may not pass for the person who runs the platform.

Where tasks have a network of their own this cannot come up. Where the host forbids namespaces they share our
loopback, so the owner of the peer's socket is looked up in `/proc`, and whoever descends from an attempt's supervisor
is a task. The supervisor is a subreaper: what a task starts stays below it, however it forks.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

SUPERVISOR = "osmo-supervise"
"""The name under which the runtime's supervisors show in the process list."""
_PROC = Path("/proc")


def is_task(host: str, port: int) -> bool:
    """Whether the socket at this local address belongs to a task. Some milliseconds; reads `/proc`."""
    inode = _inode(host, port)
    if not inode:
        return False
    tasks = set(_below_supervisors())
    return any(_owns(pid, inode) for pid in tasks)


def _inode(host: str, port: int) -> str:
    wanted = set(_forms(host, port))
    for table in ("tcp", "tcp6"):
        try:
            rows = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[1] in wanted:
                return fields[9]
    return ""


def _forms(host: str, port: int) -> Iterator[str]:
    """An address as the kernel's tables write it: words in the byte order of the machine."""
    address = ipaddress.ip_address(host)
    packed = address.packed
    yield f"{_words(packed)}:{port:04X}"
    if address.version == 4:
        yield f"{_words(socket.inet_pton(socket.AF_INET6, f'::ffff:{host}'))}:{port:04X}"


def _words(packed: bytes) -> str:
    order = "<" if sys.byteorder == "little" else ">"
    return "".join(f"{word:08X}" for word in struct.unpack(f"{order}{len(packed) // 4}I", packed))


def _below_supervisors() -> Iterator[int]:
    """Every process that descends from a supervisor."""
    parents: dict[int, int] = {}
    supervisors: set[int] = set()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue
        pid, name, parent = (
            int(folder.name),
            text[text.find("(") + 1 : text.rfind(")")],
            text[text.rfind(")") :].split()[2],
        )
        parents[pid] = int(parent)
        if name == SUPERVISOR:
            supervisors.add(pid)
    for pid in parents:
        above = parents[pid]
        while above in parents and above not in supervisors:
            above = parents[above]
        if above in supervisors:
            yield pid


def _owns(pid: int, inode: str) -> bool:
    wanted = f"socket:[{inode}]"
    try:
        return any(str(handle.readlink()) == wanted for handle in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False
