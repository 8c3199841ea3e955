"""One session from its websocket to the task: bytes both ways, neither side faster than the other."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.websockets import WebSocket

from osmo_ray.api.inside import keys
from osmo_ray.api.inside.clients import Client, EndOfInput, Heard, PlainClient, Signal, client_of
from osmo_ray.api.inside.daemon import DAEMON, missing
from osmo_ray.api.services import Services
from osmo_ray.backends.inside import NotInside, Session, Size, Stream
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.wire import EXIT
from osmo_ray.store.protocol import SessionKey

_log = logging.getLogger(__name__)
_LOOK_EVERY = 5.0
_NO_SESSION = 4404
"""Close code of a session that could not begin; the reason says why."""
_BAD = 1008


async def serve_exec(services: Services, socket: WebSocket, key: SessionKey) -> None:
    """A command; the contract's clients always have a terminal, ours say by their first message."""
    client = client_of(socket, terminal=True)
    async with aclosing(client.hear()) as heard:
        await _exec(services, client, heard, key)


async def _exec(services: Services, client: Client, heard: AsyncIterator[Heard], key: SessionKey) -> None:
    try:
        async with asyncio.timeout(keys.WAIT):
            first = await anext(heard)
    except (StopAsyncIteration, TimeoutError, ValueError) as error:
        await client.close(str(error) or "the client said nothing", _BAD)
        return
    size = first if isinstance(first, Size) and first.rows else None
    if size is None and isinstance(client, PlainClient):
        size = Size()
    attempt = AttemptKey(key.task_uuid, key.retry_id)
    session = await _begun(client, services.inside.exec(attempt, key.node, key.argv, size))
    if session is None:
        return
    try:
        await _both(_to_session(client, heard, session), _from_session(client, session), client.left())
    finally:
        await session.close()
    await client.close("" if session.code is None else f"{EXIT}{session.code}")


async def _begun(client: Client, asking: Awaitable[Any]) -> Any:
    """What was asked for; None when the client was told why there is none."""
    try:
        return await asking
    except (NotInside, BackendUnavailable) as error:
        if isinstance(client, PlainClient):
            try:
                await client.say(f"osmo: {error}\r\n".encode())
            except ConnectionError:
                return None
        await client.close(str(error), _NO_SESSION)
        return None


async def _to_session(client: Client, heard: AsyncIterator[Heard], session: Session) -> None:
    async for item in heard:
        if isinstance(item, Size):
            await session.resize(item)
        elif isinstance(item, Signal):
            await session.signal(item.number)
        elif isinstance(item, EndOfInput):
            await session.end()
        else:
            await session.send(item)
            await client.took(len(item))


async def _from_session(client: Client, session: Session) -> None:
    while (output := await session.receive()) is not None:
        await client.say(output.data, errors=output.errors)


async def _both(*ways: Coroutine[Any, Any, None]) -> None:
    """Until one way has ended: either side closing closes both."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, ConnectionError | ValueError | BackendUnavailable):
            _log.warning("a session broke: %s: %s", type(error).__name__, error)


async def serve_forward(services: Services, socket: WebSocket, key: SessionKey) -> None:
    """A connection of a port, the datagrams of one, or the socket that announces connections."""
    if key.kind.endswith(keys.CONTROL):
        await _control(services, socket, key)
        return
    client = client_of(socket, terminal=False)
    attempt = AttemptKey(key.task_uuid, key.retry_id)
    stream = await _begun(client, services.inside.connect(attempt, key.node, key.port, udp=key.udp))
    if stream is None:
        return
    try:
        await _both(_to_stream(client, stream), _from_stream(client, stream), client.left())
    finally:
        await stream.close()
    await client.close("")


async def _to_stream(client: Client, stream: Stream) -> None:
    async for item in client.hear():
        if isinstance(item, bytes):
            await stream.send(item)
            await client.took(len(item))
        elif isinstance(item, EndOfInput):
            await stream.end()


async def _from_stream(client: Client, stream: Stream) -> None:
    while data := await stream.receive():
        await client.say(data)


async def _control(services: Services, socket: WebSocket, key: SessionKey) -> None:
    """Keys of connections to come, each a frame; it stays as long as the task and the client do."""
    client = PlainClient(socket, terminal=False)

    async def listen() -> None:
        async for frame in client.hear():
            if not isinstance(frame, bytes):
                continue
            try:
                name = str(json.loads(frame)["key"])
            except (ValueError, KeyError, TypeError):
                raise ValueError("a control frame is JSON with a key") from None
            await asyncio.to_thread(keys.announce, services, key, name)

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if not await asyncio.to_thread(keys.still_runs, services, key):
                return

    await _both(listen(), watch())
    await client.close("")


async def serve_rsync(services: Services, socket: WebSocket, key: SessionKey) -> None:
    """An rsync daemon of its own for each connection, inside the task."""
    if key.kind.endswith(keys.CONTROL):
        await _control(services, socket, key)
        return
    client = client_of(socket, terminal=False)
    attempt = AttemptKey(key.task_uuid, key.retry_id)
    session = await _begun(client, services.inside.exec(attempt, key.node, DAEMON))
    if session is None:
        return
    complaints = bytearray()

    async def answer() -> None:
        while (output := await session.receive()) is not None:
            if output.errors:
                complaints[:] = (complaints + output.data)[-500:]
            else:
                await client.say(output.data)

    try:
        await _both(_to_session(client, client.hear(), session), answer(), client.left())
    finally:
        await session.close()
    reason = missing(session.code) or bytes(complaints).decode(errors="replace").strip()
    await client.close(reason, 1000 if not session.code else _NO_SESSION)
