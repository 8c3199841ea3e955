"""A bell from supervisors to their host: one datagram, lost when nobody listens, which the fallback scan makes good."""

from __future__ import annotations

import os
import socket
from pathlib import Path

NAME = "bell"


def short(root: Path, name: str) -> tuple[str, int]:
    """An address for a socket in `root` that fits the 107 bytes of a unix socket however long the path is, and the
    open folder that it depends on."""
    fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
    return f"/proc/self/fd/{fd}/{name}", fd


def ring(root: Path, key: str) -> None:
    """Tell the host, if it listens, that this attempt has news."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as bell:
        address, fd = short(root, NAME)
        try:
            bell.sendto(key.encode(), address)
        except OSError:
            pass  # nobody listens, or has been woken so often that the queue is full
        finally:
            os.close(fd)


def listen(root: Path) -> socket.socket:
    """The host's end."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    (root / NAME).unlink(missing_ok=True)
    address, fd = short(root, NAME)
    try:
        bell.bind(address)
    finally:
        os.close(fd)
    (root / NAME).chmod(0o600)
    return bell
