"""A client at its websocket, in either of two wires: the contract's bare bytes, or our own typed messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from osmo_ray.api.inside.contract import Typing
from osmo_ray.backends.inside import Size
from osmo_ray.spec import wire
from osmo_ray.spec.wire import Say

_QUIET = 0.05
"""Seconds after which a lone zero byte is the user's."""
_REASON = 120
"""Bytes of a close reason; the protocol allows 123."""


@dataclass(frozen=True, slots=True)
class Signal:
    number: int


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """The client sends no more, and still listens."""


Heard = bytes | Size | Signal | EndOfInput


class Client(Protocol):
    """What the serving side knows of a client."""

    def hear(self) -> AsyncGenerator[Heard, None]:
        """What the client says, until it has gone or (in the contract's wire) ended the session. Raises ValueError
        for what is neither."""
        ...

    async def say(self, data: bytes, *, errors: bool = False) -> None:
        """Returns when the client has room for more."""
        ...

    async def took(self, count: int) -> None:
        """So many bytes of what was heard have been passed on."""
        ...

    async def left(self) -> None:
        """Returns when the client has gone, even though what it said before was not all passed on; may never."""
        ...

    async def close(self, reason: str, code: int = 1000) -> None: ...


class _Socket:
    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def _messages(self) -> AsyncIterator[bytes]:
        """Binary messages; text is no part of any wire."""
        while True:
            try:
                yield await self._socket.receive_bytes()
            except (WebSocketDisconnect, RuntimeError):
                return
            except KeyError:
                raise ValueError("send binary frames, not text") from None

    async def close(self, reason: str, code: int = 1000) -> None:
        """Safe to repeat, also after the client has gone."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            short = reason.encode()[:_REASON].decode(errors="ignore")
            try:
                await self._socket.close(code, short)
            except (RuntimeError, WebSocketDisconnect, OSError):
                return

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (RuntimeError, WebSocketDisconnect, OSError) as error:
            raise ConnectionResetError("the client went away") from error


class PlainClient(_Socket):
    """The contract's wire. With `terminal` the bytes begin with a size and hold others."""

    def __init__(self, socket: WebSocket, *, terminal: bool) -> None:
        super().__init__(socket)
        self._typing = Typing() if terminal else None

    async def hear(self) -> AsyncGenerator[Heard, None]:
        if self._typing is None:
            async for data in self._messages():
                if not data:
                    return
                yield data
            return
        async for item in self._typed(self._typing):
            yield item

    async def _typed(self, typing: Typing) -> AsyncIterator[Heard]:
        messages = aiter(self._messages())
        coming: asyncio.Task[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(messages))
                done, _ = await asyncio.wait([coming], timeout=_QUIET if typing.begun and typing.held else None)
                if not done:
                    yield typing.flush()
                    continue
                data, coming = await coming, None
                if not data:
                    return
                for item in typing.feed(data):
                    yield item
        except StopAsyncIteration:
            return
        finally:
            if coming is not None:
                coming.cancel()

    async def say(self, data: bytes, *, errors: bool = False) -> None:
        await self._send(data)

    async def took(self, count: int) -> None:
        """This wire has no word for it: the connection itself holds the client back."""

    async def left(self) -> None:
        """Never: its last bytes count, and what it said before is heard first."""
        await asyncio.Event().wait()


class TypedClient(_Socket):
    """Our own wire."""

    def __init__(self, socket: WebSocket) -> None:
        super().__init__(socket)
        self._room = wire.WINDOW
        self._more = asyncio.Event()
        self._taken = 0
        self._heard = 0
        self._left = asyncio.Event()

    async def hear(self) -> AsyncGenerator[Heard, None]:
        """Messages are read however slowly the task takes its input, because the word that makes room for its output
        is among them; the window bounds what waits here."""
        waiting: asyncio.Queue[Heard | ValueError | None] = asyncio.Queue()
        reading = asyncio.ensure_future(self._read(waiting))
        try:
            while (item := await waiting.get()) is not None:
                if isinstance(item, ValueError):
                    raise item
                yield item
        finally:
            reading.cancel()

    async def _read(self, waiting: asyncio.Queue[Heard | ValueError | None]) -> None:
        try:
            async for message in self._messages():
                if (item := self._meaning(message)) is not None:
                    waiting.put_nowait(item)
        except (ValueError, IndexError) as error:
            waiting.put_nowait(ValueError(f"no message of this wire: {error}"))
        waiting.put_nowait(None)
        self._left.set()

    async def left(self) -> None:
        await self._left.wait()

    def _meaning(self, message: bytes) -> Heard | None:
        kind, body = Say(message[0]), message[1:]
        if kind is Say.DATA:
            self._heard += len(body)
            if self._heard > wire.WINDOW:
                raise ValueError(f"more than {wire.WINDOW} bytes on the way")
            return body
        if kind is Say.TAKEN:
            self._room += wire.read_taken(body)
            self._more.set()
        if kind is Say.RESIZE:
            return Size(*wire.read_resize(body))
        if kind is Say.SIGNAL:
            return Signal(body[0])
        return EndOfInput() if kind is Say.END else None

    async def say(self, data: bytes, *, errors: bool = False) -> None:
        kind = bytes([Say.ERRORS if errors else Say.DATA])
        for at in range(0, len(data), wire.PIECE):
            piece = data[at : at + wire.PIECE]
            while self._room < len(piece):
                self._more.clear()
                await self._more.wait()
            self._room -= len(piece)
            await self._send(kind + piece)

    async def took(self, count: int) -> None:
        self._taken += count
        self._heard -= count
        if self._taken >= wire.PIECE:
            count, self._taken = self._taken, 0
            await self._send(wire.taken(count))


def client_of(socket: WebSocket, *, terminal: bool) -> Client:
    """The wire that the client asked for."""
    if socket.query_params.get(wire.PARAMETER) == wire.TYPED:
        return TypedClient(socket)
    return PlainClient(socket, terminal=terminal)
