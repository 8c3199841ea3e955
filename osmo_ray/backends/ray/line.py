"""A direct line to an agent on this host: frames over a local socket.

A call into an actor wakes several threads on both sides; where calls are as rare as the tasks they are about, that
costs ten times as much as the message. Ray still starts the agents, finds them, brings them back, and carries the calls
to other hosts. The socket is an abstract one of a random name, and nothing is read from a peer that does not know the
secret, which only Ray's calls hand out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import pickle
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

_SIZE = struct.Struct(">I")
_SECRET = 32
_DONE, _FAILED, _MORE = 0, 1, 2
"""What an answer says of its call."""
Verb = Callable[..., Awaitable[Any]]
Source = Callable[..., AsyncIterator[Any]]
"""A verb that has many answers, each told when it is there."""


class LineBroken(ConnectionError):
    """The other side went away; what was asked may or may not have been done."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an agent listens, and what it wants to hear first."""

    name: str
    secret: bytes


class Door:
    """The agent's side: answers calls of these verbs, and tells what these sources give."""

    def __init__(self, verbs: Mapping[str, Verb], sources: Mapping[str, Source] | None = None) -> None:
        self._verbs = verbs
        self._sources = sources or {}
        self._address: Address | None = None
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()

    async def open(self) -> Address:
        """Listen, if not yet; the address for those who may call."""
        if self._address is None:
            address = Address(f"osmo-agent-{secrets.token_hex(16)}", secrets.token_bytes(_SECRET))
            listening = _socket()
            listening.bind(f"\0{address.name}")
            self._server = await asyncio.start_unix_server(self._serve, sock=listening)
            self._address = address
        return self._address

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._address is not None
        try:
            if hmac.compare_digest(await reader.readexactly(_SECRET), self._address.secret):
                while True:
                    task = asyncio.ensure_future(self._answer(await _read(reader), writer))
                    self._busy.add(task)
                    task.add_done_callback(self._busy.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, frame: tuple[int, str, tuple[Any, ...]], writer: asyncio.StreamWriter) -> None:
        number, verb, args = frame
        try:
            if verb in self._sources:
                async for value in self._sources[verb](*args):
                    await _tell(writer, verb, (number, _MORE, value))
                    if writer.is_closing():
                        return
                answer: tuple[int, int, Any] = (number, _DONE, None)
            else:
                answer = (number, _DONE, await self._verbs[verb](*args))
        except Exception as error:
            answer = (number, _FAILED, error)
        await _tell(writer, verb, answer)


def _nobody(_: Any) -> None:
    pass


_GONE: tuple[None, Callable[[Any], None]] = (None, _nobody)


class Line:
    """The caller's side. Many calls may be open at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._open: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None]]] = {}
        self._last = 0
        self._reading = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def connect(cls, address: Address) -> Line:
        """OSError when that socket is not of this host."""
        calling = _socket()
        try:
            calling.connect(f"\0{address.name}")
        except OSError:
            calling.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=calling)
        writer.write(address.secret)
        return cls(reader, writer)

    @property
    def broken(self) -> bool:
        return self._reading.done()

    async def hear(self, heard: Callable[[Any], None], source: str, *args: Any) -> None:
        """Call `heard` with each thing that a source gives, until it ends; raises as `ask` does."""
        await self._call(heard, source, args)

    async def ask(self, verb: str, *args: Any) -> Any:
        """The answer, or what the verb raised; LineBroken when the agent went away."""
        return await self._call(_nobody, verb, args)

    async def _call(self, heard: Callable[[Any], None], verb: str, args: tuple[Any, ...]) -> Any:
        if self.broken:
            raise LineBroken("the agent's process has ended")
        self._last += 1
        number, answer = self._last, asyncio.get_running_loop().create_future()
        self._open[number] = answer, heard
        try:
            _write(self._writer, (number, verb, args))
            return await answer
        finally:
            self._open.pop(number, None)

    def close(self) -> None:
        self._reading.cancel()
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                number, kind, value = await _read(reader)
                waiting, heard = self._open.get(number, _GONE)
                if waiting is None or waiting.done():
                    continue
                if kind == _MORE:
                    heard(value)
                elif kind == _DONE:
                    waiting.set_result(value)
                else:
                    waiting.set_exception(value)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writer.close()
            for waiting, _ in self._open.values():
                if not waiting.done():
                    waiting.set_exception(LineBroken("the agent's process has ended"))


def _socket() -> socket.socket:
    # Made and bound here: not every event loop takes abstract names.
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


async def _read(reader: asyncio.StreamReader) -> Any:
    (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
    return pickle.loads(await reader.readexactly(size))  # noqa: S301 - the peer has shown the secret


async def _tell(writer: asyncio.StreamWriter, verb: str, answer: tuple[int, int, Any]) -> None:
    if writer.is_closing():
        return
    try:
        _write(writer, answer)
    except Exception as error:  # pickle raises whatever the value's own hooks raise
        _write(writer, (answer[0], _FAILED, RuntimeError(f"{verb} gave what cannot be sent: {error}")))
    with contextlib.suppress(ConnectionError):
        await writer.drain()


def _write(writer: asyncio.StreamWriter, value: Any) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    writer.write(_SIZE.pack(len(data)) + data)
