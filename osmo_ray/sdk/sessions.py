"""The client's side of a look inside: sockets of sessions, over the API's one port.

Asynchronous, because a session has two directions; everything else of the client is plain. Each socket holds at most a
window of bytes on its way (see `spec.wire`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from osmo_ray.sdk.errors import ClientError, Unreachable
from osmo_ray.sdk.http import Http
from osmo_ray.spec import wire
from osmo_ray.spec.wire import Say

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client

_OPEN = 60.0
NO_SESSION = 4404
"""Close code of a session that could not begin; its reason says why."""


async def ask(client: Client, path: str, **params: Any) -> Any:
    """A call that hands out keys, in a thread and over a connection of its own."""
    http = Http(client.login, client.http.timeout)
    try:
        return await asyncio.to_thread(http.json, "POST", path, params)
    finally:
        http.close()


async def open_socket(client: Client, kind: str, name: str, reply: dict[str, Any], query: str = "") -> ClientConnection:
    """The websocket of a key. It goes to where the client's own requests go, which may be another name of the same
    place than the platform knows. In our own wire the window bounds what waits here, so that pings are heard even
    while nobody reads. Raises `ClientError`."""
    base = client.login.url.replace("http", "ws", 1)
    address = f"{base}/api/router/{kind}/{name}/client/{reply['key']}{query}"
    headers = {**client.login.headers(), **({"Cookie": reply["cookie"]} if reply.get("cookie") else {})}
    try:
        return await connect(
            address,
            additional_headers=headers,
            compression=None,
            open_timeout=_OPEN,
            proxy=None,
            max_queue=None if query else 64,
        )
    except InvalidStatus as error:
        raise ClientError(f"The platform refused the session ({error})", status=error.response.status_code) from error
    except (OSError, WebSocketException) as error:
        raise Unreachable(f"No session with {client.login.url} ({type(error).__name__}: {error})") from error


class Channel:
    """One session or connection in our own wire. It is listened to all the time, since the word that makes room for
    `send` comes between the data; the window bounds what waits for `receive`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._room = wire.WINDOW
        self._more = asyncio.Event()
        self._untold = 0
        self._waiting: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, client: Client, kind: str, name: str, reply: dict[str, Any]) -> Channel:
        """Raises `ClientError`."""
        query = f"?{wire.PARAMETER}={wire.TYPED}"
        return cls(await open_socket(client, kind, name, reply, query))

    async def send(self, data: bytes) -> None:
        """Returns when it is on its way. Raises ConnectionError when the session is over."""
        for at in range(0, len(data), wire.PIECE):
            piece = data[at : at + wire.PIECE]
            while self._room < len(piece):
                self._more.clear()
                await self._more.wait()
            self._room -= len(piece)
            await self._say(bytes([Say.DATA]) + piece)

    async def end(self) -> None:
        """Nothing more comes from this side."""
        await self._say(bytes([Say.END]))

    async def resize(self, rows: int, cols: int) -> None:
        """The size of the terminal; the first message of a command, 0 and 0 when it has none."""
        await self._say(wire.resize(rows, cols))

    async def signal(self, number: int) -> None:
        await self._say(bytes([Say.SIGNAL, number]))

    async def receive(self) -> tuple[bytes, bool] | None:
        """The next bytes, and whether they came from standard error; None at the end."""
        if self._untold >= wire.PIECE:
            count, self._untold = self._untold, 0
            await self._say(wire.taken(count), quietly=True)
        said = await self._waiting.get()
        if said is None:
            self._waiting.put_nowait(None)  # for whoever asks again
        else:
            self._untold += len(said[0])
        return said

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await self._socket.recv()
                if not isinstance(message, bytes) or not message:
                    continue
                if message[0] in (Say.DATA, Say.ERRORS):
                    self._waiting.put_nowait((message[1:], message[0] == Say.ERRORS))
                elif message[0] == Say.TAKEN:
                    self._room += wire.read_taken(message[1:])
                    self._more.set()
        self._room = 1 << 62  # nobody waits for room any more; sending says that it is over
        self._more.set()
        self._waiting.put_nowait(None)

    @property
    def code(self) -> int | None:
        """The exit code that the session ended with; None when it broke."""
        reason = self._socket.close_reason or ""
        if self._socket.close_code == 1000 and reason.startswith(wire.EXIT):
            return int(reason.removeprefix(wire.EXIT))
        return None

    def refusal(self) -> ClientError | None:
        """Why the session ended, unless it ended well."""
        if self._socket.close_code in (1000, 1001, None):
            return None
        return ClientError(self._socket.close_reason or "the connection broke", status=400)

    async def close(self) -> None:
        await self._socket.close()
        await self._reading

    async def _say(self, message: bytes, *, quietly: bool = False) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            if not quietly:
                raise ConnectionResetError("the session is over") from error


class Forwarding:
    """A port of a task: each `dial` is a connection of its own, announced over one control socket."""

    def __init__(self, client: Client, name: str, kind: str, path: str, params: dict[str, Any]) -> None:
        self._client, self._name, self._kind, self._path, self._params = client, name, kind, path, params
        self._control: ClientConnection | None = None
        self._opening = asyncio.Lock()

    @staticmethod
    def port(client: Client, name: str, task: str, port: int) -> Forwarding:
        path = f"/api/workflow/{name}/portforward/{task}"
        return Forwarding(client, name, "portforward", path, {"task_ports": [port], "use_udp": False})

    @staticmethod
    def rsync(client: Client, name: str, task: str) -> Forwarding:
        return Forwarding(client, name, "rsync", f"/api/workflow/{name}/rsync/task/{task}", {})

    async def begin(self) -> None:
        """Open the control socket, again if it broke. Raises `ClientError`."""
        async with self._opening:
            if self._control is not None and self._control.close_code is None:
                return
            reply = await ask(self._client, self._path, **self._params)
            found = reply[0] if isinstance(reply, list) else reply
            self._control = await open_socket(self._client, self._kind, self._name, found)

    async def dial(self) -> Channel:
        """A connection. Raises `ClientError`."""
        for attempt in (1, 2):
            await self.begin()
            key = f"{self._kind.upper()}-{secrets.token_hex(16)}"
            try:
                assert self._control is not None
                await self._control.send(json.dumps({"key": key, "cookie": ""}).encode())
                break
            except ConnectionClosed as error:
                if attempt == 2:
                    raise Unreachable("the connection to the task's port broke") from error
        return await Channel.open(self._client, self._kind, self._name, {"key": key, "cookie": ""})

    async def close(self) -> None:
        if self._control is not None:
            await self._control.close()
