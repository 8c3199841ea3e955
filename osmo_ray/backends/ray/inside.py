"""The caller's side of a session on a node: the frames of `runtime.inside` over whatever carries bytes there.

To an agent of this host that is a local socket, to others Ray's own calls, one piece at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from ray.exceptions import RayError

from osmo_ray.backends.inside import NotInside, Output, Session, Size, Stream
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray.doors import LocalPipe, RelayedPipe
from osmo_ray.runtime.inside.frames import EXIT, LONGEST, SIZE, Ask, Frames, Kind, clip, frame
from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.reason import Reason

T = TypeVar("T")
F = TypeVar("F", bound="_Framed")
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


async def begin_exec(agent: Any, key: AttemptKey, argv: tuple[str, ...], size: Size | None, term: str) -> Session:
    """Run `argv` in the attempt, under a terminal when there is a size. Raises `NotInside`, OSError, RayError."""
    shape = size or Size()
    ask = Ask(key, argv, size is not None, clip(shape.rows), clip(shape.cols), term)
    return await _begin(NodeSession(await _pipe(agent, ask)))


async def begin_connect(agent: Any, key: AttemptKey, port: int, *, udp: bool) -> Stream:
    """Connect to a port of the attempt. Raises `NotInside`, OSError, RayError."""
    return await _begin(NodeStream(await _pipe(agent, Ask(key, port=port, udp=udp))))


async def reached(node: str, asking: Awaitable[T]) -> T:
    """The answer, with the faults of the way there in the words of the protocol."""
    try:
        return await asking
    except (RayError, OSError) as error:
        raise BackendUnavailable(f"node {node} cannot be reached now: {type(error).__name__}") from error


async def _pipe(agent: Any, ask: Ask) -> Pipe:
    local = await LocalPipe.connect(await agent.inside_door.remote(), ask)
    return local or await RelayedPipe.connect(agent, ask)


async def _begin(made: F) -> F:
    try:
        async with asyncio.timeout(_START):
            await made.started()
    except BaseException as error:
        await made.close()
        if isinstance(error, TimeoutError):
            raise NotInside(Reason("SessionFailed", f"the session did not begin within {_START:.0f} s")) from error
        raise
    return made


class _Framed:
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
            self._ready += self._frames.feed(data)
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


class NodeSession(_Framed):
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
                (self.code,) = EXIT.unpack(body)
            if kind in (Kind.EXIT, Kind.END, Kind.REFUSED):
                self._over = True
        return None


class NodeStream(_Framed):
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
        return Reason.from_json(json.loads(body))
    return Reason("SessionFailed", "the node ended the session before it began")
