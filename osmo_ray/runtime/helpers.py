"""The host's standing helpers: the zygote, the holder of the tasks' network, pasta. A dead one is replaced."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osmo_ray.runtime import network, zygote
from osmo_ray.runtime.errors import HostBusy, RuntimeFailure
from osmo_ray.runtime.host import Host
from osmo_ray.runtime.network import Network
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import read_json, replace_file
from osmo_ray.runtime.wakeup import short
from osmo_ray.spec.reason import Reason

_START_LIMIT = 30.0
_PROGRAM = """\
import sys
sys.path[:] = {path!r}
from pathlib import Path
from osmo_ray.runtime.zygote import main
main(Path({root!r}))
"""


def only_host(root: Path, wait: float) -> int:
    """Be the one host of this spool: an open, locked file. Waits for one that is just dying; raises HostBusy."""
    fd = os.open(root / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise HostBusy(f"another process keeps {root}; end it or choose another folder") from None
            time.sleep(0.05)


class Helpers:
    """Blocking calls, to be made in a thread."""

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root
        self.options = options
        known = read_json(root / "out.json")
        self.out = Identity.from_json(known) if known else None
        self.out_why = ""
        self._out_after = 0.0
        self._begins: socket.socket | None = None

    # --- the zygote ------------------------------------------------------------------------------------------------

    def ask(self, act: str, *, fds: Sequence[int] = (), **more: Any) -> int:
        """Have the zygote fork; returns the pid. A dead zygote is replaced first. The child gets copies of `fds`."""
        request = json.dumps({"act": act, **more}).encode()
        for _ in range(3):
            try:
                return self._ask(request, fds)
            except (ConnectionError, FileNotFoundError, TimeoutError):
                self._start_zygote()
        return self._ask(request, fds)

    def begin(self, key: str) -> None:
        """Have the zygote fork a supervisor for an attempt, without waiting for it: the supervisor's claim is the
        answer. A dead zygote is replaced first."""
        for _ in range(3):
            try:
                self._begins = self._begins or self._calling(zygote.BEGINS, socket.SOCK_DGRAM)
                self._begins.send(key.encode())
                return
            except (ConnectionError, FileNotFoundError):
                self.close()
                self._start_zygote()
        raise RuntimeFailure(0, Reason("NoZygote", "the process that starts tasks ends again and again"))

    def close(self) -> None:
        """Let go of the zygote."""
        if self._begins is not None:
            self._begins.close()
            self._begins = None

    def _ask(self, request: bytes, fds: Sequence[int]) -> int:
        with self._calling(zygote.SOCKET, socket.SOCK_SEQPACKET) as connection:
            socket.send_fds(connection, [request], list(fds))
            answer = connection.recv(4096)
        if not answer:
            raise ConnectionResetError("the zygote closed the connection")
        return int(json.loads(answer)["pid"])

    def _calling(self, name: str, kind: int) -> socket.socket:
        address, fd = short(self.root, name)
        calling = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
        try:
            calling.settimeout(_START_LIMIT)
            calling.connect(address)
        except OSError:
            calling.close()
            raise
        finally:
            os.close(fd)
        return calling

    def _start_zygote(self) -> None:
        path = [entry for entry in sys.path if entry.startswith("/")]
        program = _PROGRAM.format(path=path, root=str(self.root))
        with (self.root / "zygote.log").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", program],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=False,
                timeout=_START_LIMIT, restore_signals=True,
            )  # fmt: skip
        if done.returncode not in (0, 1):
            tail = (self.root / "zygote.log").read_text(errors="replace")[-500:]
            raise RuntimeFailure(0, Reason("NoZygote", f"the process that starts tasks cannot start: {tail}"))

    def renew_zygote(self) -> None:
        """End the zygote of an earlier host: its code and its environment (credentials) may be old ones. Attempts
        do not depend on it."""
        old = Identity.of(_number(self.root / zygote.LOCK))
        if old is None or not _is_held(self.root / zygote.LOCK):
            return
        old.signal(signal.SIGKILL)
        self._until(lambda: not _is_held(self.root / zygote.LOCK), "the old zygote does not go")

    # --- what the host can do ------------------------------------------------------------------------------------

    def examine(self) -> Host:
        """Find out, once per start of the host."""
        (self.root / "host.json").unlink(missing_ok=True)
        self.ask("examine")
        self._until((self.root / "host.json").exists, "this host could not be examined")
        return Host.load(self.root)

    # --- the network ---------------------------------------------------------------------------------------------

    def keep_network(self, host: Host, supervisors: Callable[[], list[int]]) -> None:
        """See to it that holder and pasta live."""
        if host.mode != "namespaces" or not (host.bridge or os.geteuid() != 0):
            return
        net = Network.load(self.root)
        if net is None or not net.holder.alive():
            (self.root / "net.json").unlink(missing_ok=True)
            self.ask("hold", keepers=supervisors(), node_only=not host.bridge)
            self._until((self.root / "net.json").exists, "the tasks' network could not be made")
            net = Network.load(self.root)
            self._end_old_way_out(net)
        if net is not None and host.bridge:
            self._keep_way_out(net)

    def _end_old_way_out(self, net: Network | None) -> None:
        """A pasta that is attached to a network nobody uses any more must go; one that still carries stays."""
        if self.out is not None and not (net is not None and network.out_is_up(net)):
            self.out.signal(signal.SIGKILL)
            self.out = None

    def _keep_way_out(self, net: Network) -> None:
        if not net.out or (self.out is not None and self.out.alive()) or time.monotonic() < self._out_after:
            self.out_why = self.out_why or net.why
            return
        if network.out_is_up(net):
            self.out_why = ""
            return  # an older host's pasta still carries
        if network.find_tool("pasta") is None:
            self._no_way_out(net, "the program pasta is not on this host (package passt)")
            return
        self.out = Identity.of(self.ask("carry"))
        if self.out is not None:
            replace_file(self.root / "out.json", json.dumps(self.out.to_json()))
        try:
            self._until(lambda: network.out_is_up(net) or not (self.out and self.out.alive()), "", 5.0)
        except RuntimeFailure:
            pass
        if network.out_is_up(net):
            self.out_why = ""
        else:
            self._out_after = time.monotonic() + 60.0
            self._no_way_out(net, "pasta could not attach to the tasks' network")

    def _no_way_out(self, net: Network, why: str) -> None:
        self.out_why = why
        value = asdict(net) | {"holder": net.holder.to_json(), "out": False, "why": why}
        replace_file(self.root / "net.json", json.dumps(value))

    def _until(self, done: Callable[[], bool], what: str, limit: float = _START_LIMIT) -> None:
        deadline = time.monotonic() + limit
        while not done():
            if time.monotonic() > deadline:
                tail = (self.root / "zygote.log").read_text(errors="replace")[-500:]
                raise RuntimeFailure(0, Reason("HostNotReady", f"{what}: {tail}"))
            time.sleep(0.002)

    # --- the end -------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the helpers: for `osmo down`, never for a restart."""
        net = Network.load(self.root)
        pid = _number(self.root / zygote.LOCK)
        for one in (self.out, Identity.of(pid) if pid else None, net.holder if net else None):
            if one is not None:
                one.signal(signal.SIGKILL)
        for name in ("net.json", "out.json", zygote.SOCKET, zygote.BEGINS, zygote.LOCK):
            (self.root / name).unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    """Whether a live process has this lock."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _number(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
