"""The API's port, opened by the replica itself.

Serve starts the replica, watches it and brings it back, but a request need not go through Serve's proxy: that copies
it into an actor call and each part of the answer back, which costs more than most answers, and more still for a stream.
Replicas of one host share the port (`SO_REUSEPORT`), so that a new one listens before the old one leaves.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open; longer than the usual 60 of a proxy in front."""
_GRACE = 3
"""Seconds that open streams have to end when the replica goes."""
_BACKLOG = 2048
_MESSAGE = 4 << 20
"""Bytes of one message of a websocket; one waits in memory for each session that takes its input slowly."""


@asynccontextmanager
async def listening(app: Any, host: str, port: int) -> AsyncIterator[None]:
    """Serve `app` at this address while the context is open. Raises OSError when the address cannot be had."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",  # whoever opened this context runs the application's life
            timeout_keep_alive=KEEP_ALIVE,
            ws_max_size=_MESSAGE,
            timeout_graceful_shutdown=_GRACE,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # who calls is decided by the connection, never by what a header says
        )
    )
    serving = asyncio.ensure_future(server.serve(sockets=[_bound(host, port)]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        made.listen(_BACKLOG)  # here: connections wait from now on, whenever the server takes the first one
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"the API cannot listen on {host}:{port}: {error.strerror}") from error
    made.setblocking(False)
    return made
