"""`osmo workflow port-forward`: ports of this host that lead into a running task."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import struct
import sys
from dataclasses import dataclass
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside.naming import task_of
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.sessions import Channel, Forwarding, ask, open_socket
from osmo_ray.spec.wire import PIECE

_SENDER = struct.Struct(">4sH")
_PAUSE = 1.0
_MOST_WAITING = 1024


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", help="the workflow, or WORKFLOW/TASK")
    parser.add_argument("task", nargs="?", default="", help="the task (default: the lead task that runs)")
    parser.add_argument("--host", default="127.0.0.1", help="address of this host to listen on (default: loopback)")
    parser.add_argument(
        "--port", "-p", nargs="+", action="extend", required=True, metavar="LOCAL:REMOTE",
        help="for example 8080, 9000:8080, 8000-8005:9000-9005, several of them, also with commas",
    )  # fmt: skip
    parser.add_argument("--udp", action="store_true", help="datagrams instead of connections")


@dataclass(frozen=True, slots=True)
class Pair:
    """A port here and one in the task; `local` 0 takes any free one."""

    local: int
    remote: int


def pairs(texts: list[str]) -> list[Pair]:
    """What `--port` means. Raises ValueError."""
    found = []
    for text in ",".join(texts).split(","):
        left, _, right = text.partition(":")
        local, remote = _range(left), _range(right or left)
        if len(local) != len(remote):
            raise ValueError(f"{text!r}: the two ranges are of different length")
        found += [Pair(a, b) for a, b in zip(local, remote, strict=True)]
    return found


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError:
        raise ValueError(f"{text!r} is neither a port nor a range such as 8000-8005") from None
    if not found or found[0] < 0 or found[-1] > 65535:
        raise ValueError(f"{text!r}: ports go from 1 to 65535, and ranges upwards")
    return found


def _forward(args: argparse.Namespace) -> int:
    try:
        wanted = pairs(args.port)
        ipaddress.ip_address(args.host)
    except ValueError as error:
        print(f"osmo: --port: {error}", file=sys.stderr)
        return 2
    with connect(args) as client:
        workflow, task = task_of(client, args.workflow_id, args.task)
        asyncio.run(_serve(client, workflow, task, wanted, args.host, udp=args.udp))
    return 0


async def _serve(client: Client, workflow: str, task: str, wanted: list[Pair], host: str, *, udp: bool) -> None:
    """Listen until interrupted, or until the task has ended. Raises `ClientError`."""
    one = _datagrams if udp else connections
    await asyncio.gather(*(one(client, workflow, task, pair, host) for pair in wanted))


async def connections(client: Client, workflow: str, task: str, pair: Pair, host: str, told: str = "") -> None:
    """One port, until interrupted, or until the task has ended. `told` is what is printed once it listens, with
    `{here}` for the address; without it, where that leads. Raises `ClientError`, and OSError when the address is
    taken."""
    forwarding = Forwarding.port(client, workflow, task, pair.remote)
    await forwarding.begin()  # a task that does not run is said at once

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await carry(forwarding, reader, writer)

    server = await asyncio.start_server(accept, host, pair.local, limit=PIECE)
    local = server.sockets[0].getsockname()[1]
    here = f"{host}:{local}"
    print(told.format(here=here) or f"{here} -> {task}:{pair.remote}", flush=True)
    async with server:
        while True:
            await asyncio.sleep(_PAUSE)
            await forwarding.begin()


async def carry(forwarding: Forwarding, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, until either side has gone."""
    channel = None
    try:
        channel = await forwarding.dial()
        await both(channel, reader, writer)
        if (error := channel.refusal()) is not None:
            raise error
    except (ClientError, OSError) as error:
        print(f"osmo: {error}", file=sys.stderr)
    finally:
        if channel is not None:
            await channel.close()
        writer.close()


class Reads(Protocol):
    async def read(self, n: int = -1, /) -> bytes: ...


class Writes(Protocol):
    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...


async def both(channel: Channel, reader: Reads, writer: Writes) -> None:
    """Bytes both ways until the far side has ended."""

    async def to_task() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE):
                await channel.send(data)
            await channel.end()

    sending = asyncio.ensure_future(to_task())
    try:
        while (said := await channel.receive()) is not None:
            writer.write(said[0])
            await writer.drain()
    finally:
        sending.cancel()


class _Here(asyncio.DatagramProtocol):
    """Datagrams of this host, each with its sender before it; those that nobody takes in time are lost."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WAITING)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.heard.full():
            self.heard.put_nowait(_SENDER.pack(ipaddress.IPv4Address(addr[0]).packed, addr[1]) + data)


async def _datagrams(client: Client, workflow: str, task: str, pair: Pair, host: str) -> None:
    transport, here = await asyncio.get_running_loop().create_datagram_endpoint(_Here, local_addr=(host, pair.local))
    local = transport.get_extra_info("sockname")[1]
    path = f"/api/workflow/{workflow}/portforward/{task}"
    told = False
    try:
        while True:
            reply = (await ask(client, path, task_ports=[pair.remote], use_udp=True))[0]
            socket = await open_socket(client, "portforward", workflow, reply)
            if not told:
                print(f"{host}:{local} -> {task}:{pair.remote} (udp)", flush=True)
                told = True
            await _exchange(socket, here, transport)
            await asyncio.sleep(_PAUSE)
    finally:
        transport.close()


async def _exchange(socket: ClientConnection, here: _Here, transport: asyncio.DatagramTransport) -> None:
    async def out() -> None:
        while True:
            await socket.send(await here.heard.get())

    sending = asyncio.ensure_future(out())
    try:
        async for message in socket:
            if isinstance(message, bytes) and len(message) >= _SENDER.size:
                address, port = _SENDER.unpack_from(message)
                transport.sendto(message[_SENDER.size :], (str(ipaddress.IPv4Address(address)), port))
    except ConnectionClosed:
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await socket.close()


FORWARD = Command(_arguments, _forward, json=False)
