"""The zygote: a small process with the runtime loaded, that forks a supervisor in a millisecond or two.

It is started apart from the host's own process (two forks, a session of its own), so that it and the tasks outlive
that. Requests come over a unix socket in the spool; only the same user is heard. It keeps no state: a dead one is
simply replaced. It goes by itself when no controller has come for long, or the spool is gone.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys as system
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from osmo_ray.runtime import host, network, supervisor
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.inside import session as inside
from osmo_ray.runtime.spool import Spool
from osmo_ray.runtime.wakeup import short

SOCKET, BEGINS, LOCK = "zygote", "begins", "zygote.lock"
"""`BEGINS` takes the keys of attempts, which is nearly all there is to do, and answers nothing."""
_IDLE_LIMIT = 300.0
_LOOK_EVERY = 5.0


def main(root: Path) -> NoReturn:
    """Detach, listen, serve. The first process leaves as soon as the socket is there; it leaves with 1 when another
    zygote already serves this spool."""
    told_in, told_out = os.pipe()
    if os.fork():
        os.close(told_out)
        os._exit(0 if os.read(told_in, 1) == b"y" else 1)
    os.setsid()
    if os.fork():
        os._exit(0)
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(1)
    os.write(lock, f"{os.getpid()}\n".encode())
    os.ftruncate(lock, len(f"{os.getpid()}\n"))
    os.chdir("/")
    sys.name_process("osmo-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    for number in (signal.SIGINT, signal.SIGUSR1):  # a supervisor may be signalled before it listens
        signal.signal(number, signal.SIG_IGN)
    begins = _listen(root, BEGINS, socket.SOCK_DGRAM)
    listener = _listen(root, SOCKET, socket.SOCK_SEQPACKET)
    listener.listen(64)
    os.write(told_out, b"y")
    os.close(told_out)
    os.close(told_in)
    _preload()
    gc.collect()
    gc.freeze()
    _serve(root, listener, begins, lock)


def _preload() -> None:
    """What every supervisor's children need; shared memory then, and no time at each start."""
    for name in ("osmo_ray.objects", "concurrent.futures.thread"):
        importlib.import_module(name)


def _listen(root: Path, name: str, kind: int) -> socket.socket:
    (root / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    address, fd = short(root, name)
    old = os.umask(0o177)
    listener.bind(address)
    os.umask(old)
    os.close(fd)
    return listener


def _serve(root: Path, listener: socket.socket, begins: socket.socket, lock: int) -> NoReturn:
    spool, shut = Spool(root), (listener.fileno(), begins.fileno(), lock)
    poll = select.poll()
    for one in (listener, begins):
        poll.register(one, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll(_LOOK_EVERY * 1000)]
        if not ready and (not (root / LOCK).exists() or spool.lease_left() < -_IDLE_LIMIT):
            os._exit(0)
        try:
            if begins.fileno() in ready:
                _fork(root, {"act": "attempt", "key": begins.recv(4096).decode()}, shut)
            if listener.fileno() in ready:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(_LOOK_EVERY)
                    _answer(root, connection, (*shut, connection.fileno()))
        except (OSError, ValueError, KeyError):
            traceback.print_exc()


def _answer(root: Path, connection: socket.socket, shut: tuple[int, ...]) -> None:
    """One connection: requests until the other side closes."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        return
    data, fds, _, _ = socket.recv_fds(connection, 1 << 17, 1)
    try:
        if data:
            request = json.loads(data) | {"fds": fds}
            pid = _fork(root, request, shut)
            connection.send(json.dumps({"pid": pid}).encode())
    finally:
        for fd in fds:
            os.close(fd)


def _fork(root: Path, request: dict[str, object], shut: tuple[int, ...]) -> int:
    act = _acts(root)[str(request["act"])]
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for fd in shut:
            os.close(fd)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.disable()
        act(request)
    except BaseException:
        traceback.print_exc()
    finally:
        system.stderr.flush()
        os._exit(0)


def _acts(root: Path) -> dict[str, Callable[[dict[str, object]], None]]:
    return {
        "attempt": lambda r: supervisor.main(root, str(r["key"])),
        "examine": lambda r: host.examine(root),
        "hold": lambda r: _hold(root, r),
        "carry": lambda r: network.carry(root),
        "inside": lambda r: inside.main(root, r),
    }


def _hold(root: Path, request: dict[str, object]) -> None:
    sys.name_process("osmo-net")
    keepers = request.get("keepers")
    network.hold(root, list(keepers) if isinstance(keepers, list) else [], bool(request.get("node_only")))
