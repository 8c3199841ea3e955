"""The caller's side of a session: the frames of `runtime.inside` over whatever carries bytes to the other side."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Protocol, TypeVar

from osmo_ray.backends.inside import NotInside, Output, Size
from osmo_ray.runtime.inside.frames import EXIT, LONGEST, SIZE, BadFrame, Frames, Kind, clip, frame
from osmo_ray.spec.reason import Reason

F = TypeVar("F", bound="Framed")
_PIECE = 64 << 10
_START = 30.0
"""Seconds that a session may take to begin: a container's engine is slow."""


class Pipe(Protocol):
    """Bytes both ways, each waiting for the other side."""

    async def write(self, data: bytes) -> None: ...

    async def read(self) -> bytes:
        """Some bytes; empty at the end."""
        ...

    async def close(self) -> None: ...


async def begin(made: F) -> F:
    """The session once it has begun, else it is closed. Raises `NotInside` and what its pipe raises."""
    try:
        async with asyncio.timeout(_START):
            await made.started()
    except BaseException as error:
        await made.close()
        if isinstance(error, TimeoutError):
            raise NotInside(Reason("SessionFailed", f"the session did not begin within {_START:.0f} s")) from error
        raise
    return made


class Framed:
    """Frames over a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._frames = Frames()
        self._ready: deque[tuple[Kind, bytes]] = deque()
        self._over = False

    async def started(self) -> None:
        """Wait for the first frame. Raises `NotInside`."""
        kind, body = await self._next()
        if kind is not Kind.STARTED:
            raise NotInside(_reason(kind, body))

    async def _next(self) -> tuple[Kind, bytes]:
        """The next frame; END when the pipe has ended."""
        while not self._ready:
            data = await self._pipe.read()
            if not data:
                return Kind.END, b""
            try:
                self._ready += self._frames.feed(data)
            except BadFrame:
                return Kind.END, b""
        return self._ready.popleft()

    async def _say(self, kind: Kind, data: bytes = b"") -> None:
        if self._over:
            raise ConnectionResetError("the session is over")
        await self._pipe.write(frame(kind, data))

    async def end(self) -> None:
        await self._say(Kind.END)

    async def close(self) -> None:
        self._over = True
        await self._pipe.close()


class NodeSession(Framed):
    """A `backends.inside.Session`."""

    code: int | None = None

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            await self._say(Kind.DATA, data[at : at + _PIECE])

    async def resize(self, size: Size) -> None:
        await self._say(Kind.RESIZE, SIZE.pack(clip(size.rows), clip(size.cols)))

    async def signal(self, number: int) -> None:
        await self._say(Kind.SIGNAL, bytes([number & 0x7F]))

    async def receive(self) -> Output | None:
        while not self._over:
            kind, body = await self._next()
            if kind is Kind.DATA or kind is Kind.ERRORS:
                return Output(body, kind is Kind.ERRORS)
            if kind is Kind.EXIT:
                self.code = EXIT.unpack(body)[0] if len(body) == EXIT.size else None
            if kind in (Kind.EXIT, Kind.END, Kind.REFUSED):
                self._over = True
        return None


class NodeStream(Framed):
    """A `backends.inside.Stream`."""

    async def send(self, data: bytes) -> None:
        if len(data) > LONGEST:
            raise ValueError(f"at most {LONGEST} bytes at once")
        await self._say(Kind.DATA, data)

    async def receive(self) -> bytes:
        while not self._over:
            kind, body = await self._next()
            if kind is Kind.DATA and body:
                return body
            self._over = kind is not Kind.DATA
        return b""


def _reason(kind: Kind, body: bytes) -> Reason:
    if kind is Kind.REFUSED:
        try:
            return Reason.from_json(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Reason("SessionFailed", "the session was refused in words that cannot be read")
    return Reason("SessionFailed", "the node ended the session before it began")
