"""Many streams of bytes over one pipe, with room kept per stream: the wire between an agent and the platform.

Both sides run the same code; only the platform opens streams. A side sends at most `WINDOW` bytes of a stream that the
other has not taken yet, so whoever reads slowly holds back its own stream, no other, and memory has a bound. Whatever
reads the pipe never waits for a consumer or for the pipe's other direction, so no two sides can wait for each other.

A frame is one byte of kind, four of stream, four of length, and the body. Where frames begin in what carries them
does not matter: messages of a websocket and reads of a socket are the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum

from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe

WINDOW = 256 << 10
PIECE = 32 << 10
"""Bytes of the largest frame's body."""
MOST = 512
"""Streams that are open at once."""
QUIET = 30.0
"""Seconds of silence after which the other side counts as gone; each side speaks three times as often."""
REPLACED = "a newer connection"
"""How the last word begins when another agent took over."""
_HEAD = struct.Struct(">BII")
_COUNT = struct.Struct(">I")
_TAKEN_STEP = WINDOW // 8


class Kind(IntEnum):
    OPEN = 0
    DATA = 1
    CLOSE = 2  # a sentence when the stream broke, nothing when it ended
    TAKEN = 3
    PING = 4
    BYE = 5  # why the whole link ends


class BadFrame(ValueError):
    """The other side does not keep to the wire."""


class LinkLost(ConnectionError):
    """The link is gone, and with it every stream; the text says why."""


def frame(kind: Kind, stream: int = 0, body: bytes = b"") -> bytes:
    return _HEAD.pack(kind, stream, len(body)) + body


class Frames:
    """From pieces of bytes to whole frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """The frames that are whole now. Raises `BadFrame`."""
        self._rest += data
        at = 0
        while len(self._rest) - at >= _HEAD.size:
            kind, stream, length = _HEAD.unpack_from(self._rest, at)
            if kind > Kind.BYE or length > PIECE:
                raise BadFrame(f"a frame of kind {kind} with {length} bytes")
            end = at + _HEAD.size + length
            if len(self._rest) < end:
                break
            body = self._rest[at + _HEAD.size : end]
            at = end
            yield Kind(kind), stream, body
        self._rest = self._rest[at:]


class Stream:
    """One of many; a `Pipe`."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux, self.number = mux, number
        self._ready: deque[bytes] = deque()
        self._held = self._taken = 0
        self._room = WINDOW
        self._news, self._space = asyncio.Event(), asyncio.Event()
        self._broken: Exception | None = None
        self._ended = self._closed = False

    async def read(self) -> bytes:
        """What came next; empty at the end. Raises `ConnectionError` when the other side or the link broke off."""
        while not self._ready:
            if self._broken is not None:
                raise self._broken
            if self._ended or self._closed:
                return b""
            self._news.clear()
            await self._news.wait()
        data = self._ready.popleft()
        self._held -= len(data)
        self._taken += len(data)
        if self._taken >= _TAKEN_STEP and not (self._ended or self._closed):
            self._mux.tell(frame(Kind.TAKEN, self.number, _COUNT.pack(self._taken)))
            self._taken = 0
        return data

    async def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            self._still()
            if not self._room:
                self._space.clear()
                await self._space.wait()
                continue
            size = min(len(data) - at, self._room, PIECE)
            self._room -= size
            await self._mux.send(frame(Kind.DATA, self.number, data[at : at + size]))
            at += size

    async def close(self, error: str = "") -> None:
        """The other side reads what was written before, then the end, or a fault with this sentence."""
        if not self._closed:
            self._closed = True
            if not self._ended and self._broken is None:
                self._mux.tell(frame(Kind.CLOSE, self.number, error.encode()[:PIECE]))
            self._mux.forget(self.number)
            self._wake()

    def _still(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._ended or self._closed:
            raise ConnectionResetError("the stream is over")

    def _wake(self) -> None:
        self._news.set()
        self._space.set()

    # -- what the other side said

    def took_in(self, data: bytes) -> None:
        self._held += len(data)
        if self._held + self._taken > WINDOW:
            raise BadFrame("more than there is room for")
        self._ready.append(data)
        self._news.set()

    def more_room(self, count: int) -> None:
        self._room += count
        if self._room > WINDOW:
            raise BadFrame("more room than there is")
        self._space.set()

    def over(self, error: Exception | None) -> None:
        """What came before an orderly end is still read."""
        self._ended = True
        if error is not None and self._broken is None:
            self._broken = error
            self._ready.clear()
        self._wake()


Opened = Callable[[Stream], Awaitable[None]]


class Mux:
    """One end of a link. `run` carries it; `opened` serves each stream that the other side opens."""

    def __init__(self, pipe: Pipe, opened: Opened | None = None, *, quiet: float = QUIET) -> None:
        self._pipe, self._opened, self._quiet = pipe, opened, quiet
        self._streams: dict[int, Stream] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._last = 0
        self._sending = asyncio.Lock()
        self._urgent: deque[bytes] = deque()
        self._bell = asyncio.Event()
        self.heard = time.monotonic()
        self.lost = ""
        """Why the link is over; empty while it stands."""

    async def run(self) -> str:
        """Until the link is over; why it is. Never raises but for being cancelled."""
        parts = [asyncio.ensure_future(part) for part in (self._read(), self._speak(), self._listen())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            return self._end(next(iter(done)).result())
        finally:
            self._end("it was closed here")
            for part in (*parts, *self._serving):
                part.cancel()
            await asyncio.gather(*parts, *self._serving, self._pipe.close(), return_exceptions=True)

    async def open(self) -> Stream:
        """A new stream. Raises `LinkLost`, and OSError when too many are open."""
        if self.lost:
            raise LinkLost(self.lost)
        if len(self._streams) >= MOST:
            raise OSError(f"{MOST} streams are open already")
        self._last += 1
        made = self._streams[self._last] = Stream(self, self._last)
        self.tell(frame(Kind.OPEN, made.number))
        return made

    async def bye(self, why: str) -> None:
        """End the link, and let the other side know why, if it still listens."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.send(frame(Kind.BYE, 0, why.encode()[:PIECE]))
        self._end(why)
        await self._pipe.close()

    async def send(self, data: bytes) -> None:
        """Returns when it is on its way. Raises `LinkLost`."""
        if self.lost:
            raise LinkLost(self.lost)
        try:
            async with self._sending:
                whole = b"".join((*self._urgent, data))
                self._urgent.clear()
                if whole:
                    await self._pipe.write(whole)
        except OSError as error:
            raise LinkLost(str(error) or type(error).__name__) from error

    def tell(self, data: bytes) -> None:
        """Something small that goes out as soon as it can, for those who cannot wait."""
        self._urgent.append(data)
        self._bell.set()

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    # -- inside

    def _end(self, why: str) -> str:
        if not self.lost:
            self.lost = why
            for stream in list(self._streams.values()):
                stream.over(LinkLost(f"the link is lost: {why}"))
            self._streams.clear()
        return self.lost

    async def _read(self) -> str:
        frames = Frames()
        try:
            while data := await self._pipe.read():
                self.heard = time.monotonic()
                for kind, number, body in frames.feed(data):
                    if kind is Kind.BYE:
                        return body.decode(errors="replace")
                    self._take(kind, number, body)
            return "the other side went away"
        except (BadFrame, struct.error) as error:
            return f"the other side does not keep to the wire: {error}"
        except OSError as error:
            return str(error) or type(error).__name__

    def _take(self, kind: Kind, number: int, body: bytes) -> None:
        if kind is Kind.OPEN:
            self._begin(number)
            return
        stream = self._streams.get(number)
        if stream is None:  # late words for a stream that was closed here; or a ping
            return
        if kind is Kind.DATA:
            stream.took_in(body)
        elif kind is Kind.TAKEN:
            stream.more_room(*_COUNT.unpack(body))
        elif kind is Kind.CLOSE:
            self.forget(number)
            stream.over(ConnectionResetError(body.decode(errors="replace")) if body else None)

    def _begin(self, number: int) -> None:
        if self._opened is None or number in self._streams or len(self._serving) >= MOST * 2:
            raise BadFrame(f"stream {number} cannot be opened")
        made = self._streams[number] = Stream(self, number)
        task = asyncio.ensure_future(self._serve(self._opened, made))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, opened: Opened, stream: Stream) -> None:
        try:
            await opened(stream)
        except OSError as error:
            await stream.close(str(error) or type(error).__name__)
        finally:
            await stream.close()

    async def _speak(self) -> str:
        """What others left to be told, and a sign of life when there is nothing else."""
        while True:
            try:
                async with asyncio.timeout(self._quiet / 3):
                    await self._bell.wait()
            except TimeoutError:
                self._urgent.append(frame(Kind.PING))
            self._bell.clear()
            try:
                await self.send(b"")
            except LinkLost as error:
                return str(error)

    async def _listen(self) -> str:
        left = self._quiet
        while left > 0:
            await asyncio.sleep(left)
            left = self.heard + self._quiet - time.monotonic()
        return f"nothing was heard for {self._quiet:g} s"
