"""A bell: one datagram that says look now, lost when nobody listens, which whoever listens makes good by looking now
and then. Supervisors ring that of their host, the API that of the controller."""

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


def ring(root: Path, key: str) -> bool:
    """Tell whoever listens in `root` that `key` has news; False when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as bell:
        address, fd = short(root, NAME)
        try:
            bell.sendto(key.encode(), address)
        except BlockingIOError:
            return True  # woken so often that the queue is full
        except OSError:
            return False
        finally:
            os.close(fd)
    return True


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
