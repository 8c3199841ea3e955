"""Sessions and streams of the backend in memory: a command that is `cat`, one that only says something, an echo.

`sh -c TEXT` says every word after `echo` (to standard error when `>&2` follows) and ends with the number after
`exit`; `cat` gives back what it gets; everything else ends at once. That is what tests of the rooms above need.
"""

from __future__ import annotations

import asyncio
import re

from osmo_ray.backends.inside import Output, Size

_ECHO = re.compile(r"echo (\S+?)( >&2)?(?:;|$)")
_EXIT = re.compile(r"exit (\d+)")
_ROOM = 16
"""Pieces that wait before a sender does."""


class FakeSession:
    """A `backends.inside.Session`; `sizes` and `signals` are what was asked of it."""

    def __init__(self, argv: tuple[str, ...], size: Size | None) -> None:
        self.argv, self.sizes = argv, [size] if size else []
        self.signals: list[int] = []
        self.code: int | None = None
        self.closed = False
        self._cat = argv[:1] == ("cat",)
        self._out: asyncio.Queue[Output | int | None] = asyncio.Queue(_ROOM)
        if not self._cat:
            text = argv[-1]
            for word, errors in _ECHO.findall(text):
                self._out.put_nowait(Output(f"{word}\n".encode(), bool(errors) and size is None))
            found = _EXIT.search(text)
            self._out.put_nowait(int(found[1]) if found else 0)

    async def send(self, data: bytes) -> None:
        if self.closed or self.code is not None:
            raise ConnectionResetError("the session is over")
        if self._cat:
            await self._out.put(Output(data))

    async def end(self) -> None:
        if self._cat:
            await self._out.put(0)

    async def resize(self, size: Size) -> None:
        self.sizes.append(size)

    async def signal(self, number: int) -> None:
        self.signals.append(number)
        await self._out.put(128 + number)

    async def receive(self) -> Output | None:
        if self.closed or self.code is not None:
            return None
        said = await self._out.get()
        if isinstance(said, int):
            self.code = said
        return said if isinstance(said, Output) else None

    async def close(self) -> None:
        self.closed = True
        if not self._out.full():
            self._out.put_nowait(None)


class FakeStream:
    """A `backends.inside.Stream` that gives back what it gets."""

    def __init__(self) -> None:
        self.closed = False
        self._out: asyncio.Queue[bytes] = asyncio.Queue(_ROOM)

    async def send(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionResetError("the connection is over")
        await self._out.put(data)

    async def end(self) -> None:
        await self._out.put(b"")

    async def receive(self) -> bytes:
        return b"" if self.closed else await self._out.get()

    async def close(self) -> None:
        self.closed = True
        if not self._out.full():
            self._out.put_nowait(b"")
