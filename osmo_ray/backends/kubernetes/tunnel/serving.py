"""The agent's side of one stream: requests of the backend, checked, on to the API server, and its answers back.

A stream is one connection of an HTTP client, kept for several requests as such clients do. Only requests are read;
answers, watches and what follows an upgrade are passed on as they are, at the pace of whoever reads them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.backends.kubernetes.tunnel import guard
from osmo_ray.backends.kubernetes.tunnel.guard import BadRequest
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe

_CONNECT = 10.0
_SWITCHED = b"HTTP/1.1 101"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The cluster's own, as the account of a pod sees it. The token is read anew each time, since it changes."""

    host: str
    port: int
    context: ssl.SSLContext | None
    token_file: Path
    namespace: str

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def token(self) -> str:
        return self.token_file.read_text().strip()

    async def connect(self) -> StreamPipe:
        """Raises OSError (TimeoutError, and ssl's among them)."""
        async with asyncio.timeout(_CONNECT):
            return StreamPipe(*await asyncio.open_connection(self.host, self.port, ssl=self.context))


async def serve(stream: Pipe, server: ApiServer) -> None:
    """Until either side has ended. Raises OSError when the stream breaks."""
    session = _Session(stream, server)
    try:
        await session.run()
    except BadRequest as error:
        await stream.write(answer(400, "BadRequest", f"the agent: {error}"))
    finally:
        await session.close()


class _Session:
    def __init__(self, stream: Pipe, server: ApiServer) -> None:
        self._stream, self._server = stream, server
        self._source = _Source(stream)
        self._upstream: StreamPipe | None = None
        self._answering: asyncio.Task[None] | None = None
        self._switched: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        while head := await self._source.head():
            request = guard.parse(head)
            why = guard.refusal(request, self._server.namespace)
            if why:
                await self._stream.write(answer(403, "Forbidden", f"the agent: {why}"))
                return
            if request.upgrades and self._upstream is not None:
                raise BadRequest("a session begins on a connection of its own")
            if self._upstream is None and not await self._reach():
                return
            assert self._upstream is not None
            place, token = self._server.place, await asyncio.to_thread(self._server.token)
            await self._upstream.write(guard.written(request, place, token))
            await self._source.pass_on(request.length, self._upstream.write)
            if request.upgrades:
                await self._session()
                return

    async def close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)
        if self._upstream is not None:
            self._upstream.abort()

    async def _reach(self) -> bool:
        try:
            self._upstream = await self._server.connect()
        except OSError as error:
            told = (
                f"the agent cannot reach the API server at {self._server.place}: {str(error) or type(error).__name__}"
            )
            await self._stream.write(answer(503, "ServiceUnavailable", told))
            return False
        self._answering = asyncio.ensure_future(self._answer(self._upstream))
        return True

    async def _session(self) -> None:
        """After an upgrade there are no more requests to check; without one nothing more may follow."""
        assert self._upstream is not None and self._answering is not None
        if await self._switched:
            await self._source.pass_on(None, self._upstream.write)
        else:
            await self._answering

    async def _answer(self, upstream: StreamPipe) -> None:
        with suppress(OSError):
            data = await upstream.read()
            while data and len(data) < len(_SWITCHED) and (more := await upstream.read()):
                data += more
            self._switched.set_result(data.startswith(_SWITCHED))
            while data:
                await self._stream.write(data)
                data = await upstream.read()
        if not self._switched.done():
            self._switched.set_result(False)
        await self._stream.close()  # which ends the reading of requests as well


class _Source:
    """What the backend's side says, by heads and bodies."""

    def __init__(self, stream: Pipe) -> None:
        self._stream = stream
        self._rest = b""

    async def head(self) -> bytes:
        """The next head with its empty line; empty when there is none any more. Raises `BadRequest`."""
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            if len(self._rest) > guard.MOST_HEAD:
                raise BadRequest(f"a head has at most {guard.MOST_HEAD} bytes")
            data = await self._stream.read()
            if not data:
                return b""
            self._rest += data
        head, self._rest = self._rest[: end + 4], self._rest[end + 4 :]
        return head

    async def pass_on(self, length: int | None, write: Callable[[bytes], Awaitable[None]]) -> None:
        """So many bytes, or all that come. Raises ConnectionError when they end before."""
        left = length
        while left is None or left > 0:
            data = self._rest or await self._stream.read()
            if not data:
                if left is None:
                    return
                raise ConnectionResetError("the request ended within its body")
            part, self._rest = (data, b"") if left is None else (data[:left], data[left:])
            left = None if left is None else left - len(part)
            await write(part)


def answer(status: int, reason: str, message: str) -> bytes:
    """An answer as the API server gives one when it refuses."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    body = json.dumps({**told, "message": message}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


async def refuse(pipe: Pipe, message: str) -> None:
    """Tell an HTTP client why nobody is there, and hang up."""
    with suppress(OSError):
        await pipe.read()  # a client that still writes would see a reset instead of the answer
        await pipe.write(answer(503, "AgentAway", message))
    await pipe.close()
