"""How HTTP clients of this process get to a cluster behind an agent: a local socket per cluster, in a folder that only
this user may enter. What connects there is put through, whatever it speaks, so clients need nothing but a path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe, join
from osmo_ray.backends.kubernetes.tunnel.serving import refuse
from osmo_ray.backends.protocol import BackendUnavailable

log = logging.getLogger(__name__)
_BACKLOG = 256
_PREFIX = "osmo-ways-"

Dial = Callable[[str], Awaitable[Pipe]]
"""A pipe to the API server of a cluster. Raises `BackendUnavailable`."""


class Ways:
    """Made on the event loop that carries the bytes; `path` may be asked from any thread."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._folder: Path | None = None
        self._listening: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._busy: set[asyncio.Task[None]] = set()

    def path(self, cluster: str) -> str:
        """The socket of a cluster."""
        with self._lock:
            where = self._made() / cluster
            if cluster not in self._listening:
                made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                made.setblocking(False)
                made.bind(str(where))
                made.listen(_BACKLOG)
                self._listening[cluster] = made
                self._loop.call_soon_threadsafe(self._begin, self._accept(cluster, made))
        return str(where)

    async def close(self) -> None:
        busy = list(self._busy)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        for one in self._listening.values():
            one.close()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _made(self) -> Path:
        """The folder, made for the first cluster; folders of processes that were killed go then."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            for folder in self._folder.parent.glob(f"{_PREFIX}*"):
                if folder != self._folder and _left_behind(folder):
                    shutil.rmtree(folder, ignore_errors=True)
        return self._folder

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _accept(self, cluster: str, listening: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listening)
            self._begin(self._carry(cluster, client))

    async def _carry(self, cluster: str, client: socket.socket) -> None:
        pipe = await StreamPipe.of(client)
        try:
            far = await self._dial(cluster)
        except BackendUnavailable as error:
            await refuse(pipe, str(error))
            return
        await join(pipe, far)


def _left_behind(folder: Path) -> bool:
    """Ours, with sockets on which nobody listens any more."""
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        ends = list(folder.iterdir())
    except OSError:
        return False
    return bool(ends) and not any(_listens(end) for end in ends)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # whoever it is, it is not known to be gone
    return True
