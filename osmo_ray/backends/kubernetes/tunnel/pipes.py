"""Bytes both ways, whatever carries them: the one shape that the parts of the tunnel have in common."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

_PIECE = 64 << 10
_BUFFER = 256 << 10


class Pipe(Protocol):
    """Each side waits for the other, so that nothing piles up in between."""

    async def write(self, data: bytes) -> None:
        """Returns when the way on has room for more. Raises OSError when it is broken."""
        ...

    async def read(self) -> bytes:
        """Some bytes; empty at the end. Raises OSError when it broke."""
        ...

    async def close(self) -> None:
        """Safe to repeat."""
        ...


class StreamPipe:
    """A `Pipe` over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.transport.set_write_buffer_limits(_BUFFER)

    @classmethod
    async def of(cls, one: socket.socket) -> StreamPipe:
        """Over a connected unix socket, which is then the pipe's."""
        one.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=one))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> bytes:
        return await self._reader.read(_PIECE)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once; what was not sent is lost, and the other side may see a reset."""
        self._writer.transport.abort()


async def join(one: Pipe, other: Pipe) -> None:
    """Carry bytes both ways until either side has ended, then close both. Raises nothing for pipes that break: the
    other side sees an end."""
    ways = [asyncio.ensure_future(_carry(one, other)), asyncio.ensure_future(_carry(other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, one.close(), other.close(), return_exceptions=True)


async def _carry(source: Pipe, target: Pipe) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read():
            await target.write(data)
