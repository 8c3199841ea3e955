"""How the bytes of a session get from an agent's node to whoever asked.

On one host: an abstract socket of a random name, whose caller shows a secret that only Ray's calls hand out and says
what it wants; the socket itself then goes to the process that serves the session, and the agent is out of the way. To
other hosts: the agent keeps the near end and gives and takes one piece per call, so that no port is opened and
nothing waits in memory beyond a socket's buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from osmo_ray.backends.ray.line import Address
from osmo_ray.runtime.inside.frames import Kind, frame
from osmo_ray.spec.reason import Reason

_SECRET = 32
_LENGTH = struct.Struct(">I")
_MOST_WORDS = 1 << 17
_PIECE = 64 << 10
_HELLO = 10.0
_POLL = 20.0
_FORGOTTEN = 60.0
"""Seconds without a call after which a relayed session counts as left by its caller."""

A = TypeVar("A")
Begin = Callable[[A, int], Awaitable[None]]
"""Serves what was asked for on the socket behind a file number, which stays the caller's to close."""


class Asked(Protocol):
    """What a caller wants, as it goes over the line."""

    def to_json(self) -> Any: ...


class SessionDoor(Generic[A]):
    """The agent's side for callers of its own host."""

    def __init__(self, begin: Begin[A], parse: Callable[[Any], A]) -> None:
        self._begin, self._parse = begin, parse
        self._address: Address | None = None
        self._listening: asyncio.Task[None] | None = None
        self._busy: set[asyncio.Task[None]] = set()

    async def open(self) -> Address:
        """Listen, if not yet; the address for those who may call."""
        if self._address is None:
            address = Address(f"osmo-inside-{secrets.token_hex(16)}", secrets.token_bytes(_SECRET))
            listener = _socket()
            listener.bind(f"\0{address.name}")
            listener.listen(128)
            self._address = address
            self._listening = asyncio.ensure_future(self._listen(listener))
        return self._address

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            caller, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._serve(caller))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)

    async def _serve(self, caller: socket.socket) -> None:
        assert self._address is not None
        caller.setblocking(False)
        with caller, contextlib.suppress(OSError, ValueError, KeyError, TypeError, TimeoutError):
            async with asyncio.timeout(_HELLO):
                if not hmac.compare_digest(await _exactly(caller, _SECRET), self._address.secret):
                    return
                (length,) = _LENGTH.unpack(await _exactly(caller, _LENGTH.size))
                if length > _MOST_WORDS:
                    return
                ask = self._parse(json.loads(await _exactly(caller, length)))
            await begin_or_refuse(self._begin, ask, caller)


async def begin_or_refuse(begin: Begin[A], ask: A, end: socket.socket) -> None:
    """Start a session on `end`, or say on it why there is none."""
    try:
        await begin(ask, end.fileno())
    except Exception as error:
        code = "NotRunning" if isinstance(error, LookupError) else "SessionFailed"
        told = json.dumps(Reason(code, str(error.args[0] if error.args else error)).to_json()).encode()
        await asyncio.get_running_loop().sock_sendall(end, frame(Kind.REFUSED, told))


class LocalPipe:
    """The caller's side, on the same host."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._closed = False

    @classmethod
    async def connect(cls, address: Address, ask: Asked) -> LocalPipe | None:
        """None when that socket is not of this host."""
        own = _socket()
        try:
            own.connect(f"\0{address.name}")
        except OSError:
            own.close()
            return None
        words = json.dumps(ask.to_json()).encode()
        made = cls(own)
        await made.write(address.secret + _LENGTH.pack(len(words)) + words)
        return made

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._own, data)

    async def read(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._own, _PIECE)
        except (ConnectionError, asyncio.CancelledError):
            if self._closed:
                return b""
            raise

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            _end(self._own)


@dataclass(slots=True)
class _Relay:
    near: socket.socket
    used: float = field(default_factory=time.monotonic)
    calls: int = 0


class Relays(Generic[A]):
    """The agent's side for callers of other hosts: verbs that Ray's calls reach."""

    def __init__(self, begin: Begin[A]) -> None:
        self._begin = begin
        self._open: dict[str, _Relay] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self, ask: A) -> str:
        """Begin a session; the name is a secret."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        name = secrets.token_hex(16)
        self._open[name] = _Relay(near)
        with far:
            await begin_or_refuse(self._begin, ask, far)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.ensure_future(self._sweep())
        return name

    async def write(self, name: str, data: bytes) -> None:
        """Returns when all was taken. Raises ConnectionError when the session is over."""
        relay = self._use(name)
        relay.calls += 1
        try:
            await asyncio.get_running_loop().sock_sendall(relay.near, data)
        finally:
            relay.calls -= 1

    async def read(self, name: str, wait: float) -> bytes | None:
        """Some bytes, empty at the end, None when there was nothing for `wait` seconds."""
        relay = self._use(name)
        relay.calls += 1
        try:
            async with asyncio.timeout(wait):
                return await asyncio.get_running_loop().sock_recv(relay.near, _PIECE)
        except TimeoutError:
            return None
        except ConnectionError:
            return b""
        finally:
            relay.calls -= 1
            relay.used = time.monotonic()

    async def close(self, name: str) -> None:
        """Safe to repeat."""
        relay = self._open.pop(name, None)
        if relay is not None:
            _end(relay.near)

    def _use(self, name: str) -> _Relay:
        relay = self._open.get(name)
        if relay is None:
            raise ConnectionResetError("the session is over")
        relay.used = time.monotonic()
        return relay

    async def _sweep(self) -> None:
        """Close what its caller, a replica that died, will never close."""
        while self._open:
            await asyncio.sleep(_FORGOTTEN / 4)
            late = time.monotonic() - _FORGOTTEN
            for name in [n for n, relay in self._open.items() if not relay.calls and relay.used < late]:
                await self.close(name)


class RelayedPipe:
    """The caller's side, on another host. A read is always open, so a relay without one has lost its caller."""

    def __init__(self, agent: Any, name: str) -> None:
        self._agent, self._name = agent, name
        self._closed = False

    @classmethod
    async def connect(cls, agent: Any, ask: Asked) -> RelayedPipe:
        return cls(agent, await agent.relay_open.remote(ask))

    async def write(self, data: bytes) -> None:
        await self._agent.relay_write.remote(self._name, data)

    async def read(self) -> bytes:
        while not self._closed:
            data: bytes | None = await self._agent.relay_read.remote(self._name, _POLL)
            if data is not None:
                return data
        return b""

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._agent.relay_close.remote(self._name)


def _end(one: socket.socket) -> None:
    """Wake whoever reads or writes; the number is given back only when the loop knows of it no more."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    asyncio.get_running_loop().call_later(1.0, one.close)


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


async def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(source, size - len(data))
        if not piece:
            raise ConnectionResetError("the caller went away")
        data += piece
    return data
