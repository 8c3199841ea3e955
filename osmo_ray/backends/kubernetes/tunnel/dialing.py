"""The agent's way out: one websocket to the platform, opened again for as long as the agent lives.

It asks for nothing and remembers nothing: what the platform wants it says again, level-triggered, and what was under
way when a link broke ends with it. So a new link needs no resuming, and nothing is done twice because of one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from osmo_ray.backends.kubernetes.tunnel.mux import QUIET, REPLACED, Mux, Stream
from osmo_ray.backends.kubernetes.tunnel.serving import ApiServer, serve

log = logging.getLogger(__name__)
REFUSED = 1008
"""The close code of a token that is not (any more) let in."""
_FIRST, _LONGEST, _PATIENT = 0.5, 30.0, 45.0
_STOOD = 60.0
"""Seconds after which a link that ends counts as a good one."""
_LOOK = 1.0
_OPEN = 15.0
_MESSAGE = 4 << 20


class BadAddress(ValueError):
    """The platform cannot be dialled so; the text says what to write."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Where the platform is, and what lets this backend in. The token's file is read for every connection."""

    url: str
    name: str
    token_file: Path
    context: ssl.SSLContext | None = None

    def token(self) -> str:
        return self.token_file.read_text().strip()


def address(url: str, name: str, *, insecure: bool = False) -> str:
    """The websocket of backend `name`. Raises `BadAddress`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadAddress(f"the platform's address {url!r} must be https://HOST")
    if parts.scheme == "http" and not insecure and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise BadAddress(f"{url} has no TLS, so the token could be read on the way; use https://, or --insecure-no-tls")
    base = url.rstrip("/").replace("http", "ws", 1)
    return f"{base}/api/x/backend/{quote(name, safe='')}/agent"


class Agent:
    """Dials, serves, dials again."""

    def __init__(self, platform: Platform, server: ApiServer, *, quiet: float = QUIET, first: float = _FIRST) -> None:
        self._platform, self._server = platform, server
        self._quiet, self._first = quiet, first
        self.linked = False
        """Whether a link stands now."""
        self.links = 0

    async def run(self) -> None:
        """For ever."""
        pause = self._first
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            why, patient = await self._once()
            if loop.time() - begin > _STOOD:
                pause = self._first
            wait = _PATIENT if patient else pause
            pause = self._first if patient else min(pause * 2, _LONGEST)
            wait *= random.uniform(0.5, 1.0)  # noqa: S311 - so that many agents do not come back at once
            log.warning("no link to %s: %s; dialling again in %.1f s", self._platform.url, why, wait)
            await self._rest(wait)

    async def _once(self) -> tuple[str, bool]:
        """One link from its beginning to its end: why it ended, and whether to come back only after a while."""
        try:
            token = await asyncio.to_thread(self._platform.token)
            wire = await connect(
                self._platform.url,
                additional_headers={"Authorization": f"Bearer {token}"},
                ssl=self._platform.context if self._platform.url.startswith("wss:") else None,
                max_size=_MESSAGE,
                max_queue=4,
                open_timeout=_OPEN,
                close_timeout=5.0,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            denied = status in (401, 403)
            return ("the token is wrong, was revoked, or is another backend's" if denied else f"HTTP {status}"), denied
        except (OSError, InvalidHandshake, TimeoutError) as error:
            return str(error) or type(error).__name__, False
        log.info("linked to %s", self._platform.url)
        self.linked, self.links = True, self.links + 1
        pipe = WirePipe(wire)
        try:
            why = await Mux(pipe, self._serve, quiet=self._quiet).run()
        finally:
            self.linked = False
        return (pipe.why or why), wire.close_code == REFUSED or why.startswith(REPLACED)

    async def _serve(self, stream: Stream) -> None:
        await serve(stream, self._server)

    async def _rest(self, seconds: float) -> None:
        """Less when the token changes meanwhile, since that may be what was missing."""
        before = await asyncio.to_thread(_or_nothing, self._platform.token)
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, _LOOK))
            if await asyncio.to_thread(_or_nothing, self._platform.token) != before:
                return


class WirePipe:
    """A websocket as a `Pipe`."""

    def __init__(self, wire: ClientConnection) -> None:
        self._wire = wire
        self.why = ""
        """What the platform said when it closed."""

    async def write(self, data: bytes) -> None:
        try:
            await self._wire.send(data)
        except ConnectionClosed as error:
            raise ConnectionResetError(str(error)) from error

    async def read(self) -> bytes:
        while True:
            try:
                data = await self._wire.recv(decode=False)
            except ConnectionClosed:
                self.why = self._wire.close_reason or ""
                return b""
            if data:
                return data

    async def close(self) -> None:
        await self._wire.close()


def _or_nothing(read: Callable[[], str]) -> str:
    try:
        return read()
    except OSError:
        return ""
