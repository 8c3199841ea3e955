"""How HTTP clients of this process get to a cluster behind an agent: a local socket per cluster, in a folder that only
this user may enter. What connects there is put through, whatever it speaks, so clients need nothing but a path.
"""

from __future__ import annotations

import asyncio
import logging
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

Dial = Callable[[str], Awaitable[Pipe]]
"""A pipe to the API server of a cluster. Raises `BackendUnavailable`."""


class Ways:
    """Made on the event loop that carries the bytes; `path` may be asked from any thread."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="osmo-ways-"))
        self._gone = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._listening: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._busy: set[asyncio.Task[None]] = set()

    def path(self, cluster: str) -> str:
        """The socket of a cluster."""
        where = self._folder / cluster
        with self._lock:
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
        await asyncio.to_thread(self._gone)

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
